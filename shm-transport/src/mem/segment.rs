//! A named shared-memory segment of 64-bit words (package `shared_memory`), all of them atomics.

use nix::fcntl::{FallocateFlags, fallocate};
use shared_memory::{Shmem, ShmemConf, ShmemError};
use std::fmt;
use std::fs::{Metadata, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

/// The segment, mapped for reading and writing. It outlives the process unless it is removed.
pub(crate) struct Segment {
    memory: Memory,
    words: usize,
}

enum Memory {
    /// With device and inode of its file, so that nobody else's is removed.
    Named { shmem: Shmem, identity: (u64, u64) },
    /// Of this process alone.
    Private(Box<[AtomicU64]>),
}

// SAFETY: the mapping belongs to the process, not to a thread, and only atomics in it are handed out.
unsafe impl Send for Segment {}
// SAFETY: as for Send.
unsafe impl Sync for Segment {}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("words", &self.words).finish_non_exhaustive()
    }
}

fn io_error(e: ShmemError) -> io::Error {
    if let ShmemError::MapOpenFailed(n) | ShmemError::MapCreateFailed(n) | ShmemError::UnknownOsError(n) = e {
        return io::Error::from_raw_os_error(n.cast_signed());
    }
    if matches!(e, ShmemError::MappingIdExists) {
        return io::ErrorKind::AlreadyExists.into();
    }
    io::Error::other(e)
}

/// The file by which Linux shows a named segment.
pub(crate) fn file_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/{name}"))
}

fn is_segment(meta: &Metadata, words: usize) -> bool {
    meta.is_file() && meta.len() == (words * size_of::<u64>()) as u64
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn foreign(meta: &Metadata) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {}", meta.uid()))
}

/// Has memory set aside for every page: touching one that cannot be had later would kill the process.
fn reserve(path: &Path, words: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    Ok(fallocate(file, FallocateFlags::empty(), 0, (words * size_of::<u64>()) as i64)?)
}

impl Segment {
    /// The segment of that name for its writer: what a process of the same user left, or a new one, all zero. One
    /// that another user could change is not used. `PermissionDenied` when it cannot be replaced either, which
    /// only root may do, and only what belongs to `owner`.
    pub(crate) fn take_over(name: &str, words: usize, owner: u32) -> io::Result<Self> {
        let own = nix::unistd::geteuid().as_raw();
        let path = file_of(name);
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(meta) if meta.uid() == own && is_segment(&meta, words) => {
                reserve(&path, words)?;
                return Self::checked(ShmemConf::new().os_id(name).open().map_err(io_error)?, identity(&meta), words);
            }
            // Of another release, or from before root took the store over.
            Ok(meta) if meta.uid() == own || (own == 0 && meta.uid() == owner) => std::fs::remove_file(&path)?,
            Ok(meta) => return Err(foreign(&meta)),
        }
        Self::create(name, words)
    }

    fn create(name: &str, words: usize) -> io::Result<Self> {
        let shmem = ShmemConf::new().os_id(name).size(words * size_of::<u64>()).create().map_err(io_error)?;
        let path = file_of(name);
        let ready = reserve(&path, words).and_then(|()| std::fs::symlink_metadata(&path));
        match ready {
            Ok(meta) => Self::checked(shmem, identity(&meta), words),
            Err(e) => {
                // Dropped by its owner, it goes.
                drop(shmem);
                Err(e)
            }
        }
    }

    /// Opens the segment of that name. `PermissionDenied` when it is neither `owner`'s nor root's,
    /// `InvalidData` when it is not of `words` words.
    pub(crate) fn open(name: &str, words: usize, owner: u32) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(file_of(name))?;
        if meta.uid() != owner && meta.uid() != 0 {
            return Err(foreign(&meta));
        }
        if !is_segment(&meta, words) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another release"));
        }
        Self::checked(ShmemConf::new().os_id(name).open().map_err(io_error)?, identity(&meta), words)
    }

    /// One that nobody else sees.
    pub(crate) fn private(words: usize) -> Self {
        Self { memory: Memory::Private((0..words).map(|_| AtomicU64::new(0)).collect()), words }
    }

    fn checked(mut shmem: Shmem, identity: (u64, u64), words: usize) -> io::Result<Self> {
        shmem.set_owner(false);
        // A mapping begins at a page, so that its words are aligned.
        if shmem.len() < words * size_of::<u64>() || !shmem.as_ptr().addr().is_multiple_of(align_of::<u64>()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { memory: Memory::Named { shmem, identity }, words })
    }

    /// Removes the name; who has the segment open keeps it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let Memory::Named { shmem, identity: ours } = &self.memory else { return Ok(()) };
        let path = file_of(shmem.get_os_id());
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if identity(&meta) == *ours => std::fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl Deref for Segment {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        match &self.memory {
            Memory::Private(words) => words,
            // SAFETY: `checked` made sure of length and alignment, `shmem` keeps it mapped, and atomics are
            // valid for any bits whoever writes them. That the file is not cut short rests on
            // `take_over` and `open`: only a writer's own user, the store's owner and root can, and none does.
            Memory::Named { shmem, .. } => unsafe { std::slice::from_raw_parts(shmem.as_ptr().cast(), self.words) },
        }
    }
}
