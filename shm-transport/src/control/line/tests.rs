#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use serde_json::{Value, json};
use std::io::{Read, Write};

fn pair() -> (LineStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    (LineStream::new(a), b)
}

#[test]
fn lines_come_whole_however_they_are_cut() {
    let (mut lines, mut peer) = pair();
    let writer = std::thread::spawn(move || {
        for byte in b"{\"a\":1}\n\n[2]\n\"torn" {
            peer.write_all(&[*byte]).unwrap();
        }
    });
    assert_eq!(lines.read().unwrap().unwrap().parse::<Value>().unwrap(), json!({"a": 1}));
    assert!(lines.read().unwrap().unwrap().bytes.is_empty());
    assert_eq!(lines.read().unwrap().unwrap().parse::<Value>().unwrap(), json!([2]));
    assert!(matches!(lines.read(), Err(LineError::Cut)));
    writer.join().unwrap();
}

#[test]
fn the_end_between_lines_is_no_error() {
    let (mut lines, peer) = pair();
    drop(peer);
    assert!(lines.read().unwrap().is_none());
}

#[test]
fn a_line_without_end_is_cut_off_at_the_limit() {
    let (mut lines, mut peer) = pair();
    let writer = std::thread::spawn(move || {
        let chunk = vec![b'x'; 64 << 10];
        // Ends with an error when the reader gives up and goes.
        while peer.write_all(&chunk).is_ok() {}
    });
    assert!(matches!(lines.read(), Err(LineError::TooLong)));
    assert!(lines.buffer.capacity() <= 4 * LINE_MAX);
    drop(lines);
    writer.join().unwrap();
}

#[test]
fn the_longest_line_passes_and_one_byte_more_does_not() {
    let (mut lines, peer) = pair();
    let mut writer = LineStream::new(peer);
    let fits = "x".repeat(LINE_MAX - 3);
    assert!(matches!(writer.write(&"x".repeat(LINE_MAX)), Err(LineError::TooLong)));
    let sender = std::thread::spawn(move || writer.write(&fits).map(|()| writer));
    assert_eq!(lines.read().unwrap().unwrap().bytes.len(), LINE_MAX - 1);
    sender.join().unwrap().unwrap();
}

#[test]
fn garbage_is_an_error_of_that_line_alone() {
    let (mut lines, mut peer) = pair();
    peer.write_all(b"\xff\x00{{{\n{\"v\":1}\n").unwrap();
    assert!(matches!(lines.read().unwrap().unwrap().parse::<Value>(), Err(LineError::Json(_))));
    assert!(lines.read().unwrap().unwrap().parse::<Value>().is_ok());
}

#[test]
fn descriptors_come_with_their_line() {
    let (lines, peer) = pair();
    let (mut sender, mut receiver) = (lines, LineStream::new(peer));
    let (mut reader, writer) = std::io::pipe().unwrap();
    sender.write_with(&json!("with"), &[writer.as_fd()]).unwrap();
    sender.write(&json!("without")).unwrap();
    drop(writer);
    let with = receiver.read().unwrap().unwrap();
    assert_eq!(with.fds.len(), 1);
    assert!(receiver.read().unwrap().unwrap().fds.is_empty());
    drop(with);
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "closed with the line");
}

#[test]
fn the_peer_is_this_process() {
    let (lines, _peer) = pair();
    let peer = lines.peer().unwrap();
    assert_eq!(peer.pid, std::process::id() as i32);
    assert!(peer.is_own_or_root());
}

#[test]
fn a_line_that_drips_in_is_given_up_and_one_that_has_not_begun_is_waited_for() {
    let limit = Duration::from_millis(300);
    let (mut lines, mut peer) = pair();
    let waiting = std::thread::spawn(move || {
        let first = lines.read_within(Some(limit)).map(|line| line.is_some());
        (first, lines.read_within(Some(limit)), Instant::now())
    });
    std::thread::sleep(limit * 2);
    peer.write_all(b"{}\n").unwrap();
    let begun = Instant::now();
    // Each byte comes in time, the line does not.
    while !waiting.is_finished() && peer.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(20), "the reader waits for ever");
    }
    let (first, second, _) = waiting.join().unwrap();
    assert!(first.unwrap());
    assert!(matches!(second, Err(LineError::Io(e)) if e.kind() == io::ErrorKind::TimedOut));
}
