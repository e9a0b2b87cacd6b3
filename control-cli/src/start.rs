//! Starting the holder, which starts the daemon.

use crate::context::Told;
use crate::error::{CliError, Doing, Kind, Result};
use crate::siblings;
use nix::fcntl::{Flock, FlockArg};
use shm_transport::control::client::Client;
use shm_transport::control::holder;
use shm_transport::control::paths::Paths;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long holder and daemon may take to serve.
const READY_MAX: Duration = Duration::from_secs(10);
/// So much of a log is shown when they do not.
const LOG_LINES: usize = 8;
const LOG_BYTES: u64 = 8 << 10;

/// Starts what does not run. Of several commands that do this at once, one starts and all get through.
pub(crate) fn start(paths: &Paths, allow_base: &[PathBuf]) -> Result<Client> {
    paths.check_store().map_err(|e| CliError::new(Kind::Store, e.to_string()))?;
    make_dir(&paths.store)?;
    make_dir(&paths.log_dir())?;
    paths.prepare_socket_dir().map_err(|e| CliError::new(Kind::Denied, e.to_string()))?;
    let _lock = lock(paths, "start.lock", FlockArg::LockExclusive)?;
    match Client::connect(&paths.socket) {
        Err(e) if e.is_not_running() => {}
        // One without a holder is replaced by the holder's own; its mounts wait for that.
        Ok(_) if holder::Client::connect(&paths.socket).is_err() => {}
        other => return other.told(),
    }
    let end = Instant::now() + READY_MAX;
    let mut child = None;
    let mut nap = Duration::from_millis(1);
    let mut holder = loop {
        match holder::Client::connect(&paths.socket) {
            Ok(holder) => break holder,
            Err(_) if child.is_none() => child = Some(spawn(paths, allow_base)?),
            Err(e) => {
                let ended = child.as_mut().is_some_and(|c: &mut Child| matches!(c.try_wait(), Ok(Some(_)) | Err(_)));
                if ended || Instant::now() >= end {
                    let what = if ended { "ended at once" } else { "does not listen" };
                    return Err(failed(
                        paths,
                        &format!("the holder was started and {what} ({e})"),
                        &paths.holder_log(),
                    ));
                }
                std::thread::sleep(nap);
                nap = (nap * 2).min(Duration::from_millis(50));
            }
        }
    };
    holder.await_daemon(READY_MAX).map_err(|refused| {
        let error = CliError::from(refused);
        if error.kind == Kind::Internal {
            // It listens before it knows that it cannot stay.
            return failed(paths, &format!("the daemon does not start: {}", error.message), &paths.holder_log());
        }
        let what = "the daemon does not start";
        if error.message.starts_with(what) { error } else { error.prefix(what) }
    })?;
    match Client::connect(&paths.socket) {
        Err(e) => Err(failed(paths, &format!("the daemon was started and does not serve: {e}"), &paths.daemon_log())),
        ok => ok.told(),
    }
}

/// The command that becomes the holder.
pub(crate) fn hold_command(paths: &Paths, allow_base: &[PathBuf]) -> Result<Command> {
    let mut command = Command::new(siblings::find("agentfs-fuse")?);
    command.arg("--hold").arg("--store").arg(&paths.store).arg("--socket").arg(&paths.socket);
    for base in allow_base {
        command.arg("--allow-base").arg(base);
    }
    Ok(command)
}

/// By way of ourselves, so that nothing that we inherited stays open in a process that lives long: a lock
/// of a script, say, or the pipe whose end somebody waits for.
fn spawn(paths: &Paths, allow_base: &[PathBuf]) -> Result<Child> {
    let hold = hold_command(paths, allow_base)?;
    let file = paths.holder_log();
    let log = || {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&file)?;
        Ok::<_, std::io::Error>((log.try_clone()?, log))
    };
    let (out, err) = log().doing(|| format!("open the log {}", file.display()))?;
    Command::new(siblings::own()?)
        .args(["internal-hold", "--"])
        .arg(hold.get_program())
        .args(hold.get_args())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .doing(|| "start the holder".into())
}

/// The other half of [`spawn`]: becomes the given program. Returns only if that fails.
pub(crate) fn become_holder(command: &[std::ffi::OsString]) -> CliError {
    let Some((program, args)) = command.split_first() else {
        return CliError::new(Kind::Usage, "no program is named");
    };
    // The holder does this for itself; done here, a Ctrl-C between here and there does not reach it.
    nix::unistd::setsid().ok();
    if let Err(e) = shm_transport::mem::sys::close_on_exec_from(3) {
        return CliError::new(Kind::System, format!("cannot close inherited descriptors: {e}"));
    }
    let e = Command::new(program).args(args).exec();
    CliError::new(Kind::Unreachable, format!("cannot execute {}: {e}", program.display()))
        .hint("agentfs-fuse must lie next to agentfs or in PATH")
}

fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| {
        let kind = crate::error::kind_of(&e);
        let kind = if kind == Kind::System { Kind::Store } else { kind };
        CliError::new(kind, format!("cannot make the directory {}: {e}", dir.display()))
            .hint("name another store with --store DIR or AGENTFS_STORE")
    })
}

/// Takes a lock of the store's commands; held until dropped. `None` if somebody holds it and `how` does
/// not wait.
pub(crate) fn lock(paths: &Paths, name: &str, how: FlockArg) -> Result<Option<Flock<File>>> {
    let dir = paths.store.join("run");
    make_dir(&dir)?;
    let file = dir.join(name);
    let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
    let mut open = open.doing(|| format!("open {}", file.display()))?;
    loop {
        match Flock::lock(open, how) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((back, nix::errno::Errno::EINTR)) => open = back,
            Err((_, e)) => return Err(e).doing(|| format!("lock {}", file.display())),
        }
    }
}

fn failed(paths: &Paths, message: &str, log: &Path) -> CliError {
    let tail = log_tail(log);
    let message = if tail.is_empty() { message.to_owned() } else { format!("{message}; its log ends with:\n{tail}") };
    CliError::new(Kind::Unreachable, message).hint(format!("the logs lie in {}", paths.log_dir().display()))
}

fn log_tail(file: &Path) -> String {
    let read = || {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(LOG_LINES);
    lines.iter().skip(skip).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
