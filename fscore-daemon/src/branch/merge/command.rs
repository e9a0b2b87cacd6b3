//! `refresh` moves a branch's fork point to what its parent has now; `commit --into-parent` makes the result the
//! parent's as well. Both write one batch: before it nothing happened, after it everything did.

use super::super::Branches;
use super::super::answer::{Asked, answer};
use super::super::between::{Between, changed_between};
use super::super::commit::{cut, leave_room};
use super::super::delete::mark_reclaiming;
use super::super::diff::shown;
use super::super::info::{fail, fail_branch, refuse, refuse_mounted};
use super::super::paths::changed_in;
use super::{Merge, Preferences};
use crate::core::error::FsResult;
use crate::core::ids::{BranchId, EpochId};
use crate::core::keys;
use crate::core::record::{BranchRecord, EpochRecord};
use crate::core::state::{Branch, lock};
use crate::core::view::View;
use crate::store::Batch;
use shm_transport::control::escape::unescape;
use shm_transport::control::{Conflict, Diff, ErrorCode, Failure, Merged, Preference};
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Request<'a> {
    pub(in super::super) branch: &'a str,
    /// The parent gets the result too.
    pub(in super::super) into_parent: bool,
    pub(in super::super) dry_run: bool,
    pub(in super::super) prefer: &'a [Preference],
}

/// Both branches of a merge.
struct Pair {
    branch: Arc<Branch>,
    record: BranchRecord,
    parent: Arc<Branch>,
    parent_record: BranchRecord,
}

impl Branches {
    /// Merges, or says what would come of it.
    pub(in super::super) fn merge(&self, request: &Request<'_>) -> Result<Merged, Failure> {
        let name = request.branch;
        let preferences = preferences(request.prefer)?;
        let _mutation = lock(&self.mutation);
        let id = self.find(name)?;
        let record = self.record(id)?;
        let Some((parent, fork)) = record.from else {
            return if request.into_parent {
                Err(refuse(ErrorCode::Usage, format!("branch {name} was not made from another branch"))
                    .hint(format!("`agentfs commit {name}` takes its changes into its base directory"))
                    .done())
            } else {
                self.refresh_from_base(id, request, &preferences)
            };
        };
        let parent_record = self.record(parent)?;
        for (id, name) in [(id, name), (parent, parent_record.name.as_str())] {
            if self.is_committing(id)? {
                return Err(refuse(ErrorCode::Busy, format!("a commit of branch {name} is under way"))
                    .hint("`agentfs status` finishes or takes back an interrupted one")
                    .done());
            }
        }
        let verb = if request.into_parent { "committed" } else { "refreshed" };
        refuse_mounted(&self.core, id, name, verb)?;
        if request.into_parent {
            refuse_mounted(&self.core, parent, &parent_record.name, "committed into")?;
        }
        let pair = Pair { branch: self.loaded(id)?, record, parent: self.loaded(parent)?, parent_record };
        let ours = pair.branch.view().clone();
        let chain = self.core.chain(fork).map_err(|e| fail_branch(name, e))?;
        let fork = View { chain, ..ours.clone() };
        let together = format!("branch {name} and its parent {} have nothing in common", pair.parent_record.name);
        self.same_base(&together, &ours, &[&fork, &pair.parent.view()])?;
        let theirs = self.settled_view(&pair.parent, request)?;
        let mut merged = Merged {
            branch: name.to_owned(),
            with: pair.parent_record.name.clone(),
            applied: false,
            changes: Diff::default(),
            conflicts: Vec::new(),
            settled: 0,
            kept: 0,
            snapshot: None,
        };
        let failed = |e| fail_branch(name, e);
        let mut merge = Merge::run((&fork, &ours, &theirs), &self.core.contents, &preferences).map_err(failed)?;
        merged.changes = self.changes(&fork, if request.into_parent { &ours } else { &theirs }).map_err(failed)?;
        merged.settled = merge.settled.len() as u64;
        let reason = |reason: &&str| (*reason).to_owned();
        merged.conflicts = cut(merge
            .conflicts
            .iter()
            .map(|(path, why)| Conflict { path: shown(path), reason: reason(why) })
            .collect());
        merged.changes = leave_room(merged.changes, &merged.conflicts);
        // What came of an earlier merge is the fork point now: there is nothing to do again.
        let nothing = if request.into_parent { is_same(&fork, &ours)? } else { is_same(&fork, &theirs)? };
        if request.dry_run || !merged.conflicts.is_empty() || nothing {
            return Ok(merged);
        }
        self.apply(&pair, &mut merge, &theirs, request.into_parent)?;
        merged.applied = true;
        Ok(merged)
    }

    /// The parent's state that is merged with. Unless it is only looked at, or gets a new head itself, it is frozen.
    fn settled_view(&self, parent: &Branch, request: &Request<'_>) -> Result<View, Failure> {
        let mut view = parent.view_mut();
        if request.dry_run || request.into_parent {
            return Ok(view.clone());
        }
        let unchanged = changed_in(self.core.store.as_ref(), view.head()).map_err(fail)?;
        if !(unchanged.names.is_empty() && unchanged.objects.is_empty() && view.own().map_err(fail)?.len() > 1) {
            self.freeze_view(parent, &mut view, |_, _| {})?;
        }
        let chain = view.chain.get(1..).unwrap_or_default().into();
        Ok(View { chain, ..view.clone() })
    }

    fn apply(&self, pair: &Pair, merge: &mut Merge<'_>, theirs: &View, into_parent: bool) -> Result<(), Failure> {
        let name = &pair.record.name;
        let (id, parent) = (pair.branch.id, pair.parent.id);
        let mut branch_view = pair.branch.view_mut();
        let mut parent_view = into_parent.then(|| pair.parent.view_mut());
        // Written in this order, because an epoch is younger than what it inherits from.
        let result = self.core.new_epoch().map_err(fail)?;
        let owner = if into_parent { parent } else { id };
        let continued = theirs.chain.first().copied();
        let chain = |top: &[EpochId]| -> Arc<[EpochId]> { top.iter().chain(theirs.chain.iter()).copied().collect() };
        let view = View { branch: owner, chain: chain(&[result]), ..theirs.clone() };
        let mut batch = if merge.is_empty() {
            Batch::default()
        } else {
            merge.records(&self.core, &view).map_err(|e| fail_branch(name, e))?
        };
        batch.put(keys::epoch(result), EpochRecord { parent: continued, branch: owner, base: None }.encode());
        let mut head = |of: BranchId, record: &BranchRecord, from: Option<(BranchId, EpochId)>| {
            let head = self.core.new_epoch().map_err(fail)?;
            batch.put(keys::epoch(head), EpochRecord { parent: Some(result), branch: of, base: None }.encode());
            batch.put(keys::branch(of), BranchRecord { head, from, ..record.clone() }.encode());
            Ok::<_, Failure>(head)
        };
        let fork_point = if into_parent { Some(result) } else { continued };
        let new_head = head(id, &pair.record, fork_point.map(|epoch| (parent, epoch)))?;
        let parent_head =
            if into_parent { Some(head(parent, &pair.parent_record, pair.parent_record.from)?) } else { None };
        // The branch no longer inherits from what it was made from.
        let left = self.owners(&branch_view.chain).map_err(fail)?;
        mark_reclaiming(&mut batch, &left);
        self.core.contents.sync_all().map_err(|e| super::super::info::fail_store("make contents durable", &e))?;
        let givers = self.core.givers(&batch).map_err(fail)?;
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        branch_view.chain = chain(&[new_head, result]);
        if let (Some(view), Some(head)) = (&mut parent_view, parent_head) {
            view.chain = chain(&[head, result]);
        }
        drop((branch_view, parent_view));
        let reclaimed = self.reclaim_unreachable(&left);
        // What was merged belongs to one of them now, whatever else they had, and whoever had it before.
        self.core.recount(givers.into_iter().chain([id, parent])).map_err(fail)?;
        reclaimed.map_err(|e| fail_branch(name, e))?;
        self.core.store.sync().map_err(|e| fail(e.into()))
    }

    /// What differs from the fork point.
    fn changes(&self, fork: &View, to: &View) -> FsResult<Diff> {
        let changed = changed_between(fork, to)?;
        let mut between = Between::run(fork, to, &self.core.contents, &changed)?;
        answer(
            &mut between,
            &self.core.contents,
            &Asked { of: "", against: None, limit: u32::MAX, skip: 0, sources: false },
        )
    }
}

/// Whether a view shows what its fork point shows.
fn is_same(fork: &View, view: &View) -> Result<bool, Failure> {
    let changed = changed_between(fork, view).map_err(fail)?;
    Ok(changed.names.is_empty() && changed.objects.is_empty())
}

pub(in super::super) fn preferences(prefer: &[Preference]) -> Result<Preferences, Failure> {
    let one = |Preference { path, side }: &Preference| {
        let path = unescape(path).map_err(|e| {
            refuse(ErrorCode::Usage, format!("{path:?} is no escaped path: {e}"))
                .hint("a backslash is written twice")
                .done()
        })?;
        Ok((if path == b"." { Vec::new() } else { path }, *side))
    };
    prefer.iter().map(one).collect::<Result<_, _>>().map(Preferences)
}
