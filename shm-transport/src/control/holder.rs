//! The holder's protocol, and its client: one JSON object a line over the holder's Unix socket
//! (`<daemon socket>.hold`), answered by one [`Answer`] line each, in order.
//!
//! The holder is `agentfs-fuse --hold`: it starts the daemon again when it dies, keeps the file
//! descriptors of every mount so that no death of a frontend loses one, and opens nothing on any
//! mount. It serves its own user and root (`SO_PEERCRED`).

use super::line::{LineError, LineStream};
use super::{Answer, ErrorCode, Failure};
use crate::session::Waiting;
use crate::wire::SessionId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of this protocol. A holder refuses another one with [`ErrorCode::Version`].
pub const VERSION: u32 = 1;
/// File descriptors beside an [`Command::AdoptMount`] line.
pub const MOUNT_FDS: usize = 5;

/// One request line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What a client may ask for. `op` names it on the wire, e.g. `{"v":1,"op":"ping"}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Command {
    /// Is the holder there, and what does it hold? Data: [`Pong`].
    Ping,
    /// Answered when the daemon serves or has failed to start. Data: [`Pong`]; or why the daemon does
    /// not start, with the end of its log in the message.
    AwaitDaemon {
        /// Longest wait, in milliseconds, at most a minute.
        timeout_ms: u64,
    },
    /// Keep a mount and serve it. The file descriptors stand in [`MountFds`]; the answer comes when a
    /// frontend serves. Data: [`HeldMount`].
    AdoptMount {
        /// Who it is.
        #[serde(flatten)]
        mount: MountName,
    },
    /// Every mount that is held. Data: list of [`HeldMount`].
    Mounts,
    /// Let bases lie below one more directory: the daemon is started afresh with it, mounts live on.
    /// Answered when the new daemon serves. Data: [`Pong`].
    AllowBase {
        /// The directory, absolute.
        path: PathBuf,
    },
    /// Replace the daemon and the frontends by the programs that are on the disk now, one after the other. Refused with
    /// [`ErrorCode::Version`], and nothing is changed, if these do not fit. Data: [`Upgraded`].
    Upgrade,
    /// Stop the daemon and the holder. Data: null.
    Stop {
        /// Even while mounts live; programs on them then see `ENOTCONN`.
        #[serde(default)]
        force: bool,
    },
}

/// What identifies a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountName {
    /// The session, made by the mounting process.
    pub session: SessionId,
    /// The branch.
    pub branch: String,
    /// Where, as the mounting process saw it (perhaps in a mount namespace of its own).
    pub mountpoint: PathBuf,
    /// Read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// The holder's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pong {
    /// Process id of the holder.
    pub pid: i32,
    /// Release of the holder.
    pub version: String,
    /// Process id of the daemon it started, while one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_pid: Option<i32>,
    /// Whether that daemon said that it serves.
    pub daemon_ready: bool,
    /// How often the daemon was started again after an unclean end.
    pub daemon_restarts: u64,
    /// The store directory.
    pub store: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Directories below which bases may lie, beyond the daemon's own defaults.
    pub allow_base: Vec<PathBuf>,
    /// Mounts held now.
    pub mounts: u64,
}

/// What an upgrade replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upgraded {
    /// Release of the programs that serve now.
    pub release: String,
    /// Process id of the new daemon; none where a service manager keeps the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_pid: Option<i32>,
    /// From the moment when the old daemon was told until the new one served, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_ms: Option<u64>,
    /// Frontends that were replaced.
    pub frontends: u64,
    /// The longest time from the end of one until its successor was attached, in milliseconds.
    pub frontend_ms_max: u64,
    /// Mounts whose frontend still has requests under way that cannot be taken over: it is replaced when they are done. Or the new
    /// one waits until the daemon has run them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<PathBuf>,
}

/// A mount that is held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldMount {
    /// Who it is.
    #[serde(flatten)]
    pub name: MountName,
    /// Process id of its frontend, while one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend_pid: Option<i32>,
    /// How often the frontend was started again after an unclean end.
    pub restarts: u64,
    /// Features of the kernel that this mount does without, and what is different for it; one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// What its frontend says while it has no daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Seconds without a daemon after which its requests fail; none: they wait for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up_after: Option<u64>,
    /// Why nobody serves this mount for the time being: its frontend dies again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The file descriptors of a mount, in the order in which they travel.
#[derive(Debug, Clone, Copy)]
pub struct MountFds<'a> {
    /// `/dev/fuse`, mounted and past its `INIT`.
    pub fuse: BorrowedFd<'a>,
    /// The region memfd, its header written.
    pub region: BorrowedFd<'a>,
    /// The table memfd.
    pub table: BorrowedFd<'a>,
    /// Submission doorbell.
    pub submissions: BorrowedFd<'a>,
    /// Completion doorbell.
    pub completions: BorrowedFd<'a>,
}

/// Path of the holder's socket that belongs to a daemon's socket.
pub fn socket_path(daemon_socket: &Path) -> PathBuf {
    let mut path = daemon_socket.as_os_str().to_owned();
    path.push(".hold");
    PathBuf::from(path)
}

/// What the user ids that a user namespace does not map look like from within.
const OVERFLOW_UID: u32 = 65534;

/// Whether the socket lies in a directory of this user: root may use everybody's holder.
pub(super) fn owns_directory_of(socket: &Path, uid: u32) -> bool {
    let owner = socket.parent().and_then(|dir| std::fs::metadata(dir).ok()).map(|found| found.uid());
    uid != OVERFLOW_UID && owner == Some(uid)
}

/// A connection to a holder. One call at a time.
#[derive(Debug)]
pub struct Client {
    lines: LineStream,
}

impl Client {
    /// Connects to the holder that belongs to a daemon's socket. `NotFound` and `ConnectionRefused`
    /// say that none runs, `PermissionDenied` that another user listens there.
    pub fn connect(daemon_socket: &Path) -> io::Result<Self> {
        let socket = socket_path(daemon_socket);
        let lines = LineStream::new(UnixStream::connect(&socket)?);
        // In a directory that others may write to, anybody may listen there, and mounts are handed over.
        let peer = lines.peer()?;
        if !peer.is_own_or_root() && !owns_directory_of(&socket, peer.uid) {
            let message = format!("another user listens on {}", socket.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Self { lines })
    }

    /// Whether the holder is there, and its state.
    pub fn ping(&mut self) -> Result<Pong, Failure> {
        self.call(Command::Ping, &[])
    }

    /// Waits until the daemon serves.
    pub fn await_daemon(&mut self, timeout: Duration) -> Result<Pong, Failure> {
        self.call(Command::AwaitDaemon { timeout_ms: timeout.as_millis() as u64 }, &[])
    }

    /// Hands a mount over; returns when a frontend serves it.
    pub fn adopt_mount(&mut self, mount: MountName, fds: MountFds<'_>) -> Result<HeldMount, Failure> {
        let fds = [fds.fuse, fds.region, fds.table, fds.submissions, fds.completions];
        self.call(Command::AdoptMount { mount }, &fds)
    }

    /// Every mount that is held.
    pub fn mounts(&mut self) -> Result<Vec<HeldMount>, Failure> {
        self.call(Command::Mounts, &[])
    }

    /// Lets bases lie below `path`, too; returns when the daemon serves again.
    pub fn allow_base(&mut self, path: &Path) -> Result<Pong, Failure> {
        self.call(Command::AllowBase { path: path.to_owned() }, &[])
    }

    /// Replaces daemon and frontends by the programs on the disk.
    pub fn upgrade(&mut self) -> Result<Upgraded, Failure> {
        self.call(Command::Upgrade, &[])
    }

    /// Stops the daemon and the holder.
    pub fn stop(&mut self, force: bool) -> Result<(), Failure> {
        self.call::<serde_json::Value>(Command::Stop { force }, &[]).map(|_| ())
    }

    fn call<T: DeserializeOwned>(&mut self, command: Command, fds: &[BorrowedFd<'_>]) -> Result<T, Failure> {
        let answer = self.exchange(&Call { v: VERSION, command }, fds).map_err(|e| Failure {
            code: ErrorCode::Internal,
            message: format!("the holder does not answer: {e}"),
            hint: Some("look into its log, holder.log in the store's log directory".into()),
        })?;
        match answer {
            Answer::Ok(value) => serde_json::from_value(value).map_err(|e| Failure {
                code: ErrorCode::Version,
                message: format!("the holder's answer is not understood: {e}"),
                hint: Some("stop and start it, so that it is of this release: agentfs daemon stop".into()),
            }),
            Answer::Error(failure) => Err(failure),
        }
    }

    fn exchange(&mut self, call: &Call, fds: &[BorrowedFd<'_>]) -> Result<Answer, LineError> {
        self.lines.write_with(call, fds)?;
        self.lines.read()?.ok_or(LineError::Cut)?.parse()
    }
}

#[cfg(test)]
mod tests;
