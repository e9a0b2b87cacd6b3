//! The ordered map that readers see.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use super::Batch;

/// A key or value.
pub(super) type Bytes = Box<[u8]>;
/// Keys with their values.
pub(super) type Tree = BTreeMap<Bytes, Bytes>;

/// Changes ready to be applied: everything that needs memory was done before a lock is taken.
pub(super) type Prepared = Vec<(Bytes, Option<Bytes>)>;

/// Copies a batch.
pub(super) fn prepare(batch: &Batch) -> Prepared {
    batch.changes.iter().map(|(k, v)| (k.as_slice().into(), v.as_deref().map(Into::into))).collect()
}

/// Applies one change.
pub(super) fn change(tree: &mut Tree, key: &[u8], value: Option<&[u8]>) {
    match value {
        None => {
            tree.remove(key);
        }
        Some(value) => match tree.get_mut(key) {
            Some(old) => *old = value.into(),
            None => {
                tree.insert(key.into(), value.into());
            }
        },
    }
}

/// An ordered map for many readers. A lock is held for as long as one batch or one read takes.
#[derive(Debug, Default)]
pub(super) struct Map(RwLock<Tree>);

impl Map {
    pub(super) fn new(tree: Tree) -> Self {
        Self(RwLock::new(tree))
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).map(|v| v.to_vec())
    }

    pub(super) fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let tree = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in tree.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
            if !visit(key, value) {
                return;
            }
        }
    }

    pub(super) fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let tree = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in tree.range::<[u8], _>((Bound::Unbounded, Bound::Included(from))).rev() {
            if !visit(key, value) {
                return;
            }
        }
    }

    /// Applies a batch; readers see all of it or nothing.
    pub(super) fn apply(&self, changes: Prepared) {
        let mut tree = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => drop(tree.insert(key, value)),
                None => drop(tree.remove(&key)),
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
    ) -> Option<Bytes> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tree = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut last = None;
        for (key, value) in tree.range::<[u8], _>((from, Bound::Unbounded)).take(count_max) {
            last = Some(key);
            if !visit(key, value) {
                break;
            }
        }
        last.cloned()
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
