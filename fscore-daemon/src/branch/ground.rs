//! What a commit into a base keeps for the other branches of it (see `core::ground`).

use super::Branches;
use super::diff::Comparison;
use super::info::{fail, fail_branch, refuse};
use super::paths::Name;
use crate::core::base::Base;
use crate::core::change::Change;
use crate::core::edit::record_from_base;
use crate::core::error::{FsError, FsResult, io};
use crate::core::ground::{GroundRecord, NOBODY};
use crate::core::ids::{BaseId, BranchId, ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, CommitRecord, DirentRecord, EpochRecord, FileBody};
use crate::core::view::View;
use crate::core::xattr::base_set;
use crate::errno::errno;
use crate::store::Batch;
use shm_transport::control::{ErrorCode, Failure};
use shm_transport::wire::{Errno, FileKind};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Numbers that are kept free for the grounds of one base: a commit that others have to be kept from takes one.
const ROW: u64 = 1 << 24;

/// Objects whose records one batch has.
const CHUNK: usize = 5_000;

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
        // What is made while a commit is carried out sees the base as it was before.
        if let Some(ground) = self.pending_on(base)?.and_then(|(_, record)| record.ground) {
            return Ok(ground);
        }
        self.last_ground(base, batch)
    }

    /// The last ground of a base.
    pub(super) fn last_ground(&self, base: BaseId, batch: &mut Batch) -> Result<EpochId, Failure> {
        if let Some(record) = self.ground_record(base)? {
            return Ok(record.last);
        }
        let lowest = self.core.new_epochs(ROW).map_err(fail)?;
        let last = EpochId(lowest.0 + ROW - 1);
        batch.put(keys::ground(base), GroundRecord { last, lowest }.encode());
        batch.put(keys::epoch(last), EpochRecord { parent: None, branch: NOBODY, base: None }.encode());
        Ok(last)
    }

    /// The commit into a base that is under way.
    pub(super) fn pending_on(&self, base: BaseId) -> Result<Option<(u64, CommitRecord)>, Failure> {
        let of_base = |(_, commit): &(u64, CommitRecord)| {
            self.core.branch_record(commit.branch).is_ok_and(|branch| branch.base == Some(base))
        };
        Ok(self.commits()?.into_iter().find(of_base))
    }

    /// Refuses while a commit into a base is under way.
    pub(super) fn refuse_pending(&self, base: Option<BaseId>) -> Result<(), Failure> {
        let Some((_, commit)) = base.map_or(Ok(None), |base| self.pending_on(base))? else { return Ok(()) };
        let name = self.name_of(commit.branch);
        Err(refuse(ErrorCode::Busy, format!("a commit of branch {name} into the same base is under way"))
            .hint("`agentfs status` finishes or takes back an interrupted one")
            .done())
    }

    /// Keeps what a commit of a branch is about to replace, where another branch or a snapshot stands on the same base.
    ///
    /// It is what the base has at these places until the commit is carried out, so that it may be written bit by bit, and
    /// stays where the commit is not carried out or taken back.
    pub(super) fn keep(
        &self,
        id: BranchId,
        base: BaseId,
        comparison: &mut Comparison<'_>,
    ) -> Result<Option<EpochId>, Failure> {
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
        let mut batch = Batch::default();
        batch.put(keys::epoch(last), EpochRecord { parent: Some(next), branch: NOBODY, base: None }.encode());
        batch.put(keys::epoch(next), EpochRecord { parent: None, branch: NOBODY, base: None }.encode());
        batch.put(keys::ground(base), GroundRecord { last: next, lowest }.encode());
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        self.stand_anew(last, next);
        let done = wanted(comparison).and_then(|wanted| self.fill(&wanted, comparison, last));
        self.core.bar_all();
        done.map(|()| Some(last)).map_err(|e| {
            if matches!(e, FsError::Stale | FsError::NotFound) {
                refuse(ErrorCode::Busy, "the base was changed meanwhile").hint("run it again").done()
            } else {
                fail_branch(&self.name_of(id), e)
            }
        })
    }

    /// Views in memory go on from a ground to the next.
    fn stand_anew(&self, ground: EpochId, next: EpochId) {
        for branch in self.core.loaded_branches() {
            let mut view = branch.view_mut();
            if view.chain.last() == Some(&ground) {
                view.chain = view.chain.iter().copied().chain([next]).collect();
            }
        }
    }

    fn fill(&self, wanted: &Wanted<'_>, comparison: &Comparison<'_>, ground: EpochId) -> FsResult<()> {
        let view = View { branch: NOBODY, chain: [ground].into(), ..wanted.live.clone() };
        let objects: Vec<_> = wanted.objects.iter().map(|(object, bytes)| (*object, *bytes)).collect();
        let names: Vec<_> = wanted.names.iter().collect();
        // Objects first: a name that leads to one stands for it from then on.
        for some in objects.chunks(CHUNK) {
            let mut made = Vec::new();
            let kept = self.keep_objects(wanted, &view, some, &mut made).and_then(|change| {
                self.core.contents.sync_all().map_err(io("make contents durable"))?;
                change.commit(self.core.store.as_ref())
            });
            if let Err(e) = kept {
                // Unless the batch may have come to the log all the same.
                if !matches!(e, FsError::Store(_)) {
                    self.drop_contents(&made);
                }
                return Err(e);
            }
        }
        for some in names.chunks(CHUNK) {
            let mut change = Change::new(&view);
            for (dir, name) in some {
                let found = comparison.tree.base_child(*dir, name)?;
                let record =
                    found.map_or(DirentRecord::Whiteout, |s| DirentRecord::Entry { object: s.object, kind: s.kind });
                change.dirent(*dir, name, record, true);
                change.prename(*dir, name, found.map(|s| s.object));
            }
            change.commit(self.core.store.as_ref())?;
        }
        Ok(())
    }

    fn keep_objects(
        &self,
        wanted: &Wanted<'_>,
        view: &View,
        objects: &[(ObjectId, bool)],
        made: &mut Vec<ContentId>,
    ) -> FsResult<Change> {
        let mut change = Change::new(view);
        for &(object, bytes) in objects {
            let (mut record, stat) = record_from_base(&wanted.live, object)?;
            if bytes
                && record.body == Body::File(FileBody::Base)
                && let Some(source) = readable(wanted.base.file(object))?
            {
                let content = self.core.new_content()?;
                let before = wanted.base.stat_fd(object, &source)?.identity();
                self.core.contents.copy_from(content, source.as_fd(), None).map_err(io("keep what is replaced"))?;
                made.push(content);
                if before != stat.identity() || wanted.base.stat(object)?.identity() != before {
                    return Err(FsError::Stale);
                }
                record.body = Body::File(FileBody::Content(content));
                change.content(content, object);
            }
            if let Some(set) = readable(base_set(wanted.base, object))? {
                change.xattrs(object, &set);
            }
            change.object(object, &record);
            change.preimage(object, &stat.identity());
            wanted.base.pin(object, &mut change.batch);
        }
        Ok(change)
    }

    fn drop_contents(&self, contents: &[ContentId]) {
        for id in contents {
            if let Err(error) = self.core.contents.remove(*id) {
                tracing::warn!(content = %id, %error, "a content file without a use stays until the next start");
            }
        }
    }
}

/// `None` for what the daemon's user may not read: no branch of its could show it either.
fn readable<T>(found: FsResult<T>) -> FsResult<Option<T>> {
    match found {
        Err(e) if errno(&e) == Errno::EACCES => Ok(None),
        found => found.map(Some),
    }
}

/// What the base has where it is about to change. What follows the host by itself is not among it: directories in which
/// nothing but names change, and what moves along with its directory.
fn wanted<'a>(comparison: &mut Comparison<'a>) -> FsResult<Wanted<'a>> {
    let view = comparison.tree.view;
    let base = view.base.as_ref().ok_or(FsError::Stale)?;
    let live = View { chain: [].into(), ..view.clone() };
    let mut wanted = Wanted { live, base, names: BTreeSet::new(), objects: BTreeMap::new() };
    let changed = comparison.changed;
    let mut left = Vec::new();
    for (dir, name) in changed.names.iter().filter(|(dir, _)| dir.is_base()) {
        let (is, was) = (comparison.tree.child(*dir, name)?, comparison.tree.base_child(*dir, name)?);
        if is.map(|(object, _)| object) != was.map(|stat| stat.object) {
            wanted.names.insert((*dir, name.clone()));
            left.extend(was);
        }
    }
    // What loses its name, and what is in directories that go.
    while let Some(stat) = left.pop() {
        let stays = has_place(comparison, stat.object, stat.kind)?;
        let bytes = !stays || !is_of_base(view, stat.object)?;
        if wanted.objects.insert(stat.object, bytes).is_some() || stays || stat.kind != FileKind::Directory {
            continue;
        }
        for name in comparison.tree.base_names(stat.object)? {
            if let Some(inner) = comparison.tree.base_child(stat.object, &name)? {
                wanted.names.insert((stat.object, name));
                left.push(inner);
            }
        }
    }
    // What stays at its name, and is another object or has other attributes then.
    for &object in changed.objects.iter().filter(|object| object.is_base()) {
        if wanted.objects.contains_key(&object) {
            continue;
        }
        let Some(stat) = super::paths::present(base.stat(object).map(Some))? else { continue };
        if !has_place(comparison, object, stat.kind)? {
            continue;
        }
        let (is, was) = (comparison.branch_facts(object)?, comparison.base_facts(&stat)?);
        // The times of a file go with its bytes, those of a directory with its names.
        let aged = stat.kind != FileKind::Directory && !is.same_time(&was);
        let replaced = aged || !is_of_base(view, object)?;
        let links = view.object(object)?.map_or(stat.attr.nlink, |found| found.value.nlink);
        let linked = stat.kind != FileKind::Directory && links != stat.attr.nlink;
        if replaced || linked || !is.same_attributes(&was) {
            wanted.objects.insert(object, replaced);
        }
        if replaced {
            for (dir, name) in base.locators(object) {
                if comparison.tree.base_child(dir, &name)?.is_some_and(|found| found.object == object) {
                    wanted.names.insert((dir, name));
                }
            }
        }
    }
    Ok(wanted)
}

/// Whether the branch has an object of the base somewhere.
fn has_place(comparison: &mut Comparison<'_>, object: ObjectId, kind: FileKind) -> FsResult<bool> {
    if kind == FileKind::Directory {
        return Ok(comparison.tree.directory(object)?.is_some());
    }
    Ok(!comparison.tree.places(object)?.is_empty())
}

/// Whether the bytes of a file are those of the base.
fn is_of_base(view: &View, object: ObjectId) -> FsResult<bool> {
    let body = view.object(object)?.map(|found| found.value.body);
    Ok(!matches!(body, Some(Body::File(FileBody::Content(_) | FileBody::Hole { .. }))))
}
