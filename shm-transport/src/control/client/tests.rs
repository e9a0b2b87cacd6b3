#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::control::ErrorCode;
use serde_json::json;
use std::os::unix::net::UnixListener;

/// A daemon that answers one connection's lines by `answers`, in order, then closes.
fn daemon(answers: Vec<Answer>) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<Vec<Value>>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        let mut lines = LineStream::new(listener.accept().unwrap().0);
        let mut asked = Vec::new();
        for answer in answers {
            asked.push(lines.read().unwrap().unwrap().parse().unwrap());
            lines.write(&answer).unwrap();
        }
        asked
    });
    (dir, socket, thread)
}

#[test]
fn calls_get_their_answers() {
    let failure = Failure { code: ErrorCode::NotFound, message: "no branch x".into(), hint: None };
    let (_dir, socket, thread) =
        daemon(vec![Answer::Ok(json!([])), Answer::Error(failure), Answer::Ok(json!({"odd": 1}))]);
    let mut client = Client::connect(&socket).unwrap();
    assert!(client.mounts().unwrap().is_empty());
    let ClientError::Refused(refused) = client.branch_show("x").unwrap_err() else { panic!("not refused") };
    assert_eq!(refused.code, ErrorCode::NotFound);
    assert!(matches!(client.status(), Err(ClientError::Data(_))));
    let asked = thread.join().unwrap();
    assert_eq!(asked[0], json!({"v": 1, "op": "mounts"}));
    assert_eq!(asked[1], json!({"v": 1, "op": "branch-show", "name": "x"}));
    assert!(matches!(client.status(), Err(ClientError::Closed | ClientError::Line(_))));
}

#[test]
fn no_daemon_is_told_from_other_failures() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect(&dir.path().join("none")).unwrap_err();
    assert!(error.is_not_running(), "{error}");
    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(Client::connect(&stale).unwrap_err().is_not_running());
    let long = dir.path().join("x".repeat(200));
    assert!(!Client::connect(&long).unwrap_err().is_not_running());
}

/// It once waited for the answer to a call that it had not sent.
#[test]
fn a_call_that_cannot_be_written_is_an_error_at_once() {
    use std::os::unix::ffi::OsStringExt;
    let (_dir, socket, thread) = daemon(vec![Answer::Ok(json!([]))]);
    let mut client = Client::connect(&socket).unwrap();
    let base = Some(std::ffi::OsString::from_vec(b"/base-\xff".to_vec()).into());
    let create = Command::BranchCreate {
        name: "x".into(),
        base,
        from: None,
        frozen: false,
        reuse: false,
        limits: crate::control::Limits::default(),
    };
    assert!(matches!(client.branch_create(create), Err(ClientError::Line(LineError::Json(_)))));
    // The connection is as good as before.
    assert!(client.mounts().unwrap().is_empty());
    assert_eq!(thread.join().unwrap().len(), 1);
}

/// It once waited for ever.
#[test]
fn a_daemon_that_takes_no_call_is_told_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let patience = Duration::from_millis(700);
    let mut client = Client::connect_within(&socket, patience).unwrap();
    let begun = Instant::now();
    let error = client.status().unwrap_err();
    assert!(matches!(error, ClientError::NotTaken { .. }), "{error}");
    assert!(begun.elapsed() >= patience);
    assert!(error.to_string().contains("has not taken the call"), "{error}");
    // No room in the queue of those who wait to be accepted: connecting itself would wait.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let filling: Vec<_> = (0..3).map(|_| Client::connect_within(&socket, patience)).collect();
    assert!(filling.iter().any(|c| matches!(c, Err(ClientError::NotTaken { .. }))), "{filling:?}");
}

/// One that has taken it may work on it for long.
#[test]
fn a_daemon_that_works_on_a_call_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        let mut lines = LineStream::new(listener.accept().unwrap().0);
        lines.read().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(900));
        lines.write(&Answer::Ok(json!([]))).unwrap();
    });
    let mut client = Client::connect_within(&socket, Duration::from_millis(300)).unwrap();
    assert!(client.mounts().unwrap().is_empty());
    thread.join().unwrap();
}
