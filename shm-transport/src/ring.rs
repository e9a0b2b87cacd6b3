//! A bounded ring of slot indices with one producer and one consumer, who do not trust each other.
//!
//! Cursors run freely (`u32`, wrapping); the shared copy carries the epoch of its writer in the upper
//! half. Each end keeps its own cursor in private memory: that one is the truth, the shared copy only
//! tells the peer. Since the frontend resets both rings for a new epoch while an old daemon may still
//! be about to publish, a tail is published by compare-and-swap: the old daemon's fails, and it learns
//! that it was superseded. wire-protocol §3 holds the table of ordering pairs (P1, P2).

use crate::mem::atomics::Word;
use crate::transport::TransportError;
use std::sync::atomic::Ordering;

/// The shared cells of one ring.
pub(crate) trait RingCells {
    /// A cursor.
    type Cursor: Word<u64>;
    /// An entry or a flag.
    type Cell: Word<u32>;
    /// The producer's cursor.
    fn tail(&self) -> &Self::Cursor;
    /// The consumer's cursor.
    fn head(&self) -> &Self::Cursor;
    /// The consumer's wish to be woken.
    fn armed(&self) -> &Self::Cell;
    /// The entry that the cursor `at` falls on.
    fn entry(&self, at: u32) -> Option<&Self::Cell>;
    /// Number of entries, a power of two.
    fn capacity(&self) -> u32;
}

pub(crate) const fn pack(epoch: u32, position: u32) -> u64 {
    (epoch as u64) << 32 | position as u64
}

pub(crate) const fn unpack(cursor: u64) -> (u32, u32) {
    ((cursor >> 32) as u32, cursor as u32)
}

pub(crate) const SUPERSEDED: &str = "the session went on to another epoch (rule R3)";
const TAIL_WRITTEN: &str = "the peer wrote to the producer's cursor (rule R4)";
const TAIL_LEAP: &str = "the producer's cursor is ahead by more than the ring holds (rule R5)";
const NO_ENTRY: &str = "a ring entry lies outside the ring";

fn broken<T>(rule: &'static str) -> Result<T, TransportError> {
    Err(TransportError::Protocol { rule })
}

/// Empties a ring for `epoch`. Only the frontend does this, while no daemon of that epoch exists.
pub(crate) fn reset<C: RingCells>(cells: &C, epoch: u32) {
    cells.armed().store(0, Ordering::Relaxed);
    cells.head().store(pack(epoch, 0), Ordering::Relaxed);
    // From here on a producer of the former epoch fails to publish (its compare-and-swap expects its
    // own epoch). A daemon of the new epoch sees all of this through the socket message that follows.
    // A swap, so that every write to a tail is a read-modify-write and the model checker, which does
    // not place a plain store between two of them, explores exactly the orders that can be.
    cells.tail().swap(pack(epoch, 0), Ordering::AcqRel);
}

/// The end that adds.
#[derive(Debug)]
pub(crate) struct Producer<C> {
    cells: C,
    epoch: u32,
    tail: u32,
    /// The consumer's cursor when it was last looked at.
    head: u32,
}

impl<C: RingCells> Producer<C> {
    /// For a ring that was reset for `epoch`.
    pub(crate) fn new(cells: C, epoch: u32) -> Self {
        Self { cells, epoch, tail: 0, head: 0 }
    }

    pub(crate) fn cells(&self) -> &C {
        &self.cells
    }

    /// Adds `value`; `false` when the ring is full.
    pub(crate) fn push(&mut self, value: u32) -> Result<bool, TransportError> {
        if self.tail.wrapping_sub(self.head) >= self.cells.capacity() && !self.look_at_head() {
            return Ok(false);
        }
        let Some(entry) = self.cells.entry(self.tail) else { return broken(NO_ENTRY) };
        entry.store(value, Ordering::Relaxed);
        let next = self.tail.wrapping_add(1);
        let (old, new) = (pack(self.epoch, self.tail), pack(self.epoch, next));
        // P1 Release: publishes the entry (and all the producer wrote for it) to the Acquire in `pop`.
        match self.cells.tail().compare_exchange(old, new, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => {
                self.tail = next;
                Ok(true)
            }
            Err(found) if unpack(found).0 == self.epoch => broken(TAIL_WRITTEN),
            Err(_) => broken(SUPERSEDED),
        }
    }

    /// Takes notice of what the consumer took; whether there is room now. A cursor that cannot be is
    /// taken for no progress: it cannot make the producer overwrite an entry that is not consumed.
    fn look_at_head(&mut self) -> bool {
        // P2 Acquire: pairs with the Release in `pop`, so that the entry is free before it is reused.
        let (epoch, head) = unpack(self.cells.head().load(Ordering::Acquire));
        let taken = head.wrapping_sub(self.head);
        if epoch == self.epoch && taken <= self.tail.wrapping_sub(self.head) {
            self.head = head;
        }
        self.tail.wrapping_sub(self.head) < self.cells.capacity()
    }
}

/// The end that takes.
#[derive(Debug)]
pub(crate) struct Consumer<C> {
    cells: C,
    epoch: u32,
    head: u32,
}

impl<C: RingCells> Consumer<C> {
    /// For a ring that was reset for `epoch`.
    pub(crate) fn new(cells: C, epoch: u32) -> Self {
        Self { cells, epoch, head: 0 }
    }

    pub(crate) fn cells(&self) -> &C {
        &self.cells
    }

    /// Published entries not yet taken.
    fn available(&self) -> Result<u32, TransportError> {
        // P1 Acquire: pairs with the Release in `push`.
        let (epoch, tail) = unpack(self.cells.tail().load(Ordering::Acquire));
        if epoch != self.epoch {
            return broken(SUPERSEDED);
        }
        let count = tail.wrapping_sub(self.head);
        if count > self.cells.capacity() { broken(TAIL_LEAP) } else { Ok(count) }
    }

    /// Whether nothing waits. A broken ring is not empty: the next `pop` tells what is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.available(), Ok(0))
    }

    /// Takes the oldest entry. The value is whatever the peer wrote: the caller checks it.
    pub(crate) fn pop(&mut self) -> Result<Option<u32>, TransportError> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let Some(entry) = self.cells.entry(self.head) else { return broken(NO_ENTRY) };
        let value = entry.load(Ordering::Relaxed);
        self.head = self.head.wrapping_add(1);
        // P2 Release: the entry was read before the producer may write it again.
        self.cells.head().store(pack(self.epoch, self.head), Ordering::Release);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests;
