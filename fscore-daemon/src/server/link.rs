//! One connection of a session: from an attach to the end of its socket, of the daemon, or of the
//! session's next attach.
//!
//! The thread that took the attach keeps the socket ([`Link::keep`]) until every request that was taken
//! over this link is answered: the frontend takes the end of the socket for the end of all writing.

use super::views::{self, Views};
use super::{Daemon, door};
use crate::core::door::is_control_file;
use crate::core::session::Session;
use crate::core::state::{Core, lock};
use crate::errno::errno;
use nix::errno::Errno as SysErrno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm_transport::doorbell::Doorbell;
use shm_transport::mem::Payload;
use shm_transport::spin::{Spin, Spun};
use shm_transport::stats::{Counter, MountStats, StatsWriter};
use shm_transport::wire::{Errno, Op, Reply, Request};
use shm_transport::{Context, DaemonEnd, Handler, TransportError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Runs the requests of one link and counts them.
struct Serving {
    daemon: Weak<Daemon>,
    core: Arc<Core>,
    views: Arc<Views>,
    stats: StatsWriter,
    /// None when more mounts live than are counted each for itself.
    row: Option<MountStats>,
    requests: AtomicU64,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("views", &self.views).finish_non_exhaustive()
    }
}

impl Handler for Serving {
    fn may_block(&self, _ctx: &Context, request: &Request) -> bool {
        self.views.choose(request).is_ok_and(|chosen| chosen.session.may_block(request))
    }

    fn attempt(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Option<Reply> {
        self.counted(request, || {
            if let Op::Forget { .. } = request.op {
                return Some(self.run(ctx, request, payload, payload_len));
            }
            let chosen = match self.views.choose(request) {
                Ok(chosen) => chosen,
                Err(error) => return Some(Reply::Error(errno(&error))),
            };
            let reply = chosen.session.attempt(ctx, request, payload, payload_len);
            reply.map(|reply| views::with_view(request, chosen.session.slot, reply))
        })
    }

    fn handle(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Reply {
        let run = || Some(self.run(ctx, request, payload, payload_len));
        self.counted(request, run).unwrap_or(Reply::Error(Errno::EIO))
    }
}

impl Serving {
    fn run(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Reply {
        if let Op::Ioctl { cmd, out_size, .. } = request.op
            && is_control_file(request.node)
        {
            let asked = door::Ioctl { cmd, room: out_size as usize, len: payload_len as usize };
            return door::serve(&self.daemon, &self.views, ctx, request, &asked, payload);
        }
        if let Op::Forget { .. } = request.op {
            // Each view knows its own.
            let all = self.views.all();
            let run = |session: &Arc<Session>| session.run(ctx, request, payload, payload_len);
            return all.iter().map(run).find(|reply| matches!(reply, Reply::Error(_))).unwrap_or(Reply::Ok);
        }
        match self.views.choose(request) {
            Ok(chosen) => {
                let reply = chosen.session.run(ctx, request, payload, payload_len);
                views::with_view(request, chosen.session.slot, reply)
            }
            Err(error) => Reply::Error(errno(&error)),
        }
    }

    /// Runs and counts a request; one that has no reply yet is counted when it runs again.
    fn counted(&self, request: &Request, run: impl FnOnce() -> Option<Reply>) -> Option<Reply> {
        let running = self.row.as_ref().map(MountStats::begin);
        // The data under our locks is only ever replaced whole, so the session can go on.
        let reply = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            tracing::error!(session = %self.views.main().id, request = ?request, "a request panicked; it fails with EIO");
            Some(Reply::Error(Errno::EIO))
        });
        drop(running);
        if let Some(reply) = &reply {
            self.count(request, reply);
        }
        reply
    }

    fn count(&self, request: &Request, reply: &Reply) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let error = matches!(reply, Reply::Error(_));
        let (read, written) = match (&request.op, reply) {
            (Op::Read { .. }, Reply::Data { len }) => (u64::from(*len), 0),
            (Op::Write { .. }, Reply::Written { size }) => (0, u64::from(*size)),
            _ => (0, 0),
        };
        if let Some(row) = &self.row {
            row.count(error, read, written);
        } else {
            self.stats.add(Counter::Requests, 1);
            self.stats.add(Counter::Errors, u64::from(error));
            self.stats.add(Counter::BytesRead, read);
            self.stats.add(Counter::BytesWritten, written);
        }
        self.stats.add(class(&request.op), 1);
        let counts = &self.core.counts;
        for (counter, now) in
            [(Counter::Replays, &counts.replays), (Counter::CopyUps, &counts.copy_ups), (Counter::Syncs, &counts.syncs)]
        {
            self.stats.raise(counter, now.load(Ordering::Relaxed));
        }
    }
}

/// The class that a request is counted in.
fn class(op: &Op) -> Counter {
    match op {
        Op::Lookup { .. } | Op::Forget { .. } => Counter::Lookups,
        Op::Open { .. } | Op::Release { .. } | Op::Flush { .. } => Counter::Opens,
        Op::Read { .. } => Counter::Reads,
        Op::Write { .. } | Op::Fallocate { .. } | Op::CopyFileRange { .. } => Counter::Writes,
        Op::GetAttr
        | Op::Statx
        | Op::SetAttr(_)
        | Op::GetXattr { .. }
        | Op::ListXattr { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. } => Counter::Attributes,
        Op::Symlink { .. }
        | Op::Mknod { .. }
        | Op::Mkdir { .. }
        | Op::Create { .. }
        | Op::Tmpfile { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename { .. }
        | Op::Link { .. } => Counter::Names,
        Op::OpenDir | Op::ReadDir { .. } | Op::ReleaseDir { .. } => Counter::Listings,
        Op::Fsync { .. } | Op::FsyncDir { .. } | Op::SyncFs => Counter::Fsyncs,
        Op::ReadLink | Op::StatFs | Op::Lseek { .. } | Op::Ioctl { .. } => Counter::Others,
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    end: DaemonEnd,
    serving: Serving,
    /// Readable from the moment when the link is to end; never taken.
    ended: Doorbell,
    ending: AtomicBool,
    /// Held by the service thread that takes the next request.
    pub(super) intake: Mutex<()>,
    /// Service threads that a request holds up and that were relieved.
    pub(super) relieved: Arc<AtomicUsize>,
    /// Threads and queued requests that still use the shared memory.
    holds: Mutex<usize>,
    released: Condvar,
    /// Process id of the frontend.
    pub(super) frontend_pid: i32,
    /// When it began.
    pub(super) since: Instant,
}

/// Keeps a link from counting as settled.
#[derive(Debug)]
pub(super) struct Hold(Arc<Link>);

impl Hold {
    pub(super) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
        let mut holds = lock(&self.0.holds);
        *holds = holds.saturating_sub(1);
        if *holds == 0 {
            self.0.released.notify_all();
        }
    }
}

impl Link {
    pub(super) fn new(
        daemon: Weak<Daemon>,
        end: DaemonEnd,
        core: Arc<Core>,
        views: Arc<Views>,
        stats: StatsWriter,
        row: Option<MountStats>,
        frontend_pid: i32,
    ) -> io::Result<Arc<Self>> {
        stats.add(Counter::Attaches, 1);
        Ok(Arc::new(Self {
            end,
            serving: Serving { daemon, core, views, stats, row, requests: AtomicU64::new(0) },
            ended: Doorbell::create()?,
            ending: AtomicBool::new(false),
            intake: Mutex::new(()),
            relieved: Arc::default(),
            holds: Mutex::new(0),
            released: Condvar::new(),
            frontend_pid,
            since: Instant::now(),
        }))
    }

    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        *lock(&self.holds) += 1;
        Hold(Arc::clone(self))
    }

    pub(super) fn end(&self) -> &DaemonEnd {
        &self.end
    }

    pub(super) fn handler(&self) -> &dyn Handler {
        &self.serving
    }

    /// Requests answered.
    pub(super) fn requests(&self) -> u64 {
        self.serving.requests.load(Ordering::Relaxed)
    }

    /// Takes no more requests from now on.
    pub(super) fn stop(&self) {
        self.ending.store(true, Ordering::Release);
        if let Err(error) = self.ended.ring() {
            tracing::error!(%error, "a session cannot be told to end");
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Ends because of an error of the transport.
    pub(super) fn fail(&self, error: &TransportError) {
        if !self.is_ending() {
            tracing::warn!(session = %self.end.session(), epoch = self.end.epoch(), %error, "a session's connection ends");
            if matches!(error, TransportError::Protocol { .. }) {
                self.serving.stats.add(Counter::ProtocolErrors, 1);
            }
        }
        self.stop();
    }

    /// Waits a moment for a request without sleeping. `true` when there may be one.
    pub(super) fn linger(&self, spin: &mut Spin) -> bool {
        let spun = self.end.linger(spin, || self.is_ending());
        match spun {
            Spun::Won => self.serving.stats.add(Counter::SpinsWon, 1),
            Spun::Lost => self.serving.stats.add(Counter::SpinsLost, 1),
            Spun::Slept => {}
        }
        spun == Spun::Won
    }

    /// Sleeps until `fd` is readable or the link is to end.
    pub(super) fn wait(&self, fd: BorrowedFd<'_>) -> Result<(), TransportError> {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(SysErrno::EINTR) => Ok(()),
            Err(e) => Err(TransportError::Io { what: "cannot wait for a session", source: e.into() }),
        }
    }

    /// Waits until nothing uses the shared memory any more; false when `limit` passed before.
    pub(super) fn settled(&self, limit: Option<Duration>) -> bool {
        let holds = lock(&self.holds);
        let busy = |holds: &mut usize| *holds > 0;
        match limit {
            None => {
                drop(self.released.wait_while(holds, busy).unwrap_or_else(PoisonError::into_inner));
                true
            }
            Some(limit) => {
                let waited = self.released.wait_timeout_while(holds, limit, busy);
                !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
            }
        }
    }

    /// Keeps the socket until the link has ended and is settled.
    pub(super) fn keep(&self, stream: UnixStream) {
        // Nothing is ever sent here: anything to read is the end, an error, or a broken peer.
        while !self.is_ending() && !readable(&stream) {
            if let Err(error) = self.wait(stream.as_fd()) {
                self.fail(&error);
            }
        }
        self.stop();
        self.settled(None);
    }
}

/// Whether there is something to read, the end included. Does not wait.
fn readable(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(ready) => ready > 0,
        Err(SysErrno::EINTR) => false,
        Err(_) => true,
    }
}
