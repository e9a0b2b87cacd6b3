//! Removal of branches, and of epochs that nothing reaches any more.
//!
//! A removal of many records is several batches. The first one leaves a mark (`M deleting-ID` or
//! `M reclaiming-ID`) under which the next start goes on.

use super::Branches;
use super::epochs::Epochs;
use super::info::{fail, fail_branch, refuse, refuse_mounted};
use super::mark::Mark;
use super::paths::{changed_in, scan};
use crate::core::error::{FsError, FsResult, io};
use crate::core::ids::{BranchId, ContentId, EpochId};
use crate::core::keys;
use crate::core::record::{Body, ContentRecord, EpochRecord, FileBody, ObjectRecord};
use crate::core::state::lock;
use crate::store::Batch;
use shm_transport::control::{ErrorCode, Failure, Removed};
use std::collections::BTreeSet;

/// Most changed records that one batch removes.
const CHUNK: usize = 10_000;
const DELETING: &str = "deleting-";
pub(super) const RECLAIMING: &str = "reclaiming-";
pub(super) const FOLDING: &str = "folding-";

/// Content files and their allocated bytes.
#[derive(Debug, Default)]
struct Freed {
    contents: u64,
    bytes: u64,
    /// Branches that use what others needed before them.
    heirs: BTreeSet<BranchId>,
}

/// What becomes of a content file whose owner goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Removed,
    /// Another state needs it, and owns it from now on.
    Kept(ContentRecord),
}

fn reclaiming() -> Batch {
    Batch { reclaims: true, ..Batch::default() }
}

fn mark(what: &str, id: BranchId) -> Vec<u8> {
    keys::meta(&format!("{what}{id}"))
}

/// The mark that epochs of branches may have become unreachable, or needed by nobody but what continues them.
pub(super) fn mark_reclaiming(batch: &mut Batch, ids: &BTreeSet<BranchId>) {
    for id in ids {
        batch.put(reclaiming_mark(*id), []);
        batch.put(folding_mark(*id), []);
    }
}

/// The key of the mark that a branch has epochs that nothing reaches.
pub(super) fn reclaiming_mark(id: BranchId) -> Vec<u8> {
    mark(RECLAIMING, id)
}

/// The key of the mark that a branch may have epochs to fold.
pub(super) fn folding_mark(id: BranchId) -> Vec<u8> {
    mark(FOLDING, id)
}

impl Branches {
    pub(super) fn delete(&self, name: &str, dry_run: bool, marked: Option<&Mark>) -> Result<Removed, Failure> {
        let _mutation = lock(&self.mutation);
        let id = self.find(name)?;
        let forks: Vec<_> = self.made_from(id)?.into_iter().map(|(record, _)| record.name).collect();
        if !forks.is_empty() {
            return Err(refuse(ErrorCode::Busy, format!("made from branch {name}: {}", forks.join(", ")))
                .hint("delete these branches first")
                .done());
        }
        if self.is_committing(id)? {
            return Err(refuse(ErrorCode::Busy, format!("a commit of branch {name} is under way"))
                .hint("`agentfs status` finishes or takes back an interrupted one")
                .done());
        }
        let snapshots: Vec<_> = self.snapshots_of(id)?.into_iter().map(|(name, _)| name).collect();
        let own = self.going(id).map_err(fail)?;
        // A branch whose base is gone cannot be loaded.
        let branch = self.core.branch(id).ok();
        let view = branch.as_ref().map(|b| b.view_mut());
        refuse_mounted(&self.core, id, name, "deleted")?;
        let freed = if dry_run {
            self.count(&own).map_err(fail)?
        } else {
            let mut batch = reclaiming();
            batch.put(mark(DELETING, id), []);
            // What it was made from may have been kept for it alone.
            let above = self.above(id)?;
            mark_reclaiming(&mut batch, &above);
            batch.delete(keys::branch(id));
            for snapshot in &snapshots {
                batch.delete(keys::snapshot(id, snapshot));
            }
            if marked.is_some() {
                // Only now can it still be told what will have gone.
                let Freed { contents, bytes, .. } = self.count(&own).map_err(fail)?;
                let removed = Removed { snapshots: snapshots.clone(), contents, bytes };
                Mark::put(marked, &mut batch, serde_json::to_value(removed).ok());
            }
            self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
            lock(&self.names).remove(name);
            self.core.forget_branch(id);
            drop(view);
            let freed = self.finish_delete(id).map_err(|e| fail_branch(name, e))?;
            self.reclaim_unreachable(&above).map_err(fail)?;
            freed
        };
        Ok(Removed { snapshots, contents: freed.contents, bytes: freed.bytes })
    }

    /// Goes on with what a crash interrupted.
    pub(super) fn resume_removals(&self) -> FsResult<()> {
        for id in self.marked(&[DELETING])? {
            self.finish_delete(id)?;
        }
        self.reclaim_unreachable(&self.marked(&[RECLAIMING])?)?;
        self.collect_later(self.marked(&[FOLDING])?);
        Ok(())
    }

    /// The branches with one of some marks.
    pub(super) fn marked(&self, marks: &[&'static str]) -> FsResult<BTreeSet<BranchId>> {
        let mut found = BTreeSet::new();
        for what in marks {
            found.extend(scan(self.core.store.as_ref(), &keys::meta(what), |key, _| {
                std::str::from_utf8(key.get(1..)?).ok()?.strip_prefix(what)?.parse().ok().map(BranchId)
            })?);
        }
        Ok(found)
    }

    fn finish_delete(&self, id: BranchId) -> FsResult<Freed> {
        let epochs = Epochs::read(self.core.store.as_ref())?;
        let own = epochs.of(&BTreeSet::from([id])).into_iter().filter(|epoch| !epochs.is_reached(*epoch)).collect();
        let freed = self.remove_epochs(&own)?;
        self.remove_keys(&keys::prefix(b'U', &[id.0]))?;
        let mut batch = reclaiming();
        batch.delete(mark(DELETING, id));
        batch.delete(reclaiming_mark(id));
        batch.delete(folding_mark(id));
        self.core.store.commit(&batch)?;
        self.core.recount(freed.heirs.iter().copied())?;
        Ok(freed)
    }

    /// The branches that have epochs in a chain.
    pub(super) fn owners(&self, chain: &[EpochId]) -> FsResult<BTreeSet<BranchId>> {
        let mut owners = BTreeSet::new();
        for &epoch in chain {
            let bytes = self.core.store.get(&keys::epoch(epoch)).ok_or(FsError::Damaged("epoch missing"))?;
            owners.insert(EpochRecord::decode(&bytes)?.branch);
        }
        Ok(owners)
    }

    /// Removes everything of some branches' epochs that neither a head nor a snapshot reaches.
    pub(super) fn reclaim_unreachable(&self, ids: &BTreeSet<BranchId>) -> FsResult<()> {
        let store = self.core.store.as_ref();
        let epochs = Epochs::read(store)?;
        // What a view in memory has a fold left there; it goes when it is out of that.
        let used = self.used();
        let (kept, gone): (BTreeSet<_>, BTreeSet<_>) = epochs
            .of(ids)
            .into_iter()
            .filter(|epoch| !epochs.is_reached(*epoch))
            .partition(|epoch| used.contains(epoch));
        if !gone.is_empty() {
            let mut batch = reclaiming();
            mark_reclaiming(&mut batch, ids);
            store.commit(&batch)?;
            let removed = self.remove_epochs(&gone);
            let heirs = removed.as_ref().map_or_else(|_| BTreeSet::new(), |freed| freed.heirs.clone());
            self.core.recount(ids.union(&heirs).copied())?;
            removed?;
        }
        let mut batch = reclaiming();
        let unfinished: BTreeSet<_> = kept.iter().filter_map(|epoch| epochs.branch(*epoch)).collect();
        for id in ids.iter().filter(|id| !unfinished.contains(id) && store.get(&reclaiming_mark(**id)).is_some()) {
            batch.delete(reclaiming_mark(*id));
        }
        if !batch.is_empty() {
            store.commit(&batch)?;
        }
        self.collect_later(ids.iter().copied());
        self.sweep()
    }

    /// The epochs of the views in memory.
    fn used(&self) -> BTreeSet<EpochId> {
        self.core.loaded_branches().iter().flat_map(|branch| branch.view().chain.to_vec()).collect()
    }

    /// The branches whose epochs a branch inherits from, it and its snapshots: what they have may have been kept for
    /// it alone.
    fn above(&self, id: BranchId) -> Result<BTreeSet<BranchId>, Failure> {
        let snapshots = self.snapshots_of(id)?.into_iter().map(|(_, snapshot)| snapshot.epoch);
        let mut above = BTreeSet::new();
        for epoch in snapshots.chain([self.record(id)?.head]) {
            above.extend(self.core.chain(epoch).and_then(|chain| self.owners(&chain)).map_err(fail)?);
        }
        above.remove(&id);
        Ok(above)
    }

    /// The epochs that go with a branch: its own, unless a state of another one needs them.
    fn going(&self, id: BranchId) -> FsResult<BTreeSet<EpochId>> {
        let epochs = Epochs::read_without(self.core.store.as_ref(), Some(id))?;
        Ok(epochs.of(&BTreeSet::from([id])).into_iter().filter(|epoch| !epochs.is_reached(*epoch)).collect())
    }

    /// The content file of an object record, if it belongs to one of the epochs, and what becomes of it.
    pub(super) fn content_of(&self, record: &[u8], own: &BTreeSet<EpochId>) -> Option<(ContentId, Fate)> {
        let Body::File(FileBody::Content(content)) = ObjectRecord::decode(record).ok()?.body else { return None };
        let owner = ContentRecord::decode(&self.core.store.get(&keys::content(content))?).ok()?;
        own.contains(&owner.epoch).then(|| (content, self.fate(content, owner, own)))
    }

    /// A merge lets several states share a content file. The last of them takes it along; a frozen one of those that
    /// stay gets it, because a head writes to what it owns.
    fn fate(&self, content: ContentId, owner: ContentRecord, own: &BTreeSet<EpochId>) -> Fate {
        let mut others = Vec::new();
        let prefix = keys::prefix(b'O', &[owner.object.0]);
        self.core.store.scan(&prefix, &mut |key, value| {
            let inside = key.starts_with(&prefix);
            if inside
                && let Some(epoch) = keys::number(key, 1).map(EpochId).filter(|epoch| !own.contains(epoch))
                && let Ok(record) = ObjectRecord::decode(value)
                && record.body == Body::File(FileBody::Content(content))
            {
                others.push(epoch);
            }
            inside
        });
        match others.as_slice() {
            [] => Fate::Removed,
            [one] => Fate::Kept(ContentRecord { epoch: *one, ..owner }),
            several => {
                let heads: BTreeSet<_> = self.records().unwrap_or_default().into_iter().map(|(_, r)| r.head).collect();
                match several.iter().find(|epoch| !heads.contains(epoch)) {
                    Some(frozen) => Fate::Kept(ContentRecord { epoch: *frozen, ..owner }),
                    // Nobody writes to it in place then.
                    None => Fate::Kept(owner),
                }
            }
        }
    }

    fn count(&self, epochs: &BTreeSet<EpochId>) -> FsResult<Freed> {
        let mut freed = Freed::default();
        let mut seen = BTreeSet::new();
        for &epoch in epochs {
            for object in changed_in(self.core.store.as_ref(), epoch)?.objects {
                let record = self.core.store.get(&keys::object(object, epoch));
                if let Some((content, Fate::Removed)) = record.and_then(|r| self.content_of(&r, epochs))
                    && seen.insert(content)
                {
                    freed.contents += 1;
                    freed.bytes += self.bytes_of(content);
                }
            }
        }
        Ok(freed)
    }

    pub(super) fn bytes_of(&self, content: ContentId) -> u64 {
        self.core.contents.stat(content).map_or(0, |s| s.st_blocks as u64 * 512)
    }

    /// Removes all records of epochs that nobody can look at, and the content files that they own.
    fn remove_epochs(&self, epochs: &BTreeSet<EpochId>) -> FsResult<Freed> {
        let mut freed = Freed::default();
        let store = self.core.store.as_ref();
        // Whoever refers to these epochs no longer must stay so across a power loss before a file goes.
        store.sync()?;
        for &epoch in epochs {
            loop {
                let mut index = Vec::new();
                let prefix = keys::changes(epoch);
                store.scan(&prefix, &mut |key, _| {
                    let inside = key.starts_with(&prefix) && index.len() < CHUNK;
                    if inside {
                        index.push(key.to_vec());
                    }
                    inside
                });
                if index.is_empty() {
                    break;
                }
                let mut batch = reclaiming();
                for key in index {
                    let Some((record, is_object)) = super::paths::record_key(&key, epoch) else {
                        batch.delete(key);
                        continue;
                    };
                    let value = if is_object { store.get(&record) } else { None };
                    match value.and_then(|r| self.content_of(&r, epochs)) {
                        Some((content, Fate::Removed)) => {
                            freed.contents += 1;
                            freed.bytes += self.bytes_of(content);
                            // The file first: a record without a file is found again, a file without a record is not.
                            self.core.contents.remove(content).map_err(io("remove content"))?;
                            batch.delete(keys::content(content));
                        }
                        Some((content, Fate::Kept(owner))) => batch.put(keys::content(content), owner.encode()),
                        None => {}
                    }
                    batch.delete(record);
                    batch.delete(key);
                }
                store.commit(&batch)?;
                freed.heirs.extend(self.core.heirs(&batch)?);
            }
        }
        for &epoch in epochs {
            for letter in [b'p', b'q'] {
                self.remove_keys(&keys::prefix(letter, &[epoch.0]))?;
            }
        }
        let mut batch = reclaiming();
        for &epoch in epochs {
            batch.delete(keys::epoch(epoch));
        }
        if !batch.is_empty() {
            store.commit(&batch)?;
        }
        Ok(freed)
    }

    /// Removes every key with a prefix.
    pub(super) fn remove_keys(&self, prefix: &[u8]) -> FsResult<()> {
        loop {
            let mut batch = reclaiming();
            self.core.store.scan(prefix, &mut |key, _| {
                let inside = key.starts_with(prefix) && batch.changes.len() < CHUNK;
                if inside {
                    batch.delete(key);
                }
                inside
            });
            if batch.is_empty() {
                return Ok(());
            }
            self.core.store.commit(&batch)?;
        }
    }
}
