#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::core::session::Session;
use crate::core::tests::Rig;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use shm_transport::layout::Geometry;
use shm_transport::mem::Payload;
use shm_transport::wire::{Caller, Errno, NodeId, Op, Reply, Request, RequestId};
use shm_transport::{Context, FsTransport, Handler, InProcess};
use std::fs::File;
use std::sync::Arc;

/// Runs requests without waiting; `ENOSYS` stands for one that has to wait.
struct Attempts(Arc<Session>);

const WAITS: Errno = Errno::ENOSYS;

impl Handler for Attempts {
    fn may_block(&self, _: &Context, request: &Request) -> bool {
        self.0.may_block(request)
    }
    fn handle(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, len: u32) -> Reply {
        self.0.attempt(ctx, request, payload, len).unwrap_or(Reply::Error(WAITS))
    }
}

fn attempts(rig: &Rig) -> impl FnMut(NodeId, Op) -> Reply + use<> {
    let session = Arc::clone(&rig.session);
    let id = session.id;
    let mut transport = InProcess::new(Arc::new(Attempts(session)), Geometry { queues: 1, slots: 4 }, id).unwrap();
    let mut next = 1000;
    move |node, op| {
        let lease = transport.lease().unwrap();
        next += 2;
        transport.submit(lease, RequestId(next), &Request { caller: Caller::default(), node, op }, 0).unwrap();
        let done = transport.complete().unwrap().unwrap();
        transport.release(done.lease);
        done.reply
    }
}

#[test]
fn what_lies_in_memory_is_read_at_once_and_what_does_not_is_left_for_another_thread() {
    let rig = Rig::new(|base| {
        std::fs::write(base.join("f"), vec![7; 100_000]).unwrap();
        File::open(base.join("f")).unwrap().sync_all().unwrap();
    });
    let mut attempt = attempts(&rig);
    let Reply::Entry(entry) = attempt(NodeId::ROOT, Op::Lookup { name: b"f".to_vec() }) else { panic!("no entry") };
    assert!(matches!(attempt(entry.node, Op::GetAttr), Reply::Attr { .. }));
    assert!(matches!(attempt(entry.node, Op::Open { flags: 0, kill_suidgid: false }), Reply::Opened(_)));
    let read = || Op::Read { fh: 0, offset: 0, size: 100_000 };
    assert_eq!(attempt(entry.node, read()), Reply::Data { len: 100_000 });

    posix_fadvise(File::open(rig.base("f")).unwrap(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let cold = attempt(entry.node, read());
    if matches!(cold, Reply::Data { .. }) {
        eprintln!("skipped: what_lies_in_memory: the temporary directory's files are all in memory");
    } else {
        assert_eq!(cold, Reply::Error(WAITS));
    }
    assert!(!super::is_active(), "the thread still must not wait");
}
