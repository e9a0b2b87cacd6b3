//! One suite for every implementation of `FsTransport`: what a frontend may rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use shm_transport::doorbell::Doorbell;
use shm_transport::wire::{Errno, NodeId, Op, Reply, Request, RequestId, SessionId};
use shm_transport::{
    DaemonEnd, FsTransport, Geometry, Handler, InProcess, SessionFds, ShmTransport, TransportError, daemon,
};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use support::{Echo, next, request, round_trip};

const SESSION: SessionId = SessionId(0xfeed);

/// A transport and whatever serves it.
struct Rig {
    transport: Box<dyn FsTransport>,
    server: Option<(Doorbell, JoinHandle<Result<(), TransportError>>)>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.server.take() {
            stop.ring().unwrap();
            // A test that wants the server's result takes it before.
            drop(thread.join().unwrap());
        }
    }
}

fn in_process(handler: Arc<dyn Handler>, slots: u32) -> Rig {
    let transport = InProcess::new(handler, Geometry { queues: 1, slots }, SESSION).unwrap();
    Rig { transport: Box::new(transport), server: None }
}

fn shared_memory(handler: Arc<dyn Handler>, slots: u32) -> Rig {
    let fds = SessionFds::create(Geometry { queues: 1, slots }, SESSION).unwrap();
    let mut transport = ShmTransport::attach(&fds).unwrap().remove(0);
    let epoch = transport.reset_for_new_daemon().unwrap();
    let end = DaemonEnd::attach(&fds, SESSION, epoch).unwrap();
    let stop = Doorbell::create().unwrap();
    let stopped = stop.try_clone().unwrap();
    let thread = std::thread::spawn(move || daemon::serve(&end, &*handler, stopped.as_fd()));
    Rig { transport: Box::new(transport), server: Some((stop, thread)) }
}

macro_rules! conformance {
    ($($test:ident)*) => {
        mod in_process_transport {
            $(#[test] fn $test() { super::$test(super::in_process); })*
        }
        mod shared_memory_transport {
            $(#[test] fn $test() { super::$test(super::shared_memory); })*
        }
    };
}

type Make = fn(Arc<dyn Handler>, u32) -> Rig;

conformance! {
    every_request_is_completed_exactly_once
    payloads_go_in_and_come_out
    slots_run_out_and_come_back
    a_request_that_does_not_fit_gives_the_lease_back
    an_illegal_name_fails_that_request_alone
    an_impossible_reply_becomes_eio
    a_panic_is_eio
    nothing_completes_out_of_nothing
}

fn every_request_is_completed_exactly_once(make: Make) {
    const COUNT: u64 = 5_000;
    let mut rig = make(Arc::new(Echo), 16);
    let transport = &mut *rig.transport;
    let (mut sent, mut outstanding) = (0, BTreeSet::new());
    let mut done = 0;
    while done < COUNT {
        while sent < COUNT
            && let Some(lease) = transport.lease()
        {
            transport.submit(lease, RequestId(sent), &request(sent + 7), 0).unwrap();
            assert!(outstanding.insert(sent));
            sent += 1;
        }
        let completion = next(transport).unwrap();
        assert!(outstanding.remove(&completion.id.0), "completed twice or never asked");
        assert_eq!(completion.reply, Reply::Offset(completion.id.0 + 7));
        transport.release(completion.lease);
        done += 1;
    }
    assert_eq!(transport.in_flight(), 0);
    assert!(transport.complete().unwrap().is_none());
}

fn payloads_go_in_and_come_out(make: Make) {
    let mut rig = make(Arc::new(Echo), 4);
    let transport = &mut *rig.transport;
    for (id, len) in [0usize, 1, 4095, 4096, 1 << 20].into_iter().enumerate() {
        let bytes: Vec<u8> = (0..len).map(|n| (n * 31 + id) as u8).collect();
        let lease = transport.lease().unwrap();
        assert_eq!(transport.payload(&lease).capacity(), 1 << 20);
        assert!(transport.payload(&lease).copy_in(0, &bytes));
        let op = Op::Write { fh: 0, offset: 0, kill_suidgid: false };
        let write = Request { op, ..request(1) };
        transport.submit(lease, RequestId(id as u64), &write, len as u32).unwrap();
        let done = next(transport).unwrap();
        assert_eq!(done.reply, Reply::Data { len: len as u32 });
        let back = transport.payload(&done.lease).to_vec(len).unwrap();
        assert!(back.iter().eq(bytes.iter().rev()));
        transport.release(done.lease);
    }
}

fn slots_run_out_and_come_back(make: Make) {
    let mut rig = make(Arc::new(Echo), 4);
    let transport = &mut *rig.transport;
    let leases: Vec<_> = (0..4).map(|_| transport.lease().unwrap()).collect();
    let distinct: BTreeSet<_> = leases.iter().map(|l| l.slot).collect();
    assert_eq!(distinct.len(), 4);
    assert!(transport.lease().is_none());
    for (id, lease) in leases.into_iter().enumerate() {
        transport.submit(lease, RequestId(id as u64), &request(1), 0).unwrap();
    }
    let done = next(transport).unwrap();
    assert!(transport.lease().is_none(), "a completed slot is still leased");
    let slot = done.lease.slot;
    transport.release(done.lease);
    assert_eq!(transport.lease().unwrap().slot, slot, "the slot used last comes first");
}

fn a_request_that_does_not_fit_gives_the_lease_back(make: Make) {
    let mut rig = make(Arc::new(Echo), 1);
    let transport = &mut *rig.transport;
    let lease = transport.lease().unwrap();
    let long = Request { op: Op::Lookup { name: vec![b'x'; 4000] }, ..request(1) };
    let (lease, error) = transport.submit(lease, RequestId(1), &long, 0).unwrap_err();
    assert!(matches!(error, TransportError::Codec(_)));
    let (lease, error) = transport.submit(lease.unwrap(), RequestId(1), &request(1), (1 << 20) + 1).unwrap_err();
    assert!(matches!(error, TransportError::Codec(_)));
    transport.release(lease.unwrap());
    assert_eq!(transport.in_flight(), 0);
    assert_eq!(round_trip(transport, 2, &request(9)), Reply::Offset(9));
}

fn an_illegal_name_fails_that_request_alone(make: Make) {
    let mut rig = make(Arc::new(Echo), 1);
    for name in [&b""[..], b"a/b", b".."] {
        let lookup = Request { op: Op::Lookup { name: name.to_vec() }, ..request(1) };
        assert_eq!(round_trip(&mut *rig.transport, 1, &lookup), Reply::Error(Errno::EINVAL));
    }
    assert_eq!(round_trip(&mut *rig.transport, 2, &request(9)), Reply::Offset(9));
}

fn an_impossible_reply_becomes_eio(make: Make) {
    let mut rig = make(Arc::new(Echo), 1);
    let stat = Request { op: Op::StatFs, node: NodeId::ROOT, ..request(1) };
    assert_eq!(round_trip(&mut *rig.transport, 1, &stat), Reply::Error(Errno::EIO));
}

fn a_panic_is_eio(make: Make) {
    let mut rig = make(Arc::new(Echo), 2);
    let panics = Request { op: Op::SyncFs, ..request(1) };
    assert_eq!(round_trip(&mut *rig.transport, 1, &panics), Reply::Error(Errno::EIO));
}

fn nothing_completes_out_of_nothing(make: Make) {
    let mut rig = make(Arc::new(Echo), 2);
    assert!(rig.transport.complete().unwrap().is_none());
    assert!(rig.transport.arm());
    rig.transport.disarm();
    let lease = rig.transport.lease().unwrap();
    rig.transport.release(lease);
    assert!(rig.transport.complete().unwrap().is_none());
    assert_eq!(rig.transport.in_flight(), 0);
}
