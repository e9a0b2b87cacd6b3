//! `--unit NAME --stop`: `ExecStop=` of the unit. A unit that is started again keeps its mount; one that stops
//! is unmounted.

use super::config::UnitConfig;
use super::record::Record;
use super::{held, internal, paths_of};
use crate::holder::shows;
use crate::reconnect::{DETACH_MAX, detach};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_transport::control::Failure;
use shm_transport::control::service::Service;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long programs may take to leave the mount.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// How long the frontend may take to end after its mount has ended.
const END_MAX: Duration = Duration::from_secs(6);
const NAP: Duration = Duration::from_millis(10);

/// Unmounts, unless the unit is to start again.
pub(super) fn stop(name: &str) -> Result<(), Failure> {
    let service = Service::current().map_err(|e| internal("the service manager cannot be reached", &e))?;
    let paths = paths_of(&UnitConfig::read(name))?;
    let record = Record::of(name, &paths);
    let Some(mount) = record.read() else { return Ok(()) };
    if job(name)?.as_deref() != Some("stop") {
        tracing::info!("the mount stays for the next start");
        return Ok(());
    }
    let main = std::env::var("MAINPID").ok().and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    let at = &mount.mountpoint;
    let is_ours = fs::read("/proc/self/mountinfo").is_ok_and(|table| shows(&table, &mount.branch, at));
    let left = !is_ours || unmount(at);
    if left && main.is_none_or(|pid| is_gone(pid, END_MAX)) {
        return Ok(());
    }
    tracing::warn!(mountpoint = %at.display(), "programs use the mount; they get errors from now on");
    if let Some(pid) = main {
        kill(pid, Signal::SIGTERM).ok();
        is_gone(pid, END_MAX);
    }
    held::give_up(&service);
    detach(&paths.socket, mount.session, DETACH_MAX);
    record.remove();
    Ok(())
}

/// What the manager does with the unit: `stop`, `restart`; nothing when its process ended by itself.
fn job(name: &str) -> Result<Option<String>, Failure> {
    let unit = format!("agentfs-mount@{name}.service");
    let mut command = Command::new("systemctl");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--user");
    }
    command.args(["list-jobs", "--no-legend", "--full", "--plain"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let said = command.output().map_err(|e| internal("systemctl cannot be started", &e))?;
    if !said.status.success() {
        return Err(internal("systemctl does not tell why the unit stops", &said.status));
    }
    Ok(job_in(&String::from_utf8_lossy(&said.stdout), &unit))
}

/// The kind of a unit's job in the lines of `systemctl list-jobs`: number, unit, kind, state.
fn job_in(lines: &str, unit: &str) -> Option<String> {
    lines.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some(unit)).then(|| words.next().map(str::to_owned)).flatten()
    })
}

/// Whether the mount ended; else it is only out of sight.
fn unmount(at: &Path) -> bool {
    let deadline = Instant::now() + LEAVE_MAX;
    loop {
        match umount2(at, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return true,
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(NAP),
            Err(Errno::EPERM) => return by_helper(at, &[]) || !by_helper(at, &["-z"]),
            Err(error) => {
                tracing::info!(%error, mountpoint = %at.display(), "cannot be unmounted; it goes out of sight");
                umount2(at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).ok();
                return false;
            }
        }
    }
}

fn by_helper(at: &Path, more: &[&str]) -> bool {
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-q"]).args(more).arg("--").arg(at).stdin(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Waits for a process that is no child.
fn is_gone(pid: Pid, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while kill(pid, None) != Err(Errno::ESRCH) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(NAP);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_s_own_job_counts() {
        let lines = "  7 agentfs-mount@a.service  stop running\n 12 agentfs-mount@b.service restart waiting\n";
        assert_eq!(job_in(lines, "agentfs-mount@a.service").as_deref(), Some("stop"));
        assert_eq!(job_in(lines, "agentfs-mount@b.service").as_deref(), Some("restart"));
        assert_eq!(job_in(lines, "agentfs-mount@c.service"), None);
        assert_eq!(job_in("", "agentfs-mount@a.service"), None);
    }
}
