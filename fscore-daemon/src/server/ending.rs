//! Ending a session whose mount died: when it is sure that no frontend will ever come back for it.
//!
//! Only a holder starts frontends, and only for mounts that it holds; a frontend that outlived its holder
//! comes back by itself, however long it was stopped. So nobody comes back for a session that the
//! store's holder does not hold, if there is one, and that no living process serves: frontends have the session in
//! their command line. In this order: a frontend that is being started is the holder's.

use super::{Daemon, session};
use crate::failure::refuse;
use shm_transport::control::holder::{self, HeldMount};
use shm_transport::control::line::{LineError, LineStream};
use shm_transport::control::{Answer, ErrorCode, Failure};
use shm_transport::wire::SessionId;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for the holder's answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Ends a session, or says what is in the way.
pub(super) fn end(daemon: &Daemon, id: SessionId) -> Result<(), Failure> {
    let socket = daemon.config.paths.holder_socket();
    session::end(daemon, id, |mountpoint| {
        let place = mountpoint.display();
        let umount = || format!("unmount it: agentfs umount {place}, or umount -l {place}");
        if let Some(held) = held(&socket)?.into_iter().find(|held| held.name.session == id) {
            let frontend =
                held.frontend_pid.map_or("a frontend that is being started".into(), |pid| format!("process {pid}"));
            let message = format!("the mount on {place} lives: the holder keeps it, and {frontend} serves it");
            return Err(refuse(ErrorCode::Busy, message).hint(umount()).done());
        }
        match serving(id) {
            Ok(None) => Ok(()),
            Ok(Some(pid)) => {
                let message = format!("the mount on {place} may come back: its frontend, process {pid}, lives");
                let hint = format!("{}; if the process stays, end it: kill -9 {pid}", umount());
                Err(refuse(ErrorCode::Busy, message).hint(hint).done())
            }
            Err(error) => Err(refuse(
                ErrorCode::Busy,
                format!("it cannot be told whether a frontend of the mount on {place} lives: /proc: {error}"),
            )
            .hint("make /proc readable for the daemon's user, then try again")
            .done()),
        }
    })
}

/// What the store's holder holds; nothing when there is none.
fn held(socket: &Path) -> Result<Vec<HeldMount>, Failure> {
    let silent = |why: String| {
        refuse(
            ErrorCode::Busy,
            format!("the holder on {} does not tell whether it keeps the mount: {why}", socket.display()),
        )
        .hint("try again; if it stays so, stop it (agentfs daemon stop --force) and start it again")
        .done()
    };
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(silent(e.to_string())),
    };
    let answer = ask(stream).map_err(|e| silent(e.to_string()))?;
    match answer {
        Answer::Ok(list) => serde_json::from_value(list).map_err(|e| silent(e.to_string())),
        Answer::Error(refusal) => Err(silent(refusal.message)),
    }
}

fn ask(stream: UnixStream) -> Result<Answer, LineError> {
    let mut lines = LineStream::new(stream);
    lines.set_timeout(Some(ANSWER_MAX))?;
    if !lines.peer()?.is_own_or_root() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user listens there").into());
    }
    lines.write(&holder::Call { v: holder::VERSION, command: holder::Command::Mounts })?;
    lines.read_within(Some(ANSWER_MAX))?.ok_or(LineError::Cut)?.parse()
}

/// The process that serves a session, if one lives.
fn serving(id: SessionId) -> io::Result<Option<i32>> {
    let session = id.to_string();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that ended meanwhile, or is a zombie, has none.
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let named = args.windows(2).any(|pair| pair == [b"--session".as_slice(), session.as_bytes()]);
        if named && args.contains(&b"--serve".as_slice()) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}
