//! Mode, owner, times and extended attributes of one object, read and set whole.

use super::plan::Meta;
use rustix::ffi::CString;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longest list of names and longest value the kernel takes, in bytes.
const XATTR_MAX: usize = 64 << 10;

/// The object itself, never what a symbolic link points to.
pub(super) fn open(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// A directory, to be listed.
pub(super) fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// The name under which the calls that take no `O_PATH` descriptor reach exactly its object.
fn magic(object: BorrowedFd<'_>) -> io::Result<CString> {
    Ok(CString::new(format!("/proc/self/fd/{}", object.as_raw_fd()))?)
}

/// Sets the permission bits. Not for symbolic links.
pub(super) fn change_mode(object: BorrowedFd<'_>, bits: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(magic(object)?, Mode::from_raw_mode(bits))?)
}

/// What an object has now.
pub(super) fn read(object: BorrowedFd<'_>) -> io::Result<Meta> {
    let stat = rustix::fs::fstat(object)?;
    let mut xattrs = Vec::new();
    for name in names(object)? {
        if let Some(value) = value(object, &name)? {
            xattrs.push((name, value));
        }
    }
    Ok(Meta {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime: (stat.st_atime, stat.st_atime_nsec as u32),
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        xattrs,
    })
}

/// Gives an object these attributes and no others. What is right already is not touched, so that a
/// caller without the right to change it does not fail over it.
pub(super) fn write(object: BorrowedFd<'_>, meta: &Meta) -> io::Result<()> {
    let stat = rustix::fs::fstat(object)?;
    let is_link = FileType::from_raw_mode(stat.st_mode).is_symlink();
    // The owner first: changing it clears set-id bits and file capabilities.
    if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
        let uid = (stat.st_uid != meta.uid).then(|| Uid::from_raw(meta.uid));
        let gid = (stat.st_gid != meta.gid).then(|| Gid::from_raw(meta.gid));
        rustix::fs::chownat(object, c"", uid, gid, AtFlags::EMPTY_PATH)
            .map_err(|e| context(e.into(), &format!("give it to user {}, group {}", meta.uid, meta.gid)))?;
    }
    write_xattrs(object, meta)?;
    let bits = meta.mode & 0o7777;
    if !is_link && rustix::fs::fstat(object)?.st_mode & 0o7777 != bits {
        change_mode(object, bits)?;
    }
    let times = Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) };
    Ok(rustix::fs::utimensat(object, c"", &times, AtFlags::EMPTY_PATH)?)
}

fn write_xattrs(object: BorrowedFd<'_>, meta: &Meta) -> io::Result<()> {
    for name in names(object)? {
        if ours(&name) && !meta.xattrs.iter().any(|(n, _)| *n == name) {
            rustix::fs::removexattr(magic(object)?, &name).map_err(|e| context(e.into(), &told("remove", &name)))?;
        }
    }
    for (name, wanted) in &meta.xattrs {
        if value(object, name)?.as_ref() != Some(wanted) {
            rustix::fs::setxattr(magic(object)?, name, wanted, XattrFlags::empty())
                .map_err(|e| context(e.into(), &told("set", name)))?;
        }
    }
    Ok(())
}

/// Attributes that only a plan gives; others (security labels, say) come with the place.
fn ours(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name == b"security.capability"
}

fn names(object: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut buffer = vec![0_u8; XATTR_MAX];
    let length = match rustix::fs::listxattr(magic(object)?, &mut buffer) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e.into()),
    };
    let list = buffer.get(..length).unwrap_or_default();
    Ok(list.split(|b| *b == 0).filter(|n| !n.is_empty()).filter_map(|n| CString::new(n).ok()).collect())
}

fn value(object: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0_u8; XATTR_MAX];
    match rustix::fs::getxattr(magic(object)?, name, &mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn time((seconds, nanoseconds): (i64, u32)) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds.min(999_999_999).into() }
}

fn told(verb: &str, name: &CStr) -> String {
    format!("{verb} its attribute {}", shm_transport::control::escape::escape(name.to_bytes()))
}

fn context(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

/// The object at a name, with these attributes.
pub(super) fn write_at(dir: BorrowedFd<'_>, name: &CStr, meta: &Meta) -> io::Result<()> {
    write(open(dir, name)?.as_fd(), meta)
}
