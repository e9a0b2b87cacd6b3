//! Garbage collection in the background. Deletions tell which branches may have something to fold; it goes on by small
//! steps and lets programs go first.

use super::Daemon;
use crate::branch::Step;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After a deletion, until it begins: more of them may follow.
const DELAY: Duration = Duration::from_millis(200);
/// Longest sleep: a start or a stop that was missed costs no more.
const LOOK: Duration = Duration::from_mins(1);
/// While programs make requests it rests for so many times as long as a step took.
const SHARE: u32 = 4;
/// The shortest rest, and the longest after one step.
const REST: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(50));
/// Between two looks at something that is in use.
const RETRY: Duration = Duration::from_millis(10);
/// What is in use for so long is left for the next deletion or start.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The thread that collects. Dropped, it ends.
pub(super) struct Background {
    daemon: Arc<Daemon>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Begins.
    pub(super) fn start(daemon: &Arc<Daemon>) -> io::Result<Self> {
        let (own, theirs) = (Arc::clone(daemon), Arc::clone(daemon));
        let thread = std::thread::Builder::new().name("collector".into()).spawn(move || run(&theirs))?;
        Ok(Self { daemon: own, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.daemon.stopping.store(true, Ordering::Release);
        self.daemon.branches.end_collecting();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that collects garbage panicked");
        }
    }
}

fn run(daemon: &Daemon) {
    let over = || daemon.stopping.load(Ordering::Acquire);
    while !over() {
        if !daemon.branches.await_garbage(LOOK) {
            continue;
        }
        if !over() {
            daemon.branches.await_end(DELAY);
        }
        let of = daemon.branches.take_garbage();
        let (mut busy, mut requests) = (None, daemon.mounts.requests());
        let done = daemon.branches.collect(&of, |step, took| {
            let before = std::mem::replace(&mut requests, daemon.mounts.requests());
            let since =
                if step == Step::Busy { busy.get_or_insert_with(Instant::now).elapsed() } else { Duration::ZERO };
            if step != Step::Busy {
                busy = None;
            }
            let rest = match step {
                Step::Busy => RETRY,
                Step::More | Step::Done if before == requests => REST.0,
                Step::More | Step::Done => (took * SHARE).clamp(REST.0, REST.1),
            };
            daemon.branches.await_end(rest);
            !over() && since < GIVE_UP
        });
        if let Err(error) = done {
            tracing::warn!(%error, "garbage is left until the next deletion or start");
        }
    }
}
