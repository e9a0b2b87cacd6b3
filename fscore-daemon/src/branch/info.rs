//! Answers about branches, and refusals.

use super::Branches;
use super::paths::{Changed, changed_in};
use crate::core::error::FsResult;
use crate::core::ids::BranchId;
use crate::core::record::{BaseRecord, Body, ContentRecord, FileBody, ObjectRecord};
use crate::core::{keys, state::Core};
use shm_transport::control::{BranchInfo, ErrorCode, Failure};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Longest name of a branch or snapshot, in bytes.
const NAME_MAX: usize = 100;

pub(super) use crate::failure::{fail, fail_branch, fail_store, refuse};

pub(super) fn denied_here() -> Failure {
    refuse(ErrorCode::Internal, "the command is not one about branches").done()
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
        "has characters other than A-Z, a-z, 0-9, '.', '_', '/' and '-'"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(NAME_MAX).collect();
    Err(refuse(ErrorCode::Usage, format!("the {what} name {shown:?} {why}"))
        .hint(format!("choose a {what} name like fix-parser or team/fix_2"))
        .done())
}

/// Refuses while the branch is mounted. `verb` reads on from "it cannot be".
pub(super) fn refuse_mounted(core: &Core, branch: BranchId, name: &str, verb: &str) -> Result<(), Failure> {
    let members = core.members_of(branch).map_err(|e| fail_branch(name, e))?;
    let places: Vec<String> = members.iter().map(|member| member.mountpoint.display().to_string()).collect();
    let Some(first) = places.first() else { return Ok(()) };
    if members.iter().all(|member| core.is_bound(member)) {
        let message =
            format!("branch {name} is shown to bound processes by {} and cannot be {verb}", places.join(", "));
        return Err(refuse(ErrorCode::Busy, message)
            .hint(format!("unmount that first: agentfs umount {first}"))
            .done());
    }
    Err(refuse(ErrorCode::Busy, format!("branch {name} is mounted on {} and cannot be {verb}", places.join(", ")))
        .hint(format!("unmount it first: agentfs umount {first}; that also ends a mount that died with its processes"))
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
        let sealed = self.core.chain(record.head).and_then(|chain| self.core.sealed_base(&chain)).map_err(fail)?;
        let sealed = sealed.and_then(|id| self.core.base_record(id).ok()?.seal);
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
            bound_at: Vec::new(),
            made: false,
            warnings: Vec::new(),
            micros: None,
            changes: None,
            own_bytes: None,
            quota: self.quota_info(id, record.quota),
            sealed: sealed.map(|seal| seal.info),
        })
    }

    /// How many names and objects a branch changed since it was made, and the bytes of its content files.
    fn weight(&self, id: BranchId) -> FsResult<(u64, u64)> {
        let record = self.core.branch_record(id)?;
        let store = self.core.store.as_ref();
        let shared = record.from.map_or(Ok([].into()), |(_, epoch)| self.core.chain(epoch))?;
        let own: BTreeSet<_> = self.core.chain(record.head)?.iter().copied().filter(|e| !shared.contains(e)).collect();
        let (mut changed, mut contents) = (Changed::default(), BTreeSet::new());
        for &epoch in &own {
            for object in changed_in(store, epoch)?.objects {
                let body =
                    store.get(&keys::object(object, epoch)).map(|bytes| ObjectRecord::decode(&bytes)).transpose()?;
                if let Some(Body::File(FileBody::Content(content))) = body.map(|record| record.body)
                    && let Some(owner) = store.get(&keys::content(content))
                    && own.contains(&ContentRecord::decode(&owner)?.epoch)
                {
                    contents.insert(content);
                }
            }
            changed.add(store, epoch)?;
        }
        let bytes = contents.into_iter().map(|content| self.bytes_of(content)).sum();
        Ok(((changed.names.len() + changed.objects.len()) as u64, bytes))
    }

    /// All branches, by name.
    pub(super) fn list(&self, weigh: bool) -> Result<Vec<BranchInfo>, Failure> {
        let info = |(id, _)| if weigh { self.counted_info(id) } else { self.info(id) };
        let mut list = self.records()?.into_iter().map(info).collect::<Result<Vec<_>, _>>()?;
        for info in list.iter_mut().filter(|_| weigh) {
            let (changes, bytes) = self.weight(BranchId(info.id)).map_err(|e| fail_branch(&info.name, e))?;
            (info.changes, info.own_bytes) = (Some(changes), Some(bytes));
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }
}
