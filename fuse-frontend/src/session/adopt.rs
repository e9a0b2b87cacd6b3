//! Taking a mount over. A frontend always adopts: its first start and its start after a crash are one
//! path.

use super::{Daemon, LeftBehind, Session};
use crate::convert;
use crate::pending::Under;
use shm_transport::FsTransport;
use shm_transport::wire::RequestId;
use std::io;

/// Whether a request was a frontend's own: the kernel's numbers are even.
pub(super) fn is_own(id: RequestId) -> bool {
    id.0 & 1 != 0
}

impl<D: Daemon> Session<D> {
    /// Enters what is under way, and asks the kernel for what it still wants answered. Requests that
    /// were read and not answered come again with the resend mark, before any new one.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        let left = self.daemon.left_behind();
        if !left.is_empty() {
            tracing::info!(requests = left.len(), "requests of a former frontend are under way");
        }
        let resends = self.kernel.ask_for_resend()?;
        if !resends {
            tracing::warn!(
                "this kernel cannot resend requests (Linux 6.9 can): one that a former frontend had read and not \
                 submitted is lost, and the program that waits for it must be killed"
            );
        }
        for LeftBehind { id, slot, request } in left {
            let under = match request {
                _ if is_own(id) => Under::Own,
                // The kernel still knows it as it was: it is answered without being asked for again.
                Some(request) if !resends => Under::Kernel { unique: id.0, expect: convert::expected(&request) },
                _ => Under::Orphan(id),
            };
            self.pending.put(slot, under);
        }
        Ok(())
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
