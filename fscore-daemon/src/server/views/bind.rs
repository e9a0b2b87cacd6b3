//! Binding processes to branches.
//!
//! What the kernel was told before the first binding it may keep for [`ROOT_NS`]: the frontend waits for that long, and the
//! names that stand in the root by then, some of which came there by a rename with what the kernel kept of them, it lets
//! expire before the caller is answered. From then on nothing of the root is kept.

use super::process::{self, Process};
use super::{BINDINGS_MAX, Views, unreadable};
use crate::core::division::Binding;
use crate::core::keys;
use crate::core::member::Member;
use crate::core::record::Quota;
use crate::core::session::{ROOT_NS, Session};
use crate::core::state::lock;
use crate::failure::{fail_doing, refuse};
use crate::server::{Daemon, session};
use crate::store::Batch;
use shm_transport::control::{Bound, ErrorCode, Failure};
use shm_transport::wire::limits::IOCTL_NAMES_MAX;
use shm_transport::wire::{Caller, ViewSlot};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Most branches that one mount shows in its life, its own included.
const VIEWS_MAX: u16 = 1024;
/// How long an answer of before may be on its way to the frontend.
const ON_ITS_WAY: Duration = Duration::from_millis(200);
/// Longer than the kernel keeps it from then on, in milliseconds.
const SETTLE_MS: u32 = (ROOT_NS / 1_000_000) as u32 + 100;
/// Who binds so soon after the first waits as the first does.
const BEGINNING: Duration = Duration::from_secs(5);
/// What the name of a control group begins with that was made for a binding.
const GROUP: &[u8] = b"agentfs-";

/// What the frontend has to do before a caller may know that it is bound.
#[derive(Debug, Default)]
pub(in crate::server) struct First {
    /// Milliseconds to wait.
    pub(in crate::server) settle: u32,
    /// Names that the kernel must look up again, each with a NUL.
    pub(in crate::server) expire: Vec<u8>,
}

/// Binds a process; with it, what is to be done first.
pub(in crate::server) fn bind(
    daemon: &Daemon,
    views: &Views,
    caller: Caller,
    branch: &str,
    (pid, by_group): (Option<u32>, bool),
) -> Result<(Bound, First), Failure> {
    if !session::frontend(daemon, views.main.id).is_some_and(process::is_of_our_namespace) {
        return Err(refuse(
            ErrorCode::Usage,
            "the mount numbers processes otherwise than the daemon (another PID namespace)",
        )
        .hint("mount where the daemon runs, or use `agentfs run --branch`")
        .done());
    }
    let process = meant(caller, pid)?;
    let cgroup = by_group.then(|| group(process)).transpose()?;
    let slot = view_of(daemon, views, caller, branch)?;
    let settles = {
        // Whatever was answered to others is over.
        let _gate = views.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = lock(&views.state);
        if state.division.bindings.len() >= BINDINGS_MAX {
            return Err(too_many());
        }
        if !views.main.is_divided() {
            state.began = Instant::now();
        }
        let settles = state.began.elapsed() < BEGINNING;
        let mut division = state.division.clone();
        forget(&mut division.bindings, process);
        let (pid, start) = (process.pid, process.start);
        division.bindings.push(Binding { slot, pid, start, cgroup: cgroup.clone(), inherited: false });
        let mut batch = Batch::default();
        batch.put(keys::division(views.main.id), division.encode());
        daemon.core.store.commit(&batch).map_err(|e| fail_doing("record the binding", &e.into()))?;
        state.division = division;
        views.main.divide(true);
        settles
    };
    if settles {
        std::thread::sleep(ON_ITS_WAY);
    }
    let cgroup = cgroup.map(|group| String::from_utf8_lossy(&group).into_owned());
    // Also if it was divided long before: who bound first may have died over it.
    match names(&views.all()) {
        Ok(expire) => {
            let first = First { settle: if settles { SETTLE_MS } else { 0 }, expire };
            Ok((Bound { branch: branch.to_owned(), pid: process.pid, cgroup }, first))
        }
        Err(failure) => {
            unbind(daemon, views, caller, Some(process.pid))?;
            Err(failure)
        }
    }
}

/// Lets a process see the mounted branch again.
pub(in crate::server) fn unbind(
    daemon: &Daemon,
    views: &Views,
    caller: Caller,
    pid: Option<u32>,
) -> Result<(), Failure> {
    let process = meant(caller, pid)?;
    let _gate = views.gate.write().unwrap_or_else(PoisonError::into_inner);
    let mut state = lock(&views.state);
    let was = state.division.bindings.len();
    let mut division = state.division.clone();
    forget(&mut division.bindings, process);
    let found = division.bindings.len() != was;
    std::mem::swap(&mut state.division, &mut division);
    let above = state.find(process).is_some_and(|(binding, _)| binding.slot != ViewSlot::MAIN);
    if above {
        let (pid, start) = (process.pid, process.start);
        let main = Binding { slot: ViewSlot::MAIN, pid, start, cgroup: None, inherited: false };
        state.division.bindings.push(main);
    } else if !found {
        state.division = division;
        return Err(refuse(ErrorCode::NotFound, format!("process {} is not bound at this mount", process.pid)).done());
    }
    let mut batch = Batch { reclaims: true, ..Batch::default() };
    batch.put(keys::division(views.main.id), state.division.encode());
    if let Err(e) = daemon.core.store.commit(&batch) {
        state.division = division;
        return Err(fail_doing("record the end of the binding", &e.into()));
    }
    views.main.divide(!state.division.bindings.is_empty());
    Ok(())
}

/// Drops what was known of a process and of those below it that have their binding from it. Its control group stays bound:
/// there are others in it.
pub(super) fn forget(bindings: &mut Vec<Binding>, process: Process) {
    for binding in bindings.iter_mut().filter(|binding| binding.cgroup.is_some()) {
        if binding.pid == process.pid && binding.start == process.start {
            (binding.pid, binding.start) = (0, 0);
        }
    }
    bindings.retain(|binding| {
        let itself = binding.pid == process.pid && binding.start == process.start;
        let below = || {
            let of = Process::of(binding.pid).ok().flatten().filter(|found| found.start == binding.start);
            of.is_some_and(|found| found.line().any(|above| above == process))
        };
        !(itself || binding.inherited && below())
    });
}

/// The process that is meant, if the caller may decide what it sees.
fn meant(caller: Caller, pid: Option<u32>) -> Result<Process, Failure> {
    let process = match pid {
        Some(pid) => Process::of(pid),
        None if caller.pid == 0 => {
            return Err(refuse(ErrorCode::Usage, "the caller's process cannot be told from where the daemon is")
                .hint("name it by its number in the daemon's PID namespace: --pid PID")
                .done());
        }
        None => Process::of_thread(caller.pid),
    };
    let process = process.map_err(|e| fail_doing("look at the process", &unreadable(e)))?;
    let process = process.ok_or_else(|| {
        let which = pid.map_or_else(|| "the caller".to_owned(), |pid| format!("process {pid}"));
        refuse(ErrorCode::NotFound, format!("{which} is not there, as the daemon sees processes")).done()
    })?;
    if caller.uid != 0 && process.user() != Some(caller.uid) {
        return Err(refuse(ErrorCode::Denied, format!("process {} is another user's", process.pid)).done());
    }
    Ok(process)
}

/// The control group of a process, which must have been made for it.
fn group(process: Process) -> Result<Vec<u8>, Failure> {
    let path = process.cgroup().unwrap_or_default();
    if path.rsplit(|b| *b == b'/').next().is_some_and(|name| name.starts_with(GROUP)) {
        Ok(path)
    } else {
        Err(refuse(ErrorCode::Usage, format!("process {} is not in a control group of its own", process.pid)).done())
    }
}

/// The view of a branch, made if the mount has none.
fn view_of(daemon: &Daemon, views: &Views, caller: Caller, name: &str) -> Result<ViewSlot, Failure> {
    let failed = |e| fail_doing("show another branch", &e);
    // This takes as long as the branch is large: before anything is locked.
    let branch = daemon.core.branch(daemon.branches.find(name)?).map_err(failed)?;
    daemon.core.count_usage(&branch).map_err(failed)?;
    if caller.uid != 0 && is_wider(branch.ledger.quota(), views.main.branch.ledger.quota()) {
        return Err(refuse(ErrorCode::Denied, format!("branch {name:?} has wider limits than the mounted one"))
            .hint("who may use the daemon's socket can set them: agentfs branch quota --help")
            .done());
    }
    drop(branch);
    let _admin = lock(&daemon.admin);
    let id = daemon.branches.find(name)?;
    let owner = daemon.core.branch_record(id).map_err(failed)?.uid;
    if caller.uid != 0 && caller.uid != owner {
        return Err(refuse(ErrorCode::Denied, format!("branch {name:?} is another user's")).done());
    }
    if id == views.main.branch.id {
        return Ok(ViewSlot::MAIN);
    }
    let mut state = lock(&views.state);
    if let Some((slot, _)) = state.division.views.iter().find(|(_, branch)| *branch == id) {
        return Ok(*slot);
    }
    let read_only = views.main.read_only;
    if !read_only && daemon.branches.is_committing(id)? {
        return Err(refuse(ErrorCode::Busy, format!("a commit of branch {name:?} is under way")).done());
    }
    let members = daemon.core.members_of(id).map_err(failed)?;
    if let Some(other) = members.iter().find(|other| other.session != views.main.id && !(other.read_only || read_only))
    {
        let place = other.mountpoint.display();
        return Err(refuse(ErrorCode::Busy, format!("branch {name:?} is mounted read-write on {place}"))
            .hint(format!("unmount it (agentfs umount {place}), or bind to a branch of it"))
            .done());
    }
    let slot = state.division.views.iter().map(|(slot, _)| slot.0).max().unwrap_or(0) + 1;
    if slot >= VIEWS_MAX {
        return Err(refuse(ErrorCode::Busy, format!("this mount has shown {VIEWS_MAX} branches, which is its limit"))
            .hint("mount anew, or mount the branch elsewhere")
            .done());
    }
    let slot = ViewSlot(slot);
    let session = views.main.beside(daemon.core.branch(id).map_err(failed)?, slot);
    // Whether it can be told is found out before anything is changed: the branch then belongs to this mount.
    let shown = state.others.values().chain([&views.main, &session]).cloned().collect::<Vec<_>>();
    names(&shown)?;
    if state.division.bindings.len() >= BINDINGS_MAX {
        return Err(too_many());
    }
    let mut division = state.division.clone();
    division.views.push((slot, id));
    let place = daemon.core.members().map_err(failed)?.into_iter().find(|member| member.session == views.main.id);
    let place = place.map_or_else(|| Path::new("").to_owned(), |member| member.mountpoint);
    let mut batch = Batch::default();
    batch.put(keys::member(id, views.main.id), Member::new(views.main.id, id, read_only, &place).encode());
    batch.put(keys::division(views.main.id), division.encode());
    daemon.core.store.commit(&batch).map_err(|e| failed(e.into()))?;
    state.division = division;
    state.others.insert(slot, session);
    views.several.store(true, Ordering::Release);
    Ok(slot)
}

fn too_many() -> Failure {
    refuse(ErrorCode::Busy, format!("{BINDINGS_MAX} processes are bound at this mount")).done()
}

/// Whether a limit of `outer` does not hold in `inner`.
fn is_wider(inner: Quota, outer: Quota) -> bool {
    let wider =
        |inner: Option<u64>, outer: Option<u64>| outer.is_some_and(|outer| inner.is_none_or(|inner| inner > outer));
    wider(inner.bytes, outer.bytes) || wider(inner.inodes, outer.inodes)
}

/// Names of the roots of views, with a NUL behind each.
fn names(views: &[Arc<Session>]) -> Result<Vec<u8>, Failure> {
    let mut all = BTreeSet::new();
    for session in views {
        all.extend(session.root_names().map_err(|e| fail_doing("list the root", &e))?);
    }
    let mut names = Vec::new();
    for name in all {
        names.extend(name);
        names.push(0);
    }
    if names.len() > IOCTL_NAMES_MAX {
        return Err(refuse(ErrorCode::Busy, "the root has too many names for processes to be bound")
            .hint("use `agentfs run --branch`, or mount the branch elsewhere")
            .done());
    }
    Ok(names)
}
