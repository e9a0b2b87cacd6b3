//! The host's disk as content files see it, reading and writing aside: what makes them durable. Tests put one in
//! its place that fails, and that loses what was not synced.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{fdatasync, fsync, syncfs};

use crate::core::ids::ContentId;

/// See the module.
pub trait Host: Send + Sync + Debug {
    /// Asked before a content file is made.
    fn creates(&self, id: ContentId) -> io::Result<()>;
    /// Asked before a content file is removed.
    fn removes(&self, id: ContentId) -> io::Result<()>;
    /// Makes the bytes of a content file durable; without `datasync` its times as well.
    fn sync_file(&self, id: ContentId, fd: BorrowedFd<'_>, datasync: bool) -> io::Result<()>;
    /// Makes the names in a directory durable; `path` is below that of all contents, which is `""`.
    fn sync_directory(&self, path: &str, fd: BorrowedFd<'_>) -> io::Result<()>;
    /// Makes everything on the file system durable.
    fn sync_all(&self, fd: BorrowedFd<'_>) -> io::Result<()>;
}

/// The host itself.
#[derive(Debug)]
pub(super) struct RealHost;

impl Host for RealHost {
    fn creates(&self, _: ContentId) -> io::Result<()> {
        Ok(())
    }
    fn removes(&self, _: ContentId) -> io::Result<()> {
        Ok(())
    }
    fn sync_file(&self, id: ContentId, fd: BorrowedFd<'_>, datasync: bool) -> io::Result<()> {
        let synced = if datasync { fdatasync(fd) } else { fsync(fd) };
        if synced.is_err()
            // The cache may hold bytes that never reached the medium. From now on everybody reads what it has.
            && let Err(error) = posix_fadvise(fd, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        {
            tracing::warn!(content = %id, %error, "cannot drop cached pages of a content file");
        }
        Ok(synced?)
    }
    fn sync_directory(&self, _: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(fsync(fd)?)
    }
    fn sync_all(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(syncfs(fd)?)
    }
}
