//! A mapped shared-memory file: made and sealed by one process, checked and mapped by the others.

use super::bytes::SharedBytes;
use super::cells::Shared;
use super::payload::Payload;
use memfd::{FileSeal, Memfd, MemfdOptions};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// The seals of a region: its length is fixed for good, so that no access can fault.
const SEALS: [FileSeal; 3] = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];

/// A shared mapping of a whole sealed memfd, unmapped on drop.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; the methods below hand out only atomic
// cells and raw copies.
unsafe impl Send for Region {}
// SAFETY: as for Send.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("len", &self.len).finish_non_exhaustive()
    }
}

fn seal_error(e: memfd::Error) -> io::Error {
    match e {
        memfd::Error::Create(e) | memfd::Error::AddSeals(e) | memfd::Error::GetSeals(e) => e,
    }
}

impl Region {
    /// Makes a sealed memfd of `len` bytes, all zero, and maps it.
    pub(crate) fn create(name: &str, len: usize) -> io::Result<(OwnedFd, Arc<Self>)> {
        let memfd = MemfdOptions::new().allow_sealing(true).create(name).map_err(seal_error)?;
        memfd.as_file().set_len(len as u64)?;
        memfd.add_seals(&SEALS).map_err(seal_error)?;
        let fd = OwnedFd::from(memfd.into_file());
        let region = Self::map(&fd, len)?;
        Ok((fd, region))
    }

    /// Maps a region that somebody else made. `InvalidData` when it is not a memfd, could shrink under
    /// us, cannot be written, or is longer than `len_max` bytes.
    pub(crate) fn attach(fd: BorrowedFd<'_>, len_max: usize) -> io::Result<Arc<Self>> {
        let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let memfd = Memfd::try_from_file(File::from(fd.try_clone_to_owned()?))
            .map_err(|_| invalid("the region's file descriptor is not a memfd"))?;
        let seals = memfd.seals().map_err(seal_error)?;
        if !SEALS.iter().all(|seal| seals.contains(seal)) {
            return Err(invalid("the region is not sealed against shrinking and growing"));
        }
        if seals.contains(&FileSeal::SealWrite) || seals.contains(&FileSeal::SealFutureWrite) {
            return Err(invalid("the region is sealed against writing"));
        }
        // Huge pages are not there until they are touched, and then perhaps not at all: that kills.
        if fstatfs(memfd.as_file())?.filesystem_type() != TMPFS_MAGIC {
            return Err(invalid("the region is not of ordinary memory"));
        }
        let len = usize::try_from(memfd.as_file().metadata()?.len()).map_err(|_| invalid("the region is too long"))?;
        if len == 0 || len > len_max {
            return Err(invalid("the region's length is out of bounds"));
        }
        Self::map(&OwnedFd::from(memfd.into_file()), len)
    }

    fn map(fd: &OwnedFd, len: usize) -> io::Result<Arc<Self>> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing of ours.
        let base = unsafe { mmap(None, size, prot, flags, fd, 0) }?;
        Ok(Arc::new(Self { base: base.cast(), len }))
    }

    /// Length, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Address of `count * size` bytes at `offset`, if they lie inside and are aligned.
    fn locate(&self, offset: usize, size: usize, count: usize, align: usize) -> Option<NonNull<u8>> {
        let end = size.checked_mul(count)?.checked_add(offset)?;
        if end > self.len || !offset.is_multiple_of(align) {
            return None;
        }
        // SAFETY: `offset <= end <= len`, checked above: the result stays inside the mapping, which is
        // page aligned, so that an aligned offset is an aligned address.
        Some(unsafe { self.base.add(offset) })
    }

    /// One structure of atomic cells; `None` when it would not lie inside, aligned.
    pub(crate) fn cell<T: Shared>(self: &Arc<Self>, offset: usize) -> Option<Cell<T>> {
        let base = self.locate(offset, size_of::<T>(), 1, align_of::<T>())?.cast();
        Some(Cell { _region: Arc::clone(self), base, kind: PhantomData })
    }

    /// `count` structures of atomic cells in a row; `None` when they would not lie inside, aligned.
    pub(crate) fn cells<T: Shared>(self: &Arc<Self>, offset: usize, count: usize) -> Option<Cells<T>> {
        let base = self.locate(offset, size_of::<T>(), count, align_of::<T>())?.cast();
        Some(Cells { _region: Arc::clone(self), base, count, kind: PhantomData })
    }

    /// Plain bytes; `None` when they would not lie inside.
    pub(crate) fn bytes(self: &Arc<Self>, offset: usize, len: usize) -> Option<SharedBytes> {
        let base = self.locate(offset, len, 1, 1)?;
        Some(SharedBytes::new(Arc::clone(self), base, len))
    }

    /// A payload buffer; `None` when it would not lie inside.
    pub(crate) fn payload(&self, offset: usize, capacity: usize) -> Option<Payload<'_>> {
        Some(Payload::new(self.locate(offset, capacity, 1, 1)?, capacity))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping made in `map`, unmapped only here; whoever
        // points into it holds an `Arc` of this or borrows it.
        let unmapped = unsafe { nix::sys::mman::munmap(self.base.cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of a mapping of ours");
    }
}

/// One structure of atomic cells in a region, which it keeps mapped. Behaves as a reference to it.
pub(crate) struct Cell<T> {
    _region: Arc<Region>,
    base: NonNull<T>,
    kind: PhantomData<T>,
}

// SAFETY: gives nothing but `&T`, and `T: Shared` is `Sync`.
unsafe impl<T: Shared> Send for Cell<T> {}
// SAFETY: as for Send.
unsafe impl<T: Shared> Sync for Cell<T> {}

impl<T> fmt::Debug for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell").finish_non_exhaustive()
    }
}

impl<T: Shared> Deref for Cell<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `Region::cell` checked bounds and alignment, the region is kept mapped by `_region`,
        // and `T: Shared` consists of atomics, valid for any bits whoever writes them.
        unsafe { self.base.as_ref() }
    }
}

/// Structures of atomic cells in a region, which they keep mapped. Behaves as a slice of them.
pub(crate) struct Cells<T> {
    _region: Arc<Region>,
    base: NonNull<T>,
    count: usize,
    kind: PhantomData<T>,
}

// SAFETY: gives nothing but `&T`, and `T: Shared` is `Sync`.
unsafe impl<T: Shared> Send for Cells<T> {}
// SAFETY: as for Send.
unsafe impl<T: Shared> Sync for Cells<T> {}

impl<T> fmt::Debug for Cells<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cells").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<T: Shared> Deref for Cells<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `Region::cells` checked bounds and alignment of `count` structures, the region is kept
        // mapped by `_region`, and `T: Shared` consists of atomics, valid for any bits whoever
        // writes them.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

#[cfg(test)]
mod tests;
