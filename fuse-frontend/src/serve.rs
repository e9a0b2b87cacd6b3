//! The frontend proper. With `--serve` the holder starts it with a socket as standard input, over which the
//! mount's descriptors come, and the first attach is told. As a unit ([`crate::unit`]) it has them already.

use crate::abi::HAS_RESEND;
use crate::channel::Channel;
use crate::privileges;
use crate::reconnect::{FirstAttach, ShmDaemon, ShowWaiting};
use crate::session::{Over, Session};
use shm_transport::control::Answer;
use shm_transport::control::holder::{MOUNT_FDS, MountName};
use shm_transport::control::line::{LineError, LineStream};
use shm_transport::{LookupTable, SessionFds};
use signal_hook::consts::signal::SIGTERM;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What the holder says to a frontend, with the descriptors of the mount beside it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Hello {
    /// The mount.
    pub(crate) mount: MountName,
    /// Where the daemon listens.
    pub(crate) socket: PathBuf,
    /// Nobody served the mount before: if the daemon refuses it, it shall not stay.
    pub(crate) first: bool,
}

/// Exit status of a frontend whose mount the daemon refused.
const REFUSED: i32 = 3;
/// Exit status of a frontend whose mount is gone, of which no daemon could be told.
pub(crate) const UNTOLD: u8 = 4;

/// Why a frontend cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// Not started by a holder.
    #[error("--serve is started by the holder, with a socket as standard input: {0}")]
    NoHello(String),
    /// The region or the table is not usable.
    #[error("the session's shared memory cannot be taken over: {0}")]
    Session(String),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Serves until the mount is gone. Whether the daemon knows of that.
pub(crate) fn serve() -> Result<bool, ServeError> {
    let mut lines = LineStream::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    nix::unistd::dup2_stdin(File::open("/dev/null")?).map_err(io::Error::from)?;
    let line = lines.read().map_err(|e| ServeError::NoHello(e.to_string()))?;
    let line = line.ok_or_else(|| ServeError::NoHello("it ended".into()))?;
    let hello: Hello = line.parse().map_err(|e| ServeError::NoHello(e.to_string()))?;
    let (fuse, fds) = split(line.fds)?;
    privileges::give_up(&hello.socket)?;
    let first = first_attach(lines, hello.first);
    run(hello.mount, &hello.socket, fuse, fds, first, Box::new(|_| {}), hello.first)
}

/// Serves a mount until it is gone, and gives whether the daemon knows of that; ends the process when another frontend is
/// to take it over, which `SIGTERM` asks for. `new`: nobody has served it before.
pub(crate) fn run(
    mount: MountName,
    socket: &Path,
    fuse: OwnedFd,
    fds: SessionFds,
    first: FirstAttach,
    show: ShowWaiting,
    new: bool,
) -> Result<bool, ServeError> {
    let span = tracing::info_span!("mount", session = %mount.session, branch = %mount.branch);
    let _entered = span.enter();
    let counts = LookupTable::open(fds.table.try_clone()?)?;
    let kernel = Channel::new(fuse)?;
    let header = fds.header().map_err(|e| ServeError::Session(e.to_string()))?;
    let resends = header.fuse_state().is_none_or(|settled| settled.flags & HAS_RESEND != 0);
    drop(header);
    let daemon = ShmDaemon::new(mount, socket.to_owned(), fds, first, show, new)
        .map_err(|e| ServeError::Session(e.to_string()))?;
    let incarnation = daemon.epoch().wrapping_add(1);
    let mut session = Session::adopt(kernel, daemon, counts, incarnation, resends)?;
    session.leave_when(asked_to_end()?)?;
    match session.run()? {
        Over::Unmounted { told } => Ok(told),
        Over::Left => {
            // As if nobody had caught it: it is no end of the mount to who looks at the exit status.
            signal_hook::low_level::emulate_default_handler(SIGTERM)?;
            Ok(true)
        }
    }
}

/// Readable when `SIGTERM` has come.
fn asked_to_end() -> io::Result<OwnedFd> {
    let (asked, told) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, told)?;
    Ok(asked.into())
}

fn split(fds: Vec<OwnedFd>) -> Result<(OwnedFd, SessionFds), ServeError> {
    let count = fds.len();
    let wrong = || ServeError::NoHello(format!("{count} descriptors came, {MOUNT_FDS} are a mount"));
    let mut fds = fds.into_iter();
    let fuse = fds.next().ok_or_else(wrong)?;
    let session = SessionFds::from_row(fds.collect()).ok_or_else(wrong)?;
    Ok((fuse, session))
}

fn first_attach(mut lines: LineStream, first: bool) -> FirstAttach {
    Box::new(move |attached| {
        let answer = match &attached {
            Ok(daemon_pid) => Answer::Ok(serde_json::json!({ "daemon_pid": daemon_pid })),
            Err(failure) => Answer::Error(failure.clone()),
        };
        if let Err(error) = lines.write(&answer) {
            tracing::debug!(%error, "nobody waits for the first attach");
        }
        if first && attached.is_err() {
            // Nobody has used the mount yet: the mounter unmounts it again.
            std::process::exit(REFUSED);
        }
    })
}

/// Sends the mount to a frontend that was just started.
pub(crate) fn hand_over(
    stream: UnixStream,
    hello: &Hello,
    fuse: &OwnedFd,
    session: &SessionFds,
) -> (LineStream, Result<(), LineError>) {
    let mut row = vec![fuse.as_fd()];
    row.extend(session.row());
    let mut lines = LineStream::new(stream);
    let handed = lines.write_with(hello, &row);
    (lines, handed)
}

/// The executable itself, for starting another of it.
pub(crate) fn own_executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("agentfs-fuse"))
}

/// A program of ours: beside this one, or else in `PATH`.
pub(crate) fn sibling(own: &Path, name: &str) -> PathBuf {
    let beside = own.with_file_name(name);
    if beside.is_file() { beside } else { PathBuf::from(name) }
}
