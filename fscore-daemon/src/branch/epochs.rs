//! The version tree as the store has it: which epochs somebody can look at, and which could become one with another.

use super::paths::scan;
use crate::core::error::FsResult;
use crate::core::ground::{GroundRecord, NOBODY};
use crate::core::ids::{BaseId, BranchId, EpochId};
use crate::core::keys;
use crate::core::record::{BranchRecord, CommitRecord, EpochRecord, SnapshotRecord};
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};

/// Every epoch, and who refers to it.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    all: BTreeMap<EpochId, EpochRecord>,
    heads: BTreeSet<EpochId>,
    /// Heads, snapshots, fork points and the states of commits under way.
    named: BTreeSet<EpochId>,
    branches: BTreeSet<BranchId>,
    reached: BTreeSet<EpochId>,
    /// Of those that are reached.
    children: BTreeMap<EpochId, Vec<EpochId>>,
}

/// States of one branch, each of which alone continues the next: nobody refers to any but the top.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) top: EpochId,
    /// The others, the youngest first.
    pub(super) below: Vec<EpochId>,
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
                it.branches.insert(id);
                it.heads.insert(record.head);
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
        for record in scan(store, &keys::prefix(b'J', &[]), |_, value| CommitRecord::decode(value).ok())? {
            it.named.extend([Some(record.epoch), record.ground].into_iter().flatten());
        }
        // New branches of a base begin there.
        it.named.extend(scan(store, &keys::prefix(b'G', &[]), |_, value| {
            GroundRecord::decode(value).ok().map(|record| record.last)
        })?);
        it.branches.insert(NOBODY);
        for &epoch in &it.named {
            let mut at = Some(epoch);
            while let Some(epoch) = at.filter(|epoch| it.all.contains_key(epoch))
                && it.reached.insert(epoch)
            {
                at = it.parent(epoch);
                if let Some(parent) = at {
                    it.children.entry(parent).or_default().push(epoch);
                }
            }
        }
        Ok(it)
    }

    pub(super) fn parent(&self, epoch: EpochId) -> Option<EpochId> {
        self.all.get(&epoch)?.parent
    }

    /// The sealed base that an epoch without a parent names.
    pub(super) fn base(&self, epoch: EpochId) -> Option<BaseId> {
        self.all.get(&epoch)?.base
    }

    /// The branch that an epoch belongs to.
    pub(super) fn branch(&self, epoch: EpochId) -> Option<BranchId> {
        self.all.get(&epoch).map(|record| record.branch)
    }

    pub(super) fn is_head(&self, epoch: EpochId) -> bool {
        self.heads.contains(&epoch)
    }

    pub(super) fn is_named(&self, epoch: EpochId) -> bool {
        self.named.contains(&epoch)
    }

    pub(super) fn is_reached(&self, epoch: EpochId) -> bool {
        self.reached.contains(&epoch)
    }

    pub(super) fn is_there(&self, branch: BranchId) -> bool {
        self.branches.contains(&branch)
    }

    /// The epochs of some branches.
    pub(super) fn of(&self, branches: &BTreeSet<BranchId>) -> BTreeSet<EpochId> {
        self.all.iter().filter(|(_, record)| branches.contains(&record.branch)).map(|(epoch, _)| *epoch).collect()
    }

    /// All of them that nobody can look at, the youngest first.
    pub(super) fn unreached(&self) -> impl Iterator<Item = EpochId> {
        self.all.keys().rev().filter(|epoch| !self.reached.contains(epoch)).copied()
    }

    /// Every epoch that continues this one, reached or not.
    pub(super) fn continued_by(&self, epoch: EpochId) -> impl Iterator<Item = (EpochId, &EpochRecord)> {
        self.all.iter().filter(move |(_, record)| record.parent == Some(epoch)).map(|(epoch, record)| (*epoch, record))
    }

    /// The one that continues a frozen state which nobody refers to and nothing else continues: the two can become
    /// one. What another branch continues stays apart, because it is where this branch would be merged from.
    pub(super) fn only_child(&self, epoch: EpochId) -> Option<EpochId> {
        if self.is_named(epoch) || !self.is_reached(epoch) {
            return None;
        }
        match self.children.get(&epoch)?.as_slice() {
            [child] if self.branch(*child) == self.branch(epoch) => Some(*child),
            _ => None,
        }
    }

    /// The pairs that could become one, the oldest first.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (EpochId, EpochId)> {
        self.all.keys().filter_map(|epoch| Some((*epoch, self.only_child(*epoch)?)))
    }

    /// The runs of states that could all become one.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        let continued: BTreeSet<_> = self.pairs().map(|(_, younger)| younger).collect();
        let begin = self.pairs().filter(move |(older, _)| !continued.contains(older));
        begin.map(|(oldest, _)| {
            let mut all: Vec<_> = std::iter::successors(Some(oldest), |at| self.only_child(*at)).collect();
            let top = all.pop().unwrap_or(oldest);
            all.reverse();
            Run { top, below: all }
        })
    }

    /// The older one has taken the younger one's place.
    pub(super) fn sink(&mut self, (older, younger): (EpochId, EpochId)) {
        for record in self.all.values_mut().filter(|record| record.parent == Some(younger)) {
            record.parent = Some(older);
        }
        self.reached.remove(&younger);
        let children = self.children.remove(&younger).unwrap_or_default();
        self.children.insert(older, children);
    }

    /// The younger one has all that the older one had.
    pub(super) fn rise(&mut self, (older, younger): (EpochId, EpochId)) {
        let (parent, base) = (self.parent(older), self.base(older));
        if let Some(record) = self.all.get_mut(&younger) {
            (record.parent, record.base) = (parent, base);
        }
        self.reached.remove(&older);
        self.children.remove(&older);
        let siblings = parent.and_then(|parent| self.children.get_mut(&parent));
        for child in siblings.into_iter().flatten().filter(|child| **child == older) {
            *child = younger;
        }
    }

    /// It is not there any more.
    pub(super) fn remove(&mut self, epoch: EpochId) {
        self.all.remove(&epoch);
    }
}
