//! What a step must find in the base before it takes it away or changes it, so that nothing is lost that
//! somebody else put there after the plan was made.
//!
//! An object is looked at before it is taken, and once more when it is in the staging directory, where no
//! path leads to it any more: between the two looks nothing can come in its place unseen. What is left is a
//! program that had the file open before and writes to it now; such a write goes the way of the file.

use super::path::RelPath;
use super::plan::{Expected, Meta};
use super::removable;
use super::tree::{self, Tree};
use super::work::Work;
use rustix::ffi::CStr;
use rustix::fs::{AtFlags, FileType, Stat, StatxAttributes, StatxFlags};
use shm_transport::control::PlanWas;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Another program changed the base while the commit ran.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Changed(String);

/// The error that says so.
pub(super) fn changed(what: impl Into<String>) -> io::Error {
    io::Error::other(Changed(what.into()))
}

/// Whether an error says so.
pub(super) fn is_changed(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Changed>)
}

fn is_dir(mode: u32) -> bool {
    FileType::from_raw_mode(mode).is_dir()
}

/// Whether an object is the one that was expected, unchanged. What is in a directory is another matter.
pub(super) fn is_same(stat: &Stat, was: &PlanWas) -> bool {
    let place = (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_gid) == (was.ino, was.mode, was.uid, was.gid);
    let content = is_dir(stat.st_mode)
        || (u64::try_from(stat.st_size) == Ok(was.size) && (stat.st_mtime, stat.st_mtime_nsec as u32) == was.mtime);
    place && content
}

/// Whether an object has these attributes, as after it was made.
fn looks_made(stat: &Stat, meta: &Meta) -> bool {
    let link = FileType::from_raw_mode(stat.st_mode).is_symlink();
    let mode = FileType::from_raw_mode(stat.st_mode) == FileType::from_raw_mode(meta.mode)
        && (link || stat.st_mode & 0o7777 == meta.mode & 0o7777);
    // Some file systems keep coarser times.
    let nanos = stat.st_mtime_nsec as u32;
    let time = stat.st_mtime == meta.mtime.0 && (nanos == meta.mtime.1 || nanos.is_multiple_of(100));
    mode && time && (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid)
}

/// What is at a name, not followed.
pub(super) fn look(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Refuses what is not as expected; `None` expects nothing there.
pub(super) fn check(stat: &Stat, was: Option<&PlanWas>) -> io::Result<()> {
    match was {
        None => Err(changed("something was put there")),
        Some(was) if stat.st_ino != was.ino => Err(changed("something else was put there")),
        Some(was) if !is_same(stat, was) => Err(changed("it was changed")),
        Some(_) => Ok(()),
    }
}

/// Refuses a place where something is mounted: the plan speaks of what that covers.
fn check_uncovered(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let found = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    if found.stx_attributes.intersects(StatxAttributes::MOUNT_ROOT) {
        return Err(rustix::io::Errno::BUSY.into());
    }
    Ok(())
}

/// Looks, takes and looks again: `dir/name` goes to the staging directory as `to`.
pub(super) fn take(
    work: &Work,
    (dir, name): (BorrowedFd<'_>, &CStr),
    to: &CStr,
    was: Option<&PlanWas>,
) -> io::Result<()> {
    let stat = look(dir, name)?.ok_or(io::ErrorKind::NotFound)?;
    check_uncovered(dir, name)?;
    check(&stat, was)?;
    super::fault::point()?;
    tree::shift(dir, name, work.stage(), to)
}

/// Checks what was taken, with all that is in a directory.
pub(super) fn check_taken(work: &Work, taken: &CStr, was: Option<&PlanWas>) -> io::Result<()> {
    let stat = look(work.stage(), taken)?.ok_or(io::ErrorKind::NotFound)?;
    check(&stat, was)?;
    if is_dir(stat.st_mode) {
        check_inside(&work.staging, RelPath::root().child(taken), &work.plan.inside)?;
    }
    Ok(())
}

fn check_inside(staging: &Tree, top: RelPath, inside: &HashMap<u64, PlanWas>) -> io::Result<()> {
    let mut left = vec![top];
    while let Some(path) = left.pop() {
        let dir = removable::open(staging, &path)?;
        let holder = rustix::fs::fstat(&dir)?;
        tree::list(dir.as_fd(), |name, _| {
            let Some(stat) = look(dir.as_fd(), name)? else { return Ok(()) };
            let shown = || shm_transport::control::escape::escape(name.to_bytes());
            match inside.get(&stat.st_ino) {
                None => return Err(changed(format!("{} was added in it", shown()))),
                Some(was) if !is_same(&stat, was) => return Err(changed(format!("{} in it was changed", shown()))),
                Some(_) => {}
            }
            removable::check(dir.as_fd(), &holder, name, &stat)
                .map_err(|e| io::Error::new(e.kind(), format!("{} in it cannot be removed: {e}", shown())))?;
            if is_dir(stat.st_mode) {
                left.push(path.child(name));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether what stands at a place is what a step put there, so that taking it back loses nothing.
pub(super) fn is_ours(work: &Work, dir: BorrowedFd<'_>, name: &CStr, ours: &Ours<'_>) -> io::Result<bool> {
    let Some(stat) = look(dir, name)? else { return Ok(false) };
    Ok(match ours {
        Ours::Directory => is_dir(stat.st_mode) && is_empty(dir, name)?,
        Ours::Made(meta) => looks_made(&stat, meta),
        Ours::Moved(expected) => expected.moved.is_none_or(|was| stat.st_ino == was.ino),
        Ours::Link(target) => {
            let (at, target) = work.base.parent(target)?;
            tree::identity(at.as_fd(), &target)? == Some((stat.st_dev, stat.st_ino))
        }
    })
}

fn is_empty(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    tree::make_accessible(dir, name)?;
    let open = super::attributes::open_directory(dir, name)?;
    let mut empty = true;
    tree::list(open.as_fd(), |_, _| {
        empty = false;
        Ok(())
    })?;
    Ok(empty)
}

/// What a step put into place.
pub(super) enum Ours<'a> {
    /// A new directory, in which nothing is left.
    Directory,
    /// Something new.
    Made(&'a Meta),
    /// An object of the base.
    Moved(&'a Expected),
    /// A further name of what is at this path.
    Link(&'a RelPath),
}
