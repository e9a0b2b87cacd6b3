//! The directory tree of the content files: `<second byte up>/<byte up>/<number>`, all in hex, so that
//! 256 files with consecutive numbers share a directory.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::failed::Failed;
use super::host::Host;
use crate::core::ids::ContentId;

/// Number of the directory that a content file lies in.
type Leaf = u16;

fn leaf(id: ContentId) -> Leaf {
    (id.0 >> 8) as Leaf
}

fn leaf_path(leaf: Leaf) -> String {
    format!("{:02x}/{:02x}", leaf >> 8, leaf & 0xff)
}

/// Path of a content file below the root.
pub(super) fn relative(id: ContentId) -> String {
    format!("{}/{:016x}", leaf_path(leaf(id)), id.0)
}

/// How many names a directory got, and how many of them are durable. What earlier runs did to it is
/// one change that is not known to be durable.
#[derive(Debug, Clone, Copy)]
struct Names {
    made: u64,
    durable: u64,
}

impl Default for Names {
    fn default() -> Self {
        Self { made: 1, durable: 0 }
    }
}

/// The top directory.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    dir: OwnedFd,
    names: Mutex<HashMap<Leaf, Names>>,
    pub(super) host: Arc<dyn Host>,
    pub(super) failed: Failed,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Root {
    pub(super) fn open(path: &Path, host: Arc<dyn Host>) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let dir = OwnedFd::from(fs::File::open(path)?);
        Ok(Self { path: path.to_owned(), dir, names: Mutex::default(), host, failed: Failed::default() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn openat(&self, id: ContentId, flags: OFlag) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(openat(&self.dir, relative(id).as_str(), flags, Mode::from_bits_truncate(0o600))?)
    }

    /// Makes the file, and the directories above it when they are missing.
    pub(super) fn create(&self, id: ContentId) -> io::Result<OwnedFd> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        self.host.creates(id)?;
        // Each obstacle is cleared at most once.
        for _ in 0..2 {
            match self.openat(id, flags) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.make_directories(leaf(id))?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.unlink(id)?,
                other => return self.note_created(id, other),
            }
        }
        self.note_created(id, self.openat(id, flags))
    }

    fn note_created(&self, id: ContentId, made: io::Result<OwnedFd>) -> io::Result<OwnedFd> {
        if made.is_ok() {
            self.names.lock().unwrap_or_else(PoisonError::into_inner).entry(leaf(id)).or_default().made += 1;
        }
        made
    }

    fn make_directories(&self, leaf: Leaf) -> io::Result<()> {
        let path = leaf_path(leaf);
        let upper = path.get(..2).unwrap_or_default();
        for dir in [upper, path.as_str()] {
            match mkdirat(&self.dir, dir, Mode::from_bits_truncate(0o700)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    pub(super) fn stat(&self, id: ContentId) -> io::Result<FileStat> {
        Ok(fstatat(&self.dir, relative(id).as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    pub(super) fn unlink(&self, id: ContentId) -> io::Result<()> {
        self.host.removes(id)?;
        match unlinkat(&self.dir, relative(id).as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        self.failed.forget(id);
        Ok(())
    }

    /// Makes the name of a content file durable, together with the others in its directory.
    pub(super) fn sync_name(&self, id: ContentId) -> io::Result<()> {
        let leaf = leaf(id);
        let names = *self.names.lock().unwrap_or_else(PoisonError::into_inner).entry(leaf).or_default();
        if names.durable >= names.made {
            return Ok(());
        }
        let path = leaf_path(leaf);
        self.sync_directory(&path)?;
        if names.durable == 0 {
            // The directory itself may be new.
            self.sync_directory(path.get(..2).unwrap_or_default())?;
            self.host.sync_directory("", self.dir.as_fd())?;
        }
        let mut all = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let now = all.entry(leaf).or_default();
        now.durable = now.durable.max(names.made);
        Ok(())
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.host.sync_directory(path, openat(&self.dir, path, DIRECTORY, Mode::empty())?.as_fd())
    }
}
