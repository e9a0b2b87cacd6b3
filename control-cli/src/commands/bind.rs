//! `agentfs branch bind`, `unbind` and `exec`: other branches through one mount.

use crate::error::{CliError, Doing, Kind, Result};
use crate::output::{Output, shown};
use crate::{cgroup, child, mountinfo};
use shm_transport::control::door::{Door, DoorError};
use shm_transport::control::{Bound, Command};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// `agentfs branch bind`.
pub(crate) fn bind(output: Output, mount: Option<PathBuf>, branch: &str, pid: u32, by_descent: bool) -> Result<()> {
    let (_, door) = open(mount)?;
    let bound = carry_out(&door, branch, Some(pid), by_descent)?;
    output.result(&bound, || {
        let how = if bound.cgroup.is_some() { "its control group" } else { "its descendants" };
        format!("process {} and {how} see the branch {}\n", bound.pid, shown(&bound.branch))
    })
}

/// `agentfs branch unbind`.
pub(crate) fn unbind(output: Output, mount: Option<PathBuf>, pid: u32) -> Result<()> {
    let (_, door) = open(mount)?;
    door.call(Command::BranchUnbind { pid: Some(pid) }).map_err(told)?;
    output.result(&serde_json::json!({"pid": pid}), || format!("process {pid} sees the mounted branch\n"))
}

/// `agentfs branch exec`: becomes the command, or says why not.
pub(crate) fn exec(mount: Option<PathBuf>, branch: &str, by_descent: bool, command: &[OsString]) -> CliError {
    match try_exec(mount, branch, by_descent, command) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_exec(
    mount: Option<PathBuf>,
    branch: &str,
    by_descent: bool,
    command: &[OsString],
) -> Result<std::convert::Infallible> {
    let (mount, door) = open(mount)?;
    let here = std::env::current_dir().doing(|| "find the working directory".into())?;
    carry_out(&door, branch, None, by_descent)?;
    drop(door);
    // The directory of that path in the branch, where it has one.
    if here.starts_with(&mount) && std::env::set_current_dir(&here).is_err() {
        std::env::set_current_dir(&mount).doing(|| format!("enter {}", mount.display()))?;
    }
    let (program, args) = command.split_first().ok_or_else(|| CliError::new(Kind::Usage, "no command was given"))?;
    let mut started = std::process::Command::new(program);
    started.args(args).env("AGENTFS_ROOT", &mount).env("AGENTFS_BRANCH", branch);
    let error = started.exec();
    Err(child::not_started(&started, program, &error))
}

fn open(mount: Option<PathBuf>) -> Result<(PathBuf, Door)> {
    let mount = match mount {
        Some(mount) => mountinfo::locate(&mount).doing(|| format!("find {}", mount.display()))?,
        None => {
            let here = std::env::current_dir().doing(|| "find the working directory".into())?;
            let around = mountinfo::around(&here).doing(|| "read the list of mounts".into())?;
            let none = || {
                CliError::new(Kind::Usage, "the working directory lies on no mount of AgentFS")
                    .hint("name one: --mount MNT")
            };
            around.ok_or_else(none)?.mountpoint
        }
    };
    let door = Door::open(&mount).map_err(told)?;
    Ok((mount, door))
}

/// Binds, by a control group where one can be made, if that is wanted.
pub(crate) fn carry_out(door: &Door, branch: &str, pid: Option<u32>, by_descent: bool) -> Result<Bound> {
    let grouped = !by_descent && cgroup::enter(pid.unwrap_or_else(std::process::id));
    let ask = |cgroup| door.ask(Command::BranchBind { branch: branch.to_owned(), pid, cgroup });
    match ask(grouped) {
        // The daemon sees other groups than we do.
        Err(DoorError::Refused(failure)) if grouped && Kind::from(failure.code) == Kind::Usage => ask(false),
        other => other,
    }
    .map_err(told)
}

pub(crate) use crate::door::told;
