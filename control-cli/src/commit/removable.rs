//! Whether what was taken out of the base can be removed for good when the commit is done. What cannot would
//! stay in the base's staging directory for ever; `rm -r` would have refused it, and so does the commit,
//! while everything can still be put back.

use super::path::RelPath;
use super::tree::{self, Tree};
use rustix::ffi::CStr;
use rustix::fs::{Access, AtFlags, FileType, Mode, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Opens a directory of the staging directory for listing. One of our own that we may not read is
/// listed all the same, and has the mode that it had afterwards.
pub(super) fn open(staging: &Tree, path: &RelPath) -> io::Result<OwnedFd> {
    let refused = match staging.open(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => e,
        other => return other,
    };
    let (parent, name) = staging.parent(path)?;
    let object = super::attributes::open(parent.as_fd(), &name)?;
    let stat = rustix::fs::fstat(&object)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(refused);
    }
    tree::make_accessible(parent.as_fd(), &name)?;
    let dir = staging.open(path);
    super::attributes::change_mode(object.as_fd(), stat.st_mode & 0o7777)?;
    dir
}

/// Refuses what the caller cannot remove from a directory.
pub(super) fn check(dir: BorrowedFd<'_>, holder: &Stat, name: &CStr, stat: &Stat) -> io::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    // Of our own we can make it writable.
    if holder.st_uid != me {
        let write = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(dir, c".", write, AtFlags::EACCESS)?;
        let sticky = Mode::from_raw_mode(holder.st_mode).contains(Mode::SVTX);
        if sticky && stat.st_uid != me && me != 0 {
            return Err(Errno::PERM.into());
        }
    }
    let flags = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?.stx_attributes;
    if flags.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND) {
        return Err(Errno::PERM.into());
    }
    Ok(())
}
