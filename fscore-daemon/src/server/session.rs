//! The mounts: sessions that attached since the daemon started and were not detached.
//!
//! A mount whose connection ended stays: its frontend comes back, or the mount's end is told by a
//! detach. Lock order: a mount's `turn`, then the daemon's `admin`, then the table, then a mount's `at`.

use super::failure::{failure, hinted, of_core, of_transport};
use super::link::Link;
use super::{Daemon, worker};
use crate::core::session::{Session, forget_replies};
use crate::core::state::lock;
use shm_transport::control::{Attached, ErrorCode, Failure, MountInfo};
use shm_transport::handshake::{self, Attach};
use shm_transport::wire::SessionId;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for the running requests of a former connection.
const TAKE_OVER_MAX: Duration = Duration::from_secs(30);
/// A frontend that is away for longer than this is called lost.
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// Fixed descriptors of an attach before the completion doorbells, one per queue pair.
const FIXED_FDS: usize = 3;

/// Where a mount's frontend is.
#[derive(Debug)]
enum At {
    Attached(Arc<Link>),
    Away(Instant),
    /// Detached: not in the table any more.
    Gone,
}

/// A mount.
#[derive(Debug)]
pub(super) struct Mount {
    id: SessionId,
    branch: String,
    mountpoint: PathBuf,
    read_only: bool,
    session: Arc<Session>,
    /// Attaching and detaching, one at a time.
    turn: Mutex<()>,
    at: Mutex<At>,
}

impl Mount {
    /// Ends the present connection, if there is one, and waits for its requests.
    fn release(&self) -> Result<(), Failure> {
        let link = match &*lock(&self.at) {
            At::Attached(link) => Arc::clone(link),
            At::Away(_) => return Ok(()),
            At::Gone => return Err(failure(ErrorCode::Busy, format!("session {} is being detached", self.id))),
        };
        link.stop();
        if !link.settled(Some(TAKE_OVER_MAX)) {
            return Err(hinted(
                ErrorCode::Busy,
                format!("requests of session {} have been running for {} s", self.id, TAKE_OVER_MAX.as_secs()),
                "look whether the host's disk answers; the frontend tries again by itself",
            ));
        }
        self.left(&link);
        Ok(())
    }

    /// `link` is over.
    fn left(&self, link: &Arc<Link>) {
        let mut at = lock(&self.at);
        if matches!(&*at, At::Attached(present) if Arc::ptr_eq(present, link)) {
            *at = At::Away(Instant::now());
        }
    }

    fn info(&self) -> MountInfo {
        let (state, link) = match &*lock(&self.at) {
            At::Attached(link) if !link.is_ending() => ("attached", Some(Arc::clone(link))),
            At::Away(since) if since.elapsed() > RECONNECT_MAX => ("lost", None),
            At::Attached(_) | At::Away(_) | At::Gone => ("reconnecting", None),
        };
        MountInfo {
            session: self.id,
            branch: self.branch.clone(),
            mountpoint: self.mountpoint.clone(),
            frontend_pid: link.as_ref().map_or(0, |link| link.frontend_pid),
            read_only: self.read_only,
            attached_seconds: link.as_ref().map_or(0, |link| link.since.elapsed().as_secs()),
            requests: link.as_ref().map_or(0, |link| link.requests()),
            in_flight: link.as_ref().map_or(0, |link| link.end().in_flight() as u64),
            state: state.into(),
        }
    }
}

/// All mounts.
#[derive(Debug, Default)]
pub(super) struct Mounts(Mutex<HashMap<SessionId, Arc<Mount>>>);

impl Mounts {
    fn get(&self, id: SessionId) -> Option<Arc<Mount>> {
        lock(&self.0).get(&id).cloned()
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        lock(&self.0).len() as u64
    }

    /// All of them, ordered by branch and mountpoint.
    pub(super) fn list(&self) -> Vec<MountInfo> {
        let mounts: Vec<Arc<Mount>> = lock(&self.0).values().cloned().collect();
        let mut list: Vec<MountInfo> = mounts.iter().map(|mount| mount.info()).collect();
        list.sort_by(|a, b| (&a.branch, &a.mountpoint, a.session).cmp(&(&b.branch, &b.mountpoint, b.session)));
        list
    }

    /// Where a branch is mounted.
    pub(super) fn of_branch(&self, branch: &str) -> Vec<PathBuf> {
        let mounts = lock(&self.0);
        let mut list: Vec<PathBuf> =
            mounts.values().filter(|mount| mount.branch == branch).map(|mount| mount.mountpoint.clone()).collect();
        list.sort();
        list
    }
}

/// A session that is attached: who keeps the connection's socket calls [`Self::keep`].
#[derive(Debug)]
pub(super) struct Kept {
    mount: Arc<Mount>,
    link: Arc<Link>,
}

impl Kept {
    /// The answer to the attach.
    pub(super) fn answer() -> Attached {
        Attached { daemon_pid: std::process::id() as i32 }
    }

    /// Keeps the socket until the connection has ended.
    pub(super) fn keep(self, stream: std::os::unix::net::UnixStream) {
        self.link.keep(stream);
        self.mount.left(&self.link);
        tracing::info!(session = %self.mount.id, branch = self.mount.branch, "a frontend left");
    }

    /// The answer could not be sent.
    pub(super) fn drop_link(self) {
        self.link.stop();
        self.link.settled(None);
        self.mount.left(&self.link);
    }
}

/// Takes a session up, or up again.
pub(super) fn attach(daemon: &Daemon, attach: Attach, fds: Vec<OwnedFd>, pid: i32) -> Result<Kept, Failure> {
    let queues = fds.len().saturating_sub(FIXED_FDS);
    let accept = |fds| handshake::accept(fds, attach.session, attach.epoch).map_err(|e| of_transport(&e));
    let Some(mount) = daemon.mounts.get(attach.session) else {
        // Checked before anything is opened: what is refused here leaves nothing behind.
        let (_, end) = accept(fds)?;
        let mount = open(daemon, &attach)?;
        let turn = lock(&mount.turn);
        let kept = link(daemon, &mount, end, queues, pid);
        drop(turn);
        return kept;
    };
    if mount.branch != attach.branch || mount.read_only != attach.read_only {
        return Err(failure(
            ErrorCode::Usage,
            format!("session {} is a mount of branch {:?} with other options", mount.id, mount.branch),
        ));
    }
    let _turn = lock(&mount.turn);
    mount.release()?;
    let (_, end) = accept(fds)?;
    link(daemon, &mount, end, queues, pid)
}

/// Opens a session that is not known.
fn open(daemon: &Daemon, attach: &Attach) -> Result<Arc<Mount>, Failure> {
    let _admin = lock(&daemon.admin);
    let branch = daemon.branches.find(&attach.branch)?;
    if !attach.read_only && daemon.branches.is_committing(branch)? {
        return Err(hinted(
            ErrorCode::Busy,
            format!("a commit of branch {:?} is under way", attach.branch),
            "finish it: agentfs commit BRANCH, or wait for the command that does",
        ));
    }
    let branch = daemon.core.branch(branch).map_err(|e| of_core("load the branch", &e))?;
    let mut mounts = lock(&daemon.mounts.0);
    if mounts.contains_key(&attach.session) {
        return Err(failure(ErrorCode::Busy, format!("session {} is being attached already", attach.session)));
    }
    let writer = mounts.values().find(|other| other.branch == attach.branch && !other.read_only);
    if let Some(other) = writer.filter(|_| !attach.read_only) {
        return Err(hinted(
            ErrorCode::Busy,
            format!("branch {:?} is mounted read-write on {}", attach.branch, other.mountpoint.display()),
            format!(
                "unmount it (agentfs umount {}), mount read-only, or mount a branch of it (agentfs branch create NAME --from {})",
                other.mountpoint.display(),
                attach.branch
            ),
        ));
    }
    let session = Session::open(Arc::clone(&daemon.core), attach.session, branch, attach.read_only)
        .map_err(|e| of_core("open the session", &e))?;
    let mount = Arc::new(Mount {
        id: attach.session,
        branch: attach.branch.clone(),
        mountpoint: attach.mountpoint.clone(),
        read_only: attach.read_only,
        session,
        turn: Mutex::new(()),
        at: Mutex::new(At::Away(Instant::now())),
    });
    mounts.insert(mount.id, Arc::clone(&mount));
    Ok(mount)
}

/// Begins to serve. The caller has the mount's turn, and no other link of it is under way.
fn link(
    daemon: &Daemon,
    mount: &Arc<Mount>,
    end: shm_transport::DaemonEnd,
    queues: usize,
    pid: i32,
) -> Result<Kept, Failure> {
    let epoch = end.epoch();
    if matches!(*lock(&mount.at), At::Gone) {
        return Err(failure(ErrorCode::Busy, format!("session {} is being detached", mount.id)));
    }
    let failed = |e: std::io::Error| failure(ErrorCode::Internal, format!("the session cannot be served: {e}"));
    let now = daemon.core.clock.now().sec;
    let row = daemon.stats.mount(mount.id, &mount.branch, &mount.mountpoint, mount.read_only, now);
    let link = Link::new(end, Arc::clone(&mount.session), daemon.stats.clone(), row, pid).map_err(failed)?;
    if let Err(e) = worker::start(&link, &daemon.pool, queues) {
        link.stop();
        link.settled(None);
        return Err(failed(e));
    }
    *lock(&mount.at) = At::Attached(Arc::clone(&link));
    tracing::info!(session = %mount.id, branch = mount.branch, mountpoint = %mount.mountpoint.display(), pid, epoch, "a frontend attached");
    Ok(Kept { mount: Arc::clone(mount), link })
}

/// The mount is gone for good.
pub(super) fn detach(daemon: &Daemon, id: SessionId) -> Result<(), Failure> {
    let unknown = || failure(ErrorCode::NotFound, format!("no session {id} is known to this daemon"));
    let Some(mount) = daemon.mounts.get(id) else {
        // It was attached to a former daemon only: what that one recorded for it is of no use any more.
        // Its orphans go when its branch is next unmounted.
        return forget_replies(daemon.core.store.as_ref(), id).map_err(|e| of_core("forget the session", &e));
    };
    let _turn = lock(&mount.turn);
    match mount.release() {
        // Somebody else's detach was faster.
        Err(_) if matches!(*lock(&mount.at), At::Gone) => return Err(unknown()),
        released => released?,
    }
    let closed = mount.session.close();
    *lock(&mount.at) = At::Gone;
    lock(&daemon.mounts.0).remove(&id);
    tracing::info!(session = %id, branch = mount.branch, "a mount is gone");
    closed.map_err(|e| of_core("give back what the session held", &e))
}
