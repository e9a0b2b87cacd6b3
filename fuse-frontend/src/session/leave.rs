//! Making place for another frontend, when asked to by a signal: no more requests are taken, those that were taken are
//! answered, and then the process ends. The kernel keeps all others for the successor, which finds nothing left
//! over; so it also goes without resends, which not every kernel has.

use super::{Daemon, Session};
use shm_transport::FsTransport;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request that runs for longer is left to the successor, where the kernel can resend it.
const DRAIN_MAX: Duration = Duration::from_millis(300);

/// What is known of the end that was asked for.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Readable when it is asked for.
    asked: Option<OwnedFd>,
    since: Option<Instant>,
}

impl Leaving {
    /// Whether requests stay with the kernel.
    pub(super) fn is_begun(&self) -> bool {
        self.since.is_some()
    }
}

impl<D: Daemon> Session<D> {
    /// From now on the session ends when `asked` is readable.
    pub(crate) fn leave_when(&mut self, asked: OwnedFd) -> io::Result<()> {
        self.waiter.watch_for_the_end(asked.as_fd())?;
        self.leaving.asked = Some(asked);
        Ok(())
    }

    /// It was asked for.
    pub(super) fn begin_to_leave(&mut self) {
        if let Some(asked) = self.leaving.asked.take() {
            // Closed, it wakes us no more.
            drop(asked);
            tracing::info!(requests = self.daemon.transport_ref().in_flight(), "making place for another frontend");
            self.leaving.since = Some(Instant::now());
            self.forgetting.hurry();
        }
    }

    /// Whether nothing keeps us any more.
    pub(super) fn may_leave(&self, now: Instant) -> bool {
        let Some(since) = self.leaving.since else { return false };
        let answered = self.daemon.transport_ref().in_flight() == 0 && Arc::strong_count(&self.notifying) == 1;
        let drained = answered && self.forgetting.due_in(now).is_none();
        drained || (self.resends && now.duration_since(since) >= DRAIN_MAX)
    }

    /// How long to sleep at most before the next look.
    pub(super) fn leave_in(&self, now: Instant) -> Option<Duration> {
        let since = self.leaving.since.filter(|_| self.resends)?;
        Some(DRAIN_MAX.saturating_sub(now.duration_since(since)))
    }
}
