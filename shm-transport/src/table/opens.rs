//! What is open of each node, for mounts with passthrough: how many opens, and by what number the kernel knows the host's
//! file that it reads and writes itself. Both outlive the frontend, for they belong to the kernel's connection.
//!
//! A cell of this kind has the highest bit of its value set, which no lookup count has. The next bit is set in a cell that
//! holds a number of the kernel's. Counts err high only: raised before the reply, lowered after it.

use super::{Cell, LookupTable};
use crate::wire::NodeId;
use std::collections::hash_map::Entry;
use std::io;

/// Marks a cell of this kind.
const OPENS: u64 = 1 << 63;
/// With it: the cell of a backing.
const BACKING: u64 = 1 << 62;
/// Bits of a serial number that are kept, and of a number of the kernel's.
const BITS: u32 = 31;
const MASK: u32 = (1 << BITS) - 1;

/// The host's file behind a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backing {
    serial: u32,
    /// By which the kernel knows the file.
    pub id: u32,
}

impl Backing {
    /// The file that is `id` to the kernel, in the time of this serial number.
    pub fn new(serial: u32, id: u32) -> Self {
        Self { serial: serial & MASK, id: id & MASK }
    }

    /// Whether it is of the time of that number.
    pub fn is_of(self, serial: u32) -> bool {
        self.serial == serial & MASK
    }

    /// Whether its time began after that of this number. They wrap.
    pub fn is_after(self, serial: u32) -> bool {
        let ahead = self.serial.wrapping_sub(serial) & MASK;
        ahead != 0 && ahead < 1 << (BITS - 1)
    }

    fn of(value: u64) -> Self {
        Self::new((value >> BITS) as u32, value as u32)
    }

    fn value(self) -> u64 {
        OPENS | BACKING | u64::from(self.serial) << BITS | u64::from(self.id)
    }
}

/// Whether a value is one of these.
pub(super) fn is_one(value: u64) -> bool {
    value & OPENS != 0
}

impl LookupTable {
    /// Takes up a cell of this kind that stands in the file.
    pub(super) fn found_opens(&mut self, at: u64, node: NodeId, value: u64) -> io::Result<()> {
        let kind = if value & BACKING != 0 { &mut self.backings } else { &mut self.opens };
        match kind.entry(node) {
            Entry::Vacant(vacant) => {
                vacant.insert(Cell { at, count: value });
                Ok(())
            }
            // Never of our making; the first one stays.
            Entry::Occupied(_) => self.give_back(Cell { at, count: value }),
        }
    }

    /// Opens of the node that are not closed.
    pub fn opens(&self, node: NodeId) -> u64 {
        self.opens.get(&node).map_or(0, |cell| cell.count & !OPENS)
    }

    /// The kernel is about to learn of another open. Call it before the reply is written.
    pub fn opened(&mut self, node: NodeId) -> io::Result<()> {
        let value = OPENS | (self.opens(node) + 1);
        let at = match self.opens.get(&node) {
            Some(cell) => {
                self.write(cell.at, node.0, value)?;
                cell.at
            }
            None => self.add(node, value)?,
        };
        self.opens.insert(node, Cell { at, count: value });
        Ok(())
    }

    /// An open is closed, or never came to be.
    pub fn closed(&mut self, node: NodeId) -> io::Result<()> {
        let Some(cell) = self.opens.get(&node).copied() else { return Ok(()) };
        let left = (cell.count & !OPENS).saturating_sub(1);
        if left > 0 {
            self.write(cell.at, node.0, OPENS | left)?;
            self.opens.insert(node, Cell { at: cell.at, count: OPENS | left });
            return Ok(());
        }
        self.opens.remove(&node);
        self.give_back(cell)
    }

    /// The host's file that the kernel reads and writes itself.
    pub fn backing(&self, node: NodeId) -> Option<Backing> {
        self.backings.get(&node).map(|cell| Backing::of(cell.count))
    }

    /// The kernel is about to be told of it.
    pub fn set_backing(&mut self, node: NodeId, backing: Backing) -> io::Result<()> {
        let at = match self.backings.get(&node) {
            Some(cell) => {
                self.write(cell.at, node.0, backing.value())?;
                cell.at
            }
            None => self.add(node, backing.value())?,
        };
        self.backings.insert(node, Cell { at, count: backing.value() });
        Ok(())
    }

    /// It is not to be used any more.
    pub fn drop_backing(&mut self, node: NodeId) -> io::Result<()> {
        self.backings.remove(&node).map_or(Ok(()), |cell| self.give_back(cell))
    }

    /// The kernel has forgotten the node: nothing of it is open, whatever was counted.
    pub fn forget_opens(&mut self, node: NodeId) -> io::Result<()> {
        self.opens.remove(&node).map_or(Ok(()), |cell| self.give_back(cell))
    }

    fn give_back(&mut self, cell: Cell) -> io::Result<()> {
        self.write(cell.at, 0, 0)?;
        self.free.push(cell.at);
        Ok(())
    }
}
