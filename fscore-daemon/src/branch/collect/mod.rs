//! Garbage collection: what nothing reaches goes, and frozen states that nobody refers to become one with what
//! continues them.
//!
//! Work is done in steps, each of which is one batch and leaves everything that anybody can look at as it was. What
//! there is to do the tree itself tells; a mark (`M folding-ID`) only says where to look after a start.
//!
//! ```text
//! mod        who collects: a command, or the daemon in the background
//! collector  one collection, step by step
//! fold       two epochs become one
//! beside     their extended attributes and pre-images
//! share      what becomes of their content files
//! estimate   what there is to do, without doing it
//! ```
//!
//! Locks: the gate of a branch, where one is needed; then `Branches::tree` exclusively for a step, so that no command
//! looks at the tree meanwhile. That is never waited for, so the order does no harm.

mod beside;
mod collector;
mod estimate;
mod fold;
mod share;

use super::Branches;
use super::delete::reclaiming_mark;
use super::epochs::Epochs;
use super::info::fail;
use crate::core::ids::{BranchId, ContentId, EpochId};
use crate::core::keys;
use crate::core::state::{Branch, lock};
use crate::core::view::View;
use collector::Collector;
use shm_transport::control::{Collected, Failure, GcInfo};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

/// How long a command waits for operations and commands that use what is to go.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(2);
/// Between two steps of a command: whoever waits for the tree gets it.
const BREATH: Duration = Duration::from_micros(50);

/// What is known of collections between two of them.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    /// Held by who collects.
    turn: Mutex<()>,
    /// Branches that may have something to fold.
    wanted: Mutex<BTreeSet<BranchId>>,
    bell: Condvar,
    ended: AtomicBool,
    /// Raised by commands that may change the tree.
    pub(super) changes: AtomicU64,
    running: AtomicBool,
    limbo: Mutex<Vec<Limbo>>,
    removed: AtomicU64,
    folded: AtomicU64,
    contents: AtomicU64,
    bytes: AtomicU64,
}

/// Content files without a record that an operation may still be about to open.
#[derive(Debug)]
struct Limbo {
    contents: Vec<ContentId>,
    /// To be seen without an operation first.
    branches: Vec<Arc<Branch>>,
}

/// How far a step got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There may be more to do.
    More,
    /// There is, and somebody uses it.
    Busy,
    /// Nothing is left.
    Done,
}

impl Branches {
    /// The answer to `gc`.
    pub(super) fn gc(&self, names: &[String], dry_run: bool) -> Result<Collected, Failure> {
        let only = if names.is_empty() {
            None
        } else {
            Some(names.iter().map(|name| self.find(name)).collect::<Result<BTreeSet<_>, _>>()?)
        };
        if dry_run {
            let _reading = self.reading();
            return self.estimate(only.as_ref(), usize::MAX).map_err(fail);
        }
        let _turn = lock(&self.collecting.turn);
        let mut collector = Collector::new(self, only);
        let mut since = Instant::now();
        loop {
            if self.collecting.ended.load(Ordering::Relaxed) {
                collector.told.left = true;
                break;
            }
            match collector.step().map_err(fail)? {
                Step::Done => break,
                Step::More => {
                    since = Instant::now();
                    std::thread::sleep(BREATH);
                }
                Step::Busy if since.elapsed() < PATIENCE => std::thread::sleep(RETRY),
                Step::Busy => {
                    collector.told.left = true;
                    break;
                }
            }
        }
        self.sweep().map_err(fail)?;
        // The space is free when the answer comes.
        self.core.sync().map_err(fail)?;
        Ok(std::mem::take(&mut collector.told))
    }

    /// Has the daemon look at some branches in the background.
    pub(super) fn collect_later(&self, ids: impl IntoIterator<Item = BranchId>) {
        lock(&self.collecting.wanted).extend(ids);
        self.collecting.bell.notify_all();
    }

    /// Waits for branches to look at; false when there are none after so long, or nobody is to look any more.
    pub fn await_garbage(&self, limit: Duration) -> bool {
        let wanted = self.await_while(limit, BTreeSet::is_empty);
        !wanted.is_empty()
    }

    /// Sleeps, unless nobody is to look any more.
    pub fn await_end(&self, limit: Duration) {
        drop(self.await_while(limit, |_| true));
    }

    fn await_while(
        &self,
        limit: Duration,
        nothing: impl Fn(&BTreeSet<BranchId>) -> bool,
    ) -> MutexGuard<'_, BTreeSet<BranchId>> {
        let wanted = lock(&self.collecting.wanted);
        let ended = || self.collecting.ended.load(Ordering::Relaxed);
        let waited = self.collecting.bell.wait_timeout_while(wanted, limit, |wanted| nothing(wanted) && !ended());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The branches to look at.
    pub fn take_garbage(&self) -> BTreeSet<BranchId> {
        std::mem::take(&mut *lock(&self.collecting.wanted))
    }

    /// Nobody looks at branches in the background any more.
    pub fn end_collecting(&self) {
        let _wanted = lock(&self.collecting.wanted);
        self.collecting.ended.store(true, Ordering::Relaxed);
        self.collecting.bell.notify_all();
    }

    /// Runs steps over some branches until nothing is left. `pause` is called between two of them, with how long the
    /// last one took and what came of it, and ends it all by `false`.
    pub fn collect(
        &self,
        of: &BTreeSet<BranchId>,
        mut pause: impl FnMut(Step, Duration) -> bool,
    ) -> Result<(), Failure> {
        let _turn = lock(&self.collecting.turn);
        self.collecting.running.store(true, Ordering::Relaxed);
        let mut collector = Collector::new(self, Some(of.clone()));
        let ended = loop {
            let begun = Instant::now();
            match collector.step() {
                Ok(Step::Done) => break Ok(()),
                Ok(step) if pause(step, begun.elapsed()) => {}
                Ok(_) => break Ok(()),
                Err(e) => break Err(fail(e)),
            }
        };
        let ended = ended.and_then(|()| self.sweep().map_err(fail));
        self.collecting.running.store(false, Ordering::Relaxed);
        ended
    }

    /// What `status` tells.
    pub fn gc_info(&self) -> GcInfo {
        const LOOKED_AT: usize = 20_000;
        let state = &self.collecting;
        let running = state.running.load(Ordering::Relaxed);
        let waiting = lock(&state.wanted).len() as u64;
        let estimate = if running || waiting > 0 {
            self.estimate(None, LOOKED_AT).unwrap_or_default()
        } else {
            Collected::default()
        };
        let mut epochs = 0;
        let prefix = keys::prefix(b'E', &[]);
        self.core.store.scan(&prefix, &mut |key, _| {
            let inside = key.starts_with(&prefix);
            epochs += u64::from(inside);
            inside
        });
        let total = |of: &AtomicU64| of.load(Ordering::Relaxed);
        GcInfo {
            running,
            waiting,
            epochs,
            unreachable: estimate.removed,
            foldable: estimate.folded,
            bytes: estimate.bytes,
            removed: total(&state.removed),
            folded: total(&state.folded),
            contents_freed: total(&state.contents),
            bytes_freed: total(&state.bytes),
        }
    }

    /// The tree without anybody who looks at it.
    fn alone(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.tree.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes epochs out of the views of branches; false when an operation may use one now. Afterwards no operation
    /// looks at them any more. The caller has the view `held`.
    fn forget_epochs(&self, gone: &BTreeSet<EpochId>, held: Option<&View>) -> bool {
        let mut all = true;
        for branch in self.core.loaded_branches() {
            if let Some(view) = held.filter(|view| view.branch == branch.id) {
                all &= !view.chain.iter().any(|epoch| gone.contains(epoch));
                continue;
            }
            let Some(view) = branch.try_view() else {
                all = false;
                continue;
            };
            let has = view.chain.iter().any(|epoch| gone.contains(epoch));
            drop(view);
            if has {
                match branch.try_view_mut() {
                    Some(mut view) => {
                        view.chain = view.chain.iter().filter(|epoch| !gone.contains(epoch)).copied().collect();
                    }
                    None => all = false,
                }
            }
        }
        all
    }

    /// Waits for the operations that still use epochs, or contents in limbo.
    fn wait_for(&self, gone: &BTreeSet<EpochId>) {
        for branch in self.core.loaded_branches() {
            if branch.view().chain.iter().any(|epoch| gone.contains(epoch)) {
                let mut view = branch.view_mut();
                view.chain = view.chain.iter().filter(|epoch| !gone.contains(epoch)).copied().collect();
            }
        }
        let waiting: Vec<_> = lock(&self.collecting.limbo).iter().flat_map(|limbo| limbo.branches.clone()).collect();
        for branch in waiting {
            drop(branch.view_mut());
            for limbo in lock(&self.collecting.limbo).iter_mut() {
                limbo.branches.retain(|other| other.id != branch.id);
            }
        }
    }

    /// Whoever looked a content up before it lost its record has opened it when its branch was seen without an
    /// operation. Then the file goes.
    fn leave_limbo(&self) -> bool {
        let mut limbo = lock(&self.collecting.limbo);
        limbo.retain_mut(|Limbo { contents, branches }| {
            branches.retain(|branch| branch.try_view_mut().is_none());
            if branches.is_empty() {
                for content in contents.drain(..) {
                    self.core.doom(content);
                }
            }
            !branches.is_empty()
        });
        limbo.is_empty()
    }
}

impl Branches {
    /// Epochs that nobody can look at. Those of a branch without a record, which no removal left, are damage.
    fn garbage_in(&self, epochs: &Epochs, only: Option<&BTreeSet<BranchId>>) -> BTreeSet<EpochId> {
        let mut known: BTreeSet<BranchId> = BTreeSet::new();
        epochs
            .unreached()
            .filter(|epoch| {
                let Some(id) = epochs.branch(*epoch) else { return false };
                let explained =
                    known.contains(&id) || epochs.is_there(id) || self.core.store.get(&reclaiming_mark(id)).is_some();
                if explained {
                    known.insert(id);
                }
                explained && only.is_none_or(|only| only.contains(&id))
            })
            .collect()
    }
}
