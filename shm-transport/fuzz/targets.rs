//! What is fuzzed, as plain functions: the fuzz targets call them, and so does the crate's test
//! `corpus`, so that the same code runs where `cargo fuzz` is not installed. They panic on a defect.
#![allow(dead_code, reason = "each target uses one of the functions")]

use shm_transport::control::{Answer, Call, door};
use shm_transport::wire::{self, Reply, RequestId, SessionId, dirent};
use shm_transport::{DaemonEnd, FsTransport, Geometry, SessionFds, ShmTransport};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What decodes must encode again, to the same message.
pub fn decode(bytes: &[u8]) {
    if let Ok(request) = wire::decode_request(bytes) {
        let again = wire::encode_request(&request).expect("a decoded request fits its area");
        assert_eq!(wire::decode_request(&again).expect("what was encoded decodes"), request);
    }
    if let Ok(reply) = wire::decode_reply(bytes) {
        let again = wire::encode_reply(&reply).expect("a decoded reply fits its area");
        assert_eq!(wire::decode_reply(&again).expect("what was encoded decodes"), reply);
    }
    for plus in [false, true] {
        // Bounded by the bytes: every entry takes some.
        assert!(dirent::Reader::new(bytes, plus).count() <= bytes.len());
    }
    drop(serde_json::from_slice::<Call>(bytes));
    drop(serde_json::from_slice::<Answer>(bytes));
    if let Some(cmd) = door::command(bytes.len()) {
        drop(door::decode(cmd, bytes, bytes.len()));
    }
}

const SESSION: SessionId = SessionId(1);
const SLOTS: u32 = 4;

thread_local! {
    /// Mapping a region costs more than everything else here: one serves all inputs.
    static REGION: RefCell<Option<(SessionFds, Vec<u8>)>> = const { RefCell::new(None) };
}

/// Bytes of header, rings and slots of the region: what is restored before each input.
const CONTROL: usize = 4096 + 4 * 512 + SLOTS as usize * 1600;

/// Lays patches (`offset u16 · length u8 · bytes`) over a region with requests in it, attaches both
/// ends, and serves. Nothing may panic or go on for ever; what is taken must be answerable.
pub fn attach(patches: &[u8]) {
    REGION.with_borrow_mut(|cached| {
        let (fds, fresh) = cached.get_or_insert_with(|| {
            let fds = SessionFds::create(Geometry { queues: 1, slots: SLOTS }, SESSION).expect("a region");
            let mut end = ShmTransport::attach(&fds).expect("our own region").remove(0);
            end.reset_for_new_daemon().expect("our own region");
            for id in 0..u64::from(SLOTS) {
                let lease = end.lease().expect("a free slot");
                let op = wire::Op::Lookup { name: b"name".to_vec() };
                let request = wire::Request { caller: wire::Caller::default(), node: wire::NodeId::ROOT, op };
                end.submit(lease, RequestId(id), &request, 0).expect("submitted");
            }
            let mut bytes = vec![0; CONTROL];
            File::from(fds.region.try_clone().expect("a descriptor")).read_exact_at(&mut bytes, 0).expect("read");
            (fds, bytes)
        });
        let region = File::from(fds.region.try_clone().expect("a descriptor"));
        region.write_all_at(fresh, 0).expect("restored");
        let mut rest = patches;
        while let [low, high, len, body @ ..] = rest {
            let at = u64::from(u16::from_le_bytes([*low, *high])) % CONTROL as u64;
            let (patch, after) = body.split_at(body.len().min(usize::from(*len)));
            region.write_all_at(patch, at).expect("the region has room beyond its control part");
            rest = after;
        }
        serve(fds);
        adopt(fds);
    });
}

fn serve(fds: &SessionFds) {
    let Ok(daemon) = DaemonEnd::attach(fds, SESSION, 1) else { return };
    let mut held = Vec::new();
    for _ in 0..64 {
        match daemon.pop() {
            Ok(Some(running)) => held.push(running),
            Ok(None) | Err(_) => break,
        }
    }
    assert!(held.len() <= SLOTS as usize, "a slot was taken twice");
    for running in held {
        // A session that was broken meanwhile refuses the answer.
        drop(running.complete(&Reply::Ok));
    }
    daemon.arm();
    assert_eq!(daemon.in_flight(), 0);
}

fn adopt(fds: &SessionFds) {
    let Ok(mut ends) = ShmTransport::attach(fds) else { return };
    for end in &mut ends {
        let under_way = end.in_flight();
        if end.reset_for_new_daemon().is_err() {
            continue;
        }
        let mut completed = 0;
        while let Ok(Some(done)) = end.complete() {
            end.release(done.lease);
            completed += 1;
        }
        assert_eq!(end.in_flight() + completed, under_way, "a request was lost or doubled");
    }
}
