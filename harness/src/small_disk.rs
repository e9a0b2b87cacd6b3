//! A small file system in a file: one that fills up, has few inodes, or shares blocks.

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
        Self::made(world, mib, "mkfs.ext4", &[&["-q", "-F", "-m", "0"], options].concat())
    }

    /// One with shared blocks, made by `mkfs.xfs` or `mkfs.btrfs`; `None` after saying that this machine has no such
    /// program.
    pub fn sharing(world: &World, program: &str) -> Option<Self> {
        if std::process::Command::new(program).arg("-V").output().is_err() {
            eprintln!("skipped: {program}: it is missing (packages xfsprogs, btrfs-progs)");
            return None;
        }
        let options: &[&str] = if program == "mkfs.xfs" { &["-q", "-f", "-m", "reflink=1"] } else { &["-q", "-f"] };
        Some(Self::made(world, 400, program, options))
    }

    fn made(world: &World, mib: u64, program: &str, options: &[&str]) -> Self {
        let image = world.out().join("disk");
        let file = std::fs::File::create(&image).expect("a file for the disk");
        file.set_len(mib << 20).expect("room for the disk");
        let mountpoint = world.base("disk");
        let (from, to) = (image.to_str().expect("UTF-8"), mountpoint.to_str().expect("UTF-8"));
        world.program(world.dir(), program, &[options, &[from]].concat());
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
