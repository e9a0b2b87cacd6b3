//! A daemon whose disk breaks under it, for real: an ext4 image on a loop device whose own file cannot grow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod support;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shm_transport::control::FsckReport;
use shm_transport::wire::{Errno, NodeId, Op, Reply};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Daemon, Frontend};

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A file system of 64 MiB on a medium that holds less; `None` after saying why not.
fn breaking_disk(dir: &Path) -> Option<[Mounted; 2]> {
    let (medium, disk) = (dir.join("medium"), dir.join("disk"));
    let skipped = |why: &str| {
        eprintln!("skipped: a_broken_disk_is_told_and_sticks: {why}");
        None
    };
    if !nix::unistd::geteuid().is_root() {
        return skipped("not root");
    }
    std::fs::create_dir_all(&medium).unwrap();
    std::fs::create_dir_all(&disk).unwrap();
    if mount(Some("tmpfs"), &medium, Some("tmpfs"), MsFlags::empty(), Some("size=40m")).is_err() {
        return skipped("no tmpfs can be mounted");
    }
    let below = Mounted(medium.clone());
    let image = medium.join("image");
    std::fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
    let (from, to) = (image.to_str().unwrap(), disk.to_str().unwrap());
    // No journal: the metadata that is written at once has its place already.
    if !run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^has_journal", from])
        || !run("mount", &["-o", "loop", from, to])
    {
        return skipped("no ext4 image can be mounted");
    }
    Some([Mounted(disk), below])
}

fn ask(frontend: &mut Frontend, node: NodeId, op: Op, payload: u32) -> Reply {
    assert!(frontend.submit(node, op, payload));
    frontend.complete().unwrap()
}

fn check(daemon: &Daemon, repair: bool) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentfsd"));
    command.arg("--check").args(repair.then_some("--repair")).arg("--store").arg(&daemon.paths.store);
    let output = command.output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_broken_disk_is_told_and_sticks() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounts) = breaking_disk(dir.path()) else { return };
    let store = dir.path().join("disk");
    let mut daemon = Daemon::start_in(&store, None);
    daemon.make("b");
    let mut frontend = Frontend::new(1);
    frontend.attach(&daemon, "b").unwrap();
    let create = |name: &str| Op::Create { name: name.into(), mode: 0o600, flags: 0, umask: 0 };
    let mut made = |name: &str| match ask(&mut frontend, NodeId::ROOT, create(name), 0) {
        Reply::Created(entry, _) => entry.node,
        other => panic!("{other:?}"),
    };
    let (small, large) = (made("small"), made("large"));
    let fsync = Op::Fsync { fh: 0, datasync: false };
    let write = |offset| Op::Write { fh: 0, offset, kill_suidgid: false };
    assert!(matches!(ask(&mut frontend, small, write(0), 5000), Reply::Written { .. }));
    assert_eq!(ask(&mut frontend, small, fsync.clone(), 0), Reply::Ok);
    assert_eq!(daemon.client().status().unwrap().failed_sync, None);
    // More than the medium has: the file system takes it, the device does not.
    let mut offset = 0;
    while offset < 60 << 20 {
        match ask(&mut frontend, large, write(offset), 64 << 10) {
            Reply::Written { size } => offset += u64::from(size),
            Reply::Error(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let refused = ask(&mut frontend, large, fsync.clone(), 0);
    assert!(matches!(refused, Reply::Error(Errno::EIO | Errno::ENOSPC)), "{refused:?}");
    for op in [fsync.clone(), Op::SyncFs, Op::FsyncDir { datasync: false }] {
        let again = ask(&mut frontend, large, op, 0);
        assert!(matches!(again, Reply::Error(_)), "{again:?}: nobody may be told that it is durable");
    }
    let status = daemon.client().status().unwrap();
    assert!(status.failed_sync.unwrap().contains("cannot be made durable"));
    // What was durable stays, and reading goes on.
    assert_eq!(ask(&mut frontend, small, Op::Read { fh: 0, offset: 0, size: 5000 }, 0), Reply::Data { len: 5000 });
    drop(frontend.connection.take());
    daemon.stop();
    drop(daemon);
    drop(mounts);
}

/// The program as `agentfs fsck` uses it.
#[test]
fn the_check_of_a_store_from_outside() {
    let mut daemon = Daemon::start();
    daemon.make("b");
    let mut frontend = Frontend::new(1);
    frontend.attach(&daemon, "b").unwrap();
    let made = ask(&mut frontend, NodeId::ROOT, Op::Create { name: "f".into(), mode: 0o600, flags: 0, umask: 0 }, 0);
    let Reply::Created(entry, _) = made else { panic!("{made:?}") };
    let write = Op::Write { fh: 0, offset: 0, kill_suidgid: false };
    assert!(matches!(ask(&mut frontend, entry.node, write, 100), Reply::Written { .. }));
    // In use: by the daemon itself, and by nobody else.
    let report = daemon.client().fsck().unwrap();
    assert!(report.online && report.findings.is_empty() && report.contents == 1, "{report:?}");
    let (code, text) = check(&daemon, false);
    assert_eq!(code, Some(75), "{text}");
    assert!(text.contains("in use by process"), "{text}");
    daemon.stop();
    let report = |repair| {
        let (code, text) = check(&daemon, repair);
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str::<FsckReport>(&text).unwrap()
    };
    let whole = report(false);
    assert!(!whole.online && whole.findings.is_empty() && whole.notes.is_empty(), "{whole:?}");
    // A file that nothing names is found, stays without a repair, and goes with one; nothing else does.
    let contents = daemon.paths.store.join("contents/00/00");
    let stray = contents.join("0000000000000077");
    std::fs::write(&stray, "").unwrap();
    let found = report(false);
    assert_eq!((found.errors, found.leftovers, found.repaired), (0, 1, 0), "{found:?}");
    assert!(stray.exists());
    let found = report(true);
    assert_eq!((found.errors, found.leftovers, found.repaired), (0, 0, 1), "{found:?}");
    assert!(!stray.exists());
    let found = report(true);
    assert!(found.findings.is_empty() && found.contents == 1 && found.records == whole.records, "{found:?}");
    // A file that is gone is told, with its path, and no repair pretends that it is there.
    let file = std::fs::read_dir(&contents).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&file).unwrap();
    let found = report(true);
    assert_eq!((found.errors, found.repaired), (1, 0), "{found:?}");
    assert_eq!(found.findings[0].kind, "content-missing");
    assert_eq!(found.findings[0].path.as_deref(), Some("b:/f"));
}

/// Every byte of a small store, one at a time: told, or without any effect.
#[test]
fn every_changed_byte_is_found_or_harmless() {
    let mut daemon = Daemon::start();
    daemon.make("b");
    let mut frontend = Frontend::new(1);
    frontend.attach(&daemon, "b").unwrap();
    for name in ["one", "two"] {
        let made =
            ask(&mut frontend, NodeId::ROOT, Op::Create { name: name.into(), mode: 0o600, flags: 0, umask: 0 }, 0);
        let Reply::Created(entry, _) = made else { panic!("{made:?}") };
        let write = Op::Write { fh: 0, offset: 0, kill_suidgid: false };
        assert!(matches!(ask(&mut frontend, entry.node, write, 10), Reply::Written { .. }));
    }
    drop(frontend.connection.take());
    assert!(daemon.stop().success());
    let store = daemon.paths.store.clone();
    let whole = fscore_daemon::fsck::offline(&store, false).unwrap();
    assert!(whole.findings.is_empty() && whole.records > 10, "{whole:?}");
    let (mut told, mut harmless) = (0, 0);
    let mut files: Vec<PathBuf> = std::fs::read_dir(store.join("meta")).unwrap().map(|e| e.unwrap().path()).collect();
    files.push(store.join("FORMAT"));
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        // Behind the frames there are zeros only, megabytes of them.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 64).min(bytes.len());
        for at in 0..used {
            let mut changed = bytes[..used].to_vec();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(&file, &changed).unwrap();
            match fscore_daemon::fsck::offline(&store, false) {
                Ok(report) if report.findings.is_empty() && report.notes.is_empty() => {
                    assert_eq!(report.records, whole.records, "{} at {at}", file.display());
                    harmless += 1;
                }
                Ok(_) | Err(_) => told += 1,
            }
        }
        std::fs::write(&file, &bytes).unwrap();
    }
    assert!(told > 500, "{told} told, {harmless} harmless");
    assert!(fscore_daemon::fsck::offline(&store, false).unwrap().findings.is_empty());
}
