//! Control connections: call lines in, answer lines out.

use super::Daemon;
use super::ending;
use super::session::{self, Kept};
use crate::branch::mark::Mark;
use crate::core::state::lock;
use crate::failure::{fail_store, refuse};
use crate::store::FORMAT;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shm_transport::control::line::{Line, LineError, LineStream, Peer};
use shm_transport::control::versions::Versions;
use shm_transport::control::{Answer, Call, Command, ErrorCode, Failure, LINE_MAX, MountInfo, Status, VERSION};
use shm_transport::handshake::Attach;
use shm_transport::stats::Counter;
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A peer that does not read its answer for so long is given up.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// A line that was begun must be whole after so long.
const LINE_TIME: Duration = Duration::from_secs(30);
/// Longest silence while the rest of a refused line is read away.
const LINGER: Duration = Duration::from_millis(200);
/// Most bytes that are read away.
const LINGER_BYTES: u64 = 4 * LINE_MAX as u64;

/// The part of a call that every version has.
#[derive(Deserialize)]
struct Spoken {
    v: u32,
}

/// What a call led to.
enum Outcome {
    Answer(Result<Value, Failure>),
    /// Answer, then stop the daemon.
    Stop,
    Attached(Kept),
}

/// Refuses a connection with one answer.
pub(super) fn turn_away(stream: UnixStream, refusal: Failure) {
    let told = stream.set_write_timeout(Some(LINGER)).map_err(LineError::from);
    let told = told.and_then(|()| LineStream::new(stream).write(&Answer::Error(refusal)));
    if let Err(error) = told {
        tracing::debug!(%error, "a refused peer could not be told");
    }
}

/// Serves one connection to its end.
pub(super) fn converse(daemon: &Daemon, stream: UnixStream) {
    let peer = match Peer::of(&stream) {
        Ok(peer) if peer.is_own_or_root() => peer,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid, pid = peer.pid, "refused a connection of another user");
            let message = format!("this daemon serves user {} and root only", nix::unistd::geteuid());
            turn_away(
                stream,
                refuse(ErrorCode::Denied, message)
                    .hint("run a daemon of your own: leave out --socket and --store")
                    .done(),
            );
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot tell who connected");
            return;
        }
    };
    if let Err(error) = stream.set_write_timeout(Some(WRITE_MAX)) {
        tracing::warn!(%error, "cannot limit the wait for a peer");
        return;
    }
    if let Err(error) = talk(daemon, LineStream::new(stream), peer) {
        tracing::debug!(%error, pid = peer.pid, "a control connection ended");
    }
}

fn talk(daemon: &Daemon, mut lines: LineStream, peer: Peer) -> Result<(), LineError> {
    loop {
        let line = match lines.read_within(Some(LINE_TIME)) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error @ LineError::TooLong) => {
                lines.write(&Answer::Error(refuse(ErrorCode::Usage, error.to_string()).done()))?;
                linger(&lines.into_stream());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let outcome = match understand(&line) {
            Ok(command) => obey(daemon, command, line.fds, peer, lines.stream()),
            Err(refusal) => Outcome::Answer(Err(refusal)),
        };
        daemon.stats.add(Counter::ControlCalls, 1);
        match outcome {
            Outcome::Answer(result) => answer(&mut lines, result)?,
            Outcome::Stop => {
                let told = answer(&mut lines, Ok(Value::Null));
                daemon.stop();
                return told;
            }
            Outcome::Attached(kept) => {
                return match answer(&mut lines, value(&Kept::answer())) {
                    Ok(()) => {
                        kept.keep(lines.into_stream());
                        Ok(())
                    }
                    Err(error) => {
                        kept.drop_link();
                        Err(error)
                    }
                };
            }
        }
    }
}

/// Reads away what a peer is still sending, so that it gets to read the answer.
fn linger(stream: &UnixStream) {
    let read_away = || {
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(LINGER))?;
        std::io::copy(&mut stream.take(LINGER_BYTES), &mut std::io::sink())
    };
    if let Err(error) = read_away() {
        tracing::debug!(%error, "the rest of a refused line was not read");
    }
}

fn answer(lines: &mut LineStream, result: Result<Value, Failure>) -> Result<(), LineError> {
    let answer = match result {
        Ok(value) => Answer::Ok(value),
        Err(failure) => Answer::Error(failure),
    };
    match lines.write(&answer) {
        Err(LineError::TooLong) => {
            let message = format!("the answer exceeds {LINE_MAX} bytes");
            lines.write(&Answer::Error(refuse(ErrorCode::Internal, message).hint("ask for a smaller part").done()))
        }
        other => other,
    }
}

fn understand(line: &Line) -> Result<Command, Failure> {
    let unclear = |e: LineError| refuse(ErrorCode::Usage, e.to_string()).done();
    let Spoken { v } = line.parse().map_err(unclear)?;
    if v != VERSION {
        return Err(refuse(
            ErrorCode::Version,
            format!("the call speaks version {v} of the control protocol, this daemon version {VERSION}"),
        )
        .hint("use an agentfs and an agentfsd of one release; restart the daemon after an update")
        .done());
    }
    line.parse::<Call>().map(|call| call.command).map_err(unclear)
}

fn obey(daemon: &Daemon, command: Command, fds: Vec<OwnedFd>, peer: Peer, stream: &UnixStream) -> Outcome {
    let done = catch_unwind(AssertUnwindSafe(|| match command {
        Command::Shutdown => Outcome::Stop,
        Command::HandOver { pid: Some(pid) } if i32::try_from(std::process::id()) != Ok(pid) => {
            let message = format!("the daemon {pid}, which is to hand over, does not serve any more");
            Outcome::Answer(Err(refuse(ErrorCode::NotFound, message).done()))
        }
        Command::HandOver { .. } => {
            daemon.prepare_hand_over();
            Outcome::Stop
        }
        Command::Attach { session, branch, mountpoint, read_only, epoch } => {
            let attach = Attach { session, branch, mountpoint, read_only, epoch };
            match session::attach(daemon, attach, fds, peer.pid) {
                Ok(kept) => Outcome::Attached(kept),
                Err(refusal) => Outcome::Answer(Err(refusal)),
            }
        }
        Command::Detach { session } => Outcome::Answer(session::detach(daemon, session).map(|()| Value::Null)),
        Command::EndSession { session } => Outcome::Answer(ending::end(daemon, session).map(|()| Value::Null)),
        Command::Status => Outcome::Answer(session::list(daemon).and_then(|mounts| {
            // Looking for what could be collected takes its time: a sign of life does without.
            value(&Status { gc: Some(daemon.branches.gc_info()), ..status(daemon, &mounts) })
        })),
        Command::Fsck => Outcome::Answer(fsck(daemon)),
        Command::BranchBind { .. } | Command::BranchUnbind { .. } => {
            let message = "processes are bound by way of the control file of the mount";
            Outcome::Answer(Err(refuse(ErrorCode::Usage, message).hint("agentfs branch bind --mount MNT").done()))
        }
        Command::Mounts => Outcome::Answer(session::list(daemon).and_then(|mounts| value(&mounts))),
        command @ (Command::BranchCreate { .. }
        | Command::BranchSeal { .. }
        | Command::BranchQuota { .. }
        | Command::BranchList { .. }
        | Command::BranchShow { .. }
        | Command::BranchDelete { .. }
        | Command::SnapshotCreate { .. }
        | Command::Checkpoint { .. }
        | Command::SnapshotList { .. }
        | Command::SnapshotDelete { .. }
        | Command::Diff { .. }
        | Command::CommitPrepare { .. }
        | Command::CommitFinish { .. }
        | Command::CommitAbort { .. }
        | Command::Merge { .. }
        | Command::Undo { .. }
        | Command::Gc { .. }
        | Command::CommitPending) => Outcome::Answer(of_branches(daemon, &command, Some(stream), None)),
    }));
    done.unwrap_or_else(|_| {
        let message = "the daemon failed in the middle of the call";
        Outcome::Answer(Err(refuse(ErrorCode::Internal, message)
            .hint("this is a defect; the daemon's log tells more")
            .done()))
    })
}

/// A command about branches. `stream` is where it came from, if it was a connection; `mark` goes with what it changes.
pub(super) fn of_branches(
    daemon: &Daemon,
    command: &Command,
    stream: Option<&UnixStream>,
    mark: Option<&Mark>,
) -> Result<Value, Failure> {
    let prepares = matches!(command, Command::CommitPrepare { dry_run: false, .. });
    // The first ones ask whether a branch is mounted; it must stay so until they are done. Who asks for
    // pending commits must not be told of none while one is being prepared.
    let alone = prepares
        || matches!(
            command,
            Command::BranchDelete { .. }
                | Command::CommitPrepare { .. }
                | Command::CommitFinish { .. }
                | Command::Merge { .. }
                | Command::Undo { .. }
                | Command::CommitPending
        );
    let _admin = alone.then(|| lock(&daemon.admin));
    // A commit is carried out by who prepares it. One that was killed meanwhile gets none: whoever looks
    // after its death would find a commit begun that nobody goes on with.
    if prepares && stream.is_some_and(is_gone) {
        return Err(refuse(ErrorCode::Usage, "who asked for the commit is gone").done());
    }
    let mut value = daemon.branches.handle_marked(command, mark)?;
    tell_mounts(daemon, command, &mut value)?;
    Ok(value)
}

/// Adds to an answer about branches where they are mounted.
pub(super) fn tell_mounts(daemon: &Daemon, command: &Command, value: &mut Value) -> Result<(), Failure> {
    if matches!(
        command,
        Command::BranchCreate { .. }
            | Command::BranchSeal { .. }
            | Command::BranchQuota { .. }
            | Command::BranchList { .. }
            | Command::BranchShow { .. }
    ) {
        fill_mounts(&session::list(daemon)?, value);
    }
    Ok(())
}

/// Whether the peer has closed the connection, as its death does.
fn is_gone(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    // An error of the call itself says nothing about the peer.
    let found = poll(&mut fds, PollTimeout::ZERO);
    found.is_ok_and(|found| found > 0)
}

/// Tells of each branch where it is mounted.
fn fill_mounts(mounts: &[MountInfo], value: &mut Value) {
    if let Value::Array(branches) = value {
        for branch in branches {
            fill_mounts(mounts, branch);
        }
    } else if let Value::Object(branch) = value
        && let Some(Value::String(name)) = branch.get("name")
    {
        let places = |which: &dyn Fn(&MountInfo) -> bool| {
            let mounts = mounts.iter().filter(|mount| which(mount));
            mounts.map(|mount| Value::String(mount.mountpoint.to_string_lossy().into_owned())).collect()
        };
        let own = places(&|mount| mount.branch == *name);
        let others = places(&|mount| mount.others.iter().any(|other| other.branch == *name));
        branch.insert("mounts".into(), Value::Array(own));
        branch.insert("bound_at".into(), Value::Array(others));
    }
}

/// The daemon's state.
pub(super) fn status(daemon: &Daemon, mounts: &[MountInfo]) -> Status {
    let (branches, snapshots) = daemon.branches.counts();
    Status {
        pid: std::process::id() as i32,
        version: env!("CARGO_PKG_VERSION").into(),
        store: daemon.config.paths.store.clone(),
        socket: daemon.config.paths.socket.clone(),
        uptime_seconds: daemon.started.elapsed().as_secs(),
        recoveries: daemon.recoveries,
        branches,
        snapshots,
        mounts: mounts.len() as u64,
        allow_base: daemon.config.allow_base.clone(),
        refusing_writes: daemon.store.refusing_writes(),
        failed_sync: daemon.core.contents.failed_sync(),
        managed: daemon.service.is_managed(),
        sandbox: daemon.sandbox.clone(),
        versions: Some(Versions::current(Some(FORMAT))),
        gc: None,
    }
}

/// One check at a time: each needs memory for all records.
fn fsck(daemon: &Daemon) -> Result<Value, Failure> {
    let _alone = lock(&daemon.checking);
    let found =
        crate::fsck::online(&daemon.core, &daemon.store).map_err(|e| fail_store("read the content files", &e))?;
    value(&crate::fsck::report(&daemon.config.paths.store, true, found))
}

pub(super) fn value(data: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(data)
        .map_err(|e| refuse(ErrorCode::Internal, format!("the answer cannot be written: {e}")).done())
}
