//! `agentfs daemon`.

use super::{mount, status};
use crate::args;
use crate::context::{Context, Told};
use crate::error::{CliError, Doing, Kind, Result};
use crate::{exit, mountinfo, start};
use serde_json::json;
use shm_transport::control::client::Client;
use shm_transport::control::holder;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long holder and daemon may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);

/// `agentfs daemon`.
pub(super) fn daemon(context: &Context, args: args::Daemon) -> Result<u8> {
    match args {
        args::Daemon::Start { allow_base, foreground } => up(context, &allow_base, foreground)?,
        args::Daemon::Stop { force } => stop(context, force)?,
        args::Daemon::Upgrade => super::upgrade::upgrade(context)?,
        args::Daemon::Status => return status::daemon(context),
    }
    Ok(exit::OK)
}

fn up(context: &Context, allow_base: &[PathBuf], foreground: bool) -> Result<()> {
    let allow_base: Vec<_> = allow_base
        .iter()
        .map(|dir| {
            std::fs::canonicalize(dir)
                .map_err(|e| CliError::new(Kind::Base, format!("cannot allow bases below {}: {e}", dir.display())))
        })
        .collect::<Result<_>>()?;
    if foreground {
        let e = start::hold_command(&context.paths, &allow_base)?.exec();
        return Err(e).doing(|| "become the holder".into());
    }
    let running = Client::connect(&context.paths.socket);
    let held = holder::Client::connect(&context.paths.socket).is_ok();
    let before = !held && (running.is_ok() || matches!(&running, Err(e) if e.is_not_running()));
    let mut client = if before { start::start(&context.paths, &allow_base)? } else { running.told()? };
    let canonical = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let mut status = client.status().told()?;
    if canonical(&status.store) != canonical(&context.paths.store) {
        return Err(CliError::new(
            Kind::Usage,
            format!(
                "the daemon on {} serves the store {}, not {}",
                context.paths.socket.display(),
                status.store.display(),
                context.paths.store.display()
            ),
        )
        .hint("leave --socket (AGENTFS_SOCKET) out, or name the one that belongs to the store"));
    }
    // One that ran already gets what is missing; what lies below a prefix may be on a mount that it did not see.
    let missing: Vec<_> = allow_base.iter().filter(|dir| !status.allow_base.contains(dir)).collect();
    for dir in &missing {
        let mut holder = holder::Client::connect(&context.paths.socket).map_err(|e| {
            CliError::new(Kind::BaseNotAllowed, format!("the daemon may not read below {}: {e}", dir.display()))
                .hint("it was not started by agentfs: start it with --allow-base")
        })?;
        holder.allow_base(dir)?;
    }
    if !missing.is_empty() {
        status = context.reconnect()?.status().told()?;
    }
    context.output.result(&json!({"started": before, "daemon": status}), || {
        let what = if before { "started" } else { "runs already:" };
        format!("{what} daemon {} on the store {}\n", status.pid, status.store.display())
    })?;
    Ok(())
}

fn stop(context: &Context, force: bool) -> Result<()> {
    if force {
        unmount_everything(context)?;
    }
    let stopped = match holder::Client::connect(&context.paths.socket) {
        Ok(mut holder) => {
            let pong = holder.ping()?;
            holder.stop(force)?;
            Some((pong.daemon_pid, Some(pong.pid)))
        }
        // A daemon of an init system, or of nobody.
        Err(_) => match Client::connect(&context.paths.socket) {
            Ok(mut client) => {
                let status = client.status().told()?;
                if status.managed {
                    let message = format!("a service manager keeps the daemon {} running", status.pid);
                    return Err(CliError::new(Kind::Busy, message)
                        .hint("stop its units: systemctl stop agentfsd.socket agentfsd.service"));
                }
                client.shutdown().told()?;
                Some((Some(status.pid), None))
            }
            Err(e) if e.is_not_running() => None,
            Err(e) => return Err(e).told(),
        },
    };
    let pids: Vec<i32> = stopped.into_iter().flat_map(|(daemon, holder)| [daemon, holder]).flatten().collect();
    wait_gone(&pids)?;
    context.output.result(&json!({"stopped": !pids.is_empty(), "pids": pids}), || {
        if pids.is_empty() { "no daemon runs\n".into() } else { "stopped\n".into() }
    })?;
    Ok(())
}

fn wait_gone(pids: &[i32]) -> Result<()> {
    let end = Instant::now() + STOP_MAX;
    for pid in pids {
        while is_running(*pid) {
            if Instant::now() >= end {
                return Err(CliError::new(Kind::Busy, format!("process {pid} was told to stop and still runs"))
                    .hint("look at its log"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Whether a process lives; one that ended and waits for its parent does not.
fn is_running(pid: i32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which stands in parentheses and may contain some.
    let after = stat.iter().rposition(|b| *b == b')').and_then(|at| stat.get(at + 2));
    !matches!(after, Some(b'Z' | b'X'))
}

/// What can be seen from here of this holder's mounts.
fn unmount_everything(context: &Context) -> Result<()> {
    let Ok(mut holder) = holder::Client::connect(&context.paths.socket) else { return Ok(()) };
    let held = holder.mounts()?;
    let visible = mountinfo::ours().doing(|| "read the list of mounts".into())?;
    for name in held.iter().map(|h| &h.name) {
        if visible.iter().any(|m| m.branch == name.branch && mountinfo::same(&m.mountpoint, &name.mountpoint)) {
            mount::unmount(&name.mountpoint, false, true)?;
        }
    }
    let end = Instant::now() + STOP_MAX;
    while Instant::now() < end && !holder.mounts()?.is_empty() {
        std::thread::sleep(Duration::from_millis(10));
        if visible.is_empty() {
            break;
        }
    }
    Ok(())
}
