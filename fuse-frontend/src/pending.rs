//! What this frontend knows of each slot: the truth about what is under way, whatever the shared
//! memory says.

use crate::abi::UNIQUE_RESEND;
use crate::encode::Expect;
use shm_transport::wire::limits::SLOTS_MAX;
use shm_transport::wire::{RequestId, SlotIndex};
use shm_transport::{Completion, Lease};

/// The state of one slot.
#[derive(Debug)]
pub(crate) enum Under {
    /// Not submitted by us.
    Idle,
    /// The kernel's request; it knows it as `unique` and expects such a reply.
    Kernel {
        /// Goes back in the reply.
        unique: u64,
        /// What the reply must be.
        expect: Expect,
    },
    /// A request of our own that the kernel does not know of.
    Own,
    /// A former frontend submitted it; the kernel has not yet sent it to us.
    Orphan(RequestId),
    /// An orphan whose reply is here before the kernel sent its request again.
    Parked(Completion),
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    slots: Vec<Under>,
    /// Orphans and parked replies.
    unclaimed: usize,
}

/// A request that was found under way when the kernel sent it again.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The daemon has it; the reply will be delivered as for any other.
    Running,
    /// The reply is here.
    Done(Completion),
}

impl Pending {
    /// Enters what a slot is doing.
    pub(crate) fn put(&mut self, slot: SlotIndex, under: Under) {
        if slot.0 >= SLOTS_MAX {
            return;
        }
        let at = slot.0 as usize;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || Under::Idle);
        }
        if matches!(under, Under::Orphan(_) | Under::Parked(_)) {
            self.unclaimed += 1;
        }
        if let Some(place) = self.slots.get_mut(at) {
            *place = under;
        }
    }

    /// Takes out what a slot is doing.
    pub(crate) fn take(&mut self, slot: SlotIndex) -> Under {
        let found =
            self.slots.get_mut(slot.0 as usize).map_or(Under::Idle, |place| std::mem::replace(place, Under::Idle));
        if matches!(found, Under::Orphan(_) | Under::Parked(_)) {
            self.unclaimed -= 1;
        }
        found
    }

    /// The kernel sends `id` again, now as `unique`: finds it under way.
    pub(crate) fn claim(&mut self, id: RequestId, unique: u64, expect: Expect) -> Option<Claimed> {
        if self.unclaimed == 0 {
            return None;
        }
        let at = self.slots.iter().position(|under| match under {
            Under::Orphan(found) => *found == id,
            Under::Parked(completion) => completion.id == id,
            Under::Idle | Under::Kernel { .. } | Under::Own => false,
        })?;
        let slot = SlotIndex(at as u32);
        if let Under::Parked(completion) = self.take(slot) {
            return Some(Claimed::Done(completion));
        }
        self.put(slot, Under::Kernel { unique, expect });
        Some(Claimed::Running)
    }

    /// The kernel was asked to send everything again: what it wants answered waits to be claimed.
    pub(crate) fn disown(&mut self) {
        for place in &mut self.slots {
            if let Under::Kernel { unique, .. } = place {
                *place = Under::Orphan(RequestId(*unique & !UNIQUE_RESEND));
                self.unclaimed += 1;
            }
        }
    }

    /// Leases of parked replies that nobody claimed; orphans that still run stay.
    pub(crate) fn drop_parked(&mut self) -> Vec<Lease> {
        let mut leases = Vec::new();
        for at in 0..self.slots.len() {
            let slot = SlotIndex(at as u32);
            let under = self.take(slot);
            if let Under::Parked(completion) = under {
                leases.push(completion.lease);
            } else {
                self.put(slot, under);
            }
        }
        leases
    }
}
