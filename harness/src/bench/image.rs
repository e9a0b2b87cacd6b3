//! One fresh ext4 file system in memory, on a loop device.

use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A mounted image; taken away on drop. The image file has no name while it is mounted, so that even a
/// killed benchmark leaves nothing but the mount.
#[derive(Debug)]
pub(super) struct Image {
    mountpoint: PathBuf,
}

fn tool(command: &mut Command) -> Result<(), String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
}

impl Image {
    /// Makes and mounts an image of so many GiB with so many inodes.
    pub(super) fn new(gib: u64, inodes: u64) -> Result<Self, String> {
        let file = tempfile::Builder::new()
            .prefix("agentfs-bench-")
            .suffix(".img")
            .tempfile_in("/dev/shm")
            .map_err(|e| format!("cannot make an image in /dev/shm: {e}"))?;
        // Allocated beforehand: memory touched for the first time would count against whoever goes first.
        rustix::fs::fallocate(file.as_file(), rustix::fs::FallocateFlags::empty(), 0, gib << 30)
            .map_err(|e| format!("{gib} GiB in /dev/shm: {e}; a smaller image is --image-gib"))?;
        tool(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-N", &inodes.to_string()]).arg(file.path()))?;
        let dir =
            tempfile::Builder::new().prefix("agentfs-bench-").tempdir().map_err(|e| format!("mountpoint: {e}"))?;
        tool(Command::new("mount").args(["-o", "loop,noatime"]).arg(file.path()).arg(dir.path()))?;
        Ok(Self { mountpoint: dir.keep() })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let ended =
            crate::procs::wait_for(Duration::from_secs(10), || umount2(&self.mountpoint, MntFlags::empty()).is_ok());
        if !ended {
            eprintln!("{} is busy, detaching it", self.mountpoint.display());
            umount2(&self.mountpoint, MntFlags::MNT_DETACH).ok();
        }
        std::fs::remove_dir(&self.mountpoint).ok();
    }
}
