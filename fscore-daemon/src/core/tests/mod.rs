//! The core driven as a frontend drives it, over the in-process transport, on a real base directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod changes;
mod collected;
mod counting;
mod damage;
mod door;
mod faults;
mod flat;
mod history;
pub(crate) mod host;
mod members;
pub(crate) mod mount;
mod overlay;
mod power;
mod quota;
mod reading;
mod replace;
mod replay;
mod spy;

use super::clock::HostClock;
use super::ids::ObjectId;
use super::keys;
use super::record::{BaseRecord, BranchRecord, EpochRecord};
use super::state::{Branch, Core};
use crate::content::Contents;
use crate::store::{Batch, MemStore, Store};
use mount::{Mount, open};
use shm_transport::wire::{Errno, NodeId, Op, Reply, RequestId, SessionId, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A branch of a base directory (or of nothing), mounted in this process.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) core: Arc<Core>,
    pub(super) branch: Arc<Branch>,
    mount: Mount,
}

impl std::ops::Deref for Rig {
    type Target = Mount;
    fn deref(&self) -> &Mount {
        &self.mount
    }
}

impl std::ops::DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Mount {
        &mut self.mount
    }
}

const SESSION: SessionId = SessionId(7);

impl Rig {
    /// `prepare` fills the base.
    pub(super) fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::over(Arc::new(MemStore::default()), prepare)
    }

    /// The same over a store of the test's.
    pub(super) fn over(store: Arc<dyn Store>, prepare: impl FnOnce(&Path)) -> Self {
        Self::with(store, |dir| Contents::open(dir, 16).unwrap(), prepare)
    }

    /// The same with content files of the test's.
    pub(super) fn with(
        store: Arc<dyn Store>,
        contents: impl FnOnce(&Path) -> Contents,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::create_dir(&base).unwrap();
        prepare(&base);
        let contents = Arc::new(contents(&dir.path().join("contents")));
        let core = Core::open(Arc::clone(&store), contents, Arc::new(HostClock)).unwrap();
        let root = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&base).unwrap());
        let (base_id, branch, epoch) =
            (core.new_base().unwrap(), core.new_branch().unwrap(), core.new_epoch().unwrap());
        let path = std::os::unix::ffi::OsStrExt::as_bytes(base.as_os_str()).to_vec();
        let mut batch = Batch::default();
        batch.put(keys::base(base_id), BaseRecord { path, dev: 0, root: ObjectId(root), seal: None }.encode());
        batch.put(keys::epoch(epoch), EpochRecord { parent: None, branch, base: None }.encode());
        let record = BranchRecord {
            name: "b".into(),
            head: epoch,
            base: Some(base_id),
            frozen_base: false,
            root: ObjectId(root),
            from: None,
            uid: 0,
            created: Timestamp::default(),
            quota: super::record::Quota::default(),
        };
        batch.put(keys::branch(branch), record.encode());
        store.commit(&batch).unwrap();
        Self::mount(dir, core, branch)
    }

    pub(super) fn mount(dir: tempfile::TempDir, core: Arc<Core>, branch: super::ids::BranchId) -> Self {
        let branch = core.branch(branch).unwrap();
        let mount = Mount::new(&core, &branch, SESSION);
        Self { dir, core, branch, mount }
    }

    /// The daemon dies and another one starts on the store. Its mounts are not attached yet.
    pub(super) fn restart_daemon(&mut self) {
        let contents = Arc::new(Contents::open(&self.dir.path().join("contents"), 16).unwrap());
        self.core = Core::open(Arc::clone(&self.core.store), contents, Arc::new(HostClock)).unwrap();
        self.branch = self.core.branch(self.branch.id).unwrap();
    }

    /// The rig's mount attaches again.
    pub(super) fn attach(&mut self) {
        self.session = open(&self.core, &self.branch, SESSION);
        self.serve_session();
    }

    /// The host path of a base file.
    pub(super) fn base(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("base").join(name)
    }

    /// Freezes the head, as a snapshot does.
    pub(super) fn freeze(&self) {
        let mut view = self.branch.view_mut();
        let epoch = self.core.new_epoch().unwrap();
        let mut record = self.core.branch_record(self.branch.id).unwrap();
        let mut batch = Batch::default();
        batch.put(
            keys::epoch(epoch),
            EpochRecord { parent: Some(record.head), branch: self.branch.id, base: None }.encode(),
        );
        record.head = epoch;
        batch.put(keys::branch(self.branch.id), record.encode());
        self.core.store.commit(&batch).unwrap();
        *view = self.core.view_at(self.branch.id, epoch).unwrap();
    }
}
