//! Taking a mount over. A frontend always adopts: its first start and its start after a crash are one
//! path.

use super::{Daemon, LeftBehind, Session};
use crate::channel::Written;
use crate::convert;
use crate::encode::{self, Expect};
use crate::pending::Under;
use shm_transport::FsTransport;
use shm_transport::wire::{Errno, RequestId};
use std::io;

/// How many of the kernel's numbers around the last one submitted a lost request is looked for in. The
/// kernel numbers forgets as well, which go through no slot.
const LOST_BEFORE: u64 = 1 << 10;
const LOST_AFTER: u64 = 1 << 14;

/// Whether a request was a frontend's own: the kernel's numbers are even.
pub(crate) fn is_own(id: RequestId) -> bool {
    id.0 & 1 != 0
}

impl<D: Daemon> Session<D> {
    /// Enters what is under way, and asks the kernel for what it still wants answered. Requests that
    /// were read and not answered come again with the resend mark, before any new one.
    pub(super) fn take_over(&mut self, had_predecessor: bool) -> io::Result<()> {
        let left = self.daemon.left_behind();
        if !left.is_empty() {
            tracing::info!(requests = left.len(), "requests of a former frontend are under way");
        }
        self.answer_given_up()?;
        self.resends = self.resends && self.kernel.ask_for_resend()?;
        self.adopting = self.resends;
        let ids: Vec<RequestId> = left.iter().map(|left| left.id).collect();
        for LeftBehind { id, slot, request } in left {
            let under = if is_own(id) {
                Under::Own
            } else if self.resends {
                Under::Orphan(id)
            } else {
                // The kernel still knows it as it was: it is answered without being asked for again. One
                // that cannot be read is answered with an error, whatever it was.
                let expect = request.as_ref().map_or(Expect::Nothing, convert::expected);
                Under::Kernel { unique: id.0, expect }
            };
            self.pending.put(slot, under);
        }
        if !self.resends && had_predecessor {
            self.give_up_lost(&ids)?;
        }
        Ok(())
    }

    /// Without resends, a request that a former frontend had read and not submitted is in no slot and
    /// never comes again. Its number is not known, but near the last one submitted: every number there
    /// that the kernel waits for and that no slot holds is answered with `ESTALE`, at which the kernel
    /// itself tries a system call that names a path again. It refuses all other numbers, and those
    /// that it has not handed out yet.
    fn give_up_lost(&mut self, under_way: &[RequestId]) -> io::Result<()> {
        let last = self.daemon.last_id().0 & !1;
        let first = last.saturating_sub(2 * LOST_BEFORE).max(2);
        let mut lost = 0;
        for unique in (first..=last.saturating_add(2 * LOST_AFTER)).step_by(2) {
            if under_way.contains(&RequestId(unique)) {
                continue;
            }
            match self.kernel.send(encode::error(unique, Errno::ESTALE).as_bytes())? {
                Written::Delivered => lost += 1,
                Written::Unwanted | Written::Invalid => {}
                Written::Unmounted => break,
            }
        }
        tracing::warn!(
            lost,
            "requests cannot be resent (Linux 6.9 can): those that a former frontend had read and not submitted \
             were answered with ESTALE"
        );
        Ok(())
    }

    /// Whether a request that had no slot can have one now.
    pub(super) fn must_ask_again(&self) -> bool {
        self.dropped && !self.adopting && self.may_submit()
    }

    /// Asks for the requests that had no slot. Those under way come again, too, and are claimed.
    pub(super) fn ask_again(&mut self) -> io::Result<()> {
        self.dropped = false;
        self.pending.disown();
        self.adopting = true;
        self.readable = true;
        self.kernel.ask_for_resend().map(drop)
    }

    /// The kernel has resent everything that it had to: replies that nobody claimed are for requests
    /// that were answered or given up.
    pub(super) fn nothing_resent_any_more(&mut self) {
        if !self.adopting {
            return;
        }
        self.adopting = false;
        for lease in self.pending.drop_parked() {
            self.daemon.transport().release(lease);
        }
    }
}
