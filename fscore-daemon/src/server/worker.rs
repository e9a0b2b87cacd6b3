//! Service threads: they take a link's requests and run them, or pass them on when they may wait for
//! a disk. A thread whose rings are empty sleeps on the submission doorbell; idle mounts cost nothing.
//!
//! One thread at a time takes requests; with several queue pairs the others run what they took.

use super::link::Link;
use super::pool::{Job, Pool};
use crate::core::state::lock;
use shm_transport::{Running, TransportError};
use std::io;
use std::sync::Arc;

/// Most service threads of one mount, however many queue pairs it has.
const THREADS_MAX: usize = 4;

/// Starts the threads of a link with `queues` queue pairs. They end with the link. On an error the
/// caller ends the link: some may run already.
pub(super) fn start(link: &Arc<Link>, pool: &Arc<Pool>, queues: usize) -> io::Result<()> {
    for _ in 0..queues.clamp(1, THREADS_MAX) {
        let (hold, pool) = (link.hold(), Arc::clone(pool));
        let link = Arc::clone(link);
        std::thread::Builder::new().name("session".into()).stack_size(super::STACK_BYTES).spawn(move || {
            if let Err(error) = serve(&link, &pool) {
                link.fail(&error);
            }
            drop(hold);
        })?;
    }
    Ok(())
}

fn serve(link: &Arc<Link>, pool: &Pool) -> Result<(), TransportError> {
    while let Some(running) = next(link)? {
        let Some(running) = running.attempt(link.handler())? else { continue };
        pool.run(Job { running, hold: link.hold() });
    }
    Ok(())
}

/// The next request, waiting for it; `None` when the link is to end.
fn next(link: &Link) -> Result<Option<Running>, TransportError> {
    let _turn = lock(&link.intake);
    loop {
        if link.is_ending() {
            return Ok(None);
        }
        if let Some(running) = link.end().pop()? {
            return Ok(Some(running));
        }
        if link.end().arm() {
            let waited = link.wait(link.end().doorbell());
            link.end().disarm()?;
            waited?;
        }
    }
}
