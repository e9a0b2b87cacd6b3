//! A base on real directories, while the host changes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a check that cannot run says so")]

mod hosts;
mod identity;
mod places;

use super::*;
use crate::store::{Batch, MemStore, StoreError};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A store that counts its batches and may be told to refuse them.
#[derive(Default)]
pub(super) struct Counting {
    inner: MemStore,
    pub(super) commits: AtomicUsize,
    pub(super) refuse: AtomicBool,
}

impl Store for Counting {
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
        if self.refuse.load(Ordering::Relaxed) {
            return Err(StoreError::Full);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.inner.commit(batch)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

/// A directory and a base of it.
pub(super) struct Ground {
    dir: tempfile::TempDir,
    pub(super) path: PathBuf,
    pub(super) store: Arc<Counting>,
    pub(super) base: Base,
}

fn record(path: &Path) -> BaseRecord {
    let meta = std::fs::metadata(path).unwrap();
    BaseRecord { path: path.as_os_str().as_bytes().to_vec(), dev: meta.dev(), root: ObjectId(meta.ino()), seal: None }
}

impl Ground {
    /// `prepare` fills the directory; it says where below it the base is.
    pub(super) fn new(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        std::fs::create_dir(&path).unwrap();
        prepare(&path);
        let store = Arc::new(Counting::default());
        let base =
            Base::open(&Grounds::anywhere(), BaseId(1), record(&path), Arc::clone(&store) as Arc<dyn Store>).unwrap();
        Self { dir, path, store, base }
    }

    /// As a daemon that starts afresh opens it.
    pub(super) fn restart(&mut self) {
        let record = self.base.record.clone();
        self.base =
            Base::open(&Grounds::anywhere(), BaseId(1), record, Arc::clone(&self.store) as Arc<dyn Store>).unwrap();
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Looks a path up, name by name.
    pub(super) fn find(&self, path: &str) -> BaseStat {
        self.lookup(path).unwrap_or_else(|| panic!("{path} is not there"))
    }

    pub(super) fn lookup(&self, path: &str) -> Option<BaseStat> {
        let mut at = self.base.root();
        let mut found = None;
        for name in path.split('/') {
            found = Some(self.base.lookup(at, name.as_bytes()).unwrap()?);
            at = found?.object;
        }
        found
    }

    /// Holds on to an object, as a branch's first change of it does.
    pub(super) fn pin(&self, object: ObjectId) {
        let mut batch = Batch::default();
        self.base.pin(object, &mut batch);
        self.store.inner.commit(&batch).unwrap();
    }

    /// Names, numbers and kinds in a directory, by name.
    pub(super) fn list(&self, dir: ObjectId) -> Vec<(String, ObjectId, FileKind)> {
        let entries = self.base.list(dir).unwrap().into_iter();
        let mut entries: Vec<_> = entries.map(|e| (String::from_utf8(e.name).unwrap(), e.object, e.kind)).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
    }

    pub(super) fn read(&self, object: ObjectId) -> Vec<u8> {
        let fd = self.base.file(object).unwrap();
        let mut bytes = vec![0; 4096];
        let len = nix::sys::uio::pread(fd.as_fd(), &mut bytes, 0).unwrap();
        bytes.truncate(len);
        bytes
    }

    /// Every name in `dir`, listed and looked up: both must tell the same numbers. Gives all numbers.
    pub(super) fn walk(&self, dir: ObjectId) -> Vec<ObjectId> {
        let mut all = Vec::new();
        for (name, object, kind) in self.list(dir) {
            let found = self.base.lookup(dir, name.as_bytes()).unwrap().unwrap();
            assert_eq!((found.object, found.kind), (object, kind), "{name}");
            assert_eq!(self.base.stat(object).unwrap().object, object, "{name}");
            all.push(object);
            if kind == FileKind::Directory {
                all.extend(self.walk(object));
            }
        }
        all
    }
}

pub(super) fn is_stale<T>(result: &FsResult<T>) -> bool {
    matches!(result, Err(FsError::Stale))
}
