//! The holder: keeps the daemon running and the mounts alive. It opens nothing on any mount, ever: a
//! process that holds a mount's descriptor and waits for that mount cannot even be killed.
//!
//! One thread reaps and restarts; each client has a short-lived thread. All state stands behind one
//! lock, which is also held while a process is started, so that no descriptor meant for one child
//! slips into another.

mod child;
mod daemon;
mod ending;
mod logs;
mod mounts;
mod program;
mod server;
mod state;
mod upgrade;

#[cfg(test)]
mod tests;

pub(crate) use daemon::log_tail;
pub(crate) use ending::shows;
use shm_transport::control::paths::Paths;
use shm_transport::control::{ErrorCode, Failure};
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use state::Shared;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a holder is started with.
#[derive(Debug, Clone)]
pub(crate) struct HoldConfig {
    /// Store and sockets.
    pub(crate) paths: Paths,
    /// Directories below which bases may lie; empty for the daemon's defaults.
    pub(crate) allow_base: Vec<PathBuf>,
}

/// Holds until told to stop.
pub(crate) fn hold(config: HoldConfig) -> Result<(), Failure> {
    // A holder that is its session's leader already is as good.
    nix::unistd::setsid().ok();
    let failed = |what: &str, e: &dyn std::fmt::Display| Failure {
        code: ErrorCode::Internal,
        message: format!("{what}: {e}"),
        hint: None,
    };
    std::env::set_current_dir("/").map_err(|e| failed("cannot leave the current directory", &e))?;
    // What our starter left open (a lock, the end of a pipe that somebody waits for) shall not live on in
    // the daemon and the frontends.
    shm_transport::mem::sys::close_on_exec_from(3).map_err(|e| failed("cannot mark inherited descriptors", &e))?;
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open descriptors stays low: each mount needs five");
    }
    prepare(&config.paths)?;
    let socket = config.paths.holder_socket();
    let server::Listening { listener, name, lock: _lock } = server::listen(&socket)?;
    let managed = daemon::is_managed(&config.paths.socket);
    if managed {
        tracing::info!("a service manager keeps the daemon; this holder keeps mounts only");
    } else {
        daemon::end_stray(&config.paths)?;
    }
    let asked_to_end = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&asked_to_end))
            .map_err(|e| failed("cannot receive signals", &e))?;
    }
    // After the flag: who is woken finds it set.
    let (mut wake_rx, wake_tx) = signals().map_err(|e| failed("cannot receive signals", &e))?;
    let shared = Arc::new(Shared::new(config, managed, wake_tx));
    serve_clients(listener, &shared).map_err(|e| failed("cannot serve clients", &e))?;
    tracing::info!(socket = %socket.display(), pid = std::process::id(), "the holder runs");
    loop {
        let (over, after) = shared.tend();
        if over {
            break;
        }
        if !name.is_ours() && shared.end_unless_needed() {
            tracing::warn!(socket = %socket.display(), "nobody can reach this holder any more, and nothing is mounted");
        }
        sleep(&mut wake_rx, after).map_err(|e| failed("cannot wait", &e))?;
        if asked_to_end.swap(false, Ordering::Relaxed) {
            tracing::info!("a signal asks the holder to end");
            shared.end();
        }
    }
    name.remove();
    tracing::info!("the holder ends");
    Ok(())
}

fn raise_descriptor_limit() -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// The directories that must be there before the first child is started.
fn prepare(paths: &Paths) -> Result<(), Failure> {
    paths.check_store().map_err(|e| Failure { code: ErrorCode::Store, message: e.to_string(), hint: None })?;
    paths.prepare_socket_dir().map_err(|e| Failure {
        code: ErrorCode::Denied,
        message: e.to_string(),
        hint: Some("name another place with --socket PATH".into()),
    })?;
    let logs = paths.log_dir();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs).map_err(|e| Failure {
        code: ErrorCode::Store,
        message: format!("the store's log directory {} cannot be made: {e}", logs.display()),
        hint: Some("name another store with --store DIR".into()),
    })
}

/// A socket that becomes readable at every signal that matters, and the end that wakes us, too.
fn signals() -> io::Result<(UnixStream, UnixStream)> {
    let (rx, tx) = UnixStream::pair()?;
    rx.set_nonblocking(true)?;
    tx.set_nonblocking(true)?;
    for signal in [SIGCHLD, SIGTERM, SIGHUP, SIGINT] {
        signal_hook::low_level::pipe::register(signal, tx.try_clone()?)?;
    }
    Ok((rx, tx))
}

fn sleep(wake: &mut UnixStream, after: Option<Duration>) -> io::Result<()> {
    let ms = after.map_or(-1, |after| i32::try_from(after.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    shm_transport::frontend::wait(wake.as_fd(), ms)?;
    let mut bytes = [0; 64];
    loop {
        match wake.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn serve_clients(listener: UnixListener, shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("clients".into()).spawn(move || server::accept(&listener, &shared))?;
    Ok(())
}
