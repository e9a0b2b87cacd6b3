//! An operator's limit: requests that the frontend gives up are told to the program once, and no daemon
//! runs them afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use shm_transport::wire::{Reply, RequestId, SessionId};
use shm_transport::{DaemonEnd, FsTransport, Geometry, SessionFds, ShmTransport, Waiting};
use std::collections::BTreeSet;
use std::time::Duration;
use support::request;

const SESSION: SessionId = SessionId(0xcafe);

fn session(slots: u32) -> (SessionFds, ShmTransport) {
    let fds = SessionFds::create(Geometry { queues: 1, slots }, SESSION).unwrap();
    let end = ShmTransport::attach(&fds).unwrap().pop().unwrap();
    (fds, end)
}

fn daemon_for(fds: &SessionFds, end: &mut ShmTransport) -> DaemonEnd {
    let epoch = end.reset_for_new_daemon().unwrap();
    DaemonEnd::attach(fds, SESSION, epoch).unwrap()
}

fn submit(end: &mut ShmTransport, id: u64) {
    let lease = end.lease().unwrap();
    end.submit(lease, RequestId(id), &request(id), 0).unwrap();
}

fn answered(end: &mut ShmTransport) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Some(done) = end.complete().unwrap() {
        ids.push(done.id.0);
        end.release(done.lease);
    }
    ids
}

fn cancelled(end: &mut ShmTransport, unwanted: impl Fn(RequestId) -> bool) -> Vec<u64> {
    end.give_up(unwanted).into_iter().map(|(id, _)| id.0).collect()
}

#[test]
fn what_was_given_up_is_run_by_nobody_and_what_was_completed_counts() {
    let (fds, mut end) = session(8);
    let old = daemon_for(&fds, &mut end);
    end.attached();
    for id in 1..=6 {
        submit(&mut end, id);
    }
    old.pop().unwrap().unwrap().complete(&Reply::Ok).unwrap();
    let running = old.pop().unwrap().unwrap();
    old.pop().unwrap().unwrap().complete(&Reply::Ok).unwrap();

    assert_eq!(cancelled(&mut end, |id| id != RequestId(6)), [2, 4, 5]);
    assert_eq!(end.given_up(), [2, 4, 5].map(RequestId));
    assert_eq!(cancelled(&mut end, |id| id != RequestId(6)), [0; 0], "once");
    assert_eq!(answered(&mut end), [1, 3]);
    // The old daemon was hung, and wakes: neither what it runs nor what it would take counts.
    assert!(running.complete(&Reply::Ok).is_err());
    assert!(old.pop().is_err());
    assert_eq!(answered(&mut end), [0; 0]);
    let free = |end: &mut ShmTransport| {
        let leases: Vec<_> = std::iter::from_fn(|| end.lease()).collect();
        let count = leases.len();
        for lease in leases {
            end.release(lease);
        }
        count
    };
    assert_eq!(free(&mut end), 4, "a daemon may still write into the slots that were given up");

    let new = daemon_for(&fds, &mut end);
    let ran: Vec<u64> = std::iter::from_fn(|| new.pop().unwrap())
        .map(|running| {
            let id = running.context().id.0;
            running.complete(&Reply::Ok).unwrap();
            id
        })
        .collect();
    assert_eq!(ran, [6]);
    end.attached();
    assert_eq!(answered(&mut end), [6]);
    assert_eq!(end.given_up(), []);
    assert_eq!(free(&mut end), 8);
    submit(&mut end, 7);
    assert_eq!(new.pop().unwrap().unwrap().context().id, RequestId(7));
}

#[test]
fn a_frontend_that_takes_over_finds_what_was_given_up_and_does_not_submit_it() {
    let (fds, mut end) = session(4);
    drop(daemon_for(&fds, &mut end));
    submit(&mut end, 1);
    submit(&mut end, 2);
    assert_eq!(cancelled(&mut end, |id| id.0 == 1), [1]);
    drop(end);

    let mut end = ShmTransport::attach(&fds).unwrap().pop().unwrap();
    assert_eq!(end.given_up(), [RequestId(1)]);
    assert_eq!(end.in_flight_ids().len(), 1);
    assert_eq!((end.in_flight(), end.occupied()), (1, 2), "no slot that a lease can have");
    let new = daemon_for(&fds, &mut end);
    assert_eq!(new.pop().unwrap().unwrap().context().id, RequestId(2));
    assert!(new.pop().unwrap().is_none());
    end.attached();
    assert_eq!(end.given_up(), []);
    assert_eq!(end.occupied(), 1);
    submit(&mut end, 3);
    assert_eq!(cancelled(&mut end, |id| id.0 == 3), [3]);
    assert_eq!((end.in_flight(), end.occupied()), (1, 2));
}

/// A daemon that runs requests as fast as it can, while the frontend, which took it for dead, gives up.
#[test]
fn each_request_is_answered_or_given_up_at_any_moment() {
    let mut seen = [0_usize; 2];
    for round in 0..300_u32 {
        let (fds, mut end) = session(64);
        let daemon = daemon_for(&fds, &mut end);
        end.attached();
        for id in 1..=63 {
            submit(&mut end, id);
        }
        let server = std::thread::spawn(move || {
            let mut ran = BTreeSet::new();
            while let Ok(Some(running)) = daemon.pop() {
                let id = running.context().id.0;
                if running.complete(&Reply::Ok).is_ok() {
                    ran.insert(id);
                }
            }
            ran
        });
        let mut replies: BTreeSet<u64> = BTreeSet::new();
        while replies.len() < (round % 60) as usize {
            replies.extend(answered(&mut end));
        }
        let given_up: BTreeSet<u64> = cancelled(&mut end, |_| true).into_iter().collect();
        replies.extend(answered(&mut end));
        assert!(replies.is_disjoint(&given_up));
        assert_eq!(replies.len() + given_up.len(), 63);
        let ran = server.join().unwrap();
        // One that was completed and could not be published was answered all the same.
        assert!(ran.is_subset(&replies), "{ran:?} {replies:?}");
        let later = daemon_for(&fds, &mut end);
        assert!(later.pop().unwrap().is_none());
        seen[0] += replies.len();
        seen[1] += given_up.len();
    }
    assert!(seen.iter().all(|n| *n > 0), "both happened: {seen:?}");
}

#[test]
fn the_header_says_who_waits_and_for_how_long() {
    let (fds, end) = session(4);
    let header = fds.header().unwrap();
    assert_eq!((header.waiting(), header.give_up_after()), (None, None));
    let waiting = Waiting { since_ms: 77, requests: 3 };
    end.header().set_waiting(Some(waiting));
    assert_eq!(header.waiting(), Some(waiting));
    end.header().set_waiting(None);
    assert_eq!(header.waiting(), None);
    end.header().set_give_up_after(Some(Duration::from_secs(30)));
    assert_eq!(header.give_up_after(), Some(Duration::from_secs(30)));
}
