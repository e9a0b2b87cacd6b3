//! A mount namespace for one command.

use crate::error::{CliError, Doing, Kind, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{CapabilitySet, clear_ambient_capability_set, configure_capability_in_ambient_set};
use std::path::Path;

/// The namespace that this process is in now.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// It came with a user namespace.
    user: bool,
}

/// Moves this process into a mount namespace of its own, in which mounts of the host still appear and
/// from which none gets out. Without privilege it comes with a user namespace that changes no id. This
/// process must have one thread.
pub(crate) fn enter() -> Result<Namespace> {
    let user = match unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => false,
        Err(nix::errno::Errno::EPERM) => {
            enter_user()?;
            true
        }
        Err(e) => return Err(e).doing(|| "make a mount namespace".into()),
    };
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .doing(|| "separate the mounts from the host's".into())?;
    Ok(Namespace { user })
}

fn enter_user() -> Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|e| {
        CliError::new(Kind::Denied, format!("cannot make a user namespace: {e}")).hint(
            "allow them (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), or use `agentfs mount` on another directory",
        )
    })?;
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("{uid} {uid} 1")), ("gid_map", format!("{gid} {gid} 1"))]
    {
        let file = format!("/proc/self/{file}");
        std::fs::write(&file, text).doing(|| format!("set up the user namespace by {file}"))?;
    }
    // For the mounting process, whose program would lose the right at its start otherwise.
    let admin = CapabilitySet::SYS_ADMIN;
    let raise = || {
        let mut sets = rustix::thread::capabilities(None)?;
        sets.inheritable |= admin;
        rustix::thread::set_capabilities(None, sets)?;
        configure_capability_in_ambient_set(admin, true)
    };
    raise().doing(|| "keep the right to mount".into())
}

impl Namespace {
    /// Takes from programs started from now on the rights that only mounting needed.
    pub(crate) fn end_of_mounting(&self) -> Result<()> {
        if !self.user {
            return Ok(());
        }
        let lower = || {
            clear_ambient_capability_set()?;
            let mut sets = rustix::thread::capabilities(None)?;
            sets.inheritable = CapabilitySet::empty();
            rustix::thread::set_capabilities(None, sets)
        };
        lower().doing(|| "give up the right to mount".into())
    }
}

/// Unmounts in this namespace; `false` while somebody uses the mount.
pub(crate) fn unmount(mountpoint: &Path) -> Result<bool> {
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
        // Not mounted: the command unmounted it itself.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => Ok(true),
        Err(nix::errno::Errno::EBUSY) => Ok(false),
        Err(e) => Err(e).doing(|| format!("unmount {}", mountpoint.display())),
    }
}
