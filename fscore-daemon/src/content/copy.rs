//! Copies a file into an empty one: shared where the filesystem can, else byte by byte with its holes.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::sys::stat::{FileStat, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, ftruncate, lseek};
use shm_transport::mem::sys::clone_file;

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    /// The two files share their bytes.
    Reflinked,
    /// The bytes were copied.
    Copied {
        /// How many, holes not counted.
        bytes: u64,
    },
}

const BUFFER_LEN: usize = 1 << 20;

/// Gives `to`, which is empty, the bytes, holes, atime and mtime of `from`. Bytes from `len_max` on are left
/// out where they are not shared.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len_max: Option<u64>) -> io::Result<CopyKind> {
    let stat = fstat(from)?;
    let size = len_max.and_then(|max| i64::try_from(max).ok()).map_or(stat.st_size, |max| max.min(stat.st_size));
    let kind = match clone_file(from, to) {
        Ok(()) => CopyKind::Reflinked,
        Err(e) if is_final(&e) => return Err(e),
        // Whatever else the reason is, reading and writing may still do.
        Err(_) => CopyKind::Copied { bytes: copy_data(from, to, size)? },
    };
    set_times(to, &stat)?;
    Ok(kind)
}

/// Whether no other way of copying would succeed either.
fn is_final(e: &io::Error) -> bool {
    matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EIO))
}

fn set_times(to: BorrowedFd<'_>, stat: &FileStat) -> io::Result<()> {
    let atime = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    let mtime = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    Ok(futimens(to, &atime, &mtime)?)
}

/// Copies what is data, up to `size`. Where the source ends earlier by now, so does the copy.
fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: i64) -> io::Result<u64> {
    ftruncate(to, size)?;
    let (mut at, mut bytes) = (0, 0);
    while at < size {
        // The answers are used, never the descriptor's offset: others may be seeking it, too.
        let data = match lseek(from, at, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => break,
            Err(_) => at,
        };
        if data >= size {
            break;
        }
        let end = lseek(from, data, Whence::SeekHole).map_or(size, |hole| hole.min(size));
        let end = if end > data { end } else { size };
        let copied = copy_range(from, to, data, end)?;
        bytes += copied as u64;
        if data + copied < end {
            ftruncate(to, data + copied)?;
            break;
        }
        at = end;
    }
    Ok(bytes)
}

/// Copies a range; fewer bytes only if the source ends.
fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: i64, end: i64) -> io::Result<i64> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let len = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len) {
            Ok(0) => break,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EIO)) => return Err(e.into()),
            Err(_) => break,
        }
    }
    // Across filesystems of different kinds, or where "0" is no end: by hand.
    let mut buffer = vec![0; BUFFER_LEN.min(usize::try_from(end - read_at).unwrap_or(BUFFER_LEN))];
    while read_at < end {
        let want = buffer.len().min(usize::try_from(end - read_at).unwrap_or(usize::MAX));
        let got = match pread(from, buffer.get_mut(..want).unwrap_or_default(), read_at) {
            Ok(0) => break,
            Ok(got) => got,
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let mut rest = buffer.get(..got).unwrap_or_default();
        while !rest.is_empty() {
            match pwrite(to, rest, read_at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(put) => {
                    rest = rest.get(put..).unwrap_or_default();
                    read_at += put as i64;
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(read_at - start)
}
