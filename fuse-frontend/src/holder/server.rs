//! The holder's socket.

use super::state::Shared;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use shm_transport::SessionFds;
use shm_transport::control::holder::{Call, Command, MOUNT_FDS, VERSION};
use shm_transport::control::line::{Line, LineStream};
use shm_transport::control::{Answer, ErrorCode, Failure};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Most clients at once.
const CLIENTS_MAX: usize = 64;
/// How long a client may be silent.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// The holder's end of its socket.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: UnixListener,
    pub(super) name: Name,
    /// Kept while the holder lives.
    pub(super) lock: Flock<File>,
}

/// The socket's name, which somebody may take away (a store that is removed) and another holder may take.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    identity: (u64, u64),
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }

    /// Whether the name still leads to this holder. What cannot be looked at may come back.
    pub(super) fn is_ours(&self) -> bool {
        match identity(&self.path) {
            Ok(identity) => identity == self.identity,
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Removes it, but not another holder's.
    pub(super) fn remove(&self) {
        if self.is_ours() {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Listens, as the only holder of this socket.
pub(super) fn listen(socket: &Path) -> Result<Listening, Failure> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Failure {
        code: ErrorCode::Denied,
        message: format!("{what} {}: {e}", socket.display()),
        hint: Some("name another place with --socket PATH".into()),
    };
    let mut lock_path = socket.as_os_str().to_owned();
    lock_path.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|e| failed("cannot make the lock of the holder's socket", &e))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno != Errno::EAGAIN {
            return failed("cannot lock the holder's socket", &errno);
        }
        Failure {
            code: ErrorCode::Busy,
            message: format!("a holder runs already for {}", socket.display()),
            hint: Some("use it, or stop it first: agentfs daemon stop".into()),
        }
    })?;
    // With the lock held, a socket that lies there is a dead holder's.
    fs::remove_file(socket).ok();
    let listener = UnixListener::bind(socket).map_err(|e| failed("cannot listen on", &e))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(|e| failed("cannot protect", &e))?;
    let name = Name::of(socket).map_err(|e| failed("cannot look at", &e))?;
    Ok(Listening { listener, name, lock })
}

/// Serves clients for ever, each in a thread of its own.
pub(super) fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Too many open files, most likely: not for long, and not in a hot loop.
                tracing::warn!(%error, "cannot accept a client");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (shared, count) = (Arc::clone(shared), Arc::clone(&clients));
        let served = std::thread::Builder::new().name("client".into()).spawn(move || {
            serve(stream, &shared);
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = served {
            tracing::warn!(%error, "cannot serve a client");
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(stream: UnixStream, shared: &Shared) {
    let mut lines = LineStream::new(stream);
    match lines.peer() {
        Ok(peer) if peer.is_own_or_root() => {}
        _ => {
            let denied = Failure {
                code: ErrorCode::Denied,
                message: "this holder serves another user".into(),
                hint: Some("use a store and a socket of your own".into()),
            };
            lines.write(&Answer::Error(denied)).ok();
            return;
        }
    }
    // The daemon made its only connection before it confined itself.
    let daemon = lines.peer().is_ok_and(|peer| Some(peer.pid) == shared.pong().daemon_pid);
    if lines.set_timeout((!daemon).then_some(SILENCE_MAX)).is_err() {
        return;
    }
    loop {
        let line = match lines.read() {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a client's line cannot be read");
                return;
            }
        };
        let (answer, stops) = answer(line, shared);
        let written = lines.write(&answer);
        if stops {
            shared.stop_was_answered();
        }
        if written.is_err() {
            return;
        }
    }
}

/// The answer to one line, and whether the holder waits for it to be given before it ends.
fn answer(line: Line, shared: &Shared) -> (Answer, bool) {
    let call = match line.parse::<Call>() {
        Ok(call) => call,
        Err(e) => return (usage(e.to_string()), false),
    };
    if call.v != VERSION {
        let failure = Failure {
            code: ErrorCode::Version,
            message: format!("the holder speaks version {VERSION} of its protocol, not {}", call.v),
            hint: Some("stop the holder and start it again, so that both are of one release".into()),
        };
        return (Answer::Error(failure), false);
    }
    match call.command {
        Command::Ping => (data(Ok(shared.pong())), false),
        Command::AwaitDaemon { timeout_ms } => (data(shared.await_daemon(Duration::from_millis(timeout_ms))), false),
        Command::Mounts => (data(Ok(shared.mounts())), false),
        Command::AllowBase { path } => (data(shared.allow_base(&path)), false),
        Command::Upgrade => (data(shared.upgrade()), false),
        Command::Stop { force } => {
            let stopped = shared.stop(force);
            let stops = stopped.is_ok();
            (data(stopped), stops)
        }
        Command::AdoptMount { mount } => {
            let count = line.fds.len();
            let mut fds = line.fds.into_iter();
            let fuse = fds.next();
            let (Some(fuse), Some(session), MOUNT_FDS) = (fuse, SessionFds::from_row(fds.collect()), count) else {
                return (usage(format!("{count} descriptors came, {MOUNT_FDS} are a mount")), false);
            };
            (data(shared.adopt(mount, fuse, session)), false)
        }
    }
}

fn usage(message: String) -> Answer {
    Answer::Error(Failure { code: ErrorCode::Usage, message, hint: None })
}

fn data<T: serde::Serialize>(result: Result<T, Failure>) -> Answer {
    match result.map(|data| serde_json::to_value(data)) {
        Ok(Ok(value)) => Answer::Ok(value),
        Ok(Err(e)) => Answer::Error(Failure {
            code: ErrorCode::Internal,
            message: format!("the answer cannot be written: {e}"),
            hint: None,
        }),
        Err(failure) => Answer::Error(failure),
    }
}
