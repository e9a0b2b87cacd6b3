//! Plain shared bytes: copied in and out, never referred to.

use super::region::Region;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// A stretch of plain bytes of a region, which it keeps mapped.
#[derive(Clone)]
pub(crate) struct SharedBytes {
    _region: Arc<Region>,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the pointer is into a process-wide mapping, and the bytes are only ever copied.
unsafe impl Send for SharedBytes {}
// SAFETY: as for Send; `wire-protocol` §4 says which side may copy when.
unsafe impl Sync for SharedBytes {}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("len", &self.len).finish_non_exhaustive()
    }
}

impl SharedBytes {
    /// Made by `Region::bytes` alone, which checked that `len` bytes at `base` lie inside `region`.
    pub(super) fn new(region: Arc<Region>, base: NonNull<u8>, len: usize) -> Self {
        Self { _region: region, base, len }
    }

    /// Copies to private memory; `false` (nothing copied) past the end.
    #[must_use]
    pub(crate) fn copy_out(&self, at: usize, out: &mut [u8]) -> bool {
        copy_out(self.base, self.len, at, out)
    }

    /// Copies in; `false` (nothing copied) past the end.
    #[must_use]
    pub(crate) fn copy_in(&self, at: usize, bytes: &[u8]) -> bool {
        copy_in(self.base, self.len, at, bytes)
    }
}

/// Whether `count` bytes at `at` lie within `len`.
pub(super) fn within(at: usize, count: usize, len: usize) -> bool {
    at.checked_add(count).is_some_and(|end| end <= len)
}

/// Copies `out.len()` bytes at `at` of the `len` bytes at `base`, which lie in a live mapping.
pub(super) fn copy_out(base: NonNull<u8>, len: usize, at: usize, out: &mut [u8]) -> bool {
    if !within(at, out.len(), len) {
        return false;
    }
    // SAFETY: `within` holds, so the address lies in (or one past) the mapping.
    let from = unsafe { base.add(at) };
    // SAFETY: `out.len()` bytes from there are mapped, by `within`; `out` is private, so they do not
    // overlap. A misbehaving process may write them meanwhile: the copy is then garbage, which
    // everyone checks before use, and never something that this program holds a reference to.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().cast_const(), out.as_mut_ptr(), out.len()) };
    true
}

/// Copies `bytes` to `at` of the `len` bytes at `base`, which lie in a live mapping.
pub(super) fn copy_in(base: NonNull<u8>, len: usize, at: usize, bytes: &[u8]) -> bool {
    if !within(at, bytes.len(), len) {
        return false;
    }
    // SAFETY: `within` holds, so the address lies in (or one past) the mapping.
    let to = unsafe { base.add(at) };
    // SAFETY: `bytes.len()` bytes from there are mapped and writable, by `within`; no reference to them
    // exists anywhere (module rule), and `bytes` is private, so they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    true
}
