#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

#[test]
fn who_listens_is_told_by_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let (name, other) = (dir.path().join("a b"), dir.path().join("b"));
    let listener = std::os::unix::net::UnixListener::bind(&name).unwrap();
    let bound = std::os::unix::net::UnixDatagram::bind(&other).unwrap();
    let table = || std::fs::read("/proc/net/unix").unwrap();
    assert!(listens(&table(), &name));
    assert!(!listens(&table(), Path::new("b")), "a part of a name");
    assert!(!listens(&table(), &other), "bound, and does not listen");
    drop((listener, bound));
    assert!(!listens(&table(), &name), "the file stays, and nobody is there");
}

#[test]
fn a_kept_connection_serves_many_questions_and_its_end_is_no_holder() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    assert!(Holder::connect(socket.clone()).held().unwrap().is_empty());
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let kept = Holder::connect(socket.clone());
    let mut theirs = LineStream::new(listener.accept().unwrap().0);
    let answers = std::thread::spawn(move || {
        for _ in 0..2 {
            theirs.read().unwrap().unwrap();
            theirs.write(&serde_json::json!({"ok": []})).unwrap();
        }
    });
    assert!(kept.held().unwrap().is_empty() && kept.held().unwrap().is_empty());
    answers.join().unwrap();
    let refusal = kept.held().unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Busy, "another one listens: {refusal}");
    drop(listener);
    assert!(kept.held().unwrap().is_empty(), "it died");
}
