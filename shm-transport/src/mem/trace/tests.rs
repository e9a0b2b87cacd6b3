#![allow(clippy::unwrap_used, clippy::zombie_processes, reason = "tests")]

use super::*;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_thread_is_still_until_it_is_let_go() {
    let mut child = Command::new("sh").args(["-c", "while :; do echo; done"]).stdout(Stdio::piped()).spawn().unwrap();
    let thread = i32::try_from(child.id()).unwrap();
    let mut said = child.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    seize(thread).unwrap();
    assert!(said.read(&mut buffer).unwrap() > 0, "a seized thread runs");
    interrupt(thread).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let stop = loop {
        match look(thread).unwrap() {
            Stop::Running => assert!(Instant::now() < deadline),
            stop @ (Stop::Still(_) | Stop::Gone) => break stop,
        }
    };
    assert_eq!(stop, Stop::Still(0));
    let state = |thread: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
    };
    assert_eq!(state(thread), 't');
    release(thread, 0).unwrap();
    for _ in 0..100 {
        assert!(said.read(&mut buffer).unwrap() > 0, "it goes on");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(look(thread).unwrap(), Stop::Gone);
    assert!(seize(thread).is_err());
}
