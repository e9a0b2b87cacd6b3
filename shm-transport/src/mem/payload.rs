//! The payload buffer of a slot.

use super::bytes;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A page-aligned buffer of `capacity` bytes in the region's slab. The peer can write to it at any
/// time, so bytes are only copied in and out or moved by the kernel; no reference to them exists.
#[derive(Debug)]
pub struct Payload<'a> {
    base: NonNull<u8>,
    capacity: usize,
    region: PhantomData<&'a ()>,
}

fn past_end() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "length exceeds the payload buffer")
}

/// The result of a read or write system call.
fn count(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

fn iovec(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast(), iov_len: len }
}

impl Payload<'_> {
    /// Made by `Region::payload` alone, which checked that `capacity` bytes at `base` lie inside the
    /// region that the lifetime borrows.
    pub(super) fn new(base: NonNull<u8>, capacity: usize) -> Self {
        Self { base, capacity, region: PhantomData }
    }

    /// Room, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies `out.len()` bytes at `at` to private memory; `false` (nothing copied) past the end.
    #[must_use]
    pub fn copy_out(&self, at: usize, out: &mut [u8]) -> bool {
        bytes::copy_out(self.base, self.capacity, at, out)
    }

    /// The first `len` bytes as a private copy; `None` when `len` is over the capacity.
    pub fn to_vec(&self, len: usize) -> Option<Vec<u8>> {
        if len > self.capacity {
            return None;
        }
        let mut out = vec![0; len];
        self.copy_out(0, &mut out).then_some(out)
    }

    /// Copies `bytes` in at `at`; `false` (nothing copied) when they do not fit.
    #[must_use]
    pub fn copy_in(&mut self, at: usize, bytes: &[u8]) -> bool {
        bytes::copy_in(self.base, self.capacity, at, bytes)
    }

    /// Address of the byte at `at`, for the kernel to fill or to take from.
    fn at(&self, at: usize) -> io::Result<NonNull<u8>> {
        if at > self.capacity {
            return Err(past_end());
        }
        // SAFETY: `at <= capacity`, and `new`'s caller checked that `capacity` bytes are mapped.
        Ok(unsafe { self.base.add(at) })
    }

    /// `pread` of up to `len` bytes at `offset` of `fd` straight into the buffer at 0. Loops until `len`
    /// or end of file; an error after some bytes returns those bytes.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        self.transfer(len, |to, rest, done| {
            let position = position(offset, done)?;
            // SAFETY: `transfer` gives `rest` bytes inside the buffer, which nobody holds a reference to.
            count(unsafe { libc::pread(fd.as_raw_fd(), to.as_ptr().cast(), rest, position) })
        })
    }

    /// As [`Self::read_from`], of what lies in memory already (`preadv2` with `RWF_NOWAIT`): `WouldBlock`,
    /// whatever the buffer holds then, when any of it must be read from a disk.
    pub fn read_cached(&mut self, fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        if len > self.capacity {
            return Err(past_end());
        }
        let mut done = 0;
        while done < len {
            let part = iovec(self.at(done)?.as_ptr(), len - done);
            let position = position(offset, done)?;
            // SAFETY: the part is `len - done` bytes from `done` on, inside the buffer by the check above,
            // which nobody holds a reference to.
            let read = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, position, libc::RWF_NOWAIT) };
            match count(read) {
                Ok(0) => break,
                Ok(read) => done += read.min(len - done),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A file system that cannot tell: it may wait.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// `pwrite` of the first `len` bytes to `offset` of `fd`. Loops until all is written or an error;
    /// returns what was written before an error if anything was.
    pub fn write_to(&self, fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        self.transfer(len, |from, rest, done| {
            let position = position(offset, done)?;
            // SAFETY: `transfer` gives `rest` bytes inside the buffer; the kernel only reads them.
            count(unsafe { libc::pwrite(fd.as_raw_fd(), from.as_ptr().cast_const().cast(), rest, position) })
        })
    }

    /// Calls `step(address, rest, done)` until `len` bytes are done or it moves none.
    fn transfer(
        &self,
        len: usize,
        mut step: impl FnMut(NonNull<u8>, usize, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if len > self.capacity {
            return Err(past_end());
        }
        let mut done = 0;
        while done < len {
            match step(self.at(done)?, len - done, done) {
                Ok(0) => break,
                Ok(moved) => done += moved.min(len - done),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// One `readv` from `fd`: first into `head` (private), the rest into the buffer. Returns bytes read in all.
    pub fn readv_split(&mut self, fd: BorrowedFd<'_>, head: &mut [u8]) -> io::Result<usize> {
        let parts = [iovec(head.as_mut_ptr(), head.len()), iovec(self.base.as_ptr(), self.capacity)];
        // SAFETY: both parts are writable for their lengths, `head` by its borrow, the buffer as `new`'s
        // caller checked; nobody refers to either meanwhile.
        count(unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 2) })
    }

    /// One `writev` to `fd`: `head` and then the first `len` bytes of the buffer.
    pub fn writev_joined(&self, fd: BorrowedFd<'_>, head: &[u8], len: usize) -> io::Result<usize> {
        if len > self.capacity {
            return Err(past_end());
        }
        let parts = [iovec(head.as_ptr().cast_mut(), head.len()), iovec(self.base.as_ptr(), len)];
        // SAFETY: both parts are readable for their lengths, `head` by its borrow, the buffer as `new`'s
        // caller checked; the kernel writes to neither.
        count(unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr(), 2) })
    }
}

fn position(offset: u64, done: usize) -> io::Result<i64> {
    offset
        .checked_add(done as u64)
        .and_then(|at| i64::try_from(at).ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}

#[cfg(test)]
mod tests;
