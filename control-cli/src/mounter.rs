//! Mounting by way of `agentfs-fuse --mount`.

use crate::context::Context;
use crate::error::{CliError, Doing, Kind, Result};
use crate::siblings;
use shm_transport::control::Answer;
use shm_transport::control::holder::HeldMount;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// A mount to be made.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The branch.
    pub(crate) branch: &'a str,
    /// Where.
    pub(crate) mountpoint: &'a Path,
    /// The mountpoint must lie apart from this directory.
    pub(crate) apart_from: Option<&'a Path>,
    /// Read-only.
    pub(crate) read_only: bool,
    /// Other users may enter.
    pub(crate) allow_other: bool,
    /// Seconds without a daemon after which requests fail.
    pub(crate) give_up_after: Option<u32>,
    /// As in fstab.
    pub(crate) options: &'a [String],
}

/// Mounts in this process's mount namespace; returns when the mount is served.
pub(crate) fn mount(context: &Context, request: &Request<'_>) -> Result<HeldMount> {
    let program = siblings::find("agentfs-fuse")?;
    let mut command = Command::new(&program);
    command.args(["--mount", "--json", "--branch", request.branch]);
    let pairs: [(&str, Option<&OsStr>); 4] = [
        ("--store", Some(context.paths.store.as_os_str())),
        ("--socket", Some(context.paths.socket.as_os_str())),
        ("--mountpoint", Some(request.mountpoint.as_os_str())),
        ("--apart-from", request.apart_from.map(Path::as_os_str)),
    ];
    for (option, value) in pairs {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    command.args(request.read_only.then_some("--read-only"));
    command.args(request.allow_other.then_some("--allow-other"));
    for options in request.options {
        command.arg("-o").arg(options);
    }
    if let Some(seconds) = request.give_up_after {
        command.arg("-o").arg(format!("give_up_after={seconds}"));
    }
    let output = command.stdin(Stdio::null()).output().map_err(|e| {
        CliError::new(Kind::Unreachable, format!("cannot start {}: {e}", program.display()))
            .hint("agentfs-fuse must lie next to agentfs or in PATH")
    })?;
    match serde_json::from_slice::<Answer>(&output.stdout) {
        Ok(Answer::Ok(held)) => {
            serde_json::from_value(held).map_err(std::io::Error::from).doing(|| "understand agentfs-fuse".into())
        }
        Ok(Answer::Error(failure)) => Err(failure.into()),
        Err(_) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(CliError::new(Kind::System, format!("agentfs-fuse failed ({}): {said}", output.status)))
        }
    }
}
