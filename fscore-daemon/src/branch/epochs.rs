//! The version tree as the store has it: which epochs somebody can look at.

use super::paths::scan;
use crate::core::error::FsResult;
use crate::core::ids::{BranchId, EpochId};
use crate::core::keys;
use crate::core::record::{BranchRecord, CommitRecord, EpochRecord, SnapshotRecord};
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};

/// Every epoch, and who refers to it.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    all: BTreeMap<EpochId, EpochRecord>,
    /// Heads, snapshots, fork points and the states of commits under way.
    named: BTreeSet<EpochId>,
    reached: BTreeSet<EpochId>,
}

impl Epochs {
    pub(super) fn read(store: &dyn Store) -> FsResult<Self> {
        Self::read_without(store, None)
    }

    /// As they would be without a branch and its snapshots.
    pub(super) fn read_without(store: &dyn Store, gone: Option<BranchId>) -> FsResult<Self> {
        let mut it = Self::default();
        for (epoch, record) in scan(store, &keys::prefix(b'E', &[]), |key, value| {
            Some((EpochId(keys::number(key, 0)?), EpochRecord::decode(value).ok()?))
        })? {
            it.all.insert(epoch, record);
        }
        for (id, record) in scan(store, &keys::prefix(b'B', &[]), |key, value| {
            Some((BranchId(keys::number(key, 0)?), BranchRecord::decode(value).ok()?))
        })? {
            if Some(id) != gone {
                // Where a branch was made from is asked for by its next merge.
                it.named.extend([Some(record.head), record.from.map(|(_, epoch)| epoch)].into_iter().flatten());
            }
        }
        for (branch, epoch) in scan(store, &keys::prefix(b'S', &[]), |key, value| {
            Some((BranchId(keys::number(key, 0)?), SnapshotRecord::decode(value).ok()?.epoch))
        })? {
            if Some(branch) != gone {
                it.named.insert(epoch);
            }
        }
        it.named.extend(scan(store, &keys::prefix(b'J', &[]), |_, value| {
            CommitRecord::decode(value).ok().map(|record| record.epoch)
        })?);
        for &epoch in &it.named {
            let mut at = Some(epoch);
            while let Some(epoch) = at.filter(|epoch| it.all.contains_key(epoch))
                && it.reached.insert(epoch)
            {
                at = it.parent(epoch);
            }
        }
        Ok(it)
    }

    fn parent(&self, epoch: EpochId) -> Option<EpochId> {
        self.all.get(&epoch)?.parent
    }

    pub(super) fn is_reached(&self, epoch: EpochId) -> bool {
        self.reached.contains(&epoch)
    }

    /// The epochs of some branches.
    pub(super) fn of(&self, branches: &BTreeSet<BranchId>) -> BTreeSet<EpochId> {
        self.all.iter().filter(|(_, record)| branches.contains(&record.branch)).map(|(epoch, _)| *epoch).collect()
    }
}
