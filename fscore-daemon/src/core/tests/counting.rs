//! A store that counts how often it is read.

use crate::store::{Batch, MemStore, Store, StoreError};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts reads: each get, each scan, and each key that a scan passes.
#[derive(Default)]
pub(super) struct Counting {
    inner: MemStore,
    reads: AtomicU64,
}

impl Counting {
    /// So far.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn one(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store for Counting {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.one();
        self.inner.get(key)
    }
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.inner.scan(from, &mut |key, value| {
            self.one();
            visit(key, value)
        });
    }
    fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.inner.scan_back(from, &mut |key, value| {
            self.one();
            visit(key, value)
        });
    }
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.inner.commit(batch)
    }
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
