//! Threads for requests that may wait for a disk, shared by all mounts.

use super::link::Hold;
use shm_transport::Running;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
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

/// A fixed number of threads behind a queue, which the slots of all sessions bound. Dropped, it runs what is
/// queued and ends.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = channel();
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

    /// Queues a request. While the pool lives, so does a thread that takes it; one that is not taken is
    /// answered as it is dropped.
    pub(super) fn run(&self, job: Job) {
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            tracing::error!("a request came after the threads for blocking requests had ended; it fails with EIO");
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
