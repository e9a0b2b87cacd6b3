//! A store that refuses what a test tells it to, and counts its batches.

use crate::store::{Batch, MemStore, Store, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Spy {
    inner: MemStore,
    /// No space for any batch.
    pub(super) full: AtomicBool,
    /// The next batch is in the store, and the caller is told that writing it failed.
    pub(super) lies_once: AtomicBool,
    pub(super) batches: AtomicU64,
}

impl Spy {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::SeqCst)
    }
}

impl Store for Spy {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.get(key)
    }
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.inner.scan(from, visit);
    }
    fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.inner.scan_back(from, visit);
    }
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::Full);
        }
        self.batches.fetch_add(1, Ordering::SeqCst);
        self.inner.commit(batch)?;
        if self.lies_once.swap(false, Ordering::SeqCst) {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(StoreError::Io { what: "write the log".into(), source });
        }
        Ok(())
    }
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
