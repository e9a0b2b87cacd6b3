//! Service threads: they take a link's requests and run them, or pass on what is known to wait for a disk. A
//! thread whose rings are empty sleeps on the submission doorbell; idle mounts cost nothing.
//!
//! One thread at a time takes requests; with several queue pairs the others run what they took. One that a
//! request holds up is relieved by another.

use super::link::Link;
use super::pool::{Job, Pool};
use super::relief::Relief;
use crate::core::state::lock;
use shm_transport::spin::Spin;
use shm_transport::wire::Op;
use shm_transport::{Running, TransportError};
use std::io;
use std::sync::{Arc, OnceLock, Weak};

/// Most service threads of one mount that no request holds up, however many queue pairs it has.
const THREADS_MAX: usize = 4;

/// What serves the requests of all links.
#[derive(Debug)]
pub(super) struct Crew {
    pool: Pool,
    relief: OnceLock<Relief>,
}

impl Crew {
    /// With `pool` for requests that are known to wait.
    pub(super) fn start(pool: Pool) -> io::Result<Arc<Self>> {
        let crew = Arc::new(Self { pool, relief: OnceLock::new() });
        let weak: Weak<Self> = Arc::downgrade(&crew);
        let relief = Relief::start(Box::new(move |link| weak.upgrade().map_or(Ok(()), |crew| crew.spawn(link))))?;
        crew.relief.get_or_init(|| relief);
        Ok(crew)
    }

    /// Starts the threads of a link with `queues` queue pairs. They end with the link. On an error the
    /// caller ends the link: some may run already.
    pub(super) fn serve(self: &Arc<Self>, link: &Arc<Link>, queues: usize) -> io::Result<()> {
        (0..queues.clamp(1, THREADS_MAX)).try_for_each(|_| self.spawn(link))
    }

    #[cfg(test)]
    #[expect(clippy::unwrap_used, reason = "tests")]
    pub(super) fn relief(&self) -> &Relief {
        self.relief.get().unwrap()
    }

    fn spawn(self: &Arc<Self>, link: &Arc<Link>) -> io::Result<()> {
        let (hold, crew) = (link.hold(), Arc::clone(self));
        let link = Arc::clone(link);
        std::thread::Builder::new().name("session".into()).stack_size(super::STACK_BYTES).spawn(move || {
            if let Err(error) = crew.work(&link) {
                link.fail(&error);
            }
            drop(hold);
        })?;
        Ok(())
    }

    fn work(&self, link: &Arc<Link>) -> Result<(), TransportError> {
        let mut spin = Spin::from_env().anchored();
        let Some(watched) = self.relief.get().map(|relief| relief.watch(link)) else { return Ok(()) };
        while !watched.is_relieved() {
            let Some(running) = next(link, &mut spin)? else { break };
            let waits = watched.run(|| running.attempt(link.handler()))?;
            if let Some(running) = waits {
                self.pool.run(Job { running, hold: link.hold() });
            }
        }
        Ok(())
    }
}

/// The next request, waiting for it; `None` when the link is to end.
fn next(link: &Link, spin: &mut Spin) -> Result<Option<Running>, TransportError> {
    let _turn = lock(&link.intake);
    loop {
        if link.is_ending() {
            return Ok(None);
        }
        if let Some(running) = link.end().pop()? {
            if !matches!(running.request().op, Op::Forget { .. }) {
                return Ok(Some(running));
            }
            // Still in turn. Whether the kernel holds a node was looked at when this was sent: a request behind it
            // may give the node out anew, and must find it forgotten by then.
            running.run(link.handler())?;
            continue;
        }
        if link.linger(spin) {
            continue;
        }
        if link.end().arm() {
            let waited = link.wait(link.end().doorbell());
            link.end().disarm()?;
            waited?;
        }
    }
}
