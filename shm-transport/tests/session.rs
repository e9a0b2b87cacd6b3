//! The life of a session over shared memory: doorbells, restarts of either side, several queue pairs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use shm_transport::doorbell::Doorbell;
use shm_transport::wire::{Errno, Reply, RequestId, SessionId};
use shm_transport::{
    DaemonEnd, FsTransport, FuseState, Geometry, Running, SessionFds, ShmTransport, TransportError, daemon,
};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use support::{Echo, next, request, round_trip};

const SESSION: SessionId = SessionId(0xcafe);

fn session(queues: u32, slots: u32) -> (SessionFds, Vec<ShmTransport>) {
    let fds = SessionFds::create(Geometry { queues, slots }, SESSION).unwrap();
    let ends = ShmTransport::attach(&fds).unwrap();
    (fds, ends)
}

/// A daemon's end for the frontend's next epoch.
fn daemon_for(fds: &SessionFds, ends: &mut [ShmTransport]) -> DaemonEnd {
    let epochs: Vec<u32> = ends.iter_mut().map(|end| end.reset_for_new_daemon().unwrap()).collect();
    assert!(epochs.iter().all(|e| *e == epochs[0]));
    DaemonEnd::attach(fds, SESSION, epochs[0]).unwrap()
}

fn submit(end: &mut ShmTransport, id: u64) {
    let lease = end.lease().unwrap();
    end.submit(lease, RequestId(id), &request(id), 0).unwrap();
}

fn take(end: &DaemonEnd) -> Running {
    end.pop().unwrap().expect("a submitted request")
}

/// All completions that lie there, by request id.
fn drain(end: &mut ShmTransport) -> BTreeMap<u64, Reply> {
    let mut all = BTreeMap::new();
    while let Some(done) = end.complete().unwrap() {
        assert!(all.insert(done.id.0, done.reply).is_none(), "completed twice");
        end.release(done.lease);
    }
    all
}

#[test]
fn completions_come_in_any_order() {
    let (fds, mut ends) = session(1, 4);
    let daemon = daemon_for(&fds, &mut ends);
    for id in 0..4 {
        submit(&mut ends[0], id);
    }
    let taken: Vec<Running> = (0..4).map(|_| take(&daemon)).collect();
    assert_eq!(daemon.in_flight(), 4);
    for running in taken.into_iter().rev() {
        let reply = Reply::Offset(running.request().node.0);
        running.complete(&reply).unwrap();
    }
    let order: Vec<u64> = std::iter::from_fn(|| ends[0].complete().unwrap()).map(|c| c.id.0).collect();
    assert_eq!(order, [3, 2, 1, 0]);
    assert_eq!(daemon.in_flight(), 0);
}

#[test]
fn a_dropped_request_is_eio() {
    let (fds, mut ends) = session(1, 2);
    let daemon = daemon_for(&fds, &mut ends);
    submit(&mut ends[0], 1);
    drop(take(&daemon));
    assert_eq!(drain(&mut ends[0]), BTreeMap::from([(1, Reply::Error(Errno::EIO))]));
}

#[test]
fn sleeping_ends_are_always_woken() {
    const COUNT: u64 = 30_000;
    let (fds, mut ends) = session(1, 4);
    let end = daemon_for(&fds, &mut ends);
    let stop = Doorbell::create().unwrap();
    let stopped = stop.try_clone().unwrap();
    let server = std::thread::spawn(move || daemon::serve(&end, &Echo, stopped.as_fd()));
    let transport = &mut ends[0];
    let (mut sent, mut done) = (0, 0);
    while done < COUNT {
        // A varying depth makes both sides sleep and wake at ever other moments.
        while sent < COUNT && (transport.in_flight() as u64) < sent % 4 + 1 {
            submit(transport, sent);
            sent += 1;
        }
        let completion = next(transport).unwrap();
        transport.release(completion.lease);
        done += 1;
    }
    stop.ring().unwrap();
    server.join().unwrap().unwrap();
}

#[test]
fn a_new_daemon_runs_what_the_old_one_left_and_nothing_else() {
    let (fds, mut ends) = session(1, 8);
    let old = daemon_for(&fds, &mut ends);
    for id in 0..5 {
        submit(&mut ends[0], id);
    }
    take(&old).complete(&Reply::Offset(100)).unwrap();
    let running = take(&old);
    take(&old).complete(&Reply::Offset(102)).unwrap();
    // The frontend has delivered one of the two replies and not the other when the daemon goes.
    let delivered = ends[0].complete().unwrap().unwrap();
    assert_eq!((delivered.id.0, &delivered.reply), (0, &Reply::Offset(100)));
    assert_eq!(ends[0].in_flight(), 4);
    submit(&mut ends[0], 5);

    let new = daemon_for(&fds, &mut ends);
    assert!(running.complete(&Reply::Offset(999)).is_err(), "too late: its reply does not count");
    assert!(matches!(old.pop(), Err(TransportError::Protocol { .. })));
    let mut ran = Vec::new();
    while let Some(running) = new.pop().unwrap() {
        ran.push(running.context().id.0);
        running.complete(&Reply::Ok).unwrap();
    }
    assert_eq!(ran, [1, 3, 4, 5].map(|id| id), "not what is completed");
    ends[0].release(delivered.lease);
    let replies = drain(&mut ends[0]);
    assert_eq!(replies.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(replies[&2], Reply::Offset(102));
    assert_eq!(ends[0].in_flight(), 0);
}

#[test]
fn requests_submitted_while_no_daemon_lives_wait() {
    let (fds, mut ends) = session(1, 2);
    drop(daemon_for(&fds, &mut ends));
    submit(&mut ends[0], 1);
    submit(&mut ends[0], 2);
    assert!(ends[0].lease().is_none());
    for _ in 0..3 {
        drop(daemon_for(&fds, &mut ends));
    }
    let daemon = daemon_for(&fds, &mut ends);
    take(&daemon).complete(&Reply::Ok).unwrap();
    take(&daemon).complete(&Reply::Ok).unwrap();
    assert_eq!(drain(&mut ends[0]).len(), 2);
}

#[test]
fn a_frontend_that_takes_over_finds_what_was_under_way() {
    let (fds, mut ends) = session(1, 8);
    let daemon = daemon_for(&fds, &mut ends);
    for id in 10..14 {
        submit(&mut ends[0], id);
    }
    take(&daemon).complete(&Reply::Offset(10)).unwrap();
    let _running = take(&daemon);
    // One request was answered and released, one leased: neither is under way.
    take(&daemon).complete(&Reply::Offset(12)).unwrap();
    let first = ends[0].complete().unwrap().unwrap();
    ends[0].release(first.lease);
    let _leased = ends[0].lease().unwrap();
    drop(ends);

    let mut ends = ShmTransport::attach(&fds).unwrap();
    let mut ids: Vec<u64> = ends[0].in_flight_ids().into_iter().map(|(id, _)| id.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, [11, 12, 13]);
    assert!(ends[0].slot_of(RequestId(13)).is_some());
    assert!(ends[0].slot_of(RequestId(10)).is_none());
    let daemon = daemon_for(&fds, &mut ends);
    while let Some(running) = daemon.pop().unwrap() {
        running.complete(&Reply::Ok).unwrap();
    }
    let replies = drain(&mut ends[0]);
    assert_eq!(replies, BTreeMap::from([(11, Reply::Ok), (12, Reply::Offset(12)), (13, Reply::Ok)]));
    assert!((0..8).all(|_| ends[0].lease().is_some()));
}

#[test]
fn queue_pairs_are_served_side_by_side() {
    let (fds, mut ends) = session(3, 12);
    let daemon = daemon_for(&fds, &mut ends);
    for (n, end) in ends.iter_mut().enumerate() {
        assert_eq!(end.slots(), 4);
        for id in 0..4 {
            submit(end, n as u64 * 10 + id);
        }
        assert!(end.lease().is_none());
    }
    assert!(!daemon.arm(), "requests wait");
    while let Some(running) = daemon.pop().unwrap() {
        let id = running.context().id.0;
        running.complete(&Reply::Offset(id)).unwrap();
    }
    assert!(daemon.arm());
    for (n, end) in ends.iter_mut().enumerate() {
        let ids: Vec<u64> = drain(end).into_keys().collect();
        assert_eq!(ids, (0..4).map(|id| n as u64 * 10 + id).collect::<Vec<_>>());
    }
}

#[test]
fn what_init_settled_is_kept() {
    let (fds, _ends) = session(1, 1);
    let header = fds.header().unwrap();
    assert_eq!(header.fuse_state(), None);
    let state = FuseState { minor: 45, flags: 1 << 40 | 7, max_write: 1 << 20, read_only: true, ..Default::default() };
    header.set_fuse_state(&state);
    let again = fds.try_clone().unwrap().header().unwrap();
    assert_eq!(again.fuse_state(), Some(state));
    assert_eq!((again.session(), again.geometry()), (SESSION, Geometry { queues: 1, slots: 1 }));
}

#[test]
fn another_session_epoch_or_set_of_doorbells_is_refused() {
    let (mut fds, mut ends) = session(1, 2);
    let epoch = ends[0].reset_for_new_daemon().unwrap();
    let refused = |fds: &SessionFds, session, epoch| {
        matches!(DaemonEnd::attach(fds, session, epoch), Err(TransportError::Protocol { .. }))
    };
    assert!(refused(&fds, SessionId(1), epoch));
    assert!(refused(&fds, SESSION, epoch + 1));
    fds.cq.push(Doorbell::create().unwrap().into_fd());
    assert!(refused(&fds, SESSION, epoch));
    fds.cq = vec![fds.table.try_clone().unwrap()];
    assert!(matches!(DaemonEnd::attach(&fds, SESSION, epoch), Err(TransportError::Io { .. })), "no eventfd");
    fds.region = fds.table.try_clone().unwrap();
    assert!(DaemonEnd::attach(&fds, SESSION, epoch).is_err(), "no region");
}

#[test]
fn every_damaged_field_of_the_header_is_refused() {
    let (fds, mut ends) = session(1, 2);
    let epoch = ends[0].reset_for_new_daemon().unwrap();
    let file = std::fs::File::from(fds.region.try_clone().unwrap());
    // All words up to the session's, the epoch included.
    for at in (0..64).step_by(4) {
        let mut was = [0; 4];
        file.read_exact_at(&mut was, at).unwrap();
        file.write_all_at(&[0xff; 4], at).unwrap();
        assert!(DaemonEnd::attach(&fds, SESSION, epoch).is_err(), "word at {at}");
        file.write_all_at(&was, at).unwrap();
    }
    assert!(DaemonEnd::attach(&fds, SESSION, epoch).is_ok());
}

#[test]
fn a_frontend_mends_the_header_for_its_next_daemon() {
    let (fds, mut ends) = session(1, 2);
    std::fs::File::from(fds.region.try_clone().unwrap()).write_all_at(&[0xff; 64], 0).unwrap();
    let end = daemon_for(&fds, &mut ends);
    let stop = Doorbell::create().unwrap();
    let stopped = stop.try_clone().unwrap();
    let server = std::thread::spawn(move || daemon::serve(&end, &Echo, stopped.as_fd()));
    assert_eq!(round_trip(&mut ends[0], 1, &request(5)), Reply::Offset(5));
    stop.ring().unwrap();
    server.join().unwrap().unwrap();
}

#[test]
fn a_slot_submitted_twice_ends_the_session() {
    let (fds, mut ends) = session(1, 2);
    let daemon = daemon_for(&fds, &mut ends);
    submit(&mut ends[0], 1);
    let _running = take(&daemon);
    // The frontend's ring is written by hand: the same index again.
    let file = std::fs::File::from(fds.region.try_clone().unwrap());
    file.write_all_at(&1u32.to_le_bytes(), 4480 + 4).unwrap();
    let slot = 4096 + 2 * 512;
    let mut state = [0; 8];
    file.read_exact_at(&mut state, slot).unwrap();
    file.write_all_at(&0u32.to_le_bytes(), 4480 + 4).unwrap();
    file.write_all_at(&(1u64 << 32 | 2).to_le_bytes(), 4096).unwrap();
    let Err(TransportError::Protocol { rule }) = daemon.pop() else { panic!("taken twice") };
    assert!(rule.contains("S4"), "{rule}");
    assert!(daemon.pop().is_err(), "the session stays ended");
}
