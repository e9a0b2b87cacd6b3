//! The AgentFS mount process: `/dev/fuse` on one side, the ring on the other.
//!
//! One program in five parts, by how it is called:
//! - the *frontend* (`--serve`), one per mount, turns each request of the kernel into a typed request on
//!   the ring and each reply back. It keeps what only it can keep: lookup counts and what is under way;
//! - the *holder* (`--hold`), one per store, keeps the descriptors of every mount, and starts the daemon
//!   and the frontends again when they die;
//! - the *mounter* (`--mount`) mounts in its caller's mount namespace and hands over to the holder;
//! - the *unit* (`--unit`) is mounter and frontend in one; a service manager holds its descriptors;
//! - the *mount helper* (`mount.fuse.agentfs`, `mount.agentfs`) is the mounter in mount(8)'s clothes.
//!
//! A process that holds a mount's descriptor never touches that mount: it would wait for itself.
#![forbid(unsafe_code)]

mod abi;
mod args;
mod channel;
mod convert;
mod decode;
mod encode;
mod feature;
mod helper;
mod holder;
mod mount;
mod mounter;
mod notifier;
mod options;
mod pending;
mod privileges;
mod reconnect;
mod serve;
mod session;
mod unit;

use args::Args;
use clap::Parser;
use holder::HoldConfig;
use mount::MountRequest;
use options::Options;
use shm_transport::control::paths::Paths;
use shm_transport::control::versions::Versions;
use shm_transport::control::{Answer, ErrorCode, Failure};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Exit statuses of mount(8) for the mount helper: wrong call or rights, and failed mount.
const MOUNT_USAGE: u8 = 1;
const MOUNT_FAILED: u8 = 32;

/// Runs the program with these arguments, the first of which is its name.
pub fn run(args: Vec<OsString>) -> ExitCode {
    start_logging();
    let name = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    if name.starts_with("mount.") {
        return match helper::run(args.get(1..).unwrap_or_default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                complain(&failure);
                let usage = matches!(failure.code, ErrorCode::Usage | ErrorCode::Denied);
                ExitCode::from(if usage { MOUNT_USAGE } else { MOUNT_FAILED })
            }
        };
    }
    let args = Args::parse_from(args);
    if args.serve {
        return match serve::serve() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(serve::UNTOLD),
            Err(error) => {
                tracing::error!(%error, "the frontend ends");
                ExitCode::FAILURE
            }
        };
    }
    if args.versions {
        return print(&Versions::current(None));
    }
    if let Some(name) = &args.unit {
        return if args.stop { unit::stop(name) } else { unit::start(name, args.slots) };
    }
    let json = args.json;
    let done = if args.hold { hold(args).map(|()| serde_json::Value::Null) } else { mount(args) };
    if json {
        return tell(done);
    }
    match done {
        Ok(_) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("AGENTFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,fuser=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        // A log on a full disk loses lines; telling of it on the same stderr would panic.
        .log_internal_errors(false)
        .init();
}

fn resolve(args: &Args) -> Result<Paths, Failure> {
    Paths::resolve(args.store.as_deref(), args.socket.as_deref()).map_err(|e| Failure {
        code: ErrorCode::Usage,
        message: e.to_string(),
        hint: None,
    })
}

fn hold(args: Args) -> Result<(), Failure> {
    let paths = resolve(&args)?;
    holder::hold(HoldConfig { paths, allow_base: args.allow_base })
}

fn mount(args: Args) -> Result<serde_json::Value, Failure> {
    let paths = resolve(&args)?;
    let mut options = Options::default();
    for text in &args.options {
        options.add(text, false)?;
    }
    if options.base.is_some()
        || options.frozen
        || options.store.is_some()
        || options.socket.is_some()
        || options.remount
    {
        return Err(Failure {
            code: ErrorCode::Usage,
            message: "base, frozen, store, socket and remount are options of mount(8) only".into(),
            hint: Some("say them by --base, --frozen, --store and --socket".into()),
        });
    }
    let mountpoint = mount::check_mountpoint(&args.mountpoint.unwrap_or_default())?;
    if let Some(base) = args.apart_from.as_deref() {
        mount::check_apart(&mountpoint, base)?;
    }
    options.read_only |= args.read_only;
    options.allow_other = options.allow_other.or(args.allow_other.then_some(true));
    options.without.extend(args.without);
    let request = MountRequest::new(args.branch.unwrap_or_default(), mountpoint, &options)?;
    let held = mounter::mount(&request, &paths.socket, args.slots)?;
    serde_json::to_value(held).map_err(|e| Failure {
        code: ErrorCode::Internal,
        message: format!("the answer cannot be written: {e}"),
        hint: None,
    })
}

/// One JSON line for a calling program.
fn tell(done: Result<serde_json::Value, Failure>) -> ExitCode {
    let (answer, status) = match done {
        Ok(value) => (Answer::Ok(value), ExitCode::SUCCESS),
        Err(failure) => (Answer::Error(failure), ExitCode::FAILURE),
    };
    if print(&answer) == ExitCode::SUCCESS { status } else { ExitCode::FAILURE }
}

fn print(document: &impl serde::Serialize) -> ExitCode {
    let line = serde_json::to_string(document).unwrap_or_default();
    if writeln!(io::stdout(), "{line}").is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What went wrong, for a person.
fn complain(failure: &Failure) {
    let mut err = io::stderr();
    // Nobody is left to be told when standard error is closed.
    writeln!(err, "agentfs-fuse: {}", failure.message).ok();
    if let Some(hint) = &failure.hint {
        writeln!(err, "hint: {hint}").ok();
    }
}
