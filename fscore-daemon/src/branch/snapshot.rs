//! Freezing a branch's head, and the names of frozen epochs.

use super::Branches;
use super::delete::mark_reclaiming;
use super::info::{check_name, fail, refuse};
use super::mark::Mark;
use super::paths::scan;
use crate::core::ids::{BranchId, EpochId};
use crate::core::keys;
use crate::core::record::{BranchRecord, EpochRecord, SnapshotRecord};
use crate::core::state::{Branch, lock};
use crate::core::view::View;
use crate::store::Batch;
use shm_transport::control::{ErrorCode, Failure, SnapshotInfo};
use std::time::Instant;

impl Branches {
    /// Moves the head of a branch to a new epoch: a child of the old one, which is answered. `more` adds
    /// to the batch.
    pub(super) fn freeze(&self, id: BranchId, more: impl FnOnce(&mut Batch, EpochId)) -> Result<EpochId, Failure> {
        let branch = self.loaded(id)?;
        let mut view = branch.view_mut();
        self.freeze_view(&branch, &mut view, more)
    }

    /// The same with the branch's view taken.
    pub(super) fn freeze_view(
        &self,
        branch: &Branch,
        view: &mut View,
        more: impl FnOnce(&mut Batch, EpochId),
    ) -> Result<EpochId, Failure> {
        let old = view.head();
        let mut batch = Batch::default();
        more(&mut batch, old);
        self.move_head(branch, view, Some(old), batch)?;
        Ok(old)
    }

    /// Gives a branch a new, empty head below `parent`.
    pub(super) fn move_head(
        &self,
        branch: &Branch,
        view: &mut View,
        parent: Option<EpochId>,
        mut batch: Batch,
    ) -> Result<(), Failure> {
        let new = self.core.new_epoch().map_err(fail)?;
        let record = BranchRecord { head: new, ..self.record(branch.id)? };
        batch.put(keys::epoch(new), EpochRecord { parent, branch: branch.id, base: None }.encode());
        batch.put(keys::branch(branch.id), record.encode());
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        view.chain = if parent == Some(view.head()) {
            std::iter::once(new).chain(view.chain.iter().copied()).collect()
        } else {
            self.core.chain(new).map_err(fail)?
        };
        Ok(())
    }

    /// A branch's snapshots, by name.
    pub(super) fn snapshots_of(&self, id: BranchId) -> Result<Vec<(String, SnapshotRecord)>, Failure> {
        scan(self.core.store.as_ref(), &keys::prefix(b'S', &[id.0]), |key, value| {
            let name = String::from_utf8(keys::tail(key, 1)?.to_vec()).ok()?;
            Some((name, SnapshotRecord::decode(value).ok()?))
        })
        .map_err(fail)
    }

    /// One snapshot.
    pub(super) fn snapshot(&self, id: BranchId, branch: &str, name: &str) -> Result<SnapshotRecord, Failure> {
        let missing = || {
            refuse(ErrorCode::NotFound, format!("branch {branch} has no snapshot {name:?}"))
                .hint(format!("`agentfs snapshot list {branch}` shows its snapshots"))
                .done()
        };
        let bytes = self.core.store.get(&keys::snapshot(id, name)).ok_or_else(missing)?;
        SnapshotRecord::decode(&bytes).map_err(|e| fail(e.into()))
    }

    pub(super) fn snapshot_create(
        &self,
        branch: &str,
        name: &str,
        mark: Option<&Mark>,
    ) -> Result<SnapshotInfo, Failure> {
        let began = Instant::now();
        check_name("snapshot", name)?;
        let _mutation = lock(&self.mutation);
        let id = self.find(branch)?;
        if self.core.store.get(&keys::snapshot(id, name)).is_some() {
            return Err(refuse(ErrorCode::Exists, format!("branch {branch} has a snapshot {name} already"))
                .hint("choose another name, or delete that snapshot first")
                .done());
        }
        self.keep_head(id, branch, (name, false), began, mark)
    }

    /// Freezes the head under a name that is free, which may be automatic.
    pub(super) fn keep_head(
        &self,
        id: BranchId,
        branch: &str,
        (name, automatic): (&str, bool),
        began: Instant,
        mark: Option<&Mark>,
    ) -> Result<SnapshotInfo, Failure> {
        let created = self.core.clock.now();
        self.freeze(id, |batch, epoch| {
            batch.put(keys::snapshot(id, name), SnapshotRecord { epoch, created, automatic }.encode());
            Mark::put(mark, batch, None);
        })?;
        Ok(SnapshotInfo {
            branch: branch.to_owned(),
            name: name.to_owned(),
            created: created.sec,
            branches: Vec::new(),
            automatic,
            micros: Some(began.elapsed().as_micros() as u64),
        })
    }

    pub(super) fn snapshot_list(&self, branch: Option<&str>) -> Result<Vec<SnapshotInfo>, Failure> {
        let ids = match branch {
            Some(name) => vec![self.find(name)?],
            None => self.records()?.into_iter().map(|(id, _)| id).collect(),
        };
        let mut list = Vec::new();
        for id in ids {
            let forks = self.made_from(id)?;
            let branch = self.name_of(id);
            for (name, record) in self.snapshots_of(id)? {
                let branches = forks.iter().filter(|(_, e)| *e == record.epoch).map(|(b, _)| b.name.clone()).collect();
                let (branch, created, automatic) = (branch.clone(), record.created.sec, record.automatic);
                list.push(SnapshotInfo { branch, name, created, branches, automatic, micros: None });
            }
        }
        list.sort_by(|a, b| (&a.branch, &a.name).cmp(&(&b.branch, &b.name)));
        Ok(list)
    }

    /// Drops the name. The frozen epoch stays part of what the branch inherits.
    pub(super) fn snapshot_delete(
        &self,
        branch: &str,
        name: &str,
        dry_run: bool,
        mark: Option<&Mark>,
    ) -> Result<(), Failure> {
        let _mutation = lock(&self.mutation);
        let id = self.find(branch)?;
        let record = self.snapshot(id, branch, name)?;
        let forks: Vec<_> =
            self.made_from(id)?.into_iter().filter(|(_, e)| *e == record.epoch).map(|(b, _)| b.name).collect();
        if !forks.is_empty() {
            return Err(refuse(ErrorCode::Busy, format!("made from {branch}@{name}: {}", forks.join(", ")))
                .hint("delete these branches first")
                .done());
        }
        if !dry_run {
            self.forget_snapshot(id, name, &record, mark)?;
        }
        Ok(())
    }

    /// The same, of a snapshot that nothing was made from.
    pub(super) fn forget_snapshot(
        &self,
        id: BranchId,
        name: &str,
        record: &SnapshotRecord,
        mark: Option<&Mark>,
    ) -> Result<(), Failure> {
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        batch.delete(keys::snapshot(id, name));
        // What it inherits from may have been kept for it alone.
        let left = self.core.chain(record.epoch).and_then(|chain| self.owners(&chain)).map_err(fail)?;
        mark_reclaiming(&mut batch, &left);
        Mark::put(mark, &mut batch, None);
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        self.reclaim_unreachable(&left).map_err(fail)
    }
}
