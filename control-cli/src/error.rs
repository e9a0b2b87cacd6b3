//! What can go wrong, as the user is told it.

use shm_transport::control::{ErrorCode, Failure};
use std::io;

/// Kinds of failure; [`crate::exit`] gives each its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command line or an argument is not acceptable.
    Usage,
    /// The other process speaks another version.
    Version,
    /// No branch, snapshot or mount of that name.
    NotFound,
    /// The name is taken.
    Exists,
    /// In use; it may work later.
    Busy,
    /// The caller may not do that.
    Denied,
    /// The base directory is missing, unreadable or unfit.
    Base,
    /// The base lies outside what the daemon may read.
    BaseNotAllowed,
    /// The base changed under the branch.
    Conflict,
    /// No space left.
    NoSpace,
    /// The store failed or is damaged.
    Store,
    /// A defect.
    Internal,
    /// Holder or daemon do not answer or cannot be started.
    Unreachable,
    /// The operating system refused something.
    System,
    /// The command of `run` exists and cannot be executed.
    NotExecutable,
    /// The command of `run` does not exist.
    CommandNotFound,
}

impl Kind {
    /// Its name for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Version => "version",
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::Busy => "busy",
            Self::Denied => "denied",
            Self::Base => "base",
            Self::BaseNotAllowed => "base-not-allowed",
            Self::Conflict => "conflict",
            Self::NoSpace => "no-space",
            Self::Store => "store",
            Self::Internal => "internal",
            Self::Unreachable => "unreachable",
            Self::System => "system",
            Self::NotExecutable => "not-executable",
            Self::CommandNotFound => "command-not-found",
        }
    }
}

impl From<ErrorCode> for Kind {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Usage => Self::Usage,
            ErrorCode::Version => Self::Version,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Exists => Self::Exists,
            ErrorCode::Busy => Self::Busy,
            ErrorCode::Denied => Self::Denied,
            ErrorCode::Base => Self::Base,
            ErrorCode::BaseNotAllowed => Self::BaseNotAllowed,
            ErrorCode::Conflict => Self::Conflict,
            ErrorCode::NoSpace => Self::NoSpace,
            ErrorCode::Store => Self::Store,
            ErrorCode::Internal => Self::Internal,
        }
    }
}

/// A failure of a command.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    /// For programs.
    pub(crate) kind: Kind,
    /// What happened, a sentence without a full stop.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

/// What every fallible function of the command returns.
pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// A failure without a hint.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with another beginning of the message.
    #[must_use]
    pub(crate) fn prefix(mut self, prefix: &str) -> Self {
        self.message = format!("{prefix}: {}", self.message);
        self
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self { kind: failure.code.into(), message: failure.message, hint: failure.hint }
    }
}

/// The kind that an operating system error belongs to.
pub(crate) fn kind_of(error: &io::Error) -> Kind {
    use io::ErrorKind as Is;
    let kind = error.kind();
    if matches!(kind, Is::StorageFull | Is::QuotaExceeded) {
        Kind::NoSpace
    } else if matches!(kind, Is::PermissionDenied | Is::ReadOnlyFilesystem) {
        Kind::Denied
    } else if kind == Is::ResourceBusy {
        Kind::Busy
    } else {
        Kind::System
    }
}

/// Says what was being done when the operating system refused.
pub(crate) trait Doing<T> {
    /// `what` reads on from "cannot".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            CliError::new(kind_of(&error), format!("cannot {}: {error}", what()))
        })
    }
}
