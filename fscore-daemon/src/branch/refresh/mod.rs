//! What a base has meanwhile, taken into a branch of it.
//!
//! What the branch did not change is the base's at any time. So only what both changed is decided: where the base wins,
//! or both came to the same, the branch's change is dropped and the base shows through; where the branch wins, the
//! pre-image is renewed, so that the next commit replaces what the base has now.
//!
//! An epoch cannot say "as the base has it". A branch that drops changes therefore goes on from one new epoch without a
//! parent, which has what is left of them; the state before stays as a snapshot.
//!
//! ```text
//! state    the changes of a branch as one epoch, and what is dropped of them
//! ```

mod state;

use self::state::{State, copy_of};
use super::Branches;
use super::answer::{Asked, answer};
use super::between::{Between, changed_between};
use super::commit::{cut, leave_room};
use super::conflict::{Conflicts, agreed, conflicts};
use super::diff::{Comparison, Entry, shown};
use super::info::{fail, fail_branch, fail_store, refuse, refuse_mounted};
use super::merge::{Preferences, Request};
use super::paths::{Changed, Path, present, split};
use super::preimages::Preimages;
use crate::content::Contents;
use crate::core::error::FsResult;
use crate::core::ids::BranchId;
use crate::core::keys;
use crate::core::record::{BranchRecord, EpochRecord, SnapshotRecord};
use crate::core::view::View;
use crate::store::Batch;
use shm_transport::control::escape::escape;
use shm_transport::control::{Conflict, Diff, ErrorCode, Failure, Merged};
use std::collections::BTreeSet;

/// What no preference can have, because another path depends on it.
const TOGETHER: &str = "both changed it, and it cannot be decided without another path";

/// What comes of a refresh.
struct Outcome {
    conflicts: Vec<Conflict>,
    settled: u64,
    renewed: Preimages,
    /// The paths of those.
    kept: u64,
    /// Where changes are dropped.
    state: Option<State>,
    changes: Diff,
}

impl Branches {
    /// For a branch that was made of a base and of no other branch.
    pub(super) fn refresh_from_base(
        &self,
        id: BranchId,
        request: &Request<'_>,
        preferences: &Preferences,
    ) -> Result<Merged, Failure> {
        let name = request.branch;
        if self.is_committing(id)? {
            return Err(refuse(ErrorCode::Busy, format!("a commit of branch {name} is under way"))
                .hint("`agentfs status` finishes or takes back an interrupted one")
                .done());
        }
        let branch = self.loaded(id)?;
        if !request.dry_run {
            self.refuse_pending(self.record(id)?.base)?;
            refuse_mounted(&self.core, id, name, "refreshed")?;
        }
        let mut view = branch.view_mut();
        let now = view.clone();
        let Some(base) = now.base.clone() else {
            return Err(refuse(ErrorCode::Usage, format!("branch {name} has neither a parent nor a base"))
                .hint("there is nothing that it could follow")
                .done());
        };
        if base.is_sealed() {
            return Err(refuse(
                ErrorCode::Usage,
                format!("branch {name} shows its base as it was, and does not follow it"),
            )
            .hint("commit it, or make a new branch of the base as it is now")
            .done());
        }
        let failed = |e| fail_branch(name, e);
        let outcome = outcome(&now, &self.core.contents, preferences).map_err(failed)?;
        let conflicts = cut(outcome.conflicts);
        let mut merged = Merged {
            branch: name.to_owned(),
            with: escape(&base.record.path),
            applied: false,
            changes: leave_room(outcome.changes, &conflicts),
            conflicts,
            settled: outcome.settled,
            kept: outcome.kept,
            snapshot: None,
        };
        if request.dry_run || !merged.conflicts.is_empty() {
            return Ok(merged);
        }
        let mut batch = Batch::default();
        let head = if let Some(state) = &outcome.state {
            let snapshot = self.free_name(id, "before-refresh-")?;
            let created = self.core.clock.now();
            // Older than what stands on it.
            let ground = match self.record(id)?.base {
                Some(base) => Some(self.ground_for(base, &mut batch)?),
                None => None,
            };
            let (result, head) = (self.core.new_epoch().map_err(fail)?, self.core.new_epoch().map_err(fail)?);
            state.put(&now, (result, ground), &mut batch);
            state.pin(&base, &mut batch);
            outcome.renewed.put(result, &mut batch);
            batch.put(
                keys::snapshot(id, &snapshot),
                SnapshotRecord { epoch: now.head(), created, automatic: false }.encode(),
            );
            batch.put(keys::epoch(head), EpochRecord { parent: Some(result), branch: id, base: None }.encode());
            batch.put(keys::branch(id), BranchRecord { head, ..self.record(id)? }.encode());
            merged.snapshot = Some(snapshot);
            Some(head)
        } else {
            outcome.renewed.put(now.head(), &mut batch);
            None
        };
        if batch.is_empty() {
            return Ok(merged);
        }
        self.core.contents.sync_all().map_err(|e| fail_store("make contents durable", &e))?;
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        if let Some(head) = head {
            view.chain = self.core.chain(head).map_err(failed)?;
        }
        drop(view);
        if head.is_some() {
            self.core.recount([id]).map_err(failed)?;
        }
        self.core.store.sync().map_err(|e| fail(e.into()))?;
        merged.applied = true;
        Ok(merged)
    }
}

fn outcome(view: &View, contents: &Contents, preferences: &Preferences) -> FsResult<Outcome> {
    let changed = Changed::of(view)?;
    let mut comparison = Comparison::run(view, contents, &changed)?;
    let mut found = conflicts(&mut comparison)?;
    found.decide(&mut comparison, preferences)?;
    let agreed = agreed(&mut comparison)?;
    let mut outcome = Outcome {
        conflicts: found.told(),
        settled: (comparison.settled.len() + agreed.len()) as u64,
        renewed: renewed(&mut comparison, &found)?,
        kept: found.ours.len() as u64,
        state: None,
        changes: Diff::default(),
    };
    let dropped: BTreeSet<Path> =
        comparison.settled.iter().chain(comparison.kept.keys()).chain(&agreed).cloned().collect();
    // What was committed into the base since is not seen by standing where it stood.
    let behind = view.ground()?.len() > 1;
    if dropped.is_empty() && !behind {
        return Ok(outcome);
    }
    let mut state = State::of(view, &changed)?;
    let mut together = state.drop_changes(&mut comparison, &found, &dropped)?;
    let result = state.view(view, Some(&outcome.renewed))?;
    if together.is_empty() && found.found.is_empty() {
        together = unlike(&comparison, &result, contents)?;
    }
    let told = together
        .iter()
        .filter(|path| !found.found.contains_key(*path))
        .map(|path| Conflict { path: shown(path), reason: TOGETHER.to_owned() });
    outcome.conflicts.extend(told);
    outcome.changes = changes(&copy_of(view, Some(&result))?, &result, contents)?;
    outcome.state = Some(state);
    Ok(outcome)
}

/// What is to be known of the base where the branch wins.
fn renewed(comparison: &mut Comparison<'_>, found: &Conflicts) -> FsResult<Preimages> {
    let mut known = Preimages::default();
    for path in &found.ours {
        let Some(entry) = comparison.entries.get(path) else { continue };
        let Entry { branch, base: stat, .. } = *entry;
        if let Some(stat) = stat {
            known.objects.insert(stat.object, stat.identity().encode());
        }
        let view = comparison.tree.view;
        if let Some(object) = branch.filter(|object| object.is_base())
            && let Some(base) = &view.base
        {
            let there = present(base.stat(object).map(Some))?;
            known.objects.insert(object, there.map(|stat| stat.identity().encode()).unwrap_or_default());
        }
        let (above, name) = split(path);
        if !path.is_empty()
            && let Some(dir) = comparison.tree.directories(above)?.1
        {
            let there = stat.map_or(0, |stat| stat.object.0);
            known.names.insert((dir, name.to_vec()), there.to_le_bytes().to_vec());
        }
    }
    Ok(known)
}

/// Paths at which the result is not what was decided: the base's where that wins, else the branch's, and no conflict.
fn unlike(decided: &Comparison<'_>, result: &View, contents: &Contents) -> FsResult<BTreeSet<Path>> {
    let changed = Changed::of(result)?;
    let mut comparison = Comparison::run(result, contents, &changed)?;
    let left = conflicts(&mut comparison)?;
    let mut unlike: BTreeSet<Path> = left.found.into_keys().collect();
    let same = |a: &Entry, b: &Entry| (a.kind, a.object, a.size, a.branch) == (b.kind, b.object, b.size, b.branch);
    for path in decided.entries.keys().chain(comparison.entries.keys()) {
        let alike = match (decided.entries.get(path), comparison.entries.get(path)) {
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        };
        if !alike {
            unlike.insert(path.clone());
        }
    }
    Ok(unlike)
}

fn changes(from: &View, to: &View, contents: &Contents) -> FsResult<Diff> {
    let changed = changed_between(from, to)?;
    let mut between = Between::run(from, to, contents, &changed)?;
    answer(&mut between, contents, &Asked { of: "", against: None, limit: u32::MAX, skip: 0, sources: false })
}
