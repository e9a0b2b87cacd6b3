//! A daemon as a process, and a frontend without a kernel.
#![allow(dead_code, reason = "each test program uses a part")]

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_transport::control::Command as Call;
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::paths::Paths;
use shm_transport::handshake::{self, Attach, Connection};
use shm_transport::wire::{Caller, NodeId, Op, Reply, Request, RequestId, SessionId};
use shm_transport::{FsTransport, Geometry, SessionFds, ShmTransport};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything: a test that hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `holds`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program on a store of its own.
pub(crate) struct Daemon {
    pub(crate) paths: Paths,
    child: Child,
    dir: Option<tempfile::TempDir>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_limited(None)
    }

    /// With at most so many open descriptors.
    pub(crate) fn start_limited(descriptors: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir.path(), descriptors).keeping(dir)
    }

    pub(crate) fn start_in(dir: &Path, descriptors: Option<u32>) -> Self {
        let paths = Paths { store: dir.join("store"), socket: dir.join("run/d.sock") };
        let limit = descriptors.map_or_else(String::new, |n| format!("ulimit -n {n} && "));
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("{limit}exec \"$@\"")).arg("sh").arg(env!("CARGO_BIN_EXE_agentfsd"));
        command.arg("--store").arg(&paths.store).arg("--socket").arg(&paths.socket).arg("--log").arg("warn");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let daemon = Self { paths, child, dir: None };
        eventually("the daemon serves", || {
            Client::connect(&daemon.paths.socket).is_ok_and(|mut client| client.status().is_ok())
        });
        daemon
    }

    fn keeping(mut self, dir: tempfile::TempDir) -> Self {
        self.dir = Some(dir);
        self
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.paths.socket).unwrap()
    }

    pub(crate) fn make(&self, name: &str) {
        let create = Call::BranchCreate {
            name: name.into(),
            base: None,
            from: None,
            frozen: false,
            reuse: false,
            limits: shm_transport::control::Limits::default(),
        };
        self.client().branch_create(create).unwrap();
    }

    /// Open descriptors and threads.
    pub(crate) fn used(&self) -> (usize, usize) {
        let count = |what| std::fs::read_dir(format!("/proc/{}/{what}", self.pid())).unwrap().count();
        (count("fd"), count("task"))
    }

    /// Waits until no more is used than at the start.
    #[track_caller]
    pub(crate) fn returns_to(&self, before: (usize, usize)) {
        let mut now = self.used();
        let end = Instant::now() + PATIENCE;
        while now.0 > before.0 || now.1 > before.1 {
            assert!(Instant::now() < end, "descriptors and threads were {before:?} and are {now:?}");
            std::thread::sleep(Duration::from_millis(5));
            now = self.used();
        }
    }

    /// Seconds of processor time used so far.
    pub(crate) fn processor_time(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the daemon does not stop", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// Tells it to end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        // The counters of a daemon that was killed stay.
        if let Ok(stats) = shm_transport::stats::StatsWriter::create(&self.paths.store, 0) {
            stats.ended().unwrap();
        }
    }
}

/// A frontend without a kernel.
pub(crate) struct Frontend {
    pub(crate) session: SessionId,
    pub(crate) fds: SessionFds,
    pub(crate) end: ShmTransport,
    pub(crate) connection: Option<Connection>,
    next: u64,
}

impl Frontend {
    pub(crate) fn new(session: u64) -> Self {
        let session = SessionId(session);
        let fds = SessionFds::create(Geometry::default(), session).unwrap();
        let end = ShmTransport::attach(&fds).unwrap().remove(0);
        Self { session, fds, end, connection: None, next: 2 }
    }

    pub(crate) fn attach(&mut self, daemon: &Daemon, branch: &str) -> Result<(), ClientError> {
        self.attach_at(&daemon.paths.socket, branch)
    }

    pub(crate) fn attach_at(&mut self, socket: &Path, branch: &str) -> Result<(), ClientError> {
        self.connection = None;
        let epoch = self.end.reset_for_new_daemon().unwrap();
        let attach = Attach {
            session: self.session,
            branch: branch.into(),
            mountpoint: "/mnt/x".into(),
            read_only: false,
            epoch,
        };
        self.connection = Some(handshake::attach(socket, &attach, &self.fds)?);
        Ok(())
    }

    /// False when no slot is free, or the connection to the daemon is of no more use.
    pub(crate) fn submit(&mut self, node: NodeId, op: Op, payload_len: u32) -> bool {
        let Some(lease) = self.end.lease() else { return false };
        let request = Request { caller: Caller::default(), node, op };
        self.next += 2;
        self.end.submit(lease, RequestId(self.next), &request, payload_len).is_ok()
    }

    /// The next reply; `None` when the connection ended.
    pub(crate) fn complete(&mut self) -> Option<Reply> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(done) = self.end.complete().ok()? {
                self.end.release(done.lease);
                return Some(done.reply);
            }
            let connection = self.connection.as_ref()?;
            if self.end.arm() {
                let mut fds = [
                    PollFd::new(self.end.doorbell(), PollFlags::POLLIN),
                    PollFd::new(std::os::fd::AsFd::as_fd(connection), PollFlags::POLLIN),
                ];
                assert!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap() > 0, "no completion came");
                let closed = fds[1].any().unwrap();
                self.end.disarm();
                if closed {
                    return self.end.complete().ok()?.map(|done| done.reply);
                }
            }
            assert!(Instant::now() < end, "no completion came");
        }
    }
}
