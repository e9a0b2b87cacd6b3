//! A limit for a whole test: when it passes, the mounts are aborted so that nothing can block.

use crate::{mounts, procs};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct State {
    end: Instant,
    done: bool,
    fired: bool,
}

/// Watches over one world.
#[derive(Debug)]
pub struct Watchdog {
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Watchdog {
    /// Starts watching: unless dropped before `limit`, the FUSE connections below `dir` are aborted and
    /// the processes that name `dir` killed. If that does not end the test, the process exits.
    pub fn start(name: String, dir: PathBuf, limit: Duration) -> Self {
        let state = State { end: Instant::now() + limit, done: false, fired: false };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || watch(&name, &dir, &shared));
        Self { state }
    }

    /// Gives the test this much time from now.
    pub fn extend(&self, limit: Duration) {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.end = Instant::now() + limit;
        self.state.1.notify_all();
    }

    /// Whether the limit passed.
    pub fn fired(&self) -> bool {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).fired
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).done = true;
        self.state.1.notify_all();
    }
}

fn wait(shared: &(Mutex<State>, Condvar)) -> bool {
    let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if state.done {
            return false;
        }
        let left = state.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        state = shared.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn watch(name: &str, dir: &std::path::Path, shared: &(Mutex<State>, Condvar)) {
    if !wait(shared) {
        return;
    }
    shared.0.lock().unwrap_or_else(PoisonError::into_inner).fired = true;
    eprintln!("watchdog: {name} took too long; aborting its mounts and killing:\n{}", procs::describe(dir));
    let pids: Vec<i32> = procs::below(dir).iter().map(|p| p.pid).collect();
    mounts::abort_below(dir, &pids);
    procs::kill_all(&pids);
    shared.0.lock().unwrap_or_else(PoisonError::into_inner).end = Instant::now() + Duration::from_secs(60);
    if wait(shared) {
        eprintln!("watchdog: {name} does not end even so; giving up the process");
        std::process::exit(124);
    }
}
