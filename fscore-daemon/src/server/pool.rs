//! Threads for requests that may wait for a disk, shared by all mounts.

use super::link::Hold;
use shm_transport::Running;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::core::state::lock;

/// A request on its way to another thread. The fields' order matters: the request is answered, in
/// whatever way, before its session may count it as gone.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) running: Running,
    pub(super) hold: Hold,
}

impl Job {
    /// Runs and answers the request.
    pub(super) fn run(self) {
        let Self { running, hold } = self;
        if let Err(error) = running.run(hold.link().handler()) {
            hold.link().fail(&error);
        }
    }
}

/// A fixed number of threads behind a bounded queue. Dropped, it runs what is queued and ends.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads; at most `queued` requests wait for one.
    pub(super) fn start(threads: usize, queued: usize) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(queued);
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads)
            .map(|_| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name("blocking".into())
                    .stack_size(super::STACK_BYTES)
                    .spawn(move || work(&queue))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Queues a request; when there is no room, it comes back and the caller runs it.
    pub(super) fn offer(&self, job: Job) -> Option<Job> {
        let Some(jobs) = &self.jobs else { return Some(job) };
        match jobs.try_send(job) {
            Ok(()) => None,
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // Taken alone, so that the lock is free while the job runs.
        let job = lock(queue).recv();
        match job {
            Ok(job) => job.run(),
            Err(_) => return,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread for blocking requests panicked");
            }
        }
    }
}
