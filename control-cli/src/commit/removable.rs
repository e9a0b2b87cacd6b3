//! Whether what was taken out of the base can be removed for good when the commit is done. What cannot would
//! stay in the base's staging directory for ever; `rm -r` would have refused it, and so does the commit,
//! while everything can still be put back.

use super::fault;
use super::path::RelPath;
use super::tree::{self, Tree};
use rustix::ffi::CStr;
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// In the staging directory while a directory in it has been made accessible: the mode that it had, and its path.
const OPENED: &CStr = c"opened";
const OPENED_NEW: &CStr = c"opened.new";

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
    fault::point()?;
    remember(staging, path, stat.st_mode & 0o7777)?;
    fault::point()?;
    tree::make_accessible(parent.as_fd(), &name)?;
    fault::point()?;
    let dir = staging.open(path);
    close_again(staging)?;
    dir
}

fn remember(staging: &Tree, path: &RelPath, mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(staging, OPENED_NEW, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(format!("{mode:o} ").as_bytes())?;
    file.write_all(path.bytes())?;
    // Whole before it has its name; the mode changes after that.
    file.sync_all()?;
    Ok(rustix::fs::renameat(staging, OPENED_NEW, staging, OPENED)?)
}

/// Gives a directory that [`open`] made accessible the mode that it had, also when the one who did it died in between.
pub(super) fn close_again(staging: &Tree) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = match rustix::fs::openat(staging, OPENED, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut said = Vec::new();
    file.read_to_end(&mut said)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the note of a directory's mode is damaged");
    let at = said.iter().position(|b| *b == b' ').ok_or_else(damaged)?;
    let (mode, path) = said.split_at(at);
    let mode = std::str::from_utf8(mode).ok().and_then(|m| u32::from_str_radix(m, 8).ok()).ok_or_else(damaged)?;
    let path = RelPath::noted(path.get(1..).unwrap_or_default()).ok_or_else(damaged)?;
    let (parent, name) = staging.parent(&path)?;
    super::attributes::change_mode(super::attributes::open(parent.as_fd(), &name)?.as_fd(), mode & 0o7777)?;
    fault::point()?;
    Ok(rustix::fs::unlinkat(staging, OPENED, AtFlags::empty())?)
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
