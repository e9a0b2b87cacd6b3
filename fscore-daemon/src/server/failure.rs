//! Failures of control calls: how they are made, and what a core error becomes.

use crate::core::error::FsError;
use crate::store::StoreError;
use shm_transport::TransportError;
use shm_transport::control::{ErrorCode, Failure};

/// A failure without a hint.
pub(super) fn failure(code: ErrorCode, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into(), hint: None }
}

/// A failure, and what to do about it.
pub(super) fn hinted(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure { code, message: message.into(), hint: Some(hint.into()) }
}

/// What a core error means to who called; `what` was tried.
pub(super) fn of_core(what: &str, error: &FsError) -> Failure {
    let full = is_full(error);
    let code = match error {
        FsError::NotFound => ErrorCode::NotFound,
        FsError::Exists => ErrorCode::Exists,
        _ if full => ErrorCode::NoSpace,
        FsError::Store(_) | FsError::Damaged(_) => ErrorCode::Store,
        FsError::Io { .. } | FsError::Overflow | FsError::Stale => ErrorCode::Base,
        FsError::NotDirectory
        | FsError::IsDirectory
        | FsError::NotEmpty
        | FsError::Invalid
        | FsError::NotPermitted
        | FsError::NameTooLong
        | FsError::TooBig
        | FsError::ReadOnly
        | FsError::FileTooBig
        | FsError::TooManyLinks
        | FsError::NoData
        | FsError::Range
        | FsError::NoSuchOffset
        | FsError::Unsupported => ErrorCode::Internal,
    };
    failure(code, format!("cannot {what}: {error}"))
}

fn is_full(error: &FsError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if matches!(error, FsError::Store(StoreError::Full)) {
        return true;
    }
    let (FsError::Io { source, .. } | FsError::Store(StoreError::Io { source, .. })) = error else { return false };
    matches!(source.kind(), StorageFull | QuotaExceeded)
}

/// What an attach that the transport refused means to the frontend.
pub(super) fn of_transport(error: &TransportError) -> Failure {
    match error {
        TransportError::Protocol { .. } => hinted(
            ErrorCode::Version,
            format!("the session cannot be attached: {error}"),
            "frontend and daemon must be of one release: unmount, stop the daemon, and mount again",
        ),
        TransportError::Codec(_) | TransportError::Defect { .. } | TransportError::Io { .. } => {
            failure(ErrorCode::Internal, format!("the session cannot be attached: {error}"))
        }
    }
}
