//! The core driven as a frontend drives it, over the in-process transport, on a real base directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod changes;
mod damage;
mod door;
mod faults;
mod flat;
mod history;
mod host;
mod members;
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
use super::session::Session;
use super::state::{Branch, Core};
use crate::content::Contents;
use crate::store::{Batch, MemStore, Store};
use shm_transport::layout::Geometry;
use shm_transport::mem::Payload;
use shm_transport::wire::{
    Attr, Caller, Entry, Errno, NodeId, Op, Reply, Request, RequestId, SessionId, Timestamp, dirent,
};
use shm_transport::{Context, FsTransport, Handler, InProcess};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The session behind the transport's trait.
struct Served(Arc<Session>);

impl Handler for Served {
    fn may_block(&self, _: &Context, request: &Request) -> bool {
        self.0.may_block(request)
    }
    fn handle(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, len: u32) -> Reply {
        self.0.run(ctx, request, payload, len)
    }
}

/// A session of a mount that may write.
pub(super) fn open(core: &Arc<Core>, branch: &Arc<Branch>, id: SessionId) -> Arc<Session> {
    Session::open(Arc::clone(core), id, Arc::clone(branch), false, Path::new("/mnt/b")).unwrap()
}

/// A branch of a base directory (or of nothing), mounted in this process.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) core: Arc<Core>,
    pub(super) branch: Arc<Branch>,
    pub(super) session: Arc<Session>,
    transport: InProcess,
    next: AtomicU64,
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
        batch.put(keys::base(base_id), BaseRecord { path, dev: 0, root: ObjectId(root) }.encode());
        batch.put(keys::epoch(epoch), EpochRecord { parent: None, branch }.encode());
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
        let session = open(&core, &branch, SESSION);
        let geometry = Geometry { queues: 1, slots: 4 };
        let transport = InProcess::new(Arc::new(Served(Arc::clone(&session))), geometry, SESSION).unwrap();
        Self { dir, core, branch, session, transport, next: AtomicU64::new(2) }
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

    /// Puts the rig's session behind a fresh transport.
    pub(super) fn serve_session(&mut self) {
        let geometry = Geometry { queues: 1, slots: 4 };
        self.transport = InProcess::new(Arc::new(Served(Arc::clone(&self.session))), geometry, SESSION).unwrap();
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
        batch.put(keys::epoch(epoch), EpochRecord { parent: Some(record.head), branch: self.branch.id }.encode());
        record.head = epoch;
        batch.put(keys::branch(self.branch.id), record.encode());
        self.core.store.commit(&batch).unwrap();
        *view = self.core.view_at(self.branch.id, epoch).unwrap();
    }

    /// Runs one operation under a fresh request number; the payload goes in, the answer's comes out.
    pub(super) fn run(&mut self, node: NodeId, op: Op, payload: &[u8]) -> (Reply, Vec<u8>) {
        let id = RequestId(self.next.fetch_add(2, Ordering::Relaxed));
        self.run_as(id, node, op, payload)
    }

    pub(super) fn run_as(&mut self, id: RequestId, node: NodeId, op: Op, payload: &[u8]) -> (Reply, Vec<u8>) {
        let lease = self.transport.lease().unwrap();
        assert!(self.transport.payload(&lease).copy_in(0, payload));
        let request = Request { caller: Caller { uid: 0, gid: 0, pid: 1 }, node, op };
        self.transport.submit(lease, id, &request, payload.len() as u32).unwrap();
        let done = loop {
            if let Some(done) = self.transport.complete().unwrap() {
                break done;
            }
            std::thread::yield_now();
        };
        assert_eq!(done.id, id);
        let bytes = match done.reply {
            Reply::Data { len } => self.transport.payload(&done.lease).to_vec(len as usize).unwrap(),
            _ => Vec::new(),
        };
        self.transport.release(done.lease);
        (done.reply, bytes)
    }

    pub(super) fn ok(&mut self, node: NodeId, op: Op, payload: &[u8]) -> (Reply, Vec<u8>) {
        let (reply, bytes) = self.run(node, op.clone(), payload);
        assert!(!matches!(reply, Reply::Error(_)), "{op:?}: {reply:?}");
        (reply, bytes)
    }

    pub(super) fn error(&mut self, node: NodeId, op: Op) -> Errno {
        match self.run(node, op.clone(), &[]).0 {
            Reply::Error(e) => e,
            other => panic!("{op:?} answered {other:?}"),
        }
    }

    pub(super) fn entry(&mut self, node: NodeId, op: Op) -> Entry {
        match self.ok(node, op, &[]).0 {
            Reply::Entry(e) | Reply::Created(e, _) => e,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn find(&mut self, dir: NodeId, name: &str) -> Entry {
        self.entry(dir, Op::Lookup { name: name.into() })
    }

    pub(super) fn attr(&mut self, node: NodeId) -> Attr {
        match self.ok(node, Op::GetAttr, &[]).0 {
            Reply::Attr { attr, .. } => attr,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn read(&mut self, node: NodeId) -> Vec<u8> {
        self.ok(node, Op::Read { fh: 0, offset: 0, size: 1 << 20 }, &[]).1
    }

    pub(super) fn write(&mut self, node: NodeId, offset: u64, bytes: &[u8]) {
        let (reply, _) = self.ok(node, Op::Write { fh: 0, offset, kill_suidgid: false }, bytes);
        assert_eq!(reply, Reply::Written { size: bytes.len() as u32 });
    }

    /// Names of a directory, sorted, without the dots, read in small pieces.
    pub(super) fn list(&mut self, dir: NodeId, plus: bool) -> Vec<String> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        let fh = match self.ok(dir, Op::OpenDir, &[]).0 {
            Reply::Opened(o) => o.fh,
            other => panic!("{other:?}"),
        };
        loop {
            let (_, bytes) = self.ok(dir, Op::ReadDir { fh, cookie, size: 512, plus }, &[]);
            if bytes.is_empty() {
                break;
            }
            for found in dirent::Reader::new(&bytes, plus) {
                cookie = found.off;
                names.push(String::from_utf8(found.name.to_vec()).unwrap());
            }
        }
        self.ok(dir, Op::ReleaseDir { fh }, &[]);
        names.retain(|n| n != "." && n != "..");
        names.sort();
        names
    }
}
