//! The mounts: sessions that were not detached. Those that attached since the daemon started stand in a
//! table; the others, whose frontends are still to come back, in the store alone.
//!
//! A mount whose connection ended stays: its frontend comes back, or the mount's end is told by a
//! detach, or by somebody who made sure that it is dead. Lock order: a mount's `turn`, then the daemon's `admin`, then the table, then a mount's `at`.

use super::link::Link;
use super::views::{self, Views};
use super::{Daemon, ending};
use crate::core::ids::BranchId;
use crate::core::member::Member;
use crate::core::session::Session;
use crate::core::state::lock;
use crate::failure::{fail_doing, refuse};
use shm_transport::Caching;
use shm_transport::TransportError;
use shm_transport::control::{Attached, ErrorCode, Failure, MountInfo};
use shm_transport::handshake::{self, Attach};
use shm_transport::wire::SessionId;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for the running requests of a former connection.
const TAKE_OVER_MAX: Duration = Duration::from_secs(30);
/// A frontend that is away for longer than this is called lost.
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// Fixed descriptors of an attach before the completion doorbells, one per queue pair.
const FIXED_FDS: usize = 3;
/// Most mounts, attached or not.
const MOUNTS_MAX: usize = 4096;
/// Longest path of a mountpoint, in bytes (`PATH_MAX`).
const MOUNTPOINT_MAX: usize = 4096;

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
    views: Arc<Views>,
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
            At::Gone => return Err(refuse(ErrorCode::Busy, format!("session {} is being detached", self.id)).done()),
        };
        link.stop();
        if !link.settled(Some(TAKE_OVER_MAX)) {
            return Err(refuse(
                ErrorCode::Busy,
                format!("requests of session {} have been running for {} s", self.id, TAKE_OVER_MAX.as_secs()),
            )
            .hint("look whether the host's disk answers; the frontend tries again by itself")
            .done());
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

    fn info(&self, daemon: &Daemon) -> MountInfo {
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
            others: views::shown(&daemon.core, self.id),
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

    /// Requests that the attached ones have answered.
    pub(super) fn requests(&self) -> u64 {
        let mounts: Vec<_> = lock(&self.0).values().cloned().collect();
        let of = |mount: &Arc<Mount>| match &*lock(&mount.at) {
            At::Attached(link) => link.requests(),
            At::Away(_) | At::Gone => 0,
        };
        mounts.iter().map(of).sum()
    }
}

/// The frontend of a mount that is attached.
pub(super) fn frontend(daemon: &Daemon, id: SessionId) -> Option<u32> {
    match &*lock(&daemon.mounts.get(id)?.at) {
        At::Attached(link) => u32::try_from(link.frontend_pid).ok(),
        At::Away(_) | At::Gone => None,
    }
}

/// All mounts, ordered by branch and mountpoint.
pub(super) fn list(daemon: &Daemon) -> Result<Vec<MountInfo>, Failure> {
    let members = daemon.core.members().map_err(|e| fail_doing("list the mounts", &e))?;
    let mounts: Vec<Arc<Mount>> = lock(&daemon.mounts.0).values().cloned().collect();
    let mut list: Vec<MountInfo> = mounts.iter().map(|mount| mount.info(daemon)).collect();
    for member in members {
        let known = mounts.iter().any(|mount| mount.id == member.session);
        // A branch that processes are bound to is the business of the mount that they are bound at.
        if known || daemon.core.is_bound(&member) {
            continue;
        }
        // Since the daemon serves, its frontend could have come back.
        let state = if daemon.started.elapsed() > RECONNECT_MAX { "lost" } else { "reconnecting" };
        list.push(MountInfo {
            session: member.session,
            branch: daemon.core.branch_record(member.branch).map_or_else(|_| String::new(), |record| record.name),
            mountpoint: member.mountpoint,
            frontend_pid: 0,
            read_only: member.read_only,
            attached_seconds: 0,
            requests: 0,
            in_flight: 0,
            state: state.into(),
            others: views::shown(&daemon.core, member.session),
        });
    }
    list.sort_by(|a, b| (&a.branch, &a.mountpoint, a.session).cmp(&(&b.branch, &b.mountpoint, b.session)));
    Ok(list)
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
    if attach.mountpoint.as_os_str().len() > MOUNTPOINT_MAX {
        return Err(refuse(ErrorCode::Usage, format!("the mountpoint has more than {MOUNTPOINT_MAX} bytes")).done());
    }
    let queues = fds.len().saturating_sub(FIXED_FDS);
    let accept = |fds| handshake::accept(fds, attach.session, attach.epoch).map_err(|e| of_transport(&e));
    let Some(mount) = daemon.mounts.get(attach.session) else {
        // Checked before anything is opened: what is refused here leaves nothing behind.
        let (fds, end) = accept(fds)?;
        give_dead_writer_back(daemon, &attach);
        let state = fds.header().map_err(|e| of_transport(&e))?.fuse_state();
        let mount = open(daemon, &attach, state.map(|state| state.caching).unwrap_or_default())?;
        let turn = lock(&mount.turn);
        let kept = link(daemon, &mount, end, queues, pid);
        drop(turn);
        return kept;
    };
    if mount.branch != attach.branch || mount.read_only != attach.read_only {
        return Err(refuse(
            ErrorCode::Usage,
            format!("session {} is a mount of branch {:?} with other options", mount.id, mount.branch),
        )
        .done());
    }
    let _turn = lock(&mount.turn);
    mount.release()?;
    let (_, end) = accept(fds)?;
    link(daemon, &mount, end, queues, pid)
}

/// The read-write mount of the branch that is in the way of `attach`, alive or dead.
fn other_writer<'a>(members: &'a [Member], branch: BranchId, attach: &Attach) -> Option<&'a Member> {
    let writes = |member: &&Member| member.branch == branch && !member.read_only && member.session != attach.session;
    members.iter().find(writes).filter(|_| !attach.read_only)
}

/// All processes of a mount can have died with it: then nobody told of its end, and it must not keep the
/// branch from its next mount. Whether it is dead, or there is one at all, is for [`open`] to find.
fn give_dead_writer_back(daemon: &Daemon, attach: &Attach) {
    let Ok(branch) = daemon.branches.find(&attach.branch) else { return };
    let Ok(members) = daemon.core.members() else { return };
    if let Some(other) = other_writer(&members, branch, attach) {
        ending::end(daemon, other.session).ok();
    }
}

/// Counts what limited branches of the mount use, which takes as long as they are large: before anything is locked.
fn count_before(daemon: &Daemon, attach: &Attach) -> Result<(), Failure> {
    let failed = |e| fail_doing("count what the branch uses", &e);
    let bound = views::branches_of(&daemon.core, attach.session).map_err(failed)?;
    for id in bound.into_iter().chain([daemon.branches.find(&attach.branch)?]) {
        // One that cannot be loaded is told of when it is needed.
        if let Ok(branch) = daemon.core.branch(id) {
            daemon.core.count_usage(&branch).map_err(failed)?;
        }
    }
    Ok(())
}

/// Opens a session that is not known.
fn open(daemon: &Daemon, attach: &Attach, caching: Caching) -> Result<Arc<Mount>, Failure> {
    count_before(daemon, attach)?;
    let _admin = lock(&daemon.admin);
    let branch = daemon.branches.find(&attach.branch)?;
    if !attach.read_only && daemon.branches.is_committing(branch)? {
        return Err(refuse(ErrorCode::Busy, format!("a commit of branch {:?} is under way", attach.branch))
            .hint("finish it: agentfs commit BRANCH, or wait for the command that does")
            .done());
    }
    let branch = daemon.core.branch(branch).map_err(|e| fail_doing("load the branch", &e))?;
    let members = daemon.core.members().map_err(|e| fail_doing("list the mounts", &e))?;
    let known = members.iter().any(|member| member.session == attach.session);
    if let Some(other) = other_writer(&members, branch.id, attach) {
        let place = other.mountpoint.display();
        return Err(refuse(ErrorCode::Busy,
            format!("branch {:?} is mounted read-write on {place}", attach.branch)).hint(format!(
                "unmount it (agentfs umount {place}; that also ends a mount that died), mount read-only, or mount a branch of it (agentfs branch create NAME --from {})",
                attach.branch
            )).done());
    }
    if !known && members.len() >= MOUNTS_MAX {
        return Err(refuse(ErrorCode::Busy, format!("the daemon has {MOUNTS_MAX} mounts, which is its limit"))
            .hint("unmount some: agentfs mounts lists them")
            .done());
    }
    let mut mounts = lock(&daemon.mounts.0);
    if mounts.contains_key(&attach.session) {
        return Err(refuse(ErrorCode::Busy, format!("session {} is being attached already", attach.session)).done());
    }
    let core = Arc::clone(&daemon.core);
    let session = Session::open_cached(core, attach.session, branch, (attach.read_only, caching), &attach.mountpoint)
        .map_err(|e| fail_doing("open the session", &e))?;
    let views = Views::open(Arc::clone(&daemon.core), Arc::clone(&session));
    let views = Arc::new(views.map_err(|e| fail_doing("open the session's views", &e))?);
    let mount = Arc::new(Mount {
        id: attach.session,
        branch: attach.branch.clone(),
        mountpoint: attach.mountpoint.clone(),
        read_only: attach.read_only,
        session,
        views,
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
        return Err(refuse(ErrorCode::Busy, format!("session {} is being detached", mount.id)).done());
    }
    let failed = |e: std::io::Error| refuse(ErrorCode::Internal, format!("the session cannot be served: {e}")).done();
    let now = daemon.core.clock.now().sec;
    let row = daemon.stats.mount(mount.id, &mount.branch, &mount.mountpoint, mount.read_only, now);
    let link = Link::new(
        daemon.own.clone(),
        end,
        Arc::clone(&daemon.core),
        Arc::clone(&mount.views),
        daemon.stats.clone(),
        row,
        pid,
    )
    .map_err(failed)?;
    if let Err(e) = daemon.crew.serve(&link, queues) {
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
    let unknown = || refuse(ErrorCode::NotFound, format!("no session {id} is known to this daemon")).done();
    let Some(mount) = daemon.mounts.get(id) else {
        // It was attached to a former daemon only.
        return daemon.core.end_session(id).map(drop).map_err(|e| fail_doing("forget the session", &e));
    };
    let _turn = lock(&mount.turn);
    match mount.release() {
        // Somebody else's detach was faster.
        Err(_) if matches!(*lock(&mount.at), At::Gone) => return Err(unknown()),
        released => released?,
    }
    close(daemon, &mount)
}

/// Ends the session of a mount that nobody serves any more, if `proven` finds nobody who still could. The
/// frontend cannot come back meanwhile.
pub(super) fn end(
    daemon: &Daemon,
    id: SessionId,
    proven: impl Fn(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let unknown = || {
        refuse(ErrorCode::NotFound, format!("no session {id} is known")).hint("agentfs mounts lists the mounts").done()
    };
    let Some(mount) = daemon.mounts.get(id) else {
        // Held so that it cannot be attached meanwhile.
        let _admin = lock(&daemon.admin);
        let failed = |e| fail_doing("end the session", &e);
        let members = daemon.core.members().map_err(failed)?;
        let member = members.into_iter().find(|member| member.session == id).ok_or_else(unknown)?;
        if daemon.mounts.get(id).is_some() {
            return Err(refuse(ErrorCode::Busy, format!("session {id} is being attached")).done());
        }
        proven(&member.mountpoint)?;
        tracing::info!(session = %id, mountpoint = %member.mountpoint.display(), "a dead mount is ended");
        return daemon.core.end_session(id).map(drop).map_err(failed);
    };
    let _turn = lock(&mount.turn);
    match &*lock(&mount.at) {
        At::Away(_) => {}
        At::Attached(link) => {
            return Err(refuse(
                ErrorCode::Busy,
                format!("the mount on {} lives: process {} serves it", mount.mountpoint.display(), link.frontend_pid),
            )
            .hint(format!("unmount it: agentfs umount {}", mount.mountpoint.display()))
            .done());
        }
        At::Gone => return Err(unknown()),
    }
    proven(&mount.mountpoint)?;
    tracing::info!(session = %id, mountpoint = %mount.mountpoint.display(), "a dead mount is ended");
    close(daemon, &mount)
}

/// The caller has the mount's turn, and no link of it is under way.
fn close(daemon: &Daemon, mount: &Mount) -> Result<(), Failure> {
    let closed = mount.session.close();
    *lock(&mount.at) = At::Gone;
    lock(&daemon.mounts.0).remove(&mount.id);
    tracing::info!(session = %mount.id, branch = mount.branch, "a mount is gone");
    closed.map_err(|e| fail_doing("give back what the session held", &e))
}

/// What an attach that the transport refused means to the frontend.
fn of_transport(error: &TransportError) -> Failure {
    match error {
        TransportError::Protocol { .. } => {
            refuse(ErrorCode::Version, format!("the session cannot be attached: {error}"))
                .hint("frontend and daemon must be of one release: unmount, stop the daemon, and mount again")
                .done()
        }
        TransportError::Codec(_) | TransportError::Defect { .. } | TransportError::Io { .. } => {
            refuse(ErrorCode::Internal, format!("the session cannot be attached: {error}")).done()
        }
    }
}
