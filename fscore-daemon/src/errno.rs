//! The one table from core errors to errno. No wildcard arm: a new error must choose its number.

use crate::core::error::FsError;
use crate::store::StoreError;
use shm_transport::wire::Errno;

/// The number that a program sees.
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Invalid => Errno::EINVAL,
        FsError::NotPermitted => Errno::EPERM,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::TooBig => Errno::E2BIG,
        FsError::ReadOnly => Errno::EROFS,
        FsError::FileTooBig => Errno::EFBIG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::NoData => Errno::ENODATA,
        FsError::Range => Errno::ERANGE,
        FsError::NoSuchOffset => Errno::ENXIO,
        FsError::Unsupported => Errno::EOPNOTSUPP,
        FsError::OtherView => Errno::EXDEV,
        FsError::NotIoctl => Errno::ENOTTY,
        FsError::Stale => Errno::ESTALE,
        FsError::Quota => Errno::EDQUOT,
        FsError::Overflow => Errno::EOVERFLOW,
        FsError::OutOfReach(_) => Errno::EACCES,
        FsError::Io { source, .. } => Errno::from(source),
        FsError::Store(StoreError::Full) => Errno::ENOSPC,
        FsError::Store(StoreError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOSPC) => Errno::ENOSPC,
        FsError::Store(
            StoreError::Io { .. }
            | StoreError::Poisoned(_)
            | StoreError::Damaged(_)
            | StoreError::InUse { .. }
            | StoreError::NewerFormat { .. },
        )
        | FsError::Damaged(_) => Errno::EIO,
    }
}
