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
/// Room for most of them.
const XATTR_USUAL: usize = 256;

/// How an object is reached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Object<'a> {
    /// By a descriptor that every call takes.
    Open(BorrowedFd<'a>),
    /// By one that only leads to it (`O_PATH`).
    Found(BorrowedFd<'a>),
}

impl<'a> Object<'a> {
    fn fd(self) -> BorrowedFd<'a> {
        match self {
            Self::Open(fd) | Self::Found(fd) => fd,
        }
    }

    fn list(self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Found(fd) => rustix::fs::listxattr(magic(fd)?, buffer),
        }
        .map_err(Into::into)
    }

    fn get(self, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Found(fd) => rustix::fs::getxattr(magic(fd)?, name, buffer),
        }
        .map_err(Into::into)
    }

    fn set(self, name: &CStr, value: &[u8]) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Found(fd) => rustix::fs::setxattr(magic(fd)?, name, value, XattrFlags::empty()),
        }
        .map_err(Into::into)
    }

    fn remove(self, name: &CStr) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Self::Found(fd) => rustix::fs::removexattr(magic(fd)?, name),
        }
        .map_err(Into::into)
    }

    fn change_mode(self, bits: u32) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, Mode::from_raw_mode(bits)).map_err(Into::into),
            Self::Found(fd) => change_mode(fd, bits),
        }
    }

    fn set_times(self, times: &Timestamps) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Found(fd) => rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH),
        }
        .map_err(Into::into)
    }
}

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
    let object = Object::Found(object);
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
pub(super) fn write(object: Object<'_>, meta: &Meta) -> io::Result<()> {
    let stat = rustix::fs::fstat(object.fd())?;
    let is_link = FileType::from_raw_mode(stat.st_mode).is_symlink();
    let mut mode = stat.st_mode;
    // The owner first: changing it clears set-id bits and file capabilities.
    let owned = (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid);
    if !owned {
        let uid = (stat.st_uid != meta.uid).then(|| Uid::from_raw(meta.uid));
        let gid = (stat.st_gid != meta.gid).then(|| Gid::from_raw(meta.gid));
        rustix::fs::chownat(object.fd(), c"", uid, gid, AtFlags::EMPTY_PATH)
            .map_err(|e| context(e.into(), &format!("give it to user {}, group {}", meta.uid, meta.gid)))?;
    }
    // An ACL has permission bits.
    if write_xattrs(object, meta)? || !owned {
        mode = rustix::fs::fstat(object.fd())?.st_mode;
    }
    let bits = meta.mode & 0o7777;
    if !is_link && mode & 0o7777 != bits {
        object.change_mode(bits)?;
    }
    let times = Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) };
    object.set_times(&times)
}

/// Whether anything had to be changed.
fn write_xattrs(object: Object<'_>, meta: &Meta) -> io::Result<bool> {
    let mut changed = false;
    for name in names(object)? {
        if ours(&name) && !meta.xattrs.iter().any(|(n, _)| *n == name) {
            object.remove(&name).map_err(|e| context(e, &told("remove", &name)))?;
            changed = true;
        }
    }
    for (name, wanted) in &meta.xattrs {
        if value(object, name)?.as_ref() != Some(wanted) {
            object.set(name, wanted).map_err(|e| context(e, &told("set", name)))?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Attributes that only a plan gives; others (security labels, say) come with the place.
fn ours(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name == b"security.capability"
}

fn names(object: Object<'_>) -> io::Result<Vec<CString>> {
    let list = filled(|buffer| object.list(buffer), Errno::NOTSUP)?.unwrap_or_default();
    Ok(list.split(|b| *b == 0).filter(|n| !n.is_empty()).filter_map(|n| CString::new(n).ok()).collect())
}

fn value(object: Object<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    filled(|buffer| object.get(name, buffer), Errno::NODATA)
}

/// What a call writes into a buffer that is large enough; nothing where it says `none`, or knows no such attributes.
fn filled(mut call: impl FnMut(&mut [u8]) -> io::Result<usize>, none: Errno) -> io::Result<Option<Vec<u8>>> {
    let mut size = XATTR_USUAL;
    loop {
        let mut buffer = vec![0_u8; size];
        match call(&mut buffer).map_err(|e| (Errno::from_io_error(&e), e)) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err((Some(Errno::RANGE), _)) if size < XATTR_MAX => size = XATTR_MAX,
            Err((Some(errno), _)) if errno == none || errno == Errno::NOTSUP => return Ok(None),
            Err((_, e)) => return Err(e),
        }
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
    write(Object::Found(open(dir, name)?.as_fd()), meta)
}
