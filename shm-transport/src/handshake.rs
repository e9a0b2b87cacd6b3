//! Attaching a session to a daemon: the frontend's half over the daemon's socket, and the check of what
//! came for the daemon's half.

use crate::control::client::{Client, ClientError};
use crate::control::{Attached, Command, ErrorCode};
use crate::daemon::DaemonEnd;
use crate::mem::fds;
use crate::session::SessionFds;
use crate::transport::TransportError;
use crate::wire::SessionId;
use crate::wire::limits::SLOTS_MAX;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for the answer to an attach. A daemon that just started may still recover its store.
pub const ANSWER_MAX: Duration = Duration::from_mins(1);

/// Descriptors that may wait to be taken: one for each request that can be under way.
const CAME_MAX: usize = SLOTS_MAX as usize;

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

/// A session's living connection to its daemon. Its end says that the daemon, or its part of this session, is gone.
/// Dropped, it tells the daemon the same of the frontend. On a mount with passthrough the daemon sends descriptors of
/// content files over it ([`send_backing`]), and else nothing.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Descriptors that came, each with its serial number.
    came: VecDeque<(u32, OwnedFd)>,
    /// Process id of the daemon.
    pub daemon_pid: i32,
}

impl Connection {
    /// Whether the daemon's side has ended. Does not wait. The socket is readable exactly then.
    pub fn is_closed(&self) -> bool {
        // Without passthrough nothing is ever sent here: anything to read is the end, an error, or a broken peer.
        crate::frontend::wait(self.stream.as_fd(), 0).unwrap_or(true)
    }

    /// Takes in what has come, without waiting. `false` at the end, or when the daemon sends what it must not.
    pub fn receive(&mut self) -> bool {
        while crate::frontend::wait(self.stream.as_fd(), 0).unwrap_or(true) {
            let mut serial = [0; size_of::<u32>()];
            // Read whole: one message is 4 bytes, and what came beside it keeps it from running into the next.
            match fds::recv(self.stream.as_fd(), &mut serial) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok((4, mut beside)) if beside.len() == 1 && self.came.len() < CAME_MAX => {
                    self.came.extend(beside.pop().map(|fd| (u32::from_le_bytes(serial), fd)));
                }
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// The descriptor that came for an open.
    pub fn take(&mut self, serial: u32) -> Option<OwnedFd> {
        self.receive();
        let at = self.came.iter().position(|(number, _)| *number == serial)?;
        self.came.remove(at).map(|(_, fd)| fd)
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
    // What follows the answer is no line.
    client.read_no_further();
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
    Ok(Connection { stream: client.into_stream(), came: VecDeque::new(), daemon_pid: attached.daemon_pid })
}

/// The daemon's half of [`Connection::take`]: hands the file of an open over, before its reply. `WouldBlock` when a
/// frontend takes nothing in.
pub fn send_backing(stream: &UnixStream, serial: u32, file: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match fds::send(stream.as_fd(), &serial.to_le_bytes(), &[file]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
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
