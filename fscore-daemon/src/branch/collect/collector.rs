//! One collection, step by step.

use super::super::Branches;
use super::super::delete::{FOLDING, Fate, RECLAIMING, folding_mark, reclaiming_mark};
use super::super::epochs::Epochs;
use super::super::paths::record_key;
use super::fold::{Done, Fold, Way};
use super::{Limbo, Step};
use crate::core::error::FsResult;
use crate::core::ids::{BranchId, ContentId, EpochId};
use crate::core::keys;
use crate::core::state::{Branch, lock};
use crate::core::view::View;
use crate::store::Batch;
use shm_transport::control::Collected;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Most changed records that one step removes.
const CHUNK: usize = 256;
/// How long it tries to find a branch without an operation; then it takes its turn, as a snapshot does.
const TRIES: Duration = Duration::from_millis(100);

/// One collection.
pub(super) struct Collector<'a> {
    branches: &'a Branches,
    /// Only of these branches.
    only: Option<BTreeSet<BranchId>>,
    epochs: Option<(u64, Epochs)>,
    fold: Option<Fold>,
    /// Pairs that are as they should be, or cannot be folded now.
    settled: BTreeSet<(EpochId, EpochId)>,
    /// Epochs that a fold emptied.
    emptied: BTreeSet<EpochId>,
    /// What is to be removed, when it was last looked at.
    gone: BTreeSet<EpochId>,
    busy_since: Option<Instant>,
    pub(super) told: Collected,
    /// Branches whose contents changed hands.
    touched: BTreeSet<BranchId>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(branches: &'a Branches, only: Option<BTreeSet<BranchId>>) -> Self {
        Self {
            branches,
            only,
            epochs: None,
            fold: None,
            settled: BTreeSet::new(),
            emptied: BTreeSet::new(),
            gone: BTreeSet::new(),
            busy_since: None,
            told: Collected::default(),
            touched: BTreeSet::new(),
        }
    }

    pub(super) fn step(&mut self) -> FsResult<Step> {
        let step = self.try_step()?;
        if step == Step::Done {
            self.recount()?;
        }
        self.busy_since = match step {
            Step::Busy => self.busy_since.or_else(|| Some(Instant::now())),
            Step::More | Step::Done => None,
        };
        Ok(step)
    }

    /// Counts anew what branches use whose contents changed hands.
    fn recount(&mut self) -> FsResult<()> {
        self.branches.core.recount(std::mem::take(&mut self.touched))
    }

    fn try_step(&mut self) -> FsResult<Step> {
        let branches = self.branches;
        let patient = self.busy_since.is_none_or(|since| since.elapsed() < TRIES);
        if !patient {
            branches.wait_for(&self.gone);
        }
        let lifted = self.fold.as_ref().filter(|fold| fold.way == Way::Lift);
        // A branch whose base is gone cannot be loaded, and nobody uses it.
        let head = lifted.and_then(|fold| branches.core.branch(fold.branch).ok());
        let mut view = match &head {
            None => None,
            Some(branch) if patient => match branch.try_view_mut() {
                Some(view) => Some(view),
                None => return Ok(Step::Busy),
            },
            Some(branch) => Some(branch.view_mut()),
        };
        let Some(_alone) = branches.alone() else { return Ok(Step::Busy) };
        let _mutation = lock(&branches.mutation);
        let out = branches.leave_limbo();
        let changes = branches.collecting.changes.load(Ordering::Relaxed);
        let known = self.epochs.take().filter(|(then, _)| *then == changes);
        let mut epochs = match known {
            Some((_, epochs)) => epochs,
            None => {
                let epochs = Epochs::read(branches.core.store.as_ref())?;
                self.fold = self.fold.take().filter(|fold| fold.still(&epochs));
                epochs
            }
        };
        let step = self.work(&mut epochs, view.as_deref_mut());
        self.epochs = Some((changes, epochs));
        match step? {
            Step::Done if !out => Ok(Step::Busy),
            step @ (Step::More | Step::Busy | Step::Done) => Ok(step),
        }
    }

    /// `head` is the view of the branch whose head a fold lifts records to; no operation runs on it.
    fn work(&mut self, epochs: &mut Epochs, head: Option<&mut View>) -> FsResult<Step> {
        self.gone = self.branches.garbage_in(epochs, self.only.as_ref());
        if !self.gone.is_empty() {
            if self.branches.forget_epochs(&self.gone, head.as_deref()) {
                return self.remove(epochs);
            }
            // Who still looks at an epoch that became another one finds old records in it, as soon as the younger ones
            // move past it: the next fold waits.
            return Ok(Step::Busy);
        }
        match self.fold.take() {
            Some(fold) => self.go_on(epochs, fold, head),
            None if self.begin(epochs) => Ok(Step::More),
            None => self.end(epochs),
        }
    }

    /// Takes up the next fold, if there is one.
    fn begin(&mut self, epochs: &Epochs) -> bool {
        let wanted = |epoch| match (&self.only, epochs.branch(epoch)) {
            (Some(only), Some(branch)) => only.contains(&branch),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let pair = epochs.pairs().find(|pair| !self.settled.contains(pair) && wanted(pair.0));
        self.fold = pair.map(|pair| Fold::plan(self.branches.core.store.as_ref(), epochs, pair));
        if let Some(fold) = &self.fold {
            self.branches.core.bar(fold.older);
        }
        self.fold.is_some()
    }

    /// One batch of a fold.
    fn go_on(&mut self, epochs: &mut Epochs, mut fold: Fold, head: Option<&mut View>) -> FsResult<Step> {
        let core = &self.branches.core;
        let pair = (fold.older, fold.younger);
        if fold.way == Way::Lift && head.is_none() {
            self.settled.insert(pair);
            return Ok(Step::More);
        }
        let done = fold.go_on(core, epochs)?;
        if let Some(view) = head.filter(|_| done.whole) {
            view.chain = view.chain.iter().filter(|epoch| **epoch != fold.older).copied().collect();
        }
        self.count(&fold, &done);
        if done.pinned {
            self.settled.insert(pair);
            self.told.left = true;
        } else if done.whole {
            match fold.way {
                Way::Prune => drop(self.settled.insert(pair)),
                Way::Sink => {
                    epochs.sink(pair);
                    self.emptied.insert(fold.younger);
                }
                Way::Rise => {
                    epochs.rise(pair);
                    self.emptied.insert(fold.older);
                }
                Way::Lift => {
                    epochs.rise(pair);
                    epochs.remove(fold.older);
                }
            }
            if fold.way != Way::Prune {
                self.told.folded += 1;
                self.branches.collecting.folded.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            self.fold = Some(fold);
        }
        Ok(Step::More)
    }

    fn count(&mut self, fold: &Fold, done: &Done) {
        self.touched.insert(fold.branch);
        self.touched.extend(&done.heirs);
        self.told.moved += done.moved;
        self.told.dropped += done.dropped;
        if done.gone.is_empty() {
            return;
        }
        self.freed(&done.gone);
        let uses = |branch: &Arc<Branch>| branch.try_view().is_none_or(|view| view.chain.contains(&fold.older));
        let branches: Vec<_> = match fold.way {
            // No operation ran.
            Way::Lift => Vec::new(),
            Way::Sink | Way::Rise | Way::Prune => {
                self.branches.core.loaded_branches().into_iter().filter(uses).collect()
            }
        };
        lock(&self.branches.collecting.limbo).push(Limbo { contents: done.gone.clone(), branches });
        self.branches.leave_limbo();
    }

    fn freed(&mut self, contents: &[ContentId]) {
        let bytes = contents.iter().map(|id| self.branches.bytes_of(*id)).sum::<u64>();
        let state = &self.branches.collecting;
        self.told.contents += contents.len() as u64;
        self.told.bytes += bytes;
        state.contents.fetch_add(contents.len() as u64, Ordering::Relaxed);
        state.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes some records of an epoch that nobody can look at, at last the epoch.
    fn remove(&mut self, epochs: &mut Epochs) -> FsResult<Step> {
        let core = &self.branches.core;
        let gone = &self.gone;
        // A child before its parent.
        let Some(&epoch) = gone.last() else { return Ok(Step::More) };
        let prefix = keys::changes(epoch);
        let mut index = Vec::new();
        core.store.scan(&prefix, &mut |key, _| {
            let inside = key.starts_with(&prefix) && index.len() < CHUNK;
            if inside {
                index.push(key.to_vec());
            }
            inside
        });
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        let mut contents = Vec::new();
        self.touched.extend(epochs.branch(epoch));
        let whole = index.len() < CHUNK;
        for key in index {
            let Some((record, is_object)) = record_key(&key, epoch) else {
                batch.delete(key);
                continue;
            };
            let value = if is_object { core.store.get(&record) } else { None };
            match value.and_then(|bytes| self.branches.content_of(&bytes, gone)) {
                Some((content, Fate::Removed)) => {
                    batch.delete(keys::content(content));
                    contents.push(content);
                }
                Some((content, Fate::Kept(owner))) => batch.put(keys::content(content), owner.encode()),
                None => {}
            }
            batch.delete(record);
            batch.delete(key);
            self.told.dropped += 1;
        }
        if whole {
            for letter in [b'p', b'q'] {
                self.branches.remove_keys(&keys::prefix(letter, &[epoch.0]))?;
            }
            batch.delete(keys::epoch(epoch));
        }
        core.store.commit(&batch)?;
        self.touched.extend(core.heirs(&batch)?);
        self.freed(&contents);
        for content in contents {
            core.doom(content);
        }
        if whole {
            epochs.remove(epoch);
            if !self.emptied.remove(&epoch) {
                self.told.removed += 1;
                self.branches.collecting.removed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(Step::More)
    }

    /// Nothing is left: the marks go.
    fn end(&mut self, epochs: &Epochs) -> FsResult<Step> {
        let store = &self.branches.core.store;
        let marked = self.branches.marked(&[FOLDING, RECLAIMING])?;
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        for id in marked.into_iter().filter(|id| self.only.as_ref().is_none_or(|only| only.contains(id))) {
            batch.delete(folding_mark(id));
            if !epochs.unreached().any(|epoch| epochs.branch(epoch) == Some(id)) {
                batch.delete(reclaiming_mark(id));
            }
        }
        if !batch.is_empty() {
            store.commit(&batch)?;
        }
        Ok(Step::Done)
    }
}

impl Drop for Collector<'_> {
    /// Also where it was given up.
    fn drop(&mut self) {
        if let Err(error) = self.recount() {
            tracing::warn!(%error, "what branches use of their limits is not counted anew");
        }
    }
}
