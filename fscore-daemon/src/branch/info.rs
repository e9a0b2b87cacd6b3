//! Answers about branches, and failures in sentences.

use super::Branches;
use crate::core::error::FsError;
use crate::core::ids::BranchId;
use crate::core::record::BaseRecord;
use crate::core::{keys, state::Branch, state::lock};
use crate::store::StoreError;
use shm_transport::control::{BranchInfo, ErrorCode, Failure};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Longest name of a branch or snapshot, in bytes.
const NAME_MAX: usize = 100;

/// A failure being put together.
pub(super) struct Refusal(Failure);

impl Refusal {
    /// What to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
    pub(super) fn done(self) -> Failure {
        self.0
    }
}

/// A failure of this kind; the message is a sentence without a full stop.
pub(super) fn refuse(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal(Failure { code, message: message.into(), hint: None })
}

pub(super) fn denied_here() -> Failure {
    refuse(ErrorCode::Internal, "the command is not one about branches").done()
}

/// What the core refused.
pub(super) fn fail(error: FsError) -> Failure {
    let message = error.to_string();
    match error {
        FsError::Store(StoreError::Full) => no_space(message),
        FsError::Io { source, .. } if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
            no_space(message)
        }
        FsError::Store(_) => refuse(ErrorCode::Store, message)
            .hint("the daemon's log tells more; `agentfs daemon stop`, then run any command")
            .done(),
        FsError::Damaged(_) => refuse(ErrorCode::Store, message).hint("the daemon's log tells more").done(),
        FsError::Io { what, .. } if what.contains("base") => {
            refuse(ErrorCode::Base, message).hint("make the base directory available again as it was").done()
        }
        FsError::Stale => {
            refuse(ErrorCode::Base, "the base changed while it was read").hint("run the command again").done()
        }
        FsError::NotFound
        | FsError::Exists
        | FsError::NotDirectory
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
        | FsError::Overflow
        | FsError::Io { .. } => refuse(ErrorCode::Internal, message).done(),
    }
}

/// The same, naming the branch.
pub(super) fn fail_branch(name: &str, error: FsError) -> Failure {
    let failure = fail(error);
    Failure { message: format!("branch {name}: {}", failure.message), ..failure }
}

/// What the host refused while `what` was done in the store.
pub(super) fn fail_store(what: &str, error: &std::io::Error) -> Failure {
    let message = format!("cannot {what}: {error}");
    if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
        return no_space(message);
    }
    refuse(ErrorCode::Store, message).done()
}

fn no_space(message: String) -> Failure {
    refuse(ErrorCode::NoSpace, message).hint("free space on the store's file system, or delete branches").done()
}

/// Refuses a name that is not plain. `what` is `branch` or `snapshot`.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-');
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_MAX {
        "is longer than 100 bytes"
    } else if name.starts_with(['-', '.']) {
        "begins with '-' or '.'"
    } else if !name.bytes().all(plain) {
        "has characters other than letters, digits, '.', '_', '/' and '-'"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(NAME_MAX).collect();
    Err(refuse(ErrorCode::Usage, format!("the {what} name {shown:?} {why}"))
        .hint(format!("choose a {what} name like fix-parser or team/fix_2"))
        .done())
}

/// Refuses while the branch is mounted. `verb` reads on from "it cannot be".
pub(super) fn refuse_mounted(branch: &Branch, name: &str, verb: &str) -> Result<(), Failure> {
    if lock(&branch.sessions).is_empty() {
        return Ok(());
    }
    Err(refuse(ErrorCode::Busy, format!("branch {name} is mounted and cannot be {verb}"))
        .hint("unmount it first: `agentfs status` shows where, `agentfs umount MOUNTPOINT` unmounts")
        .done())
}

impl Branches {
    /// What is known of a branch. Where it is mounted is known to its sessions.
    pub(super) fn info(&self, id: BranchId) -> Result<BranchInfo, Failure> {
        let record = self.record(id)?;
        let base = record.base.and_then(|b| self.core.store.get(&keys::base(b)));
        let base = base.and_then(|bytes| BaseRecord::decode(&bytes).ok());
        let from = record.from.map(|(branch, epoch)| {
            let name = self.name_of(branch);
            match self.snapshots_of(branch).unwrap_or_default().into_iter().find(|(_, s)| s.epoch == epoch) {
                Some((snapshot, _)) => format!("{name}@{snapshot}"),
                None => name,
            }
        });
        Ok(BranchInfo {
            name: record.name,
            id: id.0,
            base: base.map(|b| PathBuf::from(OsString::from_vec(b.path))),
            frozen: record.frozen_base,
            from,
            uid: record.uid,
            created: record.created.sec,
            snapshots: self.snapshots_of(id)?.into_iter().map(|(name, _)| name).collect(),
            mounts: Vec::new(),
            made: false,
            warnings: Vec::new(),
            micros: None,
        })
    }

    /// All branches, by name.
    pub(super) fn list(&self) -> Result<Vec<BranchInfo>, Failure> {
        let mut list = self.records()?.into_iter().map(|(id, _)| self.info(id)).collect::<Result<Vec<_>, _>>()?;
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }
}
