//! What the service manager hears of the daemon: that it serves, that it stops, and, as long as the core
//! answers, that it lives.

use super::{Daemon, control, session};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm_transport::control::Failure;
use shm_transport::control::service::Service;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Signs of life within the time after which the manager takes the daemon for dead.
const SIGNS: u32 = 3;

/// Says that the daemon serves, and goes on saying that it lives.
pub(super) fn begin(daemon: &Arc<Daemon>, service: &Arc<Service>) -> io::Result<()> {
    service.tell(&format!("READY=1\nSTATUS={}", look(daemon).unwrap_or_else(|failure| failure.message)));
    if let Some(limit) = service.watchdog() {
        let (daemon, service) = (Arc::clone(daemon), Arc::clone(service));
        std::thread::Builder::new().name("watchdog".into()).spawn(move || live(&daemon, &service, limit / SIGNS))?;
    }
    Ok(())
}

/// Says that it ends, and does no more.
pub(super) fn end(service: &Service) {
    service.tell("STOPPING=1\nSTATUS=finishing what runs");
}

fn live(daemon: &Daemon, service: &Service, pause: Duration) {
    let pause = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
    while !daemon.stopping.load(Ordering::Acquire) {
        // A daemon that is stuck never comes back from here, and is ended for it.
        match look(daemon) {
            Ok(status) => service.tell(&format!("WATCHDOG=1\nSTATUS={status}")),
            Err(failure) => tracing::error!(error = %failure, "the core does not answer"),
        }
        // What went wrong is tried again like everything else.
        poll(&mut [PollFd::new(daemon.stopped.as_fd(), PollFlags::POLLIN)], pause).ok();
    }
}

/// Asks the core what `agentfs status` asks.
fn look(daemon: &Daemon) -> Result<String, Failure> {
    let status = control::status(daemon, &session::list(daemon)?);
    Ok(match status.refusing_writes {
        Some(why) => format!("refusing writes: {why}"),
        None => format!("{} mounts, {} branches", status.mounts, status.branches),
    })
}
