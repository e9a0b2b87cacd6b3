//! Where everything lies in a region. All offsets follow from the [`Geometry`] alone; none is ever
//! read from shared memory. wire-protocol §2.

use crate::mem::cells::{RegionHeader, RingHeader, SlotHeader};
use crate::wire::limits::{PAYLOAD_MAX, QUEUES_MAX, REPLY_MAX, REQUEST_MAX, SLOTS_MAX};
use std::mem::size_of;

/// First word of every region: `AGENTFS1` in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"AGENTFS1");
/// Version of the region's layout and of the rules around it. Both sides must have the same.
pub const VERSION: u32 = 3;
/// Optional features that this build knows: none yet.
pub const FEATURES: u64 = 0;

/// Alignment of everything that the kernel fills, in bytes.
const PAGE: usize = 4096;
/// Alignment of rings, in bytes: that of a padded cache line.
const LINE: usize = 128;

/// How many queue pairs and slots a region has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Queue pairs, one per frontend thread: `1..=limits::QUEUES_MAX`.
    pub queues: u32,
    /// Slots of all queue pairs together, a multiple of `queues`, at most `limits::SLOTS_MAX`.
    pub slots: u32,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { queues: 1, slots: 64 }
    }
}

impl Geometry {
    /// Whether every limit holds.
    pub fn is_valid(self) -> bool {
        (1..=QUEUES_MAX).contains(&self.queues)
            && (1..=SLOTS_MAX).contains(&self.slots)
            && self.slots.is_multiple_of(self.queues)
    }

    /// Slots of one queue pair. Queue `q` owns the slots `q * n .. (q + 1) * n`.
    pub(crate) fn slots_per_queue(self) -> u32 {
        self.slots / self.queues.max(1)
    }

    /// Entries of one ring: room for every slot of its queue, a power of two.
    pub(crate) fn ring_capacity(self) -> u32 {
        self.slots_per_queue().next_power_of_two()
    }
}

/// Offsets in bytes from the beginning of the region, for a valid geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) geometry: Geometry,
    ring_len: usize,
    slots_offset: usize,
    slab_offset: usize,
    /// Length of the whole region.
    pub(crate) len: usize,
}

/// Bytes of one slot: header, request area, reply area.
const SLOT_LEN: usize = size_of::<SlotHeader>() + REQUEST_MAX + REPLY_MAX;

const _: () = {
    assert!(size_of::<RegionHeader>() <= PAGE);
    assert!(SLOT_LEN.is_multiple_of(64));
    assert!(PAYLOAD_MAX.is_multiple_of(PAGE));
    assert!(PAGE.is_multiple_of(LINE));
    assert!(SLOTS_MAX.is_power_of_two(), "ring capacities stay within it");
};

/// Which ring of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Frontend to daemon.
    Submission,
    /// Daemon to frontend.
    Completion,
}

impl Layout {
    /// The layout of a geometry; `None` for one that breaks a limit.
    pub(crate) fn new(geometry: Geometry) -> Option<Self> {
        if !geometry.is_valid() {
            return None;
        }
        let entries = geometry.ring_capacity() as usize * size_of::<u32>();
        let ring_len = (size_of::<RingHeader>() + entries).next_multiple_of(LINE);
        let slots_offset = PAGE + ring_len * 2 * geometry.queues as usize;
        let slab_offset = (slots_offset + SLOT_LEN * geometry.slots as usize).next_multiple_of(PAGE);
        let len = slab_offset + PAYLOAD_MAX * geometry.slots as usize;
        Some(Self { geometry, ring_len, slots_offset, slab_offset, len })
    }

    /// Length of the longest region that any valid geometry makes (an upper bound).
    pub(crate) const fn len_max() -> usize {
        let rings = QUEUES_MAX as usize * 2 * (size_of::<RingHeader>() + 2 * LINE) + 2 * SLOTS_MAX as usize * 8;
        PAGE * 2 + rings + SLOTS_MAX as usize * (SLOT_LEN + PAYLOAD_MAX)
    }

    /// Offset of a ring's header; its entries follow it.
    pub(crate) fn ring_offset(&self, queue: u32, side: Side) -> usize {
        let index = queue as usize * 2 + usize::from(side == Side::Completion);
        PAGE + self.ring_len * index
    }

    /// Offset of a ring's entries.
    pub(crate) fn entries_offset(&self, queue: u32, side: Side) -> usize {
        self.ring_offset(queue, side) + size_of::<RingHeader>()
    }

    /// Offset of a slot's header.
    pub(crate) fn slot_offset(&self, slot: u32) -> usize {
        self.slots_offset + SLOT_LEN * slot as usize
    }

    /// Offset of a slot's request area.
    pub(crate) fn request_offset(&self, slot: u32) -> usize {
        self.slot_offset(slot) + size_of::<SlotHeader>()
    }

    /// Offset of a slot's reply area.
    pub(crate) fn reply_offset(&self, slot: u32) -> usize {
        self.request_offset(slot) + REQUEST_MAX
    }

    /// Offset of a slot's payload buffer.
    pub(crate) fn payload_offset(&self, slot: u32) -> usize {
        self.slab_offset + PAYLOAD_MAX * slot as usize
    }
}

#[cfg(test)]
mod tests;
