//! Branches and snapshots: what the control commands about them do.
//!
//! ```text
//! create      new branches, and the reuse of existing ones
//! base_check  which directories may be a base
//! checkpoint  automatic snapshots
//! git_check   repositories that reach out of a base
//! snapshot    freezing, naming, listing
//! collect     garbage collection: epochs that nothing reaches, or that become one
//! delete      removal of branches and of epochs that nothing reaches
//! epochs      the version tree, and who refers to what in it
//! paths       which changed objects are where, on the branch and in the base
//! facts       attributes and content of one object, and their comparison
//! between     what differs between two states: heads, snapshots, the base
//! answer      the answer to `diff`
//! diff        changed paths, as a commit compares them
//! conflict    paths that changed in the base too
//! plan        the steps that take a branch's changes into its base
//! commit      the life of a commit
//! mark        what a command from a mount leaves so that it is done once
//! merge       what a branch and its parent changed, taken together
//! quota       limits of branches
//! refresh     what a base has meanwhile, taken into a branch of it
//! seal        branches of copies of a base
//! links       names of changed hard links that nobody looked up
//! info        answers and failures
//! ```
//!
//! Deleting a snapshot drops its name only: the records of its epoch stay part of the branch's chain, until a collection
//! folds them into what continues them.
#![forbid(unsafe_code)]

mod answer;
mod base_check;
pub mod base_list;
mod between;
mod checkpoint;
mod collect;
mod commit;
mod conflict;
mod create;
mod delete;
mod diff;
mod epochs;
mod facts;
mod git_check;
mod ground;
mod info;
mod links;
pub mod mark;
mod merge;
mod paths;
mod plan;
mod preimages;
mod quota;
mod refresh;
mod seal;
mod snapshot;

pub use collect::Step;

#[cfg(test)]
mod tests;

use crate::core::ids::{BranchId, EpochId};
use crate::core::keys;
use crate::core::record::BranchRecord;
use crate::core::state::{Branch, Core, lock};
use info::{denied_here, fail, refuse};
use mark::Mark;
use serde::Serialize;
use serde_json::Value;
use shm_transport::control::{Command, ErrorCode, Failure};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// All branches of a store.
#[derive(Debug)]
pub struct Branches {
    core: Arc<Core>,
    store_dir: PathBuf,
    allow_base: Vec<PathBuf>,
    uid: u32,
    /// Name to number.
    names: Mutex<HashMap<String, BranchId>>,
    /// Held by whoever makes, freezes, commits or deletes; taken before any lock of the core.
    mutation: Mutex<()>,
    /// Held by whoever makes a branch of a copy of a base, or removes copies.
    copies: Mutex<()>,
    /// Shared by commands, which look at several epochs; a collection has it to itself for each of its steps.
    tree: RwLock<()>,
    collecting: collect::Collecting,
}

impl Branches {
    /// Loads the names, and finishes deletions that a crash interrupted. `allow_base` are directories
    /// below which bases may lie; `uid` owns new branches.
    pub fn open(core: Arc<Core>, store_dir: PathBuf, allow_base: Vec<PathBuf>, uid: u32) -> Result<Self, Failure> {
        // A prefix that is a symbolic link means the directory that it leads to.
        let allow_base = allow_base.into_iter().map(|p| std::fs::canonicalize(&p).unwrap_or(p)).collect();
        let it = Self {
            core,
            store_dir,
            allow_base,
            uid,
            names: Mutex::default(),
            mutation: Mutex::default(),
            copies: Mutex::default(),
            tree: RwLock::default(),
            collecting: collect::Collecting::default(),
        };
        it.resume_removals().map_err(fail)?;
        it.remove_stray_journals()?;
        let names = it.records()?.into_iter().map(|(id, record)| (record.name, id)).collect();
        *lock(&it.names) = names;
        Ok(it)
    }

    /// Runs one of the commands about branches, snapshots, differences and commits.
    pub fn handle(&self, command: &Command) -> Result<Value, Failure> {
        self.handle_marked(command, None)
    }

    /// The same; what it changes goes with a mark, see [`mark`].
    pub fn handle_marked(&self, command: &Command, mark: Option<&Mark>) -> Result<Value, Failure> {
        if let Command::Gc { branches, dry_run } = command {
            return value(&self.gc(branches, *dry_run)?);
        }
        let _reading = self.reading();
        self.collecting.changes.fetch_add(1, Ordering::Relaxed);
        match command {
            Command::BranchCreate { name, base, from, frozen, reuse, limits } => {
                let (base, from, frozen, limits) = (base.as_deref(), from.as_deref(), *frozen, *limits);
                let wanted = create::Wanted { name, base, from, frozen, limits };
                value(&self.create(&wanted, *reuse, mark)?)
            }
            Command::BranchSeal { name, base, copy, frozen, reuse, limits } => {
                let (base, frozen, limits) = (Some(base.as_path()), *frozen, *limits);
                let wanted = create::Wanted { name, base, from: None, frozen, limits };
                value(&self.seal(&wanted, copy.as_deref(), *reuse)?)
            }
            Command::BranchList { weigh } => value(&self.list(*weigh)?),
            Command::BranchShow { name } => value(&self.counted_info(self.find(name)?)?),
            Command::BranchQuota { name, limits } => value(&self.quota(name, limits)?),
            Command::BranchDelete { name, dry_run } => value(&self.delete(name, *dry_run, mark)?),
            Command::SnapshotCreate { branch, name } => value(&self.snapshot_create(branch, name, mark)?),
            Command::Checkpoint { branch, keep } => value(&self.checkpoint(branch, *keep)?),
            Command::SnapshotList { branch } => value(&self.snapshot_list(branch.as_deref())?),
            Command::SnapshotDelete { branch, name, dry_run } => {
                value(&self.snapshot_delete(branch, name, *dry_run, mark)?)
            }
            Command::Diff { branch, against, limit, skip, sources } => {
                let (against, limit, skip) = (against.as_deref(), *limit, *skip);
                value(&self.diff(&answer::Asked { of: branch, against, limit, skip, sources: *sources })?)
            }
            Command::CommitPrepare { branch, dry_run, prefer } => {
                value(&self.commit_prepare(branch, *dry_run, &merge::preferences(prefer)?)?)
            }
            Command::CommitFinish { id } => value(&self.commit_finish(*id)?),
            Command::CommitAbort { id } => value(&self.commit_abort(*id)?),
            Command::Merge { branch, into_parent, dry_run, prefer } => {
                let (into_parent, dry_run) = (*into_parent, *dry_run);
                value(&self.merge(&merge::Request { branch, into_parent, dry_run, prefer })?)
            }
            Command::Undo { branch, to, paths, dry_run } => {
                let (to, dry_run) = (to.as_deref(), *dry_run);
                value(&self.undo(&merge::Undo { branch, to, paths, dry_run })?)
            }
            Command::CommitPending => value(&self.commit_pending()?),
            Command::Status
            | Command::Gc { .. }
            | Command::Fsck
            | Command::Shutdown
            | Command::HandOver { .. }
            | Command::Mounts
            | Command::BranchBind { .. }
            | Command::BranchUnbind { .. }
            | Command::Attach { .. }
            | Command::Detach { .. }
            | Command::EndSession { .. } => Err(denied_here()),
        }
    }

    /// Keeps the tree as it is, while a command looks at it.
    fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the branch of that name.
    pub fn find(&self, name: &str) -> Result<BranchId, Failure> {
        lock(&self.names).get(name).copied().ok_or_else(|| {
            refuse(ErrorCode::NotFound, format!("there is no branch {name:?}"))
                .hint("`agentfs branch list` shows the branches")
                .done()
        })
    }

    /// How many branches and snapshots there are.
    pub fn counts(&self) -> (u64, u64) {
        let mut snapshots = 0;
        let prefix = keys::prefix(b'S', &[]);
        self.core.store.scan(&prefix, &mut |key, _| {
            let inside = key.starts_with(&prefix);
            snapshots += u64::from(inside);
            inside
        });
        (lock(&self.names).len() as u64, snapshots)
    }

    /// Whether a commit of the branch was prepared and neither finished nor aborted: it must not be
    /// mounted meanwhile.
    pub fn is_committing(&self, id: BranchId) -> Result<bool, Failure> {
        Ok(self.commits()?.iter().any(|(_, record)| record.branch == id))
    }

    /// Every branch's record, by number.
    fn records(&self) -> Result<Vec<(BranchId, BranchRecord)>, Failure> {
        self.scan(b'B', |key, value| Some((BranchId(keys::number(key, 0)?), BranchRecord::decode(value).ok()?)))
    }

    fn record(&self, id: BranchId) -> Result<BranchRecord, Failure> {
        self.core.branch_record(id).map_err(fail)
    }

    fn loaded(&self, id: BranchId) -> Result<Arc<Branch>, Failure> {
        self.core.branch(id).map_err(|e| info::fail_branch(&self.name_of(id), e))
    }

    fn name_of(&self, id: BranchId) -> String {
        self.core.branch_record(id).map_or_else(|_| id.to_string(), |r| r.name)
    }

    /// Branches that were made from this one, with the epoch they were made at.
    fn made_from(&self, id: BranchId) -> Result<Vec<(BranchRecord, EpochId)>, Failure> {
        Ok(self
            .records()?
            .into_iter()
            .filter_map(|(_, record)| match record.from {
                Some((branch, epoch)) if branch == id => Some((record, epoch)),
                _ => None,
            })
            .collect())
    }

    /// Every record of one letter; `None` from `decode` says that one is damaged.
    fn scan<T>(&self, letter: u8, decode: impl Fn(&[u8], &[u8]) -> Option<T>) -> Result<Vec<T>, Failure> {
        paths::scan(self.core.store.as_ref(), &keys::prefix(letter, &[]), decode).map_err(fail)
    }
}

fn value(of: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of).map_err(|e| refuse(ErrorCode::Internal, format!("cannot encode the answer: {e}")).done())
}
