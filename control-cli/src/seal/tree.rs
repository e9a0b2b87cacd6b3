//! What a directory has in it. Reached beneath its root; no link is followed and no mount entered.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use shm_transport::control::seal::{Entry, PLAIN, Time};
use shm_transport::mem::sys::{read_only_clone, xattrs_of_path_fd};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A failure at a path below the root.
pub(super) type Failed = (PathBuf, io::Error);

/// The directory that is copied.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    device: (u32, u32),
}

/// All that a directory has in it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// By directory and name.
    pub(super) entries: Vec<Entry>,
    /// One path of every regular file.
    pub(super) files: HashMap<u64, PathBuf>,
}

pub(super) fn look(fd: impl AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?)
}

fn time(t: StatxTimestamp) -> Time {
    (t.tv_sec, t.tv_nsec)
}

/// As a list has it, without extended attributes and target.
pub(super) fn entry(parent: u64, name: &[u8], stat: &Statx) -> Entry {
    let born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    Entry {
        parent,
        name: name.to_vec(),
        ino: stat.stx_ino,
        mode: u32::from(stat.stx_mode),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink,
        rdev: ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & 0xfff00) << 12),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        btime: if born { time(stat.stx_btime) } else { (0, 0) },
        target: Vec::new(),
        xattrs: Vec::new(),
    }
}

fn beneath(dir: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
            // Something was renamed during the resolution.
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

impl Root {
    /// Without what is mounted in it, where that can be had.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match read_only_clone(path) {
            Ok(fd) => fd,
            Err(_) => rustix::fs::open(path, flags, Mode::empty())?,
        };
        let stat = look(&fd)?;
        Ok(Self { fd, device: (stat.stx_dev_major, stat.stx_dev_minor) })
    }

    /// A file, to read its bytes.
    pub(super) fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match beneath(&self.fd, path, flags | OFlags::NOATIME) {
            Err(e) if is(&e, Errno::PERM) => beneath(&self.fd, path, flags),
            other => other,
        }
    }

    /// Looks at everything. What goes meanwhile is left out.
    pub(super) fn scan(&self) -> Result<Tree, Failed> {
        let mut tree = Tree::default();
        let at_root = |e| (PathBuf::new(), e);
        let top = self.object(&self.fd, 0, b"").map_err(at_root)?;
        let mut left = vec![(PathBuf::new(), top.ino)];
        tree.entries.push(top);
        while let Some((path, ino)) = left.pop() {
            let listed = self.list(&path, ino, &mut tree, &mut left);
            match listed {
                Err((_, e)) if is(&e, Errno::NOENT) || is(&e, Errno::NOTDIR) || is(&e, Errno::LOOP) => {}
                other => other?,
            }
        }
        tree.entries.sort_unstable_by(|a, b| (a.parent, &a.name).cmp(&(b.parent, &b.name)));
        Ok(tree)
    }

    fn list(&self, path: &Path, ino: u64, tree: &mut Tree, left: &mut Vec<(PathBuf, u64)>) -> Result<(), Failed> {
        let here = |e: io::Error| (path.to_owned(), e);
        let dir = beneath(&self.fd, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(here)?;
        let within = look(&dir).map_err(here)?;
        for found in Dir::read_from(&dir).map_err(|e| here(e.into()))? {
            let found = found.map_err(|e| here(e.into()))?;
            let name = found.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let path = path.join(name);
            let fd = match beneath(&dir, Path::new(name), OFlags::PATH) {
                Ok(fd) => fd,
                Err(e) if is(&e, Errno::NOENT) => continue,
                // A mount covers it, and what is below cannot be seen.
                Err(e) if is(&e, Errno::XDEV) => {
                    if found.file_type() == FileType::Directory {
                        tree.entries.push(covered(&entry(ino, name.as_bytes(), &within), found.ino()));
                    }
                    continue;
                }
                Err(e) => return Err((path, e)),
            };
            let entry = self.object(&fd, ino, name.as_bytes()).map_err(|e| (path.clone(), e))?;
            if entry.is_directory() {
                left.push((path, entry.ino));
            } else if entry.is_file() {
                tree.files.insert(entry.ino, path);
            }
            tree.entries.push(entry);
        }
        Ok(())
    }

    fn object(&self, fd: &OwnedFd, parent: u64, name: &[u8]) -> io::Result<Entry> {
        let stat = look(fd)?;
        if (stat.stx_dev_major, stat.stx_dev_minor) != self.device {
            return Err(io::Error::other("it is a subvolume, whose inode numbers may be those of others"));
        }
        if !PLAIN.contains(&stat.stx_ino) {
            return Err(io::Error::other(format!("its inode number {} cannot be kept", stat.stx_ino)));
        }
        let mut entry = entry(parent, name, &stat);
        entry.xattrs = xattrs_of_path_fd(fd.as_fd())?;
        if FileType::from_raw_mode(entry.mode) == FileType::Symlink {
            entry.target = rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes();
        }
        Ok(entry)
    }
}

/// What a mount covers, as the daemon shows it where it cannot look below: an empty directory.
fn covered(like: &Entry, ino: u64) -> Entry {
    Entry {
        ino,
        mode: FileType::Directory.as_raw_mode() | 0o755,
        nlink: 2,
        size: 0,
        blocks: 0,
        btime: (0, 0),
        ..like.clone()
    }
}
