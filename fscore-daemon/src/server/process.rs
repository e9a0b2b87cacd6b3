//! The process around the server: command line, log, signals, exit codes.

use super::{ServeError, Server};
use crate::config::{Args, Config, ConfigError};
use crate::failure::fail_doing;
use crate::fsck::{self, FsckError};
use crate::store::{FORMAT, StoreError};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use shm_transport::control::ErrorCode;
use shm_transport::control::service::Service;
use shm_transport::control::versions::Versions;
use shm_transport::mem::fds;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// Why the process ends with another exit code than 0.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("--log {filter:?} is not understood: {source}")]
    Log { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("--ready-fd {number} cannot be used: {source}")]
    ReadyFd { number: i32, source: io::Error },
    #[error("what the service manager handed over cannot be used: {0}")]
    Service(io::Error),
    #[error("cannot check the store: {0}")]
    Contents(io::Error),
    #[error("cannot print: {0}")]
    Print(io::Error),
    #[error("cannot watch for signals: {0}")]
    Signals(nix::errno::Errno),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Failed {
    /// The same numbers as those of the `agentfs` command.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Log { .. } | Self::ReadyFd { .. } => 2,
            Self::Signals(_) | Self::Service(_) | Self::Contents(_) | Self::Print(_) => 71,
            Self::Serve(error) => of_serve(error),
        }
    }
}

fn of_serve(error: &ServeError) -> u8 {
    let code = match error {
        ServeError::Store { source: StoreError::InUse { .. }, .. } | ServeError::SocketInUse(_) => ErrorCode::Busy,
        ServeError::Store { source: StoreError::NewerFormat { .. }, .. } => ErrorCode::Version,
        ServeError::Store { source: StoreError::Full, .. } => ErrorCode::NoSpace,
        ServeError::Store { .. } => ErrorCode::Store,
        ServeError::Core { source, .. } => fail_doing("use the store", source).code,
        ServeError::Branches(failure) => failure.code,
        ServeError::BasesUnknown => ErrorCode::Base,
        ServeError::Sandbox(_)
        | ServeError::Path(_)
        | ServeError::NotASocket(_)
        | ServeError::Inherited(_)
        | ServeError::System { .. } => {
            return 71;
        }
    };
    match code {
        ErrorCode::Busy => 75,
        ErrorCode::Version => 76,
        ErrorCode::NoSpace => 28,
        ErrorCode::Store | ErrorCode::NotFound | ErrorCode::Base => 74,
        ErrorCode::Usage
        | ErrorCode::Exists
        | ErrorCode::Denied
        | ErrorCode::BaseNotAllowed
        | ErrorCode::Conflict
        | ErrorCode::Internal => 70,
    }
}

/// Runs `agentfsd` to its end.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors: they go to standard output with exit code 0.
            let code = if error.use_stderr() { 2 } else { 0 };
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    let done = if args.versions {
        versions()
    } else if args.check {
        check(&args)
    } else {
        run(&args)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let code = failed.exit_code();
            // Also where no log is set up yet, and whatever the log's filter is. On a full disk the code alone tells.
            writeln!(io::stderr(), "agentfsd: {failed}").ok();
            ExitCode::from(code)
        }
    }
}

/// Prints what this build speaks and stores, for who may start it in the place of another.
fn versions() -> Result<(), Failed> {
    let text = serde_json::to_string(&Versions::current(Some(FORMAT))).map_err(|e| Failed::Print(e.into()))?;
    writeln!(io::stdout(), "{text}").map_err(Failed::Print)
}

/// Checks the store and prints what was found: one document, for programs. What was found decides nothing here.
fn check(args: &Args) -> Result<(), Failed> {
    let config = Config::new(args)?;
    umask(Mode::from_bits_truncate(0o077));
    let report = fsck::offline(&config.paths.store, args.repair).map_err(|source| match source {
        FsckError::Store(source) => Failed::Serve(ServeError::Store { store: config.paths.store.clone(), source }),
        FsckError::Contents(source) => Failed::Contents(source),
    })?;
    let text = serde_json::to_string(&report).map_err(|e| Failed::Contents(e.into()))?;
    writeln!(io::stdout(), "{text}").map_err(Failed::Contents)
}

fn run(args: &Args) -> Result<(), Failed> {
    // Before anything else is opened: its number must still be what the parent left.
    let ready = args.ready_fd.map(fds::adopt_inherited).transpose();
    let number = args.ready_fd.unwrap_or_default();
    let ready = ready.map_err(|source| Failed::ReadyFd { number, source })?;
    let service = Service::current().map_err(Failed::Service)?;
    log(&args.log)?;
    let config = Config::new(args)?;
    // What the daemon makes is for its user alone.
    umask(Mode::from_bits_truncate(0o077));
    raise_open_files();
    // Before any thread: all of them inherit that they do not take these signals.
    let signals = watch_signals().map_err(Failed::Signals)?;
    let server = if args.no_sandbox {
        tracing::warn!("not confined: the daemon can do whatever its user can");
        Server::start_as(config, service)?
    } else {
        Server::start_confined(config, service)?
    };
    tracing::info!(?server, pid = std::process::id(), "ready");
    if let Some(ready) = ready {
        tell_ready(ready);
    }
    server.run(Some(signals.as_fd()))?;
    tracing::info!("stopped");
    Ok(())
}

fn log(filter: &str) -> Result<(), Failed> {
    let parsed = tracing_subscriber::EnvFilter::builder().parse(filter);
    let parsed = parsed.map_err(|source| Failed::Log { filter: filter.into(), source })?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(io::stderr)
        .with_ansi(false)
        // A log on a full disk loses lines; telling of it on the same stderr would panic.
        .log_internal_errors(false)
        .init();
    Ok(())
}

fn watch_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Content files, bases and sessions need more descriptors than the usual limit; the hard one is ours
/// to use.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn tell_ready(ready: OwnedFd) {
    if let Err(error) = File::from(ready).write_all(b"ready\n") {
        tracing::warn!(%error, "whoever started the daemon could not be told that it serves");
    }
}
