//! Asking the store's holder which mounts it keeps.

use crate::core::state::lock;
use crate::failure::refuse;
use shm_transport::control::holder::{self, HeldMount};
use shm_transport::control::line::{LineError, LineStream};
use shm_transport::control::{Answer, ErrorCode, Failure};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Longest wait for the holder's answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// `__SO_ACCEPTCON` in `/proc/net/unix`: the socket listens.
const LISTENS: u32 = 1 << 16;

/// The way to the holder.
#[derive(Debug)]
pub(super) enum Holder {
    /// A connection for each question.
    OnDemand(PathBuf),
    /// The one connection that was made before the daemon confined itself: it cannot make another one. A holder that
    /// starts later than the daemon replaces it first.
    Kept(PathBuf, Mutex<Option<LineStream>>),
}

impl Holder {
    /// Connects now, for good. There may be no holder.
    pub(super) fn connect(socket: PathBuf) -> Self {
        let lines = connect(&socket).unwrap_or_else(|error| {
            tracing::warn!(%error, "the holder cannot be asked which mounts it keeps");
            None
        });
        Self::Kept(socket, Mutex::new(lines))
    }

    /// What the store's holder holds; nothing when there is none.
    pub(super) fn held(&self) -> Result<Vec<HeldMount>, Failure> {
        let (socket, answer) = match self {
            Self::OnDemand(socket) => {
                let asked = connect(socket).and_then(|lines| lines.map(|mut lines| ask(&mut lines)).transpose());
                (socket, asked.map_err(|e| silent(socket, &e.to_string()))?)
            }
            Self::Kept(socket, lines) => (socket, ask_kept(socket, &mut lock(lines))?),
        };
        match answer {
            None => Ok(Vec::new()),
            Some(Answer::Ok(list)) => serde_json::from_value(list).map_err(|e| silent(socket, &e.to_string())),
            Some(Answer::Error(refusal)) => Err(silent(socket, &refusal.message)),
        }
    }
}

fn silent(socket: &Path, why: &str) -> Failure {
    let message = format!("the holder on {} does not tell whether it keeps the mount: {why}", socket.display());
    refuse(ErrorCode::Busy, message)
        .hint("try again; if it stays so, stop it (agentfs daemon stop --force) and start it again")
        .done()
}

/// `None` when nobody listens.
fn connect(socket: &Path) -> Result<Option<LineStream>, LineError> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let lines = LineStream::new(stream);
    lines.set_timeout(Some(ANSWER_MAX))?;
    if !lines.peer()?.is_own_or_root() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user listens there").into());
    }
    Ok(Some(lines))
}

fn ask(lines: &mut LineStream) -> Result<Answer, LineError> {
    lines.write(&holder::Call { v: holder::VERSION, command: holder::Command::Mounts })?;
    lines.read_within(Some(ANSWER_MAX))?.ok_or(LineError::Cut)?.parse()
}

fn ask_kept(socket: &Path, kept: &mut Option<LineStream>) -> Result<Option<Answer>, Failure> {
    let mut why = "the daemon has no connection to it".to_owned();
    if let Some(lines) = kept {
        match ask(lines) {
            Ok(answer) => return Ok(Some(answer)),
            // It died, or an answer may come too late: the next question must not be given it.
            Err(error) => (*kept, why) = (None, error.to_string()),
        }
    }
    let table = std::fs::read("/proc/net/unix").map_err(|e| silent(socket, &format!("/proc/net/unix: {e}")))?;
    if listens(&table, socket) { Err(silent(socket, &why)) } else { Ok(None) }
}

/// Whether a socket of that name listens, by the kernel's table of Unix sockets.
fn listens(table: &[u8], socket: &Path) -> bool {
    table.split(|byte| *byte == b'\n').any(|line| listener(line) == Some(socket.as_os_str().as_bytes()))
}

/// The name in a line of the table, if it is one of a socket that listens.
fn listener(line: &[u8]) -> Option<&[u8]> {
    // Num RefCount Protocol Flags Type St Inode Path, of which the inode is padded on the left.
    let mut fields = line.splitn(7, |byte| *byte == b' ');
    let flags = u32::from_str_radix(std::str::from_utf8(fields.nth(3)?).ok()?, 16).ok()?;
    let rest = fields.nth(2)?.trim_ascii_start();
    let (_, path) = rest.split_at_checked(rest.iter().position(|byte| *byte == b' ')? + 1)?;
    (flags & LISTENS != 0).then_some(path)
}

#[cfg(test)]
mod tests;
