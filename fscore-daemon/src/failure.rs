//! Failures of control calls: how they are put together, and what errors of the core and of the host become.

use crate::core::error::FsError;
use crate::store::StoreError;
use shm_transport::control::{ErrorCode, Failure};
use std::io;

/// A failure being put together.
pub(crate) struct Refusal(Failure);

impl Refusal {
    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
    pub(crate) fn done(self) -> Failure {
        self.0
    }
}

/// A failure of this kind; the message is a sentence without a full stop.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal(Failure { code, message: message.into(), hint: None })
}

/// What the core refused.
pub(crate) fn fail(error: FsError) -> Failure {
    of_core(&error, error.to_string())
}

/// The same, naming the branch.
pub(crate) fn fail_branch(name: &str, error: FsError) -> Failure {
    of_core(&error, format!("branch {name}: {error}"))
}

/// The same, naming what was tried: `what` reads on from "cannot".
pub(crate) fn fail_doing(what: &str, error: &FsError) -> Failure {
    of_core(error, format!("cannot {what}: {error}"))
}

fn of_core(error: &FsError, message: String) -> Failure {
    match error {
        FsError::Store(StoreError::Full) => no_space(message),
        FsError::Io { source, .. } | FsError::Store(StoreError::Io { source, .. }) if is_full(source) => {
            no_space(message)
        }
        FsError::Store(_) => refuse(ErrorCode::Store, message)
            .hint("the daemon's log tells more; `agentfs daemon stop`, then run any command")
            .done(),
        FsError::Damaged(_) => refuse(ErrorCode::Store, message).hint("the daemon's log tells more").done(),
        FsError::Io { what, .. } if what.contains("base") => {
            refuse(ErrorCode::Base, message).hint("make the base directory available again as it was").done()
        }
        FsError::OutOfReach(path) => refuse(ErrorCode::BaseNotAllowed, message)
            .hint(format!(
                "agentfs daemon start --allow-base {}: the daemon starts afresh, mounts live on",
                path.display()
            ))
            .done(),
        FsError::Stale => refuse(ErrorCode::Base, format!("{message}: the base changed while it was read"))
            .hint("run the command again")
            .done(),
        FsError::Overflow => refuse(ErrorCode::Base, message).done(),
        FsError::NotFound => refuse(ErrorCode::NotFound, message).done(),
        FsError::Exists => refuse(ErrorCode::Exists, message).done(),
        FsError::Quota => no_space(message),
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
        | FsError::Unsupported
        | FsError::OtherView
        | FsError::NotIoctl
        | FsError::Io { .. } => refuse(ErrorCode::Internal, message).done(),
    }
}

/// What the host refused while `what` was done in the store.
pub(crate) fn fail_store(what: &str, error: &io::Error) -> Failure {
    let message = format!("cannot {what}: {error}");
    if is_full(error) {
        return no_space(message);
    }
    refuse(ErrorCode::Store, message).done()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn no_space(message: String) -> Failure {
    refuse(ErrorCode::NoSpace, message).hint("free space on the store's file system, or delete branches").done()
}
