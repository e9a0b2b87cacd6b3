//! Undo: a branch, or some of its paths, as an earlier state has them. The state before stays as a snapshot.

use super::super::Branches;
use super::super::answer::{Asked, answer};
use super::super::between::{Between, changed_between};
use super::super::info::{fail, fail_branch, fail_store, refuse, refuse_mounted};
use super::super::paths::Path;
use super::{Entry, Merge, Preferences, is_there, paths_in};
use crate::core::error::{FsError, FsResult};
use crate::core::ids::{BranchId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{BranchRecord, EpochRecord, SnapshotRecord};
use crate::core::state::lock;
use crate::core::view::View;
use crate::store::Batch;
use shm_transport::control::escape::{escape, unescape};
use shm_transport::control::{Change, Diff, ErrorCode, Failure, Undone};
use shm_transport::wire::FileKind;

/// The base of the branch, without its changes.
const BASE: &str = "@base";
/// What the branch was made from, or took over last.
const FORK: &str = "@fork";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Undo<'a> {
    pub(in super::super) branch: &'a str,
    /// A snapshot of the branch, `@base` or `@fork`; the latest snapshot where none is named.
    pub(in super::super) to: Option<&'a str>,
    /// Escaped; all where there is none.
    pub(in super::super) paths: &'a [String],
    pub(in super::super) dry_run: bool,
}

/// A state to go back to: its name, and its epoch; none for the base.
struct Goal {
    name: String,
    epoch: Option<EpochId>,
}

impl Branches {
    pub(in super::super) fn undo(&self, request: &Undo<'_>) -> Result<Undone, Failure> {
        let name = request.branch;
        let paths = paths(request.paths)?;
        let _mutation = lock(&self.mutation);
        let id = self.find(name)?;
        let record = self.record(id)?;
        if self.is_committing(id)? {
            return Err(refuse(ErrorCode::Busy, format!("a commit of branch {name} is under way"))
                .hint("`agentfs status` finishes or takes back an interrupted one")
                .done());
        }
        refuse_mounted(&self.core, id, name, "taken back")?;
        let mut goal = self.goal(id, &record, request)?;
        let failed = |e| fail_branch(name, e);
        let branch = self.loaded(id)?;
        let mut view = branch.view_mut();
        let now = view.clone();
        // The base as the branch sees it.
        goal.epoch = goal.epoch.or(now.ground().map_err(failed)?.first().copied());
        let chain = goal.epoch.map_or(Ok([].into()), |epoch| self.core.chain(epoch)).map_err(failed)?;
        let then = View { chain, ..now.clone() };
        self.same_base(&format!("branch {name} cannot go back to {}", goal.name), &now, &[&then])?;
        let base = if then.chain.is_empty() { self.core.sealed_base(&now.chain).map_err(failed)? } else { None };
        let mut undone = Undone {
            branch: name.to_owned(),
            to: goal.name,
            snapshot: None,
            changes: self.back(&now, &then, &paths).map_err(failed)?,
        };
        for path in &paths {
            if !known(&now, path).map_err(failed)? && !known(&then, path).map_err(failed)? {
                let message = format!("neither branch {name} nor {} has a path {}", undone.to, escape(path));
                return Err(refuse(ErrorCode::NotFound, message)
                    .hint("paths are those below the root of the branch")
                    .done());
            }
        }
        let preferences = Preferences::default();
        let mut merge = Merge::between((&then, &then, &now), &self.core.contents, &preferences).map_err(failed)?;
        if !paths.is_empty() {
            merge.restore(&paths).map_err(failed)?;
        }
        if let Some((path, why)) = merge.conflicts.first_key_value() {
            return Err(refuse(ErrorCode::Usage, format!("{}: {why}", escape(path)))
                .hint("name both paths, or undo the whole branch")
                .done());
        }
        if request.dry_run || is_empty(&undone.changes) {
            return Ok(undone);
        }
        let snapshot = self.free_name(id, "before-undo-")?;
        let created = self.core.clock.now();
        let mut batch = Batch::default();
        let continued = if paths.is_empty() {
            goal.epoch
        } else {
            let result = self.core.new_epoch().map_err(fail)?;
            let chain = [result].iter().chain(now.chain.iter()).copied().collect();
            let on = View { chain, ..now.clone() };
            batch = merge.records(&self.core, &on).map_err(failed)?;
            batch.put(keys::epoch(result), EpochRecord { parent: Some(now.head()), branch: id, base: None }.encode());
            Some(result)
        };
        let head = self.core.new_epoch().map_err(fail)?;
        batch.put(
            keys::snapshot(id, &snapshot),
            SnapshotRecord { epoch: now.head(), created, automatic: false }.encode(),
        );
        batch.put(
            keys::epoch(head),
            EpochRecord { parent: continued, branch: id, base: base.filter(|_| continued.is_none()) }.encode(),
        );
        let from = if paths.is_empty() { self.fork_in(&record, &then).map_err(failed)? } else { record.from };
        batch.put(keys::branch(id), BranchRecord { head, from, ..record }.encode());
        // Younger than the snapshot that it may go on from; what it refers to must be there after a power loss.
        self.core.contents.sync_all().map_err(|e| fail_store("make contents durable", &e))?;
        let givers = self.core.givers(&batch).map_err(failed)?;
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        view.chain = self.core.chain(head).map_err(failed)?;
        drop(view);
        self.core.recount(givers.into_iter().chain([id])).map_err(failed)?;
        self.core.store.sync().map_err(|e| fail(e.into()))?;
        undone.snapshot = Some(snapshot);
        Ok(undone)
    }

    /// The fork point of a branch that goes on from `then`: the state of its parent that this goes on from. None when
    /// it goes on from none, as the base does: it is the parent's child no longer.
    fn fork_in(&self, record: &BranchRecord, then: &View) -> FsResult<Option<(BranchId, EpochId)>> {
        let Some((parent, _)) = record.from else { return Ok(None) };
        for &epoch in then.chain.iter() {
            let bytes = self.core.store.get(&keys::epoch(epoch)).ok_or(FsError::Damaged("epoch missing"))?;
            if EpochRecord::decode(&bytes)?.branch == parent {
                return Ok(Some((parent, epoch)));
            }
        }
        Ok(None)
    }

    fn goal(&self, id: BranchId, record: &BranchRecord, request: &Undo<'_>) -> Result<Goal, Failure> {
        let name = request.branch;
        match request.to {
            Some(BASE) if record.base.is_some() => Ok(Goal { name: BASE.into(), epoch: None }),
            Some(BASE) => Err(refuse(ErrorCode::Usage, format!("branch {name} has no base"))
                .hint(format!("`agentfs snapshot list {name}` shows its snapshots"))
                .done()),
            Some(FORK) => match record.from {
                Some((_, epoch)) => Ok(Goal { name: FORK.into(), epoch: Some(epoch) }),
                None => Err(refuse(ErrorCode::Usage, format!("branch {name} was not made from another branch"))
                    .hint(format!("{BASE} is its base without its changes"))
                    .done()),
            },
            Some(snapshot) => {
                let snapshot = snapshot.strip_prefix(name).and_then(|rest| rest.strip_prefix('@')).unwrap_or(snapshot);
                let epoch = self.snapshot(id, name, snapshot)?.epoch;
                Ok(Goal { name: format!("{name}@{snapshot}"), epoch: Some(epoch) })
            }
            None => {
                let latest = self.snapshots_of(id)?.into_iter().max_by_key(|(_, snapshot)| snapshot.epoch);
                let Some((snapshot, found)) = latest else {
                    return Err(refuse(ErrorCode::NotFound, format!("branch {name} has no snapshot to go back to"))
                        .hint(format!("--to {BASE} takes back every change of the branch, --to {FORK} those since it was made from another"))
                        .done());
                };
                Ok(Goal { name: format!("{name}@{snapshot}"), epoch: Some(found.epoch) })
            }
        }
    }

    /// What changes: all, or what lies at or below one of the paths.
    fn back(&self, now: &View, then: &View, paths: &[Path]) -> FsResult<Diff> {
        let changed = changed_between(now, then)?;
        let mut between = Between::run(now, then, &self.core.contents, &changed)?;
        if !paths.is_empty() {
            between.deltas.retain(|(path, _), delta| {
                below(paths, path) || delta.from.as_ref().is_some_and(|from| below(paths, from))
            });
        }
        answer(
            &mut between,
            &self.core.contents,
            &Asked { of: "", against: None, limit: u32::MAX, skip: 0, sources: false },
        )
    }

    /// A name for the snapshot of the state that is left.
    pub(in super::super) fn free_name(&self, id: BranchId, prefix: &str) -> Result<String, Failure> {
        let taken = self.snapshots_of(id)?;
        let numbers = taken.iter().filter_map(|(name, _)| name.strip_prefix(prefix)?.parse::<u64>().ok());
        Ok(format!("{prefix}{}", numbers.max().unwrap_or(0) + 1))
    }
}

impl Merge<'_> {
    /// Has theirs show at and below some paths what ours shows there.
    fn restore(&mut self, paths: &[Path]) -> FsResult<()> {
        for path in paths {
            self.check_way(path)?;
        }
        let changed = changed_between(self.ours.view, self.theirs.view)?;
        for (dir, name) in &changed.names {
            if self.is_wanted(paths, *dir, name)? {
                let then = if self.ours.directory(*dir)?.is_some() { self.ours.child(*dir, name)? } else { None };
                let now = if self.theirs.directory(*dir)?.is_some() { self.theirs.child(*dir, name)? } else { None };
                self.put_back((*dir, name), then, now, paths)?;
            }
        }
        for object in &changed.objects {
            let Some(kind) = super::kind_of(&self.ours, *object)? else { continue };
            if is_there(&mut self.ours, *object, kind)? && is_there(&mut self.theirs, *object, kind)? {
                let here = paths_in(&mut self.ours, *object, kind)?;
                if here.iter().any(|path| below(paths, path)) {
                    self.taken.insert(*object, *object);
                }
            }
        }
        self.take_new()
    }

    /// What lies at a path is put back there only if the directories that lead to it are what they were, or new.
    fn check_way(&mut self, path: &[u8]) -> FsResult<()> {
        let (mut then, mut now) = (Some(self.ours.view.root), Some(self.theirs.view.root));
        let mut end = 0;
        for name in path.split(|byte| *byte == b'/') {
            end += name.len() + usize::from(end > 0);
            if end == path.len() {
                break;
            }
            let was = then.map_or(Ok(None), |dir| self.ours.child(dir, name))?;
            let is = now.map_or(Ok(None), |dir| self.theirs.child(dir, name))?;
            let dir = |entry: Entry| entry.filter(|(_, kind)| *kind == FileKind::Directory).map(|(object, _)| object);
            (then, now) = (dir(was), dir(is));
            let why = if then == now {
                continue;
            } else if then.map_or(Ok(None), |dir| self.theirs.directory(dir))?.is_some() {
                "it was moved to another path since"
            } else if now.map_or(Ok(None), |dir| self.ours.directory(dir))?.is_some() {
                "it came from another path"
            } else if then.is_some() && now.is_none() && is.is_some() {
                "something else was made in its place since"
            } else {
                continue;
            };
            self.conflicts.insert(path.get(..end).unwrap_or_default().to_vec(), why);
            return Ok(());
        }
        Ok(())
    }

    fn is_wanted(&mut self, paths: &[Path], dir: ObjectId, name: &[u8]) -> FsResult<bool> {
        for tree in [&mut self.ours, &mut self.theirs] {
            if let Some(above) = tree.directory(dir)?
                && below(paths, &super::join(&above, name))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn put_back(&mut self, place: (ObjectId, &[u8]), then: Entry, now: Entry, paths: &[Path]) -> FsResult<()> {
        let (dir, name) = place;
        if then.map(|(object, _)| object) == now.map(|(object, _)| object) {
            return Ok(());
        }
        // What left a path, or came to it, by a move from elsewhere: both ends belong together.
        for (entry, old) in [(then, true), (now, false)] {
            let Some((object, kind)) = entry else { continue };
            for path in paths_in(if old { &mut self.theirs } else { &mut self.ours }, object, kind)? {
                if !below(paths, &path) {
                    let own = self.path_of(dir, name)?;
                    let why = if old { "it was moved to another path since" } else { "it came from another path" };
                    self.conflicts.insert(own, why);
                }
            }
        }
        let home = self.home(dir)?;
        if home != dir
            && let Some(path) = self.ours.directory(dir)?
            && below(paths, &path)
        {
            // Put back itself, it would take the other's place, and what comes back would lie in the other.
            self.conflicts.insert(path, "another directory was made in its place since");
        }
        self.names.insert((home, name.to_vec()), then);
        Ok(())
    }

    /// The directory of theirs for what ours has in `dir`, put back itself where it is gone.
    fn home(&mut self, dir: ObjectId) -> FsResult<ObjectId> {
        if let Some(there) = self.target(dir)? {
            return Ok(there);
        }
        let (above, name) = self.ours.branch_parent(dir)?.ok_or(FsError::Stale)?;
        let above = self.home(above)?;
        self.names.insert((above, name), Some((dir, FileKind::Directory)));
        Ok(dir)
    }
}

/// Whether a path is one of these or lies below one.
fn below(paths: &[Path], path: &[u8]) -> bool {
    paths
        .iter()
        .any(|top| path.strip_prefix(top.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
}

/// Whether a view has something at a path.
fn known(view: &View, path: &[u8]) -> FsResult<bool> {
    let mut at = view.root;
    for name in path.split(|byte| *byte == b'/') {
        match super::super::paths::present(view.child(at, name))? {
            Some(child) => at = child.object,
            None => return Ok(false),
        }
    }
    Ok(true)
}

fn is_empty(diff: &Diff) -> bool {
    let none: [Change; 0] = [];
    diff.changes == none
}

fn paths(escaped: &[String]) -> Result<Vec<Path>, Failure> {
    let one = |text: &String| {
        let bad = |why: &str| {
            refuse(ErrorCode::Usage, format!("{text:?} {why}")).hint("name it as `agentfs diff` does").done()
        };
        let path = unescape(text).map_err(|_| bad("is no escaped path"))?;
        let path = path.strip_suffix(b"/").map_or(path.clone(), <[u8]>::to_vec);
        let strange = |name: &[u8]| name.is_empty() || name == b"." || name == b"..";
        if path.split(|byte| *byte == b'/').any(strange) {
            Err(bad("is no path below the root of a branch"))
        } else {
            Ok(path)
        }
    };
    escaped.iter().map(one).collect()
}
