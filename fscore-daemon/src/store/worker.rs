//! A thread that does one piece of work whenever it is asked to.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

#[derive(Debug, Default)]
struct Asked {
    work: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Bell {
    asked: Mutex<Asked>,
    rung: Condvar,
}

/// The thread; stopped when dropped.
#[derive(Debug)]
pub(super) struct Worker {
    bell: Arc<Bell>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts the thread. Requests while it works are answered by one more piece of work.
    pub(super) fn start(name: &str, mut work: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let heard = Arc::clone(&bell);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            loop {
                let asked = heard.asked.lock().unwrap_or_else(PoisonError::into_inner);
                let idle = |asked: &mut Asked| !asked.work && !asked.stop;
                let mut asked = heard.rung.wait_while(asked, idle).unwrap_or_else(PoisonError::into_inner);
                if asked.stop {
                    return;
                }
                asked.work = false;
                drop(asked);
                work();
            }
        })?;
        Ok(Self { bell, thread: Mutex::new(Some(thread)) })
    }

    /// Asks for a piece of work; does not wait.
    pub(super) fn ask(&self) {
        self.bell.asked.lock().unwrap_or_else(PoisonError::into_inner).work = true;
        self.bell.rung.notify_one();
    }

    /// Ends the thread after the work at hand.
    pub(super) fn stop(&self) {
        self.bell.asked.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.bell.rung.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread of the store panicked");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}
