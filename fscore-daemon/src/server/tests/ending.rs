use super::attach::{Frontend, code, make, state_of, with_branch};
use super::*;
use shm_transport::control::client::ClientError;
use shm_transport::control::holder;
use shm_transport::control::line::LineStream;
use shm_transport::wire::SessionId;
use std::os::unix::net::UnixListener;

/// A session that no process on this host has in its command line: those that run beside this one are looked at too.
fn session() -> SessionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    SessionId(0x00ab_0000_0000_0000 | u64::from(std::process::id()) << 16 | number)
}

fn refusal(result: Result<(), ClientError>) -> Failure {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// A mount whose frontend died.
fn dead(running: &Running) -> SessionId {
    let session = session();
    let mut frontend = Frontend::new(session.0, false);
    frontend.attach(running, "a").unwrap();
    drop(frontend);
    eventually("its end is seen", || state_of(running) == ["reconnecting"]);
    session
}

#[test]
fn a_dead_mount_is_ended_by_command_and_frees_its_branch() {
    let running = with_branch("a");
    let session = dead(&running);
    let refused = match running.client().branch_delete("a", false) {
        Err(ClientError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.code, ErrorCode::Busy);
    assert!(refused.message.contains("/mnt/x"), "{refused}");
    assert!(refused.hint.unwrap().contains("agentfs umount /mnt/x"));
    running.client().end_session(session).unwrap();
    assert!(running.client().mounts().unwrap().is_empty());
    assert_eq!(refusal(running.client().end_session(session)).code, ErrorCode::NotFound);
    running.client().branch_delete("a", false).unwrap();
}

#[test]
fn a_mount_that_a_former_daemon_had_is_still_a_mount_until_it_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths_in(dir.path());
    let mut first = start_in(paths.clone(), None);
    make(&first, "a");
    let session = dead(&first);
    first.stop();
    let running = start_in(paths, Some(dir));
    assert_eq!(state_of(&running), ["reconnecting"]);
    assert_eq!(running.client().status().unwrap().mounts, 1);
    assert_eq!(running.client().branch_show("a").unwrap().mounts, [Path::new("/mnt/x")]);
    // Nobody else writes while its frontend may come back.
    let mut stopped = stopped_frontend(session);
    let other = refusal(Frontend::new(7, false).attach(&running, "a"));
    assert_eq!(other.code, ErrorCode::Busy);
    assert!(other.hint.unwrap().contains("agentfs umount /mnt/x"));
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    let mut next = Frontend::new(7, false);
    next.attach(&running, "a").unwrap();
    assert_eq!(state_of(&running), ["attached"], "the dead one is no mount any more");
}

/// A process that looks like the frontend of the session.
fn stopped_frontend(session: SessionId) -> std::process::Child {
    let child = std::process::Command::new("/bin/sh")
        .args(["-c", "read line", "--serve", "--session", &session.to_string()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it runs", || {
        let line = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
        line.windows(9).any(|part| part == b"--session")
    });
    child
}

#[test]
fn a_mount_that_lives_is_not_ended() {
    let running = with_branch("a");
    let session = session();
    let mut frontend = Frontend::new(session.0, false);
    frontend.attach(&running, "a").unwrap();
    let refused = refusal(running.client().end_session(session));
    assert_eq!(refused.code, ErrorCode::Busy);
    assert!(refused.hint.unwrap().contains("umount /mnt/x"));
    assert!(!matches!(frontend.run(shm_transport::wire::Op::GetAttr), shm_transport::wire::Reply::Error(_)));
}

#[test]
fn a_mount_that_a_holder_keeps_or_that_a_process_serves_is_not_ended() {
    let running = with_branch("a");
    let session = dead(&running);
    // A holder that says what it is told to.
    let socket = holder::socket_path(&running.paths.socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let answers = [
        serde_json::json!({"ok": [{"session": session, "branch": "a", "mountpoint": "/mnt/x", "restarts": 0}]}),
        serde_json::json!({"error": {"code": "internal", "message": "no idea"}}),
        serde_json::json!({"ok": "what?"}),
    ];
    let holder = std::thread::spawn(move || {
        for answer in answers {
            let mut lines = LineStream::new(listener.accept().unwrap().0);
            lines.read().unwrap().unwrap();
            lines.write(&answer).unwrap();
        }
    });
    assert!(refusal(running.client().end_session(session)).message.contains("the holder keeps it"));
    for _ in 0..2 {
        assert!(refusal(running.client().end_session(session)).message.contains("does not tell"));
    }
    holder.join().unwrap();

    // No holder any more, and a process that looks like the frontend.
    let mut stopped = stopped_frontend(session);
    let refused = refusal(running.client().end_session(session));
    assert!(refused.message.contains(&format!("process {}", stopped.id())), "{refused}");
    assert_eq!(code(Err(ClientError::Refused(refused))), ErrorCode::Busy);
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    running.client().end_session(session).unwrap();
}
