//! Relief for service threads that a request holds up.
//!
//! Whether a name or an attribute of the host is in memory cannot be known without asking for it, and most
//! are. So a service thread asks by itself: passing each such request to another thread would cost more than
//! the request. One watch for the whole daemon looks at the threads every [`TICK`] while requests run. One
//! that is still in the same request gets relief: another thread takes its mount's requests, and it ends
//! with the request that holds it up. A request that waits for a disk delays others by two ticks at most.

use super::link::Link;
use crate::core::state::lock;
use shm_transport::{FULL_BELL, TransportError};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Between two looks.
const TICK: Duration = Duration::from_millis(1);
/// So many looks without any request, and the watch sleeps until one runs.
const QUIET: u32 = 50;
/// The longest sleep: a wake that got lost costs no more than this.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Most threads of one mount that are held up and relieved at once, and of all: beyond, a mount waits for its
/// requests.
const RELIEVED_MAX: usize = 32;
const RELIEVED_ALL_MAX: usize = 1024;
/// After a thread could not be started, none is for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Begins a service thread for a link, in relief of another.
pub(super) type Begin = Box<dyn Fn(&Arc<Link>) -> io::Result<()> + Send + Sync>;

/// What a service thread shows of itself.
#[derive(Debug)]
pub(super) struct Watched {
    link: Weak<Link>,
    /// Raised at the beginning and at the end of each request: odd within one.
    steps: AtomicU64,
    relieved: AtomicBool,
    /// Threads of the same link that are relieved.
    of_link: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl Watched {
    /// Runs a request under the watch's eyes.
    pub(super) fn run<T>(&self, request: impl FnOnce() -> T) -> T {
        let steps = self.steps.load(Ordering::Relaxed);
        self.steps.store(steps | 1, Ordering::Relaxed);
        self.shared.wake();
        let result = request();
        self.steps.store((steps | 1).wrapping_add(1), Ordering::Release);
        result
    }

    /// Another thread has taken over: this one is to end.
    pub(super) fn is_relieved(&self) -> bool {
        self.relieved.load(Ordering::Acquire)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.is_relieved() {
            self.shared.relieved.fetch_sub(1, Ordering::Relaxed);
            self.of_link.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    threads: Mutex<Vec<Seen>>,
    /// All links: a request can hang in the doorbell of one that has no service thread any more.
    links: Mutex<Vec<Weak<Link>>>,
    sleeping: AtomicBool,
    ending: AtomicBool,
    watch: Mutex<Option<Thread>>,
    relieved: AtomicUsize,
    refused: Refused,
}

/// When a thread could not be started last.
#[derive(Debug, Default)]
struct Refused(Mutex<Option<Instant>>);

impl Refused {
    fn note(&self) {
        *lock(&self.0) = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        lock(&self.0).is_some_and(|at| at.elapsed() < REFUSED_PAUSE)
    }
}

impl Shared {
    fn wake(&self) {
        // Pairs with the fence in `rest`: either this load sees the watch asleep, or the watch sees the step.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(watch) = &*lock(&self.watch) {
            watch.unpark();
        }
    }
}

/// A thread as the watch saw it last.
#[derive(Debug)]
struct Seen {
    thread: Weak<Watched>,
    steps: u64,
}

/// The watch. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Relief {
    shared: Arc<Shared>,
    watch: Option<JoinHandle<()>>,
}

impl Relief {
    /// Starts the watch. `begin` starts a service thread.
    pub(super) fn start(begin: Begin) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let watch = std::thread::Builder::new()
            .name("relief".into())
            .stack_size(super::STACK_BYTES)
            .spawn(move || watch(&theirs, &begin))?;
        *lock(&shared.watch) = Some(watch.thread().clone());
        Ok(Self { shared, watch: Some(watch) })
    }

    /// Watches over the calling service thread of `link`, until the result is dropped.
    pub(super) fn watch(&self, link: &Arc<Link>) -> Arc<Watched> {
        let watched = Arc::new(Watched {
            link: Arc::downgrade(link),
            of_link: Arc::clone(&link.relieved),
            steps: AtomicU64::new(0),
            relieved: AtomicBool::new(false),
            shared: Arc::clone(&self.shared),
        });
        let mut links = lock(&self.shared.links);
        if !links.iter().any(|known| Weak::ptr_eq(known, &watched.link)) {
            links.push(Weak::clone(&watched.link));
        }
        drop(links);
        lock(&self.shared.threads).push(Seen { thread: Arc::downgrade(&watched), steps: 0 });
        watched
    }
}

impl Drop for Relief {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.unpark();
        // The watch itself may be the last to let go of what it watches.
        let other = self.watch.take().filter(|watch| watch.thread().id() != std::thread::current().id());
        if other.is_some_and(|watch| watch.join().is_err()) {
            tracing::error!("the watch over the service threads panicked");
        }
    }
}

fn watch(shared: &Shared, begin: &Begin) {
    let mut quiet = 0;
    while !shared.ending.load(Ordering::Acquire) {
        quiet = if look(shared, begin) { 0 } else { quiet + 1 };
        if quiet < QUIET {
            std::thread::park_timeout(TICK);
        } else if rest(shared, begin) {
            quiet = 0;
        }
    }
}

/// Sleeps until a request runs; false when none did.
fn rest(shared: &Shared, begin: &Begin) -> bool {
    shared.sleeping.store(true, Ordering::Relaxed);
    // Pairs with the fence in `wake`.
    fence(Ordering::SeqCst);
    let active = look(shared, begin);
    if !active && !shared.ending.load(Ordering::Acquire) {
        std::thread::park_timeout(SLEEP_MAX);
    }
    // Whoever woke the watch has taken the flag down.
    !shared.sleeping.swap(false, Ordering::Relaxed) || active
}

/// Looks at every thread, and relieves those that are where they were; whether any request ran.
fn look(shared: &Shared, begin: &Begin) -> bool {
    let mut active = let_ring(shared);
    let mut held_up = Vec::new();
    lock(&shared.threads).retain_mut(|seen| {
        let Some(thread) = seen.thread.upgrade() else { return false };
        if thread.is_relieved() {
            return false;
        }
        let steps = thread.steps.load(Ordering::Acquire);
        if steps != seen.steps {
            seen.steps = steps;
            active = true;
        } else if steps & 1 != 0 {
            active = true;
            held_up.push((thread, steps));
        }
        true
    });
    // Without the lock: whoever begins is watched, too.
    for (thread, steps) in held_up {
        relieve(shared, begin, &thread, steps);
    }
    active
}

/// Lets go who cannot ring the doorbell of a frontend that keeps it full, be it a thread that all mounts share;
/// whether anybody was stuck. The link ends.
fn let_ring(shared: &Shared) -> bool {
    let mut links = Vec::new();
    lock(&shared.links).retain(|link| link.upgrade().map(|link| links.push(link)).is_some());
    let mut stuck = false;
    for link in links {
        match link.end().unblock() {
            Ok(false) => {}
            Ok(true) => {
                stuck = true;
                link.fail(&TransportError::Protocol { rule: FULL_BELL });
            }
            Err(error) => link.fail(&error),
        }
    }
    stuck
}

fn relieve(shared: &Shared, begin: &Begin, thread: &Watched, steps: u64) {
    let Some(link) = thread.link.upgrade().filter(|link| !link.is_ending()) else { return };
    let full = thread.of_link.load(Ordering::Relaxed) >= RELIEVED_MAX
        || shared.relieved.load(Ordering::Relaxed) >= RELIEVED_ALL_MAX;
    // Meanwhile it may have gone on.
    if full || shared.refused.is_recent() || thread.steps.load(Ordering::Acquire) != steps {
        return;
    }
    if let Err(error) = begin(&link) {
        tracing::warn!(%error, "mounts wait for slow requests: no thread can be started in relief");
        shared.refused.note();
        return;
    }
    shared.relieved.fetch_add(1, Ordering::Relaxed);
    thread.of_link.fetch_add(1, Ordering::Relaxed);
    thread.relieved.store(true, Ordering::Release);
}

#[cfg(test)]
mod tests;
