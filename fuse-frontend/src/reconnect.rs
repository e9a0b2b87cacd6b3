//! The daemon over shared memory, that may die and come back. While it is away requests wait in their
//! slots; when one is back it gets the same region again, in the next epoch, with everything under way.

use crate::session::{Daemon, LeftBehind};
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::holder::MountName;
use shm_transport::control::{ErrorCode, Failure};
use shm_transport::handshake::{self, Attach, Connection};
use shm_transport::wire::{RequestId, SessionId};
use shm_transport::{SessionFds, ShmTransport, TransportError};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The daemon is looked for again after a tenth of the time that it has been away, so that programs wait
/// little longer than it takes to start, and many mounts do not keep the host busy.
const BACK_OFF_SHARE: u32 = 10;
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_millis(200);
/// A connection that lasted so long is not expected to end at once again.
const SETTLED: Duration = Duration::from_secs(1);
/// How long an unmounted frontend tries to tell a daemon that is away.
const DETACH_MAX: Duration = Duration::from_secs(5);
/// How long a new mount waits for a branch that another mount has; one that was unmounted just now is
/// still being detached.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// Who is told of the first attach: the holder, and through it whoever mounts.
pub(crate) type FirstAttach = Box<dyn FnOnce(Result<i32, Failure>)>;

/// The daemon's side of one mount.
pub(crate) struct ShmDaemon {
    transport: ShmTransport,
    fds: SessionFds,
    mount: MountName,
    socket: PathBuf,
    connection: Option<Connection>,
    next_try: Instant,
    /// Since when the daemon has been away, short visits not counted.
    away: Instant,
    /// When the connection began.
    attached: Instant,
    /// The last complaint, so that each is logged once.
    complaint: String,
    first: Option<FirstAttach>,
    /// Nobody served the mount before, and this is when it began.
    new_since: Option<Instant>,
}

impl ShmDaemon {
    /// Not yet attached.
    pub(crate) fn new(
        mount: MountName,
        socket: PathBuf,
        fds: SessionFds,
        first: FirstAttach,
        new: bool,
    ) -> Result<Self, TransportError> {
        let transport = ShmTransport::attach(&fds)?
            .into_iter()
            .next()
            .ok_or(TransportError::Protocol { rule: "a region has at least one queue pair" })?;
        Ok(Self {
            transport,
            fds,
            mount,
            socket,
            connection: None,
            next_try: Instant::now(),
            away: Instant::now(),
            attached: Instant::now(),
            complaint: String::new(),
            first: Some(first),
            new_since: new.then(Instant::now),
        })
    }

    /// The incarnation that the region is in.
    pub(crate) fn epoch(&self) -> u32 {
        self.transport.epoch()
    }

    fn attach(&mut self) -> Result<Connection, ClientError> {
        // The epoch must not move on while nobody listens: an earlier look is cheap.
        drop(Client::connect(&self.socket)?);
        let epoch = self.transport.reset_for_new_daemon().map_err(|e| {
            ClientError::Refused(Failure {
                code: ErrorCode::Internal,
                message: format!("the region cannot be made ready for a daemon: {e}"),
                hint: None,
            })
        })?;
        let attach = Attach {
            session: self.mount.session,
            branch: self.mount.branch.clone(),
            mountpoint: self.mount.mountpoint.clone(),
            read_only: self.mount.read_only,
            epoch,
        };
        handshake::attach(&self.socket, &attach, &self.fds)
    }

    /// Puts the next look at the daemon off.
    fn pause(&mut self) {
        let pause = (self.away.elapsed() / BACK_OFF_SHARE).clamp(BACK_OFF_MIN, BACK_OFF_MAX);
        self.next_try = Instant::now() + pause;
    }

    /// Tells whoever mounts that it will not work.
    fn refuse_first(&mut self, error: &ClientError) {
        // Busy passes for a mount that comes back: its former incarnation is still being taken down.
        let taken = matches!(error, ClientError::Refused(failure) if failure.code == ErrorCode::Busy)
            && self.new_since.is_some_and(|since| since.elapsed() >= BUSY_MAX);
        if handshake::is_transient(error) && !taken {
            return;
        }
        if let Some(first) = self.first.take() {
            first(Err(if let ClientError::Refused(failure) = error {
                failure.clone()
            } else {
                Failure { code: ErrorCode::Internal, message: error.to_string(), hint: None }
            }));
        }
    }
}

impl Daemon for ShmDaemon {
    type Transport = ShmTransport;

    fn transport(&mut self) -> &mut ShmTransport {
        &mut self.transport
    }

    fn transport_ref(&self) -> &ShmTransport {
        &self.transport
    }

    fn slots(&self) -> usize {
        self.transport.slots()
    }

    fn left_behind(&self) -> Vec<LeftBehind> {
        let under_way = self.transport.in_flight_ids().into_iter();
        under_way.map(|(id, slot)| LeftBehind { id, slot, request: self.transport.request_in(slot) }).collect()
    }

    fn last_id(&self) -> RequestId {
        self.transport.last_id()
    }

    fn connection(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    fn lose(&mut self, why: &str) {
        if self.connection.take().is_some() {
            tracing::warn!(why, "the daemon is gone; requests wait for the next one");
            if self.attached.elapsed() >= SETTLED {
                self.away = Instant::now();
                self.next_try = self.away;
            } else {
                // A daemon that takes us and leaves us again must not be tried without a pause.
                self.pause();
            }
        }
    }

    fn retry_in(&self) -> Option<Duration> {
        match self.connection {
            Some(_) => None,
            None => Some(self.next_try.saturating_duration_since(Instant::now())),
        }
    }

    fn retry(&mut self) -> bool {
        match self.attach() {
            Ok(connection) => {
                tracing::info!(
                    daemon = connection.daemon_pid,
                    epoch = self.transport.epoch(),
                    "attached to the daemon"
                );
                self.attached = Instant::now();
                self.complaint.clear();
                if let Some(first) = self.first.take() {
                    first(Ok(connection.daemon_pid));
                }
                self.connection = Some(connection);
                true
            }
            Err(error) => {
                let complaint = error.to_string();
                if complaint != self.complaint {
                    tracing::warn!(%error, "cannot attach to the daemon; trying on");
                    self.complaint = complaint;
                }
                self.refuse_first(&error);
                self.pause();
                false
            }
        }
    }

    fn detach(&mut self) {
        self.connection = None;
        detach(&self.socket, self.mount.session);
    }
}

/// Tells the daemon that a mount is gone; waits a while for one that is away.
pub(crate) fn detach(socket: &Path, session: SessionId) {
    let end = Instant::now() + DETACH_MAX;
    let mut back_off = BACK_OFF_MIN;
    loop {
        let told = Client::connect(socket).and_then(|mut client| {
            client.set_timeout(Some(DETACH_MAX)).map_err(|e| ClientError::Line(e.into()))?;
            client.detach(session)
        });
        match told {
            Ok(()) => return,
            Err(e) if handshake::is_transient(&e) && Instant::now() + back_off < end => {
                std::thread::sleep(back_off);
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
            Err(e) => {
                tracing::warn!(error = %e, "the daemon could not be told that the mount is gone");
                return;
            }
        }
    }
}
