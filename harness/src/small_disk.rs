//! A small ext4 file system in a file: one that fills up, or has few inodes.

use crate::{World, procs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Mounted where bases may lie; taken away when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mountpoint: PathBuf,
    image: PathBuf,
}

impl SmallDisk {
    /// One of `mib` MiB, made with these options of `mkfs.ext4`. Needs root.
    pub fn new(world: &World, mib: u64, options: &[&str]) -> Self {
        let image = world.out().join("disk");
        let file = std::fs::File::create(&image).expect("a file for the disk");
        file.set_len(mib << 20).expect("room for the disk");
        let mountpoint = world.base("disk");
        let (from, to) = (image.to_str().expect("UTF-8"), mountpoint.to_str().expect("UTF-8"));
        world.program(world.dir(), "mkfs.ext4", &[&["-q", "-F", "-m", "0"], options, &[from]].concat());
        world.program(world.dir(), "mount", &["-o", "loop", from, to]);
        Self { mountpoint, image }
    }

    /// Its root directory.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let ended = procs::wait_for(Duration::from_secs(5), || {
            nix::mount::umount2(&self.mountpoint, nix::mount::MntFlags::empty()).is_ok()
        });
        if !ended {
            nix::mount::umount2(&self.mountpoint, nix::mount::MntFlags::MNT_DETACH).ok();
        }
        std::fs::remove_file(&self.image).ok();
    }
}
