//! What an operation of the core can fail with. The errno of each stands in `errno.rs` alone.

use super::codec::Malformed;
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No such name or object.
    #[error("not found")]
    NotFound,
    /// The name is taken.
    #[error("exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory cannot be used here.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The arguments make no sense together.
    #[error("invalid argument")]
    Invalid,
    /// Not allowed whoever asks.
    #[error("operation not permitted")]
    NotPermitted,
    /// A name, target or value over its limit.
    #[error("name too long")]
    NameTooLong,
    /// A value or list over its limit.
    #[error("too large")]
    TooBig,
    /// The session is read-only.
    #[error("read-only")]
    ReadOnly,
    /// The file would exceed the largest size.
    #[error("file too big")]
    FileTooBig,
    /// Too many names for one object.
    #[error("too many links")]
    TooManyLinks,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoData,
    /// The caller's buffer is too small.
    #[error("buffer too small")]
    Range,
    /// `SEEK_DATA`/`SEEK_HOLE` past the end.
    #[error("no data there")]
    NoSuchOffset,
    /// Not served on this kind of object.
    #[error("not supported")]
    Unsupported,
    /// The two objects are in different views of the mount.
    #[error("in another branch")]
    OtherView,
    /// The object has no such ioctl.
    #[error("no such ioctl")]
    NotIoctl,
    /// The node names nothing any more; the kernel looks the path up again.
    #[error("stale node")]
    Stale,
    /// The branch has reached a limit.
    #[error("the quota of the branch is used up")]
    Quota,
    /// The base has something that cannot be shown, e.g. an inode number of our own range.
    #[error("the base holds an object that cannot be represented")]
    Overflow,
    /// The base is there, and this process did not take it along when it gave up its rights.
    #[error(
        "{} lies where the daemon cannot read: it, or the mount that it is on, was not there when the daemon started", .0.display()
    )]
    OutOfReach(PathBuf),
    /// The host refused an operation on a base or content file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The metadata store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record in the store does not decode.
    #[error("damaged record in the store: {0}")]
    Damaged(&'static str),
}

impl From<Malformed> for FsError {
    fn from(_: Malformed) -> Self {
        Self::Damaged("layout")
    }
}

/// Result of a core operation.
pub type FsResult<T> = Result<T, FsError>;

/// Names what was tried when the host refuses it.
pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> FsError {
    move |source| FsError::Io { what, source }
}

/// The same for `nix` errors.
pub fn sys(what: &'static str) -> impl FnOnce(nix::errno::Errno) -> FsError {
    move |e| FsError::Io { what, source: e.into() }
}
