//! A client of the daemon's control socket.

use super::holder::owns_directory_of;
use super::line::{LineError, LineStream, Peer};
use super::{
    Answer, BranchInfo, Call, Checkpoint, Collected, Command, CommitPlan, Diff, Failure, FsckReport, Limits, Merged,
    MountInfo, Preference, Removed, SnapshotInfo, Status, Undone, VERSION,
};
use crate::mem::sys;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a daemon may leave a call lying before it is told as one that does not take calls. It may be reading a
/// large store, while its service manager listens for it.
const TAKEN_MAX: Duration = Duration::from_mins(1);
/// How often a call that lies there is looked at.
const LOOK_MS: i32 = 250;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("no AgentFS daemon listens on {}: {source}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket is there and cannot be used.
    #[error("cannot connect to the AgentFS daemon on {}: {source}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon has its socket and does not read from it.
    #[error(
        "the AgentFS daemon on {} has not taken the call for {} s: it still reads its store, or hangs (its log tells). \
         It may carry the call out when it goes on", socket.display(), waited.as_secs()
    )]
    NotTaken {
        /// The socket.
        socket: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// The connection failed in the middle, perhaps because the daemon ended.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The daemon closed the connection without an answer.
    #[error("the AgentFS daemon closed the connection without an answer")]
    Closed,
    /// The answer's data is not what it should be: another release.
    #[error("the AgentFS daemon's answer is not understood (is it of another release?): {0}")]
    Data(serde_json::Error),
    /// The daemon refused; code and hint stand in it.
    #[error("{0}")]
    Refused(Failure),
}

impl ClientError {
    /// Whether no daemon runs at all, so that starting one would help.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}

/// A connection to the daemon. One call at a time.
#[derive(Debug)]
pub struct Client {
    lines: LineStream,
    socket: PathBuf,
    /// How long a call may lie there.
    taken_max: Duration,
}

impl Client {
    /// Connects to the daemon's socket.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        Self::connect_within(socket, TAKEN_MAX)
    }

    /// As [`Self::connect`]; the daemon may leave the connection, and later a call, lying for so long and no longer.
    /// Once it has taken a call, the answer is waited for however long it takes.
    pub fn connect_within(socket: &Path, taken_max: Duration) -> Result<Self, ClientError> {
        let stream = sys::connect_within(socket, taken_max).map_err(|source| {
            let socket = socket.to_owned();
            let kind = source.kind();
            if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
                ClientError::NotRunning { socket, source }
            } else if kind == io::ErrorKind::WouldBlock {
                ClientError::NotTaken { socket, waited: taken_max }
            } else {
                ClientError::Connect { socket, source }
            }
        })?;
        let refuse = |source| ClientError::Connect { socket: socket.to_owned(), source };
        // In a directory like /tmp anybody could have put a socket of that name before us, and what is handed over
        // is a mount. Root may use the daemon of the user whose directory it is.
        let peer = Peer::of(&stream).map_err(refuse)?;
        let may = nix::unistd::geteuid().is_root() && owns_directory_of(socket, peer.uid);
        if !peer.is_own_or_root() && !may {
            return Err(refuse(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user")));
        }
        Ok(Self { lines: LineStream::new(stream), socket: socket.to_owned(), taken_max })
    }

    /// Longest wait for one answer; `None` (the default) waits for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.taken_max = timeout.unwrap_or(TAKEN_MAX);
        self.lines.set_timeout(timeout)
    }

    /// Asks, and waits for the answer's data.
    pub fn call(&mut self, command: Command) -> Result<Value, ClientError> {
        self.call_with(command, &[])
    }

    /// As [`Self::call`], with descriptors beside the line.
    pub fn call_with(&mut self, command: Command, fds: &[BorrowedFd<'_>]) -> Result<Value, ClientError> {
        let sent = self.lines.write_with(&Call { v: VERSION, command }, fds);
        // A call that cannot be written as a line: nothing went, and nothing would come.
        if let Err(unsayable @ (LineError::Json(_) | LineError::TooLong)) = sent {
            return Err(unsayable.into());
        }
        if sent.is_ok() {
            self.await_taken()?;
        }
        // Who turns us away says why and closes, perhaps before all of the call went.
        let line = match (self.lines.read(), sent) {
            (Ok(Some(line)), _) => line,
            (_, Err(unsent)) => return Err(unsent.into()),
            (Ok(None), Ok(())) => return Err(ClientError::Closed),
            (Err(e), Ok(())) => return Err(e.into()),
        };
        match line.parse()? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(failure) => Err(ClientError::Refused(failure)),
        }
    }

    /// Waits until the daemon has read what was sent, or said something.
    fn await_taken(&self) -> Result<(), ClientError> {
        let begun = Instant::now();
        loop {
            let stream = self.lines.as_fd();
            if crate::frontend::wait(stream, LOOK_MS).map_err(LineError::Io)?
                || sys::unread_by_peer(stream).map_err(LineError::Io)? == 0
            {
                return Ok(());
            }
            let waited = begun.elapsed();
            if waited >= self.taken_max {
                return Err(ClientError::NotTaken { socket: self.socket.clone(), waited });
            }
        }
    }

    /// As [`Self::call`], with the data as its type.
    pub fn ask<T: DeserializeOwned>(&mut self, command: Command) -> Result<T, ClientError> {
        serde_json::from_value(self.call(command)?).map_err(ClientError::Data)
    }

    /// [`Command::Status`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ask(Command::Status)
    }

    /// [`Command::Shutdown`].
    pub fn shutdown(&mut self) -> Result<(), ClientError> {
        self.call(Command::Shutdown).map(drop)
    }

    /// [`Command::HandOver`], of the daemon with this process id.
    pub fn hand_over(&mut self, pid: i32) -> Result<(), ClientError> {
        self.call(Command::HandOver { pid: Some(pid) }).map(drop)
    }

    /// [`Command::BranchCreate`].
    pub fn branch_create(&mut self, command: Command) -> Result<BranchInfo, ClientError> {
        self.ask(command)
    }

    /// [`Command::BranchSeal`].
    pub fn branch_seal(&mut self, command: Command) -> Result<Option<BranchInfo>, ClientError> {
        self.ask(command)
    }

    /// [`Command::BranchQuota`].
    pub fn branch_quota(&mut self, name: &str, limits: Limits) -> Result<BranchInfo, ClientError> {
        self.ask(Command::BranchQuota { name: name.into(), limits })
    }

    /// [`Command::BranchList`].
    pub fn branch_list(&mut self, weigh: bool) -> Result<Vec<BranchInfo>, ClientError> {
        self.ask(Command::BranchList { weigh })
    }

    /// [`Command::BranchShow`].
    pub fn branch_show(&mut self, name: &str) -> Result<BranchInfo, ClientError> {
        self.ask(Command::BranchShow { name: name.into() })
    }

    /// [`Command::BranchDelete`].
    pub fn branch_delete(&mut self, name: &str, dry_run: bool) -> Result<Removed, ClientError> {
        self.ask(Command::BranchDelete { name: name.into(), dry_run })
    }

    /// [`Command::SnapshotCreate`].
    pub fn snapshot_create(&mut self, branch: &str, name: &str) -> Result<SnapshotInfo, ClientError> {
        self.ask(Command::SnapshotCreate { branch: branch.into(), name: name.into() })
    }

    /// [`Command::Checkpoint`].
    pub fn checkpoint(&mut self, branch: &str, keep: u32) -> Result<Checkpoint, ClientError> {
        self.ask(Command::Checkpoint { branch: branch.into(), keep })
    }

    /// [`Command::SnapshotList`].
    pub fn snapshot_list(&mut self, branch: Option<&str>) -> Result<Vec<SnapshotInfo>, ClientError> {
        self.ask(Command::SnapshotList { branch: branch.map(Into::into) })
    }

    /// [`Command::SnapshotDelete`].
    pub fn snapshot_delete(&mut self, branch: &str, name: &str, dry_run: bool) -> Result<Value, ClientError> {
        self.call(Command::SnapshotDelete { branch: branch.into(), name: name.into(), dry_run })
    }

    /// [`Command::Diff`].
    pub fn diff(&mut self, command: Command) -> Result<Diff, ClientError> {
        self.ask(command)
    }

    /// [`Command::CommitPrepare`].
    pub fn commit_prepare(
        &mut self,
        branch: &str,
        dry_run: bool,
        prefer: Vec<Preference>,
    ) -> Result<CommitPlan, ClientError> {
        self.ask(Command::CommitPrepare { branch: branch.into(), dry_run, prefer })
    }

    /// [`Command::CommitFinish`].
    pub fn commit_finish(&mut self, id: u64) -> Result<(), ClientError> {
        self.call(Command::CommitFinish { id }).map(drop)
    }

    /// [`Command::CommitAbort`].
    pub fn commit_abort(&mut self, id: u64) -> Result<(), ClientError> {
        self.call(Command::CommitAbort { id }).map(drop)
    }

    /// [`Command::Merge`].
    pub fn merge(&mut self, command: Command) -> Result<Merged, ClientError> {
        self.ask(command)
    }

    /// [`Command::Undo`].
    pub fn undo(&mut self, command: Command) -> Result<Undone, ClientError> {
        self.ask(command)
    }

    /// [`Command::CommitPending`].
    pub fn commit_pending(&mut self) -> Result<Vec<CommitPlan>, ClientError> {
        self.ask(Command::CommitPending)
    }

    /// [`Command::Fsck`].
    pub fn fsck(&mut self) -> Result<FsckReport, ClientError> {
        self.ask(Command::Fsck)
    }

    /// [`Command::Gc`].
    pub fn gc(&mut self, branches: Vec<String>, dry_run: bool) -> Result<Collected, ClientError> {
        self.ask(Command::Gc { branches, dry_run })
    }

    /// [`Command::Mounts`].
    pub fn mounts(&mut self) -> Result<Vec<MountInfo>, ClientError> {
        self.ask(Command::Mounts)
    }

    /// [`Command::Detach`].
    pub fn detach(&mut self, session: crate::wire::SessionId) -> Result<(), ClientError> {
        self.call(Command::Detach { session }).map(drop)
    }

    /// [`Command::EndSession`].
    pub fn end_session(&mut self, session: crate::wire::SessionId) -> Result<(), ClientError> {
        self.call(Command::EndSession { session }).map(drop)
    }

    /// The socket: after an attach it carries no more lines.
    pub fn into_stream(self) -> UnixStream {
        self.lines.into_stream()
    }
}

#[cfg(test)]
mod tests;
