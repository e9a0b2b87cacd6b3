//! A named shared-memory segment of 64-bit words (package `shared_memory`), all of them atomics.

use shared_memory::{Shmem, ShmemConf, ShmemError};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

/// The segment, mapped for reading and writing. It outlives the process: nobody unlinks it on drop.
pub(crate) struct Segment {
    shmem: Shmem,
    words: usize,
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

/// Whether a segment of that name belongs to `owner` or root, so that nobody else can have cut it short
/// or filled it.
fn is_trusted(name: &str, owner: u32, len: usize) -> io::Result<bool> {
    let meta = std::fs::symlink_metadata(file_of(name))?;
    Ok(meta.is_file() && (meta.uid() == owner || meta.uid() == 0) && meta.len() == len as u64)
}

impl Segment {
    /// Makes a segment of `words` words, all zero. `AlreadyExists` when there is one of that name.
    pub(crate) fn create(name: &str, words: usize) -> io::Result<Self> {
        let shmem = ShmemConf::new().os_id(name).size(words * size_of::<u64>()).create().map_err(io_error)?;
        Self::checked(shmem, words)
    }

    /// Opens the segment of that name. `PermissionDenied` when it is not `owner`'s or of other length.
    pub(crate) fn open(name: &str, words: usize, owner: u32) -> io::Result<Self> {
        if !is_trusted(name, owner, words * size_of::<u64>())? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Self::checked(ShmemConf::new().os_id(name).open().map_err(io_error)?, words)
    }

    fn checked(mut shmem: Shmem, words: usize) -> io::Result<Self> {
        shmem.set_owner(false);
        // A mapping begins at a page, so that its words are aligned.
        if shmem.len() < words * size_of::<u64>() || !shmem.as_ptr().addr().is_multiple_of(align_of::<u64>()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { shmem, words })
    }
}

impl Deref for Segment {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `checked` made sure of length and alignment, `shmem` keeps it mapped, and atomics are
        // valid for any bits whoever writes them. That the file is not cut short rests on `is_trusted`:
        // only the store's owner and root can, and neither does.
        unsafe { std::slice::from_raw_parts(self.shmem.as_ptr().cast(), self.words) }
    }
}
