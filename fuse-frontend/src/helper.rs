//! `mount.fuse.agentfs SOURCE DIR [-o OPTIONS]`, as mount(8) calls it; SOURCE is the branch.

use crate::holder::log_tail;
use crate::mount::{self, MountRequest};
use crate::mounter;
use crate::options::Options;
use crate::serve;
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::holder;
use shm_transport::control::paths::Paths;
use shm_transport::control::{Command as Ask, ErrorCode, Failure};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How long the daemon may take to serve.
const READY_MAX: Duration = Duration::from_secs(30);
/// How long a holder that was just started may take to listen.
const LISTEN_MAX: Duration = Duration::from_secs(5);

/// How long another holder, for which ours made place, may take to listen.
const OTHER_MAX: Duration = Duration::from_millis(500);

/// What mount(8) asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    source: String,
    dir: PathBuf,
    options: Options,
    /// `-f`: everything but the mount.
    fake: bool,
    /// `-v`.
    verbose: bool,
}

/// Mounts.
pub(crate) fn run(args: &[OsString]) -> Result<(), Failure> {
    let request = parse(args)?;
    if request.options.remount {
        return if request.fake { Ok(()) } else { mount::remount(&request.dir, &request.options) };
    }
    let paths = Paths::resolve(
        request.options.store.as_deref().or(variable("AGENTFS_STORE").as_deref()),
        request.options.socket.as_deref().or(variable("AGENTFS_SOCKET").as_deref()),
    )
    .map_err(|e| Failure { code: ErrorCode::Usage, message: e.to_string(), hint: None })?;
    let mountpoint = mount::check_mountpoint(&request.dir)?;
    if let Some(base) = &request.options.base {
        mount::check_apart(&mountpoint, base)?;
    }
    ensure_holder(&paths, &request.options.allow_base)?;
    allow(&paths, &request.options.allow_base)?;
    if request.options.base.is_some() {
        make_branch(&paths, &request)?;
    }
    if request.fake {
        return Ok(());
    }
    let mount = MountRequest::new(request.source, mountpoint, &request.options)?;
    let held = mounter::mount(&mount, &paths.socket, shm_transport::Geometry::default().slots)?;
    if request.verbose {
        tracing::info!(branch = %held.name.branch, mountpoint = %held.name.mountpoint.display(), "mounted");
    }
    Ok(())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn internal(what: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure { code: ErrorCode::Internal, message: format!("{what}: {why}"), hint: None }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure {
        code: ErrorCode::Usage,
        message: message.into(),
        hint: Some("mount -t fuse.agentfs BRANCH DIR -o base=/some/dir,…".into()),
    }
}

/// Flags may stand anywhere; those with a value take the next word or the rest of their own.
fn parse(args: &[OsString]) -> Result<Request, Failure> {
    let text =
        |arg: &OsStr| arg.to_str().map(str::to_owned).ok_or_else(|| usage(format!("{} is not UTF-8", arg.display())));
    let (mut request, mut sloppy, mut options) = (Request::default(), false, Vec::new());
    let mut positional: Vec<OsString> = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(flags) = arg.to_str().and_then(|arg| arg.strip_prefix('-')).filter(|flags| !flags.is_empty()) else {
            positional.push(arg.clone());
            continue;
        };
        for (at, letter) in flags.char_indices() {
            match letter {
                's' => sloppy = true,
                'f' => request.fake = true,
                'v' => request.verbose = true,
                'n' | 'w' | 'i' => {}
                'r' => request.options.read_only = true,
                // -N: namespace, -t: type; both say nothing that we need.
                'o' | 'N' | 't' => {
                    let attached = flags.get(at + 1..).filter(|value| !value.is_empty()).map(str::to_owned);
                    let value = match attached {
                        Some(value) => value,
                        None => text(rest.next().ok_or_else(|| usage(format!("-{letter} needs a value")))?)?,
                    };
                    if letter == 'o' {
                        options.push(value);
                    }
                    break;
                }
                other => return Err(usage(format!("the flag -{other} is not known"))),
            }
        }
    }
    let sloppy = sloppy || options.iter().any(|option| Options::asks_remount(option));
    for option in options {
        request.options.add(&option, sloppy)?;
    }
    let [source, dir] = positional.as_slice() else {
        return Err(usage("a branch and a directory are needed"));
    };
    request.source = text(source)?;
    request.dir = PathBuf::from(dir);
    Ok(request)
}

/// Starts a holder if none runs, and waits until its daemon serves.
fn ensure_holder(paths: &Paths, allow_base: &[PathBuf]) -> Result<(), Failure> {
    if let Ok(mut client) = holder::Client::connect(&paths.socket) {
        return client.await_daemon(READY_MAX).map(drop);
    }
    let failed = |e: std::io::Error| internal("the holder cannot be started", &e);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(paths.log_dir()).map_err(failed)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(paths.holder_log()).map_err(failed)?;
    let mut command = Command::new(serve::own_executable());
    command.arg("--hold").arg("--store").arg(&paths.store).arg("--socket").arg(&paths.socket);
    for base in allow_base {
        command.arg("--allow-base").arg(base);
    }
    // What mount(8) or a script left open shall not live on in a holder.
    shm_transport::mem::sys::close_on_exec_from(3).map_err(failed)?;
    let stdout = log.try_clone().map_err(failed)?;
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(log).spawn().map_err(failed)?;
    let deadline = Instant::now() + LISTEN_MAX;
    let mut ended: Option<Instant> = None;
    loop {
        let asked = holder::Client::connect(&paths.socket).map(|mut client| client.await_daemon(READY_MAX).map(drop));
        let error = match asked {
            // It listens before it knows that it cannot stay.
            Ok(Err(failure)) if failure.code == ErrorCode::Internal => failure.message,
            Ok(answer) => return answer,
            Err(error) => error.to_string(),
        };
        // One that ended because another holder was first leaves that one, which will listen.
        if ended.is_some_and(|since| since.elapsed() >= OTHER_MAX) || Instant::now() >= deadline {
            let what = if ended.is_some() { "ended at once" } else { "does not listen" };
            let tail = log_tail(&paths.holder_log());
            return Err(Failure {
                code: ErrorCode::Internal,
                message: format!("the holder was started and {what} ({error}); its log ends:\n{tail}"),
                hint: Some(format!("the whole log is {}", paths.holder_log().display())),
            });
        }
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            ended.get_or_insert_with(Instant::now);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A holder that ran already gets what is missing.
fn allow(paths: &Paths, bases: &[PathBuf]) -> Result<(), Failure> {
    if bases.is_empty() {
        return Ok(());
    }
    let allowed = ask(paths, Client::status)?.allow_base;
    for base in bases {
        let resolved = fs::canonicalize(base).unwrap_or_else(|_| base.clone());
        if !allowed.iter().any(|dir| resolved.starts_with(dir)) {
            connect(paths)?.allow_base(&resolved)?;
        }
    }
    Ok(())
}

fn connect(paths: &Paths) -> Result<holder::Client, Failure> {
    holder::Client::connect(&paths.socket).map_err(|e| internal("the holder does not listen", &e))
}

fn make_branch(paths: &Paths, request: &Request) -> Result<(), Failure> {
    let command = Ask::BranchCreate {
        name: request.source.clone(),
        base: request.options.base.clone(),
        from: None,
        frozen: request.options.frozen,
        reuse: true,
        limits: shm_transport::control::Limits::default(),
    };
    ask(paths, |client| client.branch_create(command.clone())).map(drop)
}

/// Asks the daemon something that may be asked twice. Another mount, made at the same time, may have it
/// started afresh: then its successor is asked.
fn ask<T>(paths: &Paths, question: impl Fn(&mut Client) -> Result<T, ClientError>) -> Result<T, Failure> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let refused = match Client::connect(&paths.socket).and_then(|mut client| question(&mut client)) {
            Ok(answer) => return Ok(answer),
            Err(ClientError::Refused(failure)) => return Err(failure),
            Err(e) => e,
        };
        let ended = matches!(refused, ClientError::NotRunning { .. } | ClientError::Line(_) | ClientError::Closed);
        if !ended || Instant::now() >= deadline {
            return Err(internal("the daemon does not answer", &refused));
        }
        std::thread::sleep(Duration::from_millis(5));
        connect(paths)?.await_daemon(READY_MAX)?;
    }
}
