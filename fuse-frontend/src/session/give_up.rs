//! An operator's limit for the time without a daemon. Without one, requests wait for ever.

use super::{Daemon, Life, Session};
use crate::channel::Written;
use crate::encode;
use crate::pending::Under;
use shm_transport::wire::Errno;
use std::io;
use std::time::Duration;

/// What a program is told: whether its change was made is not known.
pub(super) const ERRNO: Errno = Errno::ETIMEDOUT;

impl<D: Daemon> Session<D> {
    /// Whether the daemon has been away for longer than it may.
    pub(super) fn gives_up(&self) -> bool {
        self.daemon.gives_up_in() == Some(Duration::ZERO)
    }

    /// When it is time, answers what waits. A request is fenced before it is answered, so that no daemon runs it
    /// after its program was told that it failed; one whose reply lies there gets that.
    pub(super) fn give_up(&mut self) -> io::Result<Life> {
        if !self.gives_up() {
            return Ok(Life::Goes);
        }
        let slots = self.daemon.give_up();
        if !slots.is_empty() {
            tracing::error!(requests = slots.len(), "the daemon has been away for too long: requests fail");
        }
        for slot in slots {
            // What a former frontend left comes again from the kernel, and is answered then.
            if let Under::Kernel { unique, .. } = self.pending.take(slot)
                && self.kernel.send(encode::error(unique, ERRNO).as_bytes())? == Written::Unmounted
            {
                return Ok(Life::Ended);
            }
        }
        self.deliver_replies()
    }

    /// A former frontend that fenced a request may not have lived to answer it. The kernel refuses what it does not
    /// wait for.
    pub(super) fn answer_given_up(&mut self) -> io::Result<()> {
        for id in self.daemon.given_up() {
            self.kernel.send(encode::error(id.0, ERRNO).as_bytes())?;
        }
        Ok(())
    }
}
