//! A store without a disk, for tests of what is built on a store.

use super::map::{Map, Tree, prepare};
use super::{Batch, Store, StoreError};

/// Keeps everything in memory; never fails.
#[derive(Debug, Default)]
pub struct MemStore(Map);

impl MemStore {
    /// With these records.
    pub(super) fn of(tree: Tree) -> Self {
        Self(Map::new(tree))
    }
}

impl Store for MemStore {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(from, visit);
    }
    fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan_back(from, visit);
    }
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.0.apply(prepare(batch));
        Ok(())
    }
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
