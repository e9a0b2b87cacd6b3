#![allow(clippy::unwrap_used, reason = "tests")]
use super::{ANSWER_LATE, Away, BACK_OFF_MAX, BACK_OFF_MIN, SHORT_VISITS_FREE, ShmDaemon, pause};
use crate::session::Daemon;
use shm_transport::control::holder::MountName;
use shm_transport::control::line::LineStream;
use shm_transport::wire::SessionId;
use shm_transport::{Geometry, SessionFds};
use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

#[test]
fn pauses_grow_to_a_bound_and_differ_between_mounts() {
    let of = |ms, session| pause(Duration::from_millis(ms), SessionId(session));
    assert_eq!(of(0, 64), BACK_OFF_MIN);
    assert_eq!(of(500, 64), Duration::from_millis(50));
    assert_eq!(of(60_000, 64), BACK_OFF_MAX);
    assert!(of(60_000, 63) < BACK_OFF_MAX * 3 / 2);
    let moments: BTreeSet<Duration> = (0..64).map(|session| of(60_000, session)).collect();
    assert_eq!(moments.len(), 64, "none with another");
}

#[test]
fn a_daemon_that_never_answers_does_not_put_the_limit_off() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _silent = UnixListener::bind(&socket).unwrap();
    let session = SessionId(7);
    let fds = SessionFds::create(Geometry { queues: 1, slots: 8 }, session).unwrap();
    fds.header().unwrap().set_give_up_after(Some(Duration::from_secs(2)));
    let mount = MountName { session, branch: "a".into(), mountpoint: dir.path().into(), read_only: false };
    let began = Instant::now();
    let mut daemon = ShmDaemon::new(mount, socket, fds, Box::new(|_| ()), Box::new(|_| ()), false).unwrap();
    // The limit itself, and then a second.
    for (tried, past) in [(1, Duration::from_secs(2)), (2, Duration::from_secs(2) + ANSWER_LATE)] {
        assert!(!daemon.retry());
        assert_eq!(daemon.gives_up_in(), Some(Duration::ZERO), "after attempt {tried}");
        // What the machine may be late by; without the bound it is a minute.
        assert!(began.elapsed() < past + Duration::from_secs(20), "attempt {tried}: {:?}", began.elapsed());
    }
    assert!(began.elapsed() >= Duration::from_secs(2) + ANSWER_LATE, "it was given no time to answer");
}

#[test]
fn a_daemon_that_was_killed_soon_after_the_attach_is_looked_for_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    // Takes each attach, and lives no longer than its answer.
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut lines = LineStream::new(stream.unwrap());
            if lines.read().is_ok_and(|line| line.is_some()) {
                lines.write(&serde_json::json!({"ok": {"daemon_pid": 1}})).ok();
            }
        }
    });
    let session = SessionId(8);
    let fds = SessionFds::create(Geometry { queues: 1, slots: 8 }, session).unwrap();
    let mount = MountName { session, branch: "a".into(), mountpoint: dir.path().into(), read_only: false };
    let mut daemon = ShmDaemon::new(mount, socket, fds, Box::new(|_| ()), Box::new(|_| ()), false).unwrap();
    // It has been away for a while: what was waited for then is no reason to wait now.
    daemon.away = Away(daemon.away.0.saturating_sub(60_000));
    for visit in 0..SHORT_VISITS_FREE {
        assert!(daemon.retry(), "visit {visit}: {}", daemon.complaint);
        daemon.lose("killed");
        assert_eq!(daemon.retry_in(), Some(Duration::ZERO), "visit {visit}");
    }
    assert!(daemon.retry());
    daemon.lose("killed");
    assert!(daemon.retry_in() > Some(BACK_OFF_MAX / 2), "one that leaves each time is not tried without a pause");
}
