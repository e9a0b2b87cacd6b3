//! Attaching a session to a daemon: the frontend's half over the daemon's socket, and the check of what
//! came for the daemon's half.

use crate::control::client::{Client, ClientError};
use crate::control::{Attached, Command, ErrorCode};
use crate::daemon::DaemonEnd;
use crate::session::SessionFds;
use crate::transport::TransportError;
use crate::wire::SessionId;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for the answer to an attach. A daemon that just started may still recover its store.
pub const ANSWER_MAX: Duration = Duration::from_mins(1);

/// What an attach says of the session.
#[derive(Debug, Clone)]
pub struct Attach {
    /// The session.
    pub session: SessionId,
    /// The branch.
    pub branch: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Read-only.
    pub read_only: bool,
    /// From [`crate::ShmTransport::reset_for_new_daemon`].
    pub epoch: u32,
}

/// A session's living connection to its daemon. It carries no data: its end says that the daemon, or
/// its part of this session, is gone. Dropped, it tells the daemon the same of the frontend.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Process id of the daemon.
    pub daemon_pid: i32,
}

impl Connection {
    /// Whether the daemon's side has ended. Does not wait. The socket is readable exactly then.
    pub fn is_closed(&self) -> bool {
        // Nothing is ever sent here: anything to read is the end, an error, or a broken peer.
        crate::frontend::wait(self.stream.as_fd(), 0).unwrap_or(true)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Attaches the session to the daemon that listens on `socket`. Errors for which
/// [`is_transient`] holds go away when a daemon is back.
pub fn attach(socket: &Path, attach: &Attach, fds: &SessionFds) -> Result<Connection, ClientError> {
    attach_within(socket, attach, fds, ANSWER_MAX)
}

/// As [`attach`], for who cannot wait so long for the answer. Not zero.
pub fn attach_within(
    socket: &Path,
    attach: &Attach,
    fds: &SessionFds,
    answer_max: Duration,
) -> Result<Connection, ClientError> {
    let mut client = Client::connect_within(socket, answer_max)?;
    client.set_timeout(Some(answer_max)).map_err(|e| ClientError::Line(e.into()))?;
    let command = Command::Attach {
        session: attach.session,
        branch: attach.branch.clone(),
        mountpoint: attach.mountpoint.clone(),
        read_only: attach.read_only,
        epoch: attach.epoch,
    };
    let value = client.call_with(command, &fds.row())?;
    let attached: Attached = serde_json::from_value(value).map_err(ClientError::Data)?;
    client.set_timeout(None).map_err(|e| ClientError::Line(e.into()))?;
    Ok(Connection { stream: client.into_stream(), daemon_pid: attached.daemon_pid })
}

/// Whether trying again later can help: the daemon is away, is going away, or still has the session's
/// former incarnation.
pub fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::NotRunning { .. } | ClientError::NotTaken { .. } | ClientError::Closed | ClientError::Line(_) => {
            true
        }
        ClientError::Refused(failure) => matches!(failure.code, ErrorCode::Busy | ErrorCode::Store),
        ClientError::Connect { .. } | ClientError::Data(_) => false,
    }
}

/// The daemon's half: from the descriptors beside an attach line to a serving end.
pub fn accept(fds: Vec<OwnedFd>, session: SessionId, epoch: u32) -> Result<(SessionFds, DaemonEnd), TransportError> {
    let fds = SessionFds::from_row(fds).ok_or(TransportError::Protocol {
        rule: "an attach needs region, table, and at least two doorbells (rule A1)",
    })?;
    let end = DaemonEnd::attach(&fds, session, epoch)?;
    Ok((fds, end))
}
