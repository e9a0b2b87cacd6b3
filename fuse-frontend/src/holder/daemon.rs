//! The daemon as the holder's child.

use super::child::Keeper;
use super::ending::give_back;
use super::program::Program;
use super::state::Shared;
use crate::serve;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::paths::Paths;
use shm_transport::control::{ErrorCode, Failure};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Exit code of a daemon whose store has no space left.
const NO_SPACE: i32 = 28;
/// Bytes of the log's end that explain a failed start.
const LOG_TAIL: u64 = 4096;
/// How long a daemon may take to say who keeps it: it may just have been started for the question.
const MANAGED_MAX: Duration = Duration::from_secs(10);
/// How long a daemon without a holder may take to end.
const STRAY_MAX: Duration = Duration::from_secs(10);

/// The daemon.
#[derive(Debug)]
pub(super) struct DaemonChild {
    pub(super) keeper: Keeper,
    /// A service manager keeps it: it is not ours to start.
    pub(super) managed: bool,
    /// It said that it serves.
    pub(super) ready: bool,
    /// It was told to end so that another one starts.
    pub(super) replaced: bool,
    /// Ready daemons so far.
    pub(super) served: u64,
    /// How the last one ended.
    pub(super) last_end: Option<String>,
    /// What is started.
    pub(super) program: Program,
    /// It ended for want of space, which its log may not tell then.
    pub(super) disk_is_full: bool,
}

impl DaemonChild {
    pub(super) fn new(own: &Path, managed: bool, now: Instant) -> Self {
        let mut keeper = Keeper::new(now);
        if managed {
            keeper.never();
        }
        Self {
            keeper,
            managed,
            ready: managed,
            replaced: false,
            served: 0,
            last_end: None,
            program: Program::at(&serve::sibling(own, "agentfsd")),
            disk_is_full: false,
        }
    }

    /// Starts one. The caller holds the lock under which all children are started.
    pub(super) fn start(&mut self, paths: &Paths, allow_base: &[PathBuf], shared: &Arc<Shared>, now: Instant) {
        match self.spawn(paths, allow_base, shared, now) {
            Ok(pid) => tracing::info!(pid, "started the daemon"),
            Err(error) => {
                let executable = self.program.path().display();
                tracing::error!(%error, %executable, "the daemon cannot be started");
                self.last_end = Some(format!("{executable} cannot be started: {error}"));
                self.keeper.again(now);
                shared.changed();
            }
        }
    }

    fn spawn(&mut self, paths: &Paths, allow_base: &[PathBuf], shared: &Arc<Shared>, now: Instant) -> io::Result<u32> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(paths.daemon_log())?;
        let (ready, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // The one descriptor that the daemon inherits by number.
        fcntl(&told, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let mut command = self.program.command();
        command.arg("--store").arg(&paths.store).arg("--socket").arg(&paths.socket);
        for base in allow_base {
            command.arg("--allow-base").arg(base);
        }
        command.arg("--ready-fd").arg(told.as_raw_fd().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn()?;
        drop(told);
        let pid = child.id();
        self.ready = false;
        self.keeper.runs(child, now);
        let first = (self.served == 0).then(|| paths.socket.clone());
        await_ready(ready, pid, first, shared)?;
        Ok(pid)
    }

    /// It ended. Whether another one is to come is told by `wanted`.
    pub(super) fn ended(&mut self, status: ExitStatus, wanted: bool, now: Instant) {
        self.ready = false;
        self.last_end = Some(status.to_string());
        self.disk_is_full = status.code() == Some(NO_SPACE);
        let replaced = std::mem::take(&mut self.replaced);
        if !wanted {
            self.keeper.never();
        } else if replaced {
            tracing::info!(%status, "the daemon ended to make place");
            self.keeper.at_once(now);
        } else if status.success() {
            tracing::info!("the daemon was stopped; it stays so until it is asked for");
            self.keeper.never();
        } else {
            tracing::warn!(%status, "the daemon died; starting another one");
            self.keeper.again(now);
        }
    }
}

/// Whether a daemon that a service manager keeps serves there. Connecting has the manager start it.
pub(super) fn is_managed(socket: &Path) -> bool {
    let asked = Client::connect(socket).and_then(|mut client| {
        client.set_timeout(Some(MANAGED_MAX)).map_err(|e| ClientError::Line(e.into()))?;
        client.status()
    });
    asked.is_ok_and(|status| status.managed)
}

/// Ends a daemon whose holder died: it keeps the store for itself, and nobody would start it again. Its
/// mounts wait for the next one.
pub(super) fn end_stray(paths: &Paths) -> Result<(), Failure> {
    if !is_in_use(&paths.store) {
        return Ok(());
    }
    tracing::warn!(store = %paths.store.display(), "a daemon without a holder serves the store; it makes place");
    let told = Client::connect(&paths.socket).and_then(|mut client| {
        client.set_timeout(Some(STRAY_MAX)).map_err(|e| ClientError::Line(e.into()))?;
        client.shutdown()
    });
    let end = Instant::now() + STRAY_MAX;
    while is_in_use(&paths.store) {
        if told.is_err() || Instant::now() >= end {
            let why = told.err().map(|e| format!(" ({e})")).unwrap_or_default();
            return Err(Failure {
                code: ErrorCode::Busy,
                message: format!(
                    "another process serves the store {} and does not make place{why}",
                    paths.store.display()
                ),
                hint: Some("end it: the process agentfsd with this --store".into()),
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether a process has the lock of the store.
fn is_in_use(store: &Path) -> bool {
    let Ok(lock) = OpenOptions::new().write(true).open(store.join("lock")) else { return false };
    matches!(Flock::lock(lock, FlockArg::LockExclusiveNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// Waits for the daemon's word, beside everything else. The first daemon of a holder, on the socket
/// `first`, begins by giving back what died before.
fn await_ready(ready: OwnedFd, pid: u32, first: Option<PathBuf>, shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let wait = move || {
        let mut line = String::new();
        let said = BufReader::new(File::from(ready).take(64)).read_line(&mut line);
        if said.is_ok() && line.trim_end() == "ready" {
            if let Some(socket) = first {
                give_back(&socket);
            }
            shared.daemon_is_ready(pid);
        }
    };
    std::thread::Builder::new().name("ready".into()).spawn(wait)?;
    Ok(())
}

/// The last lines of a log.
pub(crate) fn log_tail(log: &Path) -> String {
    let tail = || -> io::Result<String> {
        let len = fs::metadata(log)?.len();
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        let text = bytes.utf8_chunks().map(|chunk| chunk.valid()).collect::<String>();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        Ok(lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("\n"))
    };
    tail().unwrap_or_default()
}
