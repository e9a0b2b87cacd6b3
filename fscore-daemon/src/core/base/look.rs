//! What the host says of one object, from one `statx`, and how objects are opened.

use crate::core::error::{FsError, FsResult};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp};
use shm_transport::wire::{Attr, FileKind, Timestamp};
use std::os::fd::{AsFd, OwnedFd};

/// How often a resolution that a rename disturbed is tried.
const RESOLVE_TRIES: usize = 64;
/// `STATX_SUBVOL`: the number of the subvolume.
const SUBVOLUME: u32 = 0x8000;

/// One look at an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// The subvolume where the host tells it, else the device: within it, inode numbers are unique.
    pub(super) device: u64,
    /// Inode number.
    pub(super) ino: u64,
    /// Kind.
    pub(super) kind: FileKind,
    /// Attributes; the birth time is 0 where the file system keeps none.
    pub(super) attr: Attr,
}

fn time(t: StatxTimestamp) -> Timestamp {
    Timestamp { sec: t.tv_sec, nsec: t.tv_nsec }
}

impl Look {
    /// Looks at what a descriptor stands for.
    pub(super) fn at(fd: impl AsFd) -> FsResult<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::from_bits_retain(SUBVOLUME);
        let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)
            .map_err(|e| FsError::Io { what: "stat in base", source: e.into() })?;
        let mode = u32::from(found.stx_mode);
        let kind = FileKind::from_mode(mode).ok_or(FsError::Overflow)?;
        let device = if found.stx_mask & SUBVOLUME != 0 {
            found.stx_subvol
        } else {
            libc::makedev(found.stx_dev_major, found.stx_dev_minor)
        };
        Ok(Self { device, ino: found.stx_ino, kind, attr: attributes(&found, mode) })
    }

    /// The same of something whose birth time is not known.
    pub(super) fn unborn(mut self) -> Self {
        self.attr.btime = Timestamp::default();
        self
    }

    /// When the object was made.
    pub(super) fn born(&self) -> Timestamp {
        self.attr.btime
    }
}

fn attributes(found: &Statx, mode: u32) -> Attr {
    let born = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Attr {
        ino: found.stx_ino,
        size: found.stx_size,
        blocks: found.stx_blocks,
        atime: time(found.stx_atime),
        mtime: time(found.stx_mtime),
        ctime: time(found.stx_ctime),
        btime: if born { time(found.stx_btime) } else { Timestamp::default() },
        mode,
        nlink: found.stx_nlink,
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: super::encode_rdev(libc::makedev(found.stx_rdev_major, found.stx_rdev_minor)),
        blksize: 4096,
    }
}

/// Whether two birth times may be those of one object. A file system that keeps none tells nothing.
pub(super) fn may_be_same(a: Timestamp, b: Timestamp) -> bool {
    let none = Timestamp::default();
    a == b || a == none || b == none
}

/// `O_PATH` of one name in a directory: nothing is opened that waits or has effects, no link is followed,
/// no mount entered.
pub(super) fn open_name(dir: &OwnedFd, name: &[u8]) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    // The kernel asks for another try when something was renamed during the resolution.
    for _ in 0..RESOLVE_TRIES {
        match openat2(dir, name, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}
