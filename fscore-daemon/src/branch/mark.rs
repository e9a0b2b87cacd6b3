//! Marks: what a command that came through a mount leaves in its batch. A frontend submits a request again when the
//! daemon died over it; the mark of the first run says that it must not be done twice, and what it answered.

use super::info::{denied_here, refuse};
use super::{Branches, value};
use crate::core::error::{FsError, FsResult};
use crate::core::keys;
use crate::store::{Batch, Store};
use serde_json::Value;
use shm_transport::control::{BranchInfo, Command, ErrorCode, Failure, SnapshotInfo};
use shm_transport::wire::{RequestId, SessionId, SlotIndex};

/// Of one request of one mount.
#[derive(Debug)]
pub struct Mark {
    key: Vec<u8>,
    id: RequestId,
}

impl Mark {
    /// For the request that `slot` of a session carries.
    pub fn new(session: SessionId, slot: SlotIndex, id: RequestId) -> Self {
        Self { key: keys::done(session, slot), id }
    }

    /// Puts the mark into a batch, with the answer if it cannot be found out later.
    pub(super) fn put(mark: Option<&Self>, batch: &mut Batch, answer: Option<Value>) {
        if let Some(mark) = mark {
            let mut bytes = mark.id.0.to_le_bytes().to_vec();
            bytes.extend(answer.map(|answer| answer.to_string()).unwrap_or_default().as_bytes());
            batch.put(mark.key.clone(), bytes);
        }
    }

    /// The recorded answer (null where there is none) of a request that ran before, in whatever slot of its session.
    pub fn find(store: &dyn Store, session: SessionId, id: RequestId) -> FsResult<Option<Value>> {
        let prefix = keys::prefix(b'V', &[session.0]);
        let mut found = Ok(None);
        store.scan(&prefix, &mut |key, bytes| {
            let inside = key.starts_with(&prefix);
            if inside {
                match decode(bytes) {
                    None => found = Err(FsError::Damaged("mark")),
                    Some((of, answer)) if of == id => found = Ok(Some(answer)),
                    Some(_) => {}
                }
            }
            inside && matches!(found, Ok(None))
        });
        found
    }
}

/// Of which request, and its answer.
pub fn decode(bytes: &[u8]) -> Option<(RequestId, Value)> {
    let (id, answer) = bytes.split_first_chunk()?;
    let answer = if answer.is_empty() { Value::Null } else { serde_json::from_slice(answer).ok()? };
    Some((RequestId(u64::from_le_bytes(*id)), answer))
}

impl Branches {
    /// The answer to a command that was carried out before. `recorded` is what its mark has.
    pub fn answer_again(&self, command: &Command, recorded: Value) -> Result<Value, Failure> {
        match command {
            Command::BranchCreate { name, .. } => value(&BranchInfo { made: true, ..self.info(self.find(name)?)? }),
            Command::SnapshotCreate { branch, name } => {
                let made = |info: &SnapshotInfo| info.name == *name;
                value(&self.snapshot_list(Some(branch))?.into_iter().find(made).ok_or_else(|| {
                    refuse(ErrorCode::NotFound, format!("the snapshot {branch}@{name} was deleted meanwhile")).done()
                })?)
            }
            Command::SnapshotDelete { .. } | Command::BranchDelete { .. } => Ok(recorded),
            Command::Status
            | Command::Shutdown
            | Command::HandOver { .. }
            | Command::BranchSeal { .. }
            | Command::BranchQuota { .. }
            | Command::Checkpoint { .. }
            | Command::BranchList { .. }
            | Command::BranchShow { .. }
            | Command::SnapshotList { .. }
            | Command::Diff { .. }
            | Command::CommitPrepare { .. }
            | Command::CommitFinish { .. }
            | Command::CommitAbort { .. }
            | Command::CommitPending
            | Command::Merge { .. }
            | Command::Undo { .. }
            | Command::Fsck
            | Command::Gc { .. }
            | Command::Mounts
            | Command::BranchBind { .. }
            | Command::BranchUnbind { .. }
            | Command::Attach { .. }
            | Command::Detach { .. }
            | Command::EndSession { .. } => Err(denied_here()),
        }
    }
}
