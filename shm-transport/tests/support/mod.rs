//! What the test programs of this crate share.
#![allow(dead_code, reason = "each test program uses a part")]

use shm_transport::frontend::wait;
use shm_transport::wire::{Caller, NodeId, Op, Reply, Request, RequestId};
use shm_transport::{Completion, Context, FsTransport, Handler, TransportError, mem::Payload};
use std::time::{Duration, Instant};

/// Longest wait for anything: a test that hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A request that carries `tag` in a field that comes back in the reply of [`Echo`].
pub(crate) fn request(tag: u64) -> Request {
    Request {
        caller: Caller { uid: 1, gid: 2, pid: 3 },
        node: NodeId(tag),
        op: Op::Lseek { fh: tag, offset: 0, whence: 0 },
    }
}

/// Answers with the node, a `Write` with its payload reversed; panics on `SyncFs`, lies on `StatFs`.
#[derive(Debug)]
pub(crate) struct Echo;

impl Handler for Echo {
    fn may_block(&self, _: &Context, _: &Request) -> bool {
        false
    }

    fn handle(&self, _: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Reply {
        if matches!(request.op, Op::SyncFs) {
            panic!("a handler that panics, as the test wants");
        }
        if matches!(request.op, Op::StatFs) {
            return Reply::Data { len: u32::MAX };
        }
        if matches!(request.op, Op::Write { .. }) {
            let mut bytes = payload.to_vec(payload_len as usize).unwrap();
            bytes.reverse();
            assert!(payload.copy_in(0, &bytes));
            return Reply::Data { len: payload_len };
        }
        Reply::Offset(request.node.0)
    }
}

/// The next completion, sleeping on the doorbell as a frontend does.
pub(crate) fn next(transport: &mut dyn FsTransport) -> Result<Completion, TransportError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = transport.complete()? {
            return Ok(done);
        }
        if transport.arm() {
            assert!(wait(transport.doorbell(), 5_000).unwrap(), "nobody rang for a sleeping frontend");
        }
        transport.disarm();
        assert!(Instant::now() < deadline, "no completion came");
    }
}

/// Leases, submits, waits, and releases; the reply.
pub(crate) fn round_trip(transport: &mut dyn FsTransport, id: u64, request: &Request) -> Reply {
    let lease = transport.lease().expect("a free slot");
    transport.submit(lease, RequestId(id), request, 0).expect("submit");
    let done = next(transport).expect("completion");
    assert_eq!(done.id, RequestId(id));
    transport.release(done.lease);
    done.reply
}
