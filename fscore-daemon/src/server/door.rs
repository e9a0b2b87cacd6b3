//! The door of a mount, from inside: calls that came by ioctl on `.agentfs/control`. Their buffers are described in
//! `shm_transport::control::door`.
//!
//! A call runs on a thread of the blocking pool and holds no lock of its mount's branch. What it changes it changes
//! once, whatever dies: the batch holds a mark of the request, see `branch/mark`.

use super::views::{self, First, Views};
use super::{Daemon, control, session};
use crate::branch::mark::Mark;
use crate::core::session::Session;
use crate::core::state::lock;
use crate::errno::errno;
use crate::failure::{fail_doing, refuse};
use serde_json::Value;
use shm_transport::Context;
use shm_transport::control::door::{Asked, Malformed, decode, part};
use shm_transport::control::{Answer, Command, ErrorCode, Failure, LINE_MAX};
use shm_transport::mem::Payload;
use shm_transport::wire::limits::{IOCTL_NAMES_AT, IOCTL_OUT_AT};
use shm_transport::wire::{Caller, Errno, Reply, Request, SessionId};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Calls of all mounts that may run at a time: they share the pool with requests that wait for a disk.
const RUNNING_MAX: usize = 4;
/// Answers that are kept for whoever reads them in parts.
const KEPT_MAX: usize = 8;

/// The command of an ioctl, and how much goes with it.
#[derive(Debug)]
pub(super) struct Ioctl {
    pub(super) cmd: u32,
    /// Bytes that the caller has room for.
    pub(super) room: usize,
    /// Bytes that came.
    pub(super) len: usize,
}

/// An answer that was longer than its caller's buffer.
#[derive(Debug)]
struct Kept {
    session: SessionId,
    tag: u64,
    answer: Vec<u8>,
    errno: Option<Errno>,
}

/// What all calls share.
#[derive(Debug, Default)]
pub(super) struct Calls {
    running: AtomicUsize,
    kept: Mutex<VecDeque<Kept>>,
}

/// One of the calls that run.
struct Turn<'a>(&'a AtomicUsize);

impl<'a> Turn<'a> {
    fn take(running: &'a AtomicUsize) -> Option<Self> {
        let turn = Self(running);
        (running.fetch_add(1, Ordering::Relaxed) < RUNNING_MAX).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the caller gets.
struct Told {
    /// The operation was refused.
    errno: Option<Errno>,
    /// This part of the answer.
    part: Vec<u8>,
    /// What the frontend does first.
    first: First,
}

impl Told {
    fn of(errno: Option<Errno>, part: Vec<u8>) -> Self {
        Self { errno, part, first: First::default() }
    }
}

/// Answers one ioctl on the control file.
pub(super) fn serve(
    daemon: &Weak<Daemon>,
    views: &Views,
    ctx: &Context,
    request: &Request,
    asked: &Ioctl,
    payload: &mut Payload<'_>,
) -> Reply {
    // A daemon that ends waits for its requests.
    let Some(daemon) = daemon.upgrade() else { return Reply::Error(Errno::EIO) };
    let call = match views.choose(request) {
        Ok(chosen) => Call { daemon: &daemon, views, session: chosen.session, ctx, caller: request.caller },
        Err(e) => return Reply::Error(errno(&e)),
    };
    match call.owner().and_then(|()| call.answer(asked, payload)) {
        Ok(Told { errno, part, first: First { settle, expire } })
            if payload.copy_in(IOCTL_OUT_AT, &part) && payload.copy_in(IOCTL_NAMES_AT, &expire) =>
        {
            Reply::Ioctl { errno, len: part.len() as u32, expire: expire.len() as u32, settle }
        }
        Ok(_) => Reply::Error(Errno::EIO),
        Err(errno) => Reply::Error(errno),
    }
}

/// One call.
struct Call<'a> {
    daemon: &'a Daemon,
    views: &'a Views,
    /// The view that the control file belongs to.
    session: Arc<Session>,
    ctx: &'a Context,
    caller: Caller,
}

impl Call<'_> {
    /// Refuses callers who are neither root nor the branch's owner.
    fn owner(&self) -> Result<(), Errno> {
        let owner = self.session.owner().map_err(|e| errno(&e))?;
        if self.caller.uid == 0 || self.caller.uid == owner { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn answer(&self, asked: &Ioctl, payload: &Payload<'_>) -> Result<Told, Errno> {
        let id = self.session.id;
        let calls = &self.daemon.calls;
        let buffer = payload.to_vec(asked.len).ok_or(Errno::EINVAL)?;
        let Asked { command, from, tag } = decode(asked.cmd, &buffer, asked.room).map_err(Malformed::errno)?;
        let kept = lock(&calls.kept).iter().find(|kept| kept.session == id && kept.tag == tag).map(|kept| {
            let part = part(&kept.answer, from, tag, asked.room);
            Told::of(kept.errno, part)
        });
        if from > 0
            && let Some(kept) = kept
        {
            return Ok(kept);
        }
        if from > 0 && changes(&command) {
            return Err(Errno::ESTALE);
        }
        let _turn = Turn::take(&calls.running).ok_or(Errno::EAGAIN)?;
        let mut first = First::default();
        let result = if let Command::BranchBind { branch, pid, cgroup } = command {
            let bound = views::bind(self.daemon, self.views, self.caller, &branch, (pid, cgroup));
            bound.and_then(|(bound, before)| {
                first = before;
                control::value(&bound)
            })
        } else if let Command::BranchUnbind { pid } = command {
            views::unbind(self.daemon, self.views, self.caller, pid).map(|()| Value::Null)
        } else {
            carry_out(self.daemon, &self.session, self.ctx, command)
        };
        let refused = result.as_ref().err().map(|failure| number(failure.code));
        let bytes = encode(result)?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let now = hasher.finish();
        if from > 0 && now != tag {
            return Err(Errno::ESTALE);
        }
        let part = part(&bytes, from, now, asked.room);
        if from == 0 && (bytes.len() as u64) > shown(&part) {
            let mut kept = lock(&calls.kept);
            kept.truncate(KEPT_MAX - 1);
            kept.push_front(Kept { session: id, tag: now, answer: bytes, errno: refused });
        }
        Ok(Told { errno: refused, part, first })
    }
}

/// Bytes of the answer in a part.
fn shown(part: &[u8]) -> u64 {
    part.len().saturating_sub(shm_transport::control::door::HEAD) as u64
}

fn encode(result: Result<Value, Failure>) -> Result<Vec<u8>, Errno> {
    let answer = match result {
        Ok(value) => Answer::Ok(value),
        Err(failure) => Answer::Error(failure),
    };
    let bytes = serde_json::to_vec(&answer).map_err(|_| Errno::EIO)?;
    if bytes.len() > LINE_MAX { Err(Errno::EMSGSIZE) } else { Ok(bytes) }
}

/// Whether a command changes something.
fn changes(command: &Command) -> bool {
    match command {
        Command::BranchCreate { .. }
        | Command::BranchDelete { .. }
        | Command::SnapshotCreate { .. }
        | Command::SnapshotDelete { .. } => true,
        Command::Status
        | Command::Shutdown
        | Command::HandOver { .. }
        | Command::BranchSeal { .. }
        | Command::BranchQuota { .. }
        | Command::Checkpoint { .. }
        | Command::BranchList { .. }
        | Command::BranchShow { .. }
        | Command::SnapshotList { .. }
        | Command::Diff { .. }
        | Command::CommitPrepare { .. }
        | Command::CommitFinish { .. }
        | Command::CommitAbort { .. }
        | Command::CommitPending
        | Command::Merge { .. }
        | Command::Undo { .. }
        | Command::Fsck
        | Command::Gc { .. }
        | Command::Mounts
        | Command::BranchBind { .. }
        | Command::BranchUnbind { .. }
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::EndSession { .. } => false,
    }
}

fn carry_out(daemon: &Daemon, session: &Session, ctx: &Context, mut command: Command) -> Result<Value, Failure> {
    mean_this_branch(daemon, session, &mut command)?;
    if matches!(&command, Command::BranchCreate { limits, .. } if !limits.is_empty()) {
        // Whoever is limited by a branch must not give itself more.
        return Err(refuse(ErrorCode::Denied, "limits are not set through a control file")
            .hint("ask the daemon's socket: agentfs branch quota --help")
            .done());
    }
    if matches!(&command, Command::BranchCreate { from: None, .. }) && session.branch.ledger.is_limited() {
        return Err(refuse(
            ErrorCode::Denied,
            "the mounted branch has limits, which a new branch of the base would not have",
        )
        .hint("make a branch of this one, which has the same limits: --from")
        .done());
    }
    if let Command::Diff { sources, .. } = &mut command {
        // Where the store and the base are is no business of who only has the mount.
        *sources = false;
    }
    if changes(&command) {
        let done = Mark::find(daemon.core.store.as_ref(), session.id, ctx.id);
        if let Some(recorded) = done.map_err(|e| fail_doing("tell whether this was done before", &e))? {
            let mut value = daemon.branches.answer_again(&command, recorded)?;
            control::tell_mounts(daemon, &command, &mut value)?;
            return Ok(value);
        }
        let mark = Mark::new(session.id, ctx.slot, ctx.id);
        return control::of_branches(daemon, &command, None, Some(&mark));
    }
    match command {
        Command::Status => control::value(&control::status(daemon, &session::list(daemon)?)),
        Command::Mounts => control::value(&session::list(daemon)?),
        Command::BranchList { .. }
        | Command::BranchShow { .. }
        | Command::SnapshotList { .. }
        | Command::Diff { .. } => control::of_branches(daemon, &command, None, None),
        Command::Shutdown
        | Command::HandOver { .. }
        | Command::BranchSeal { .. }
        | Command::BranchQuota { .. }
        | Command::Checkpoint { .. }
        | Command::BranchCreate { .. }
        | Command::BranchDelete { .. }
        | Command::SnapshotCreate { .. }
        | Command::SnapshotDelete { .. }
        | Command::CommitPrepare { .. }
        | Command::CommitFinish { .. }
        | Command::CommitAbort { .. }
        | Command::CommitPending
        | Command::Merge { .. }
        | Command::Undo { .. }
        | Command::Fsck
        | Command::Gc { .. }
        | Command::BranchBind { .. }
        | Command::BranchUnbind { .. }
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::EndSession { .. } => Err(refuse(ErrorCode::Usage, "a control file does not carry this command")
            .hint("ask the daemon's socket: agentfs --help")
            .done()),
    }
}

/// The empty name means the branch that is mounted.
fn mean_this_branch(daemon: &Daemon, session: &Session, command: &mut Command) -> Result<(), Failure> {
    let name = match command {
        Command::BranchShow { name } => Some(name),
        Command::SnapshotCreate { branch, .. }
        | Command::SnapshotList { branch: Some(branch) }
        | Command::SnapshotDelete { branch, .. }
        | Command::Diff { branch, .. }
        | Command::BranchCreate { from: Some(branch), .. } => Some(branch),
        Command::Status
        | Command::Shutdown
        | Command::HandOver { .. }
        | Command::BranchCreate { from: None, .. }
        | Command::BranchSeal { .. }
        | Command::BranchQuota { .. }
        | Command::Checkpoint { .. }
        | Command::BranchList { .. }
        | Command::BranchDelete { .. }
        | Command::SnapshotList { branch: None }
        | Command::CommitPrepare { .. }
        | Command::CommitFinish { .. }
        | Command::CommitAbort { .. }
        | Command::CommitPending
        | Command::Merge { .. }
        | Command::Undo { .. }
        | Command::Fsck
        | Command::Gc { .. }
        | Command::Mounts
        | Command::BranchBind { .. }
        | Command::BranchUnbind { .. }
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::EndSession { .. } => None,
    };
    if let Some(name) = name.filter(|name| name.is_empty()) {
        let record = daemon.core.branch_record(session.branch.id);
        *name = record.map_err(|e| fail_doing("find the branch that is mounted", &e))?.name;
    }
    Ok(())
}

/// What `ioctl(2)` fails with when an operation was refused.
fn number(code: ErrorCode) -> Errno {
    match code {
        ErrorCode::Usage => Errno::EINVAL,
        ErrorCode::Version => Errno::EPROTONOSUPPORT,
        ErrorCode::NotFound => Errno::ENOENT,
        ErrorCode::Exists => Errno::EEXIST,
        ErrorCode::Busy => Errno::EBUSY,
        ErrorCode::Denied => Errno::EPERM,
        ErrorCode::Base => Errno::ENOTDIR,
        ErrorCode::BaseNotAllowed => Errno::EACCES,
        ErrorCode::Conflict => Errno::ESTALE,
        ErrorCode::NoSpace => Errno::ENOSPC,
        ErrorCode::Store | ErrorCode::Internal => Errno::EIO,
    }
}
