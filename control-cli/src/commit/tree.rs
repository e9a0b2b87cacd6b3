//! A directory tree worked on by file descriptor only: no symbolic link in it is ever followed, and
//! nothing outside it can be reached.

use super::path::RelPath;
use rustix::ffi::{CStr, CString};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;
use shm_transport::mem::sys;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest piece of a path handed to the kernel at once.
const PIECE_MAX: usize = 3000;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Tree {
    /// Takes an open directory.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Opens the directory at `path` beneath this one, for reading, so that it can be fsynced.
    pub(super) fn open(&self, path: &RelPath) -> io::Result<OwnedFd> {
        self.walk(path, OFlags::RDONLY)
    }

    /// Opens the directory at `path` beneath this one for nothing but finding what is in it.
    pub(super) fn find(&self, path: &RelPath) -> io::Result<OwnedFd> {
        self.walk(path, OFlags::PATH)
    }

    fn walk(&self, path: &RelPath, how: OFlags) -> io::Result<OwnedFd> {
        if path.is_root() {
            return Ok(rustix::fs::openat(&self.root, c".", how | DIRECTORY, Mode::empty())?);
        }
        let mut at: Option<OwnedFd> = None;
        let mut rest = path.bytes();
        while !rest.is_empty() {
            // Cut before a slash, so that a path longer than the kernel takes at once can be walked.
            let end = if rest.len() <= PIECE_MAX {
                rest.len()
            } else {
                rest.get(..PIECE_MAX).and_then(|piece| piece.iter().rposition(|b| *b == b'/')).unwrap_or(rest.len())
            };
            let (piece, after) = rest.split_at(end);
            let flags = (how | DIRECTORY).bits() as i32;
            let from = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let next = sys::open_beneath(from, &CString::new(piece)?, flags, 0)?;
            at = Some(next);
            rest = after.strip_prefix(b"/").unwrap_or(after);
        }
        at.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The directory that holds `path`, and its name in it.
    pub(super) fn parent(&self, path: &RelPath) -> io::Result<(OwnedFd, CString)> {
        let (dir, name) =
            path.split().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the base itself stays"))?;
        Ok((self.find(&dir)?, name))
    }
}

/// Whether a name exists.
pub(super) fn exists(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    Ok(identity(dir, name)?.is_some())
}

/// Device and inode number of what a name means, if anything.
pub(super) fn identity(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<(u64, u64)>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Renames, never over something.
pub(super) fn shift(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, new: &CStr) -> io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // A file system without this flag: look first.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if exists(to, new)? {
                return Err(Errno::EXIST.into());
            }
            Ok(rustix::fs::renameat(from, name, to, new)?)
        }
        other => Ok(other?),
    }
}

/// Calls `each` with every name in a directory; `true` for directories.
pub(super) fn list(dir: BorrowedFd<'_>, mut each: impl FnMut(&CStr, bool) -> io::Result<()>) -> io::Result<()> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 8 << 10];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        let kind = if kind == rustix::fs::FileType::Unknown {
            let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::FileType::from_raw_mode(stat.st_mode)
        } else {
            kind
        };
        let is_dir = kind.is_dir();
        each(&name, is_dir)?;
    }
    Ok(())
}

/// Empties a directory of ours. Deep trees are pulled up level by level, so that neither the stack nor
/// the number of open descriptors grows with their depth. May be interrupted and called again.
pub(super) fn empty(top: BorrowedFd<'_>) -> io::Result<()> {
    let mut counter = 0_u64;
    loop {
        let mut seen = false;
        let open = rustix::fs::openat(top, c".", OFlags::RDONLY | DIRECTORY, Mode::empty())?;
        list(open.as_fd(), |name, is_dir| {
            seen = true;
            if is_dir { remove_level(top, name, &mut counter) } else { unlink(top, name) }
        })?;
        if !seen {
            return Ok(());
        }
    }
}

/// Removes one directory in `top`; its subdirectories become entries of `top`.
fn remove_level(top: BorrowedFd<'_>, name: &CStr, counter: &mut u64) -> io::Result<()> {
    if rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    make_accessible(top, name)?;
    let dir = rustix::fs::openat(top, name, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
    list(dir.as_fd(), |child, is_dir| {
        if !is_dir {
            return unlink(dir.as_fd(), child);
        }
        if rustix::fs::unlinkat(&dir, child, AtFlags::REMOVEDIR).is_ok() {
            return Ok(());
        }
        make_accessible(dir.as_fd(), child)?;
        loop {
            *counter += 1;
            let up = CString::new(format!("level-{counter}"))?;
            match shift(dir.as_fd(), child, top, &up) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
    })?;
    Ok(rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

/// Gives the owner every right to a directory, where it lacks one.
pub(super) fn make_accessible(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() || stat.st_mode & 0o700 == 0o700 {
        return Ok(());
    }
    let object = rustix::fs::openat(dir, name, OFlags::PATH | DIRECTORY, Mode::empty())?;
    super::attributes::change_mode(object.as_fd(), (stat.st_mode & 0o7777) | 0o700)
}

fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
