//! The daemon is killed while it recovers, again and again, at every moment of it: what it leaves is the store that it
//! found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use shm_transport::wire::{NodeId, Op, Reply};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use support::{Daemon, Frontend};

fn daemon(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentfsd"));
    command.arg("--store").arg(dir.join("store")).arg("--socket").arg(dir.join("run/d.sock")).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ask(frontend: &mut Frontend, op: Op) -> Reply {
    assert!(frontend.submit(NodeId::ROOT, op, 0));
    frontend.complete().expect("an answer")
}

#[test]
fn a_store_left_by_a_killed_recovery_is_whole() {
    const FILES: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    {
        let daemon = Daemon::start_in(dir.path(), None);
        daemon.make("a");
        daemon.make("gone");
        let mut frontend = Frontend::new(1);
        frontend.attach(&daemon, "a").unwrap();
        for n in 0..FILES {
            let create = Op::Create { name: format!("f{n}").into_bytes(), mode: 0o644, umask: 0, flags: 0 };
            assert!(!matches!(ask(&mut frontend, create), Reply::Error(_)), "f{n}");
        }
        // Every third is removed while it is open: an orphan, which is given back when nobody comes for it.
        for n in (0..FILES).step_by(3) {
            let unlink = Op::Unlink { name: format!("f{n}").into_bytes() };
            assert!(!matches!(ask(&mut frontend, unlink), Reply::Error(_)), "f{n}");
        }
        daemon.client().branch_delete("gone", false).unwrap();
        // Dropped here: killed in the middle of its life, and the mount's frontend with it.
    }
    // How long a start takes, undisturbed and then killed.
    let begun = Instant::now();
    drop(Daemon::start_in(dir.path(), None));
    let start = begun.elapsed();
    let mut killed_early = 0;
    const ROUNDS: u32 = 40;
    for round in 0..ROUNDS {
        let mut child = daemon(dir.path(), &["--log", "warn"]).spawn().unwrap();
        std::thread::sleep(start * round / ROUNDS);
        killed_early += u32::from(std::os::unix::net::UnixStream::connect(dir.path().join("run/d.sock")).is_err());
        child.kill().unwrap();
        let said = child.wait_with_output().unwrap();
        assert_eq!(said.status.code(), None, "it ended by itself: {}", String::from_utf8_lossy(&said.stderr));
    }
    assert!(killed_early > ROUNDS / 6, "only {killed_early} of {ROUNDS} starts were not over");
    let check = daemon(dir.path(), &["--check"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(report["errors"], 0, "{report}");
    let daemon = Daemon::start_in(dir.path(), None);
    let mut frontend = Frontend::new(1);
    frontend.attach(&daemon, "a").unwrap();
    for n in 0..FILES {
        let reply = ask(&mut frontend, Op::Lookup { name: format!("f{n}").into_bytes() });
        let Reply::Entry(entry) = reply else { panic!("f{n}: {reply:?}") };
        let found = entry.node != NodeId::NONE;
        assert_eq!(found, n % 3 != 0, "f{n}");
    }
}
