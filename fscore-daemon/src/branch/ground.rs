//! What a commit into a base keeps for the other branches of it (see `core::ground`).

use super::Branches;
use super::diff::Comparison;
use super::info::{fail, fail_branch, fail_store, refuse};
use super::paths::{Name, split};
use crate::core::base::Base;
use crate::core::change::Change;
use crate::core::edit::record_from_base;
use crate::core::error::{FsError, FsResult, io};
use crate::core::ground::{GroundRecord, NOBODY};
use crate::core::ids::{BaseId, BranchId, ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, DirentRecord, EpochRecord, FileBody};
use crate::core::view::View;
use crate::core::xattr::base_set;
use crate::store::Batch;
use shm_transport::control::{ErrorCode, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Numbers that are kept free for the grounds of one base: a commit that others have to be kept from takes one.
const ROW: u64 = 1 << 24;

/// What a commit adds to its first batch.
pub(super) struct Kept {
    /// The ground that has it.
    pub(super) ground: EpochId,
    pub(super) batch: Batch,
    contents: Vec<ContentId>,
}

/// What is kept, and of which objects the bytes too.
struct Wanted<'a> {
    live: View,
    base: &'a Arc<Base>,
    names: BTreeSet<Name>,
    objects: BTreeMap<ObjectId, bool>,
}

impl Branches {
    fn ground_record(&self, base: BaseId) -> Result<Option<GroundRecord>, Failure> {
        let bytes = self.core.store.get(&keys::ground(base));
        bytes.map(|bytes| GroundRecord::decode(&bytes).map_err(|e| fail(e.into()))).transpose()
    }

    /// The ground that a branch of a base stands on from now on; the first one of the base is added to the batch. It is
    /// older than every epoch that is numbered afterwards.
    pub(super) fn ground_for(&self, base: BaseId, batch: &mut Batch) -> Result<EpochId, Failure> {
        if let Some(record) = self.ground_record(base)? {
            return Ok(record.last);
        }
        let lowest = self.core.new_epochs(ROW).map_err(fail)?;
        let last = EpochId(lowest.0 + ROW - 1);
        batch.put(keys::ground(base), GroundRecord { last, lowest }.encode());
        batch.put(keys::epoch(last), EpochRecord { parent: None, branch: NOBODY, base: None }.encode());
        Ok(last)
    }

    /// Keeps what a commit of a branch is about to replace, where another branch or a snapshot stands on the same base.
    pub(super) fn keep(
        &self,
        id: BranchId,
        base: BaseId,
        comparison: &mut Comparison<'_>,
    ) -> Result<Option<Kept>, Failure> {
        let Some(GroundRecord { last, lowest }) = self.ground_record(base)? else { return Ok(None) };
        let others = self.records()?.into_iter().any(|(other, record)| other != id && record.base == Some(base));
        if !others && self.snapshots_of(id)?.is_empty() {
            return Ok(None);
        }
        if last == lowest {
            tracing::warn!(%base, "other branches of the base see this commit: all numbers to keep them from it are used");
            return Ok(None);
        }
        let next = EpochId(last.0 - 1);
        let mut kept = Kept { ground: last, batch: Batch::default(), contents: Vec::new() };
        let done = wanted(comparison).and_then(|wanted| self.gather(&wanted, comparison, &mut kept));
        if let Err(e) = done {
            self.drop_kept(&kept);
            let gone = matches!(e, FsError::Stale | FsError::NotFound);
            return Err(if gone {
                refuse(ErrorCode::Busy, "the base was changed meanwhile").hint("run it again").done()
            } else {
                fail_branch(&self.name_of(id), e)
            });
        }
        if let Err(e) = self.core.contents.sync_all() {
            self.drop_kept(&kept);
            return Err(fail_store("make contents durable", &e));
        }
        let below = EpochRecord { parent: Some(next), branch: NOBODY, base: None };
        kept.batch.put(keys::epoch(last), below.encode());
        kept.batch.put(keys::epoch(next), EpochRecord { parent: None, branch: NOBODY, base: None }.encode());
        kept.batch.put(keys::ground(base), GroundRecord { last: next, lowest }.encode());
        Ok(Some(kept))
    }

    /// Content files that no record refers to.
    pub(super) fn drop_kept(&self, kept: &Kept) {
        for id in &kept.contents {
            if let Err(error) = self.core.contents.remove(*id) {
                tracing::warn!(content = %id, %error, "a content file without a use stays until the next start");
            }
        }
    }

    fn gather(&self, wanted: &Wanted<'_>, comparison: &Comparison<'_>, kept: &mut Kept) -> FsResult<()> {
        let view = View { branch: NOBODY, chain: [kept.ground].into(), ..wanted.live.clone() };
        let mut change = Change::new(&view);
        let mut names = wanted.names.clone();
        for (&object, &bytes) in &wanted.objects {
            let (mut record, stat) = record_from_base(&wanted.live, object)?;
            if bytes && record.body == Body::File(FileBody::Base) {
                let content = self.core.new_content()?;
                let source = wanted.base.file(object)?;
                let before = wanted.base.stat_fd(object, &source)?.identity();
                self.core.contents.copy_from(content, source.as_fd(), None).map_err(io("keep what is replaced"))?;
                kept.contents.push(content);
                if before != stat.identity() || wanted.base.stat(object)?.identity() != before {
                    return Err(FsError::Stale);
                }
                record.body = Body::File(FileBody::Content(content));
                change.content(content, object);
            }
            change.xattrs(object, &base_set(wanted.base, object)?);
            change.object(object, &record);
            change.preimage(object, &stat.identity());
            wanted.base.pin(object, &mut change.batch);
            names.extend(wanted.base.locators(object));
        }
        for (dir, name) in names {
            let found = comparison.tree.base_child(dir, &name)?;
            let record =
                found.map_or(DirentRecord::Whiteout, |s| DirentRecord::Entry { object: s.object, kind: s.kind });
            change.dirent(dir, &name, record, true);
            change.prename(dir, &name, found.map(|s| s.object));
        }
        kept.batch = change.batch;
        Ok(())
    }

    /// What was kept is on record: all that stand on the ground look at it from now on.
    pub(super) fn stand_anew(&self, base: BaseId, but: BranchId) -> FsResult<()> {
        self.core.bar_all();
        for branch in self.core.loaded_branches() {
            if branch.id != but && self.core.branch_record(branch.id)?.base == Some(base) {
                let mut view = branch.view_mut();
                view.chain = self.core.chain(view.head())?;
            }
        }
        Ok(())
    }

    /// A commit is taken back: the base has all that was kept for others.
    pub(super) fn unkeep(&self, base: BaseId, ground: EpochId) -> FsResult<()> {
        let branches: Vec<_> = self.core.loaded_branches();
        let mut still = Vec::new();
        for branch in &branches {
            // One that is being deleted has no record.
            if self.core.branch_record(branch.id).is_ok_and(|record| record.base == Some(base)) {
                still.push(branch.view_mut());
            }
        }
        let cleared = self.clear(ground);
        self.core.bar_all();
        cleared
    }
}

/// What the base has where it is about to change.
fn wanted<'a>(comparison: &mut Comparison<'a>) -> FsResult<Wanted<'a>> {
    let view = comparison.tree.view;
    let base = view.base.as_ref().ok_or(FsError::Stale)?;
    let mut wanted = Wanted {
        live: View { chain: [].into(), ..view.clone() },
        base,
        names: BTreeSet::new(),
        objects: BTreeMap::new(),
    };
    // Objects of the base that stay, wherever, with the bytes that they have.
    let mut stay = BTreeSet::new();
    for object in comparison.entries.values().filter_map(|entry| entry.branch).filter(|object| object.is_base()) {
        let body = view.object(object)?.map(|found| found.value.body);
        if !matches!(body, Some(Body::File(FileBody::Content(_) | FileBody::Hole { .. }))) {
            stay.insert(object);
            // Its links may be counted anew.
            if view.base_of(object).is_some_and(|base| base.stat(object).is_ok()) {
                wanted.objects.insert(object, false);
            }
        }
    }
    let entries: Vec<_> =
        comparison.entries.iter().map(|(path, entry)| (path.clone(), entry.branch, entry.base)).collect();
    for (path, is, was) in entries {
        let (above, name) = split(&path);
        if !path.is_empty()
            && let Some(dir) = comparison.tree.directories(above)?.1
        {
            wanted.names.insert((dir, name.to_vec()));
            wanted.objects.entry(dir).or_insert(false);
        }
        if let Some(stat) = was {
            // The times of a file go with its bytes.
            let aged = || -> FsResult<bool> {
                let facts = comparison.branch_facts(stat.object)?;
                Ok(!facts.same_time(&comparison.base_facts(&stat)?))
            };
            let goes = !stay.contains(&stat.object) || (is == Some(stat.object) && aged()?);
            *wanted.objects.entry(stat.object).or_insert(goes) |= goes;
        }
    }
    Ok(wanted)
}
