//! The daemon over shared memory, that may die and come back. While it is away requests wait in their
//! slots; when one is back it gets the same region again, in the next epoch, with everything under way.

use crate::session::{Daemon, LeftBehind, is_own};
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::holder::MountName;
use shm_transport::control::{ErrorCode, Failure};
use shm_transport::handshake::{self, Attach, Connection};
use shm_transport::wire::{RequestId, SessionId, SlotIndex};
use shm_transport::{FsTransport, SessionFds, SessionHeader, ShmTransport, TransportError, Waiting, monotonic_ms};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The daemon is looked for again after a tenth of the time that it has been away, so that programs wait
/// little longer than it takes to start, and many mounts do not keep the host busy.
const BACK_OFF_SHARE: u32 = 10;
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_millis(200);
/// How long a daemon may take to answer an attach once requests are given up: each of them waits for that.
const ANSWER_LATE: Duration = Duration::from_secs(1);
/// A connection that lasted so long is not expected to end at once again.
const SETTLED: Duration = Duration::from_secs(1);
/// Connections in a row that ended before, after which the next ones are put off.
const SHORT_VISITS_FREE: u32 = 5;
/// How long an unmounted frontend tries to tell a daemon that is away.
pub(crate) const DETACH_MAX: Duration = Duration::from_secs(5);
/// How long a new mount waits for a branch that another mount has; one that was unmounted just now is
/// still being detached.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// Who is told of the first attach: the holder, and through it whoever mounts.
pub(crate) type FirstAttach = Box<dyn FnOnce(Result<i32, Failure>)>;

/// Who is told, beyond whoever has the region, that requests wait (now and then) or do so no more.
pub(crate) type ShowWaiting = Box<dyn FnMut(Option<Waiting>)>;

/// How long until the next look at a daemon that has been away for so long: for up to a half longer by the session,
/// so that the mounts of a host, which all lost it at one moment, do not all come back at one moment.
fn pause(away: Duration, session: SessionId) -> Duration {
    let pause = (away / BACK_OFF_SHARE).clamp(BACK_OFF_MIN, BACK_OFF_MAX);
    // Sessions are random numbers.
    pause + pause / 2 * (session.0 % 64) as u32 / 64
}

/// The beginning of a time without a daemon, by the clock that all processes share.
#[derive(Debug, Clone, Copy)]
struct Away(u64);

impl Away {
    fn now() -> Self {
        Self(monotonic_ms())
    }

    fn elapsed(self) -> Duration {
        Duration::from_millis(monotonic_ms().saturating_sub(self.0))
    }
}

/// The daemon's side of one mount.
pub(crate) struct ShmDaemon {
    transport: ShmTransport,
    fds: SessionFds,
    mount: MountName,
    socket: PathBuf,
    connection: Option<Connection>,
    next_try: Instant,
    /// Since when the daemon has been away, short visits and former frontends' waits counted in.
    away: Away,
    /// Since when nobody has been found: the same, but for a few visits that were short.
    looking: Away,
    /// Connections in a row that ended before they had settled.
    short_visits: u32,
    header: SessionHeader,
    /// For how long it may be away before requests fail.
    limit: Option<Duration>,
    /// What the region says of our wait, and the unit's manager, if there is one.
    shown: Option<Waiting>,
    show: ShowWaiting,
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
        show: ShowWaiting,
        new: bool,
    ) -> Result<Self, TransportError> {
        let transport = ShmTransport::attach(&fds)?
            .into_iter()
            .next()
            .ok_or(TransportError::Protocol { rule: "a region has at least one queue pair" })?;
        let header = transport.header();
        // A former frontend's wait goes on; what a daemon may have scribbled there is at most a wait that ends early.
        let shown = header.waiting();
        let away = shown.map_or_else(Away::now, |waiting| Away(waiting.since_ms.min(monotonic_ms())));
        Ok(Self {
            limit: header.give_up_after(),
            header,
            shown,
            show,
            transport,
            fds,
            mount,
            socket,
            connection: None,
            next_try: Instant::now(),
            away,
            looking: away,
            short_visits: 0,
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
        handshake::attach_within(&self.socket, &attach, &self.fds, self.answer_max())
    }

    /// How long the daemon may take to answer: requests must be given up in time, and nobody else does it meanwhile.
    fn answer_max(&self) -> Duration {
        let left = |limit: Duration| match limit.saturating_sub(self.away.elapsed()) {
            Duration::ZERO => ANSWER_LATE,
            left => left,
        };
        self.limit.map_or(handshake::ANSWER_MAX, left).min(handshake::ANSWER_MAX)
    }

    /// Puts the next look at the daemon off.
    fn pause(&mut self) {
        self.next_try = Instant::now() + pause(self.looking.elapsed(), self.mount.session);
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

    fn occupied(&self) -> usize {
        self.transport.occupied()
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
                self.short_visits = 0;
                self.away = Away::now();
            } else {
                self.short_visits = self.short_visits.saturating_add(1);
            }
            if self.short_visits <= SHORT_VISITS_FREE {
                // Killed twice within a second: the next one comes as soon as the first did.
                self.looking = Away::now();
                self.next_try = Instant::now();
            } else {
                // A daemon that takes us and leaves us again must not be tried without a pause.
                self.looking = self.away;
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
                self.transport.attached();
                self.show_waiting();
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

    fn detach(&mut self) -> bool {
        self.connection = None;
        detach(&self.socket, self.mount.session, DETACH_MAX)
    }

    fn gives_up_in(&self) -> Option<Duration> {
        match self.connection {
            Some(_) => None,
            None => self.limit.map(|limit| limit.saturating_sub(self.away.elapsed())),
        }
    }

    fn give_up(&mut self) -> Vec<SlotIndex> {
        self.transport.give_up(|id| !is_own(id)).into_iter().map(|(_, slot)| slot).collect()
    }

    fn given_up(&self) -> Vec<RequestId> {
        self.transport.given_up()
    }

    fn show_waiting(&mut self) {
        let waiting = self.connection.is_none().then(|| Waiting {
            since_ms: self.away.0,
            requests: u32::try_from(self.transport.in_flight()).unwrap_or(u32::MAX),
        });
        if waiting != self.shown {
            self.shown = waiting;
            self.header.set_waiting(waiting);
            (self.show)(waiting);
        }
    }
}

/// Tells the daemon that a mount is gone; waits at most `limit` for one that is away. `false` when it could not
/// be told.
pub(crate) fn detach(socket: &Path, session: SessionId, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut back_off = BACK_OFF_MIN;
    loop {
        let told = Client::connect(socket).and_then(|mut client| {
            client.set_timeout(Some(DETACH_MAX)).map_err(|e| ClientError::Line(e.into()))?;
            client.detach(session)
        });
        match told {
            Ok(()) => return true,
            Err(e) if handshake::is_transient(&e) && Instant::now() + back_off < end => {
                std::thread::sleep(back_off);
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
            Err(e) => {
                tracing::warn!(error = %e, "the daemon could not be told that the mount is gone");
                // What it refuses it knows: the session is none of its own, or no more.
                return !handshake::is_transient(&e);
            }
        }
    }
}

#[cfg(test)]
mod tests;
