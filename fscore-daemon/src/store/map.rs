//! The ordered map that readers see.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::Batch;
use super::key::Key;

/// A value.
pub(super) type Bytes = Box<[u8]>;
/// Keys with their values.
pub(super) type Tree = BTreeMap<Key, Bytes>;

/// Changes ready to be applied: everything that needs memory was done before a lock is taken.
pub(super) type Prepared = Vec<(Key, Option<Bytes>)>;

/// Copies a batch.
pub(super) fn prepare(batch: &Batch) -> Prepared {
    batch.changes.iter().map(|(k, v)| (Key::new(k), v.as_deref().map(Into::into))).collect()
}

/// Applies one change.
pub(super) fn change(tree: &mut Tree, key: &[u8], value: Option<&[u8]>) {
    match value {
        None => {
            tree.remove(key);
        }
        Some(value) => match tree.entry(Key::new(key)) {
            Entry::Occupied(mut old) => {
                let old = old.get_mut();
                // Most records keep their length: no memory is needed for them.
                if old.len() == value.len() { old.copy_from_slice(value) } else { *old = value.into() }
            }
            Entry::Vacant(place) => {
                place.insert(value.into());
            }
        },
    }
}

/// An ordered map for many readers. A lock is held for as long as one batch or one read takes.
#[derive(Debug, Default)]
pub(super) struct Map {
    tree: RwLock<Tree>,
    /// What was applied since a copy was begun; `None` while none is made. Taken after the tree's lock.
    since: Mutex<Option<Vec<Prepared>>>,
}

/// Entries that are copied under one lock.
const CHUNK: usize = 1024;

impl Map {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree: RwLock::new(tree), since: Mutex::default() }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).get(key).map(|v| v.to_vec())
    }

    pub(super) fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in tree.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
            if !visit(key.bytes(), value) {
                return;
            }
        }
    }

    pub(super) fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in tree.range::<[u8], _>((Bound::Unbounded, Bound::Included(from))).rev() {
            if !visit(key.bytes(), value) {
                return;
            }
        }
    }

    /// Applies a batch; readers see all of it or nothing.
    pub(super) fn apply(&self, changes: Prepared) {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = self.since().as_mut() {
            since.push(changes.clone());
        }
        for (key, value) in changes {
            match value {
                Some(value) => drop(tree.insert(key, value)),
                None => drop(tree.remove(key.bytes())),
            }
        }
    }

    /// Hands out entries after `after` (from the first one if `None`), at most `count_max` and until
    /// `visit` answers `false`, and gives the last key; `None` at the end of the map.
    pub(super) fn chunk(
        &self,
        after: Option<&[u8]>,
        count_max: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Option<Key> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let mut last = None;
        for (key, value) in tree.range::<[u8], _>((from, Bound::Unbounded)).take(count_max) {
            last = Some(key);
            if !visit(key.bytes(), value) {
                break;
            }
        }
        last.cloned()
    }

    /// All entries as they are at one moment, at the end of the copying. Batches go on meanwhile: each waits for
    /// a few entries at most. One copy at a time.
    pub(super) fn copy(&self) -> Tree {
        *self.since() = Some(Vec::new());
        let (mut copy, mut after) = (Tree::new(), None::<Key>);
        loop {
            let mut some: Vec<(Key, Bytes)> = Vec::with_capacity(CHUNK);
            let last = self.chunk(after.as_ref().map(Key::bytes), CHUNK, |key, value| {
                some.push((Key::new(key), value.into()));
                true
            });
            copy.extend(some);
            if last.is_none() {
                break;
            }
            after = last;
        }
        // Values are whole, so it does not matter which changes the copy shows already.
        for (key, value) in self.since().take().into_iter().flatten().flatten() {
            match value {
                Some(value) => drop(copy.insert(key, value)),
                None => drop(copy.remove(key.bytes())),
            }
        }
        copy
    }

    fn since(&self) -> MutexGuard<'_, Option<Vec<Prepared>>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
