//! The life of a commit: prepared here, applied by the caller with the caller's rights, finished here.

use super::Branches;
use super::answer::ANSWER_MAX;
use super::conflict::conflicts;
use super::delete::mark_reclaiming;
use super::diff::Comparison;
use super::info::{fail, fail_branch, fail_store, refuse, refuse_mounted};
use super::merge::Preferences;
use super::paths::Changed;
use super::plan::{base_objects, steps};
use crate::core::ids::BaseId;
use crate::core::keys;
use crate::core::record::CommitRecord;
use crate::core::state::lock;
use crate::core::view::View;
use crate::store::Batch;
use serde::Serialize;
use shm_transport::control::{CommitPlan, Conflict, Diff, ErrorCode, Failure, LINE_MAX, PlanStep};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Room for the conflicts in one answer line, in bytes.
const CONFLICTS_MAX: usize = LINE_MAX / 2;

impl Branches {
    /// Prepared commits that were neither finished nor aborted.
    pub(super) fn commits(&self) -> Result<Vec<(u64, CommitRecord)>, Failure> {
        self.scan(b'J', |key, value| Some((keys::number(key, 0)?, CommitRecord::decode(value).ok()?)))
    }

    fn journal(&self, id: u64) -> PathBuf {
        self.store_dir.join("commits").join(id.to_string())
    }

    /// With conflicts, and where there is nothing to commit, nothing is frozen and the plan has number 0
    /// and no journal.
    pub(super) fn commit_prepare(
        &self,
        name: &str,
        dry_run: bool,
        preferences: &Preferences,
    ) -> Result<CommitPlan, Failure> {
        let _mutation = lock(&self.mutation);
        let id = self.find(name)?;
        if self.record(id)?.base.is_none() {
            return Err(refuse(ErrorCode::Usage, format!("branch {name} has no base to commit into"))
                .hint("mount it and copy what you need")
                .done());
        }
        if self.is_committing(id)? {
            return Err(refuse(ErrorCode::Busy, format!("a commit of branch {name} is under way"))
                .hint("`agentfs status` finishes or takes back an interrupted one")
                .done());
        }
        if !dry_run {
            self.refuse_pending(self.record(id)?.base)?;
        }
        let branch = self.loaded(id)?;
        refuse_mounted(&self.core, id, name, "committed")?;
        // Of a sealed base, with what has become of the original.
        let view = self.core.over_original(&branch.view()).map_err(|e| fail_branch(name, e))?;
        let base = view.base.as_ref().map(|b| PathBuf::from(OsStr::from_bytes(&b.record.path))).unwrap_or_default();
        let failed = |e| fail_branch(name, e);
        let changed = Changed::of(&view).map_err(failed)?;
        let mut comparison = Comparison::run(&view, &self.core.contents, &changed).map_err(failed)?;
        let mut conflicts = conflicts(&mut comparison).map_err(failed)?;
        conflicts.decide(&mut comparison, preferences).map_err(failed)?;
        let found = cut(conflicts.told());
        let summary = comparison.summary();
        let mut plan = CommitPlan { id: 0, branch: name.to_owned(), base, journal: None, summary, conflicts: found };
        if dry_run || !plan.conflicts.is_empty() {
            return Ok(plan);
        }
        let steps = steps(&mut comparison).map_err(failed)?;
        if steps.is_empty() {
            return Ok(plan);
        }
        plan.id = self.core.new_commit().map_err(fail)?;
        let journal = self.journal(plan.id);
        let base_id = self.record(id)?.base.unwrap_or(BaseId(0));
        let ground = self.keep(id, base_id, &mut comparison)?;
        write_plan(&journal, &steps).map_err(|e| fail_store("write the commit plan", &e))?;
        let mut now = branch.view_mut();
        let still = refuse_mounted(&self.core, id, name, "committed").and_then(|()| {
            if now.head() == view.head() {
                return Ok(());
            }
            Err(refuse(ErrorCode::Busy, format!("branch {name} was changed meanwhile")).hint("run it again").done())
        });
        let created = self.core.clock.now();
        let frozen = still.and_then(|()| {
            self.freeze_view(&branch, &mut now, |batch, epoch| {
                batch.put(keys::commit(plan.id), CommitRecord { branch: id, epoch, created, ground }.encode());
            })
        });
        drop(now);
        let durable = frozen.and_then(|_| self.core.store.sync().map_err(|e| fail(e.into())));
        if let Err(failure) = durable {
            if self.core.store.get(&keys::commit(plan.id)).is_none() {
                self.remove_journal(plan.id)?;
            }
            return Err(failure);
        }
        plan.journal = Some(journal);
        Ok(plan)
    }

    fn commit_record(&self, id: u64) -> Result<CommitRecord, Failure> {
        let missing = || {
            refuse(ErrorCode::NotFound, format!("there is no commit {id} under way"))
                .hint("it was finished or aborted before")
                .done()
        };
        let bytes = self.core.store.get(&keys::commit(id)).ok_or_else(missing)?;
        CommitRecord::decode(&bytes).map_err(|e| fail(e.into()))
    }

    /// The branch starts afresh from its base.
    pub(super) fn commit_finish(&self, id: u64) -> Result<(), Failure> {
        let _mutation = lock(&self.mutation);
        let record = self.commit_record(id)?;
        let name = self.name_of(record.branch);
        let branch = self.loaded(record.branch)?;
        let mut view = branch.view_mut();
        let old: View = view.clone();
        let changed = Changed::of(&old).map_err(fail)?;
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        batch.delete(keys::commit(id));
        let left = self.owners(&old.chain).map_err(fail)?;
        mark_reclaiming(&mut batch, &left);
        let parent = match self.record(record.branch)?.base {
            Some(base) => Some(self.last_ground(base, &mut batch)?),
            None => None,
        };
        // A copy of the base was good up to here; the branch's snapshots still show it.
        let sealed = old.base.as_ref().is_some_and(|base| base.is_sealed());
        let follows = sealed.then(|| self.core.view_of_directory(&old)).transpose().map_err(fail)?;
        self.move_head(&branch, &mut view, parent, batch)?;
        if let Some(follows) = follows {
            *view = View { chain: view.chain.clone(), ..follows };
        }
        if let Some(base) = &old.base {
            for object in base_objects(&old, &changed.objects) {
                base.forget(object);
            }
        }
        drop(view);
        self.remove_journal(id)?;
        self.reclaim_unreachable(&left).map_err(|e| fail_branch(&name, e))?;
        self.core.store.sync().map_err(|e| fail(e.into()))
    }

    /// The branch stays as it is; what was frozen stays frozen. Number 0, which no journal has, is fine.
    pub(super) fn commit_abort(&self, id: u64) -> Result<(), Failure> {
        let _mutation = lock(&self.mutation);
        if id == 0 {
            return Ok(());
        }
        self.commit_record(id)?;
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        batch.delete(keys::commit(id));
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        self.remove_journal(id)
    }

    pub(super) fn commit_pending(&self) -> Result<Vec<CommitPlan>, Failure> {
        let mut plans = Vec::new();
        for (id, record) in self.commits()? {
            let info = self.info(record.branch)?;
            plans.push(CommitPlan {
                id,
                branch: info.name,
                base: info.base.unwrap_or_default(),
                journal: Some(self.journal(id)),
                summary: Diff::default(),
                conflicts: Vec::new(),
            });
        }
        Ok(plans)
    }

    /// Removes journals whose commit has ended.
    pub(super) fn remove_stray_journals(&self) -> Result<(), Failure> {
        let Ok(listing) = std::fs::read_dir(self.store_dir.join("commits")) else { return Ok(()) };
        for entry in listing.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(id) = id.filter(|id| self.core.store.get(&keys::commit(*id)).is_none()) {
                self.remove_journal(id)?;
            }
        }
        Ok(())
    }

    fn remove_journal(&self, id: u64) -> Result<(), Failure> {
        match std::fs::remove_dir_all(self.journal(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail_store("remove the journal of a commit", &e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// As many conflicts as an answer has room for.
pub(super) fn cut(mut all: Vec<Conflict>) -> Vec<Conflict> {
    let mut room = CONFLICTS_MAX;
    let fitting = all.iter().take_while(|conflict| {
        let length = length(*conflict);
        let fits = length <= room;
        room = room.saturating_sub(length);
        fits
    });
    let count = fitting.count();
    all.truncate(count.max(1));
    all
}

/// Leaves out changes for which an answer has no room beside these conflicts. Counts stay whole.
pub(super) fn leave_room(mut diff: Diff, conflicts: &[Conflict]) -> Diff {
    let mut room = ANSWER_MAX.saturating_sub(conflicts.iter().map(length).sum());
    let fitting = diff.changes.iter().take_while(|change| {
        let length = length(*change);
        let fits = length <= room;
        room = room.saturating_sub(length);
        fits
    });
    let count = fitting.count();
    diff.changes.truncate(count);
    diff
}

/// Length of something in an answer, with a comma.
fn length(of: &impl Serialize) -> usize {
    serde_json::to_string(of).map_or(LINE_MAX, |text| text.len() + 1)
}

/// Writes the steps, durable on return. A line too long for its reader is refused: the value of some
/// extended attribute is too large to travel.
fn write_plan(journal: &Path, steps: &[PlanStep]) -> io::Result<()> {
    std::fs::create_dir_all(journal)?;
    let mut file = BufWriter::new(File::create(journal.join("plan.jsonl"))?);
    let end = PlanStep::End { lines: steps.len() as u64 };
    for step in steps.iter().chain([&end]) {
        let line = serde_json::to_vec(step)?;
        if line.len() >= LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "one step is longer than a line may be"));
        }
        file.write_all(&line)?;
        file.write_all(b"\n")?;
    }
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    for dir in journal.ancestors().take(3) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
