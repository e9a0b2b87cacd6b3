//! A mount of a branch in this process, driven as a frontend drives it.

use crate::core::session::Session;
use crate::core::state::{Branch, Core};
use shm_transport::layout::Geometry;
use shm_transport::mem::Payload;
use shm_transport::wire::{Attr, Caller, Entry, Errno, NodeId, Op, Reply, Request, RequestId, SessionId, dirent};
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
pub(crate) fn open(core: &Arc<Core>, branch: &Arc<Branch>, id: SessionId) -> Arc<Session> {
    Session::open(Arc::clone(core), id, Arc::clone(branch), false, Path::new("/mnt/b")).unwrap()
}

fn transport(session: &Arc<Session>) -> InProcess {
    let geometry = Geometry { queues: 1, slots: 4 };
    InProcess::new(Arc::new(Served(Arc::clone(session))), geometry, session.id).unwrap()
}

/// A mount.
pub(crate) struct Mount {
    pub(crate) session: Arc<Session>,
    transport: InProcess,
    pub(crate) next: AtomicU64,
}

impl Mount {
    pub(crate) fn new(core: &Arc<Core>, branch: &Arc<Branch>, id: SessionId) -> Self {
        let session = open(core, branch, id);
        let transport = transport(&session);
        Self { session, transport, next: AtomicU64::new(2) }
    }

    /// Puts the session behind a fresh transport.
    pub(crate) fn serve_session(&mut self) {
        self.transport = transport(&self.session);
    }

    /// Runs one operation under a fresh request number; the payload goes in, the answer's comes out.
    pub(crate) fn run(&mut self, node: NodeId, op: Op, payload: &[u8]) -> (Reply, Vec<u8>) {
        let id = RequestId(self.next.fetch_add(2, Ordering::Relaxed));
        self.run_as(id, node, op, payload)
    }

    pub(crate) fn run_as(&mut self, id: RequestId, node: NodeId, op: Op, payload: &[u8]) -> (Reply, Vec<u8>) {
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

    pub(crate) fn ok(&mut self, node: NodeId, op: Op, payload: &[u8]) -> (Reply, Vec<u8>) {
        let (reply, bytes) = self.run(node, op.clone(), payload);
        assert!(!matches!(reply, Reply::Error(_)), "{op:?}: {reply:?}");
        (reply, bytes)
    }

    pub(crate) fn error(&mut self, node: NodeId, op: Op) -> Errno {
        match self.run(node, op.clone(), &[]).0 {
            Reply::Error(e) => e,
            other => panic!("{op:?} answered {other:?}"),
        }
    }

    pub(crate) fn entry(&mut self, node: NodeId, op: Op) -> Entry {
        match self.ok(node, op, &[]).0 {
            Reply::Entry(e) | Reply::Created(e, _) => e,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn find(&mut self, dir: NodeId, name: &str) -> Entry {
        self.entry(dir, Op::Lookup { name: name.into() })
    }

    pub(crate) fn attr(&mut self, node: NodeId) -> Attr {
        match self.ok(node, Op::GetAttr, &[]).0 {
            Reply::Attr { attr, .. } => attr,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn read(&mut self, node: NodeId) -> Vec<u8> {
        self.ok(node, Op::Read { fh: 0, offset: 0, size: 1 << 20 }, &[]).1
    }

    pub(crate) fn write(&mut self, node: NodeId, offset: u64, bytes: &[u8]) {
        let (reply, _) = self.ok(node, Op::Write { fh: 0, offset, kill_suidgid: false }, bytes);
        assert_eq!(reply, Reply::Written { size: bytes.len() as u32 });
    }

    /// Names of a directory, sorted, without the dots, read in small pieces.
    pub(crate) fn list(&mut self, dir: NodeId, plus: bool) -> Vec<String> {
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
