//! With passthrough the kernel reads and writes a branch's files itself, and nothing else is different.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::{World, procs, sys};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const NOBODY: u32 = 65_534;

fn start(name: &str) -> Option<(World, PathBuf)> {
    let world = World::start(name)?;
    let base = world.base("project");
    std::fs::write(base.join("old"), sys::pattern(1, 300_000)).unwrap();
    let mnt = world.mount_with("b", Some(&base), &["--passthrough"]);
    assert_eq!(mount_of(&world, "b")["passthrough"], true, "this host cannot do passthrough");
    Some((world, mnt))
}

fn mount_of(world: &World, branch: &str) -> serde_json::Value {
    let mounts = world.json(&["mounts".as_ref()]);
    let list = mounts.as_array().or_else(|| mounts["mounts"].as_array()).expect("a list of mounts");
    list.iter().find(|mount| mount["branch"] == branch).expect("the mount").clone()
}

fn requests(world: &World) -> u64 {
    mount_of(world, "b")["requests"].as_u64().unwrap()
}

fn open_rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// What a snapshot has under a name.
fn in_snapshot(world: &World, snapshot: &str, name: &str) -> Vec<u8> {
    static LOOKS: AtomicU32 = AtomicU32::new(0);
    let branch = format!("look-{}", LOOKS.fetch_add(1, Ordering::Relaxed));
    world.branch_from(&branch, &format!("b@{snapshot}"));
    let mnt = world.mount(&branch, None);
    let bytes = std::fs::read(mnt.join(name)).unwrap();
    world.umount(&mnt);
    bytes
}

#[test]
fn bulk_data_costs_no_requests() {
    let Some((world, mnt)) = start("bulk_data_costs_no_requests") else { return };
    let bytes = sys::pattern(7, 16 << 20);
    let before = requests(&world);
    std::fs::write(mnt.join("big"), &bytes).unwrap();
    assert_eq!(std::fs::read(mnt.join("big")).unwrap(), bytes);
    let asked = requests(&world) - before;
    assert!(asked < 30, "{asked} requests for 16 MiB written and read");
    let look = world.mount_with("b", None, &["--ro"]);
    assert_eq!(std::fs::read(look.join("big")).unwrap(), bytes, "beside it, through the daemon");
    assert_eq!(mount_of(&world, "b")["state"], "attached");
    let stat = std::fs::metadata(mnt.join("big")).unwrap();
    assert_eq!((stat.len(), stat.mode() & 0o777), (16 << 20, 0o644));
}

#[test]
fn readers_and_writers_see_each_other_however_they_opened() {
    let Some((_world, mnt)) = start("readers_and_writers_see_each_other") else { return };
    for (n, size) in [1000, 500_000].into_iter().enumerate() {
        let path = mnt.join(format!("f{n}"));
        std::fs::write(&path, vec![b'a'; size]).unwrap();
        // Small: the reader goes through the daemon, and so must who comes later. Large: the other way round.
        let mut early = File::open(&path).unwrap();
        let map = early.try_clone().unwrap();
        let writer = open_rw(&path);
        let mut late = File::open(&path).unwrap();
        let mut appends = OpenOptions::new().append(true).open(&path).unwrap();
        writer.write_all_at(b"bb", 10).unwrap();
        for reader in [&early, &late, &map, &writer] {
            let mut two = [0; 2];
            reader.read_exact_at(&mut two, 10).unwrap();
            assert_eq!(&two, b"bb", "{size}");
        }
        appends.write_all(b"end").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size as u64 + 3);
        writer.set_len(20).unwrap();
        assert_eq!(late.seek(SeekFrom::End(0)).unwrap(), 20);
        appends.write_all(b"!").unwrap();
        sys::truncate(&path, 30).unwrap();
        let mut all = Vec::new();
        early.read_to_end(&mut all).unwrap();
        let mut want = vec![b'a'; 20];
        want[10..12].copy_from_slice(b"bb");
        want.push(b'!');
        want.resize(30, 0);
        assert_eq!(all, want, "{size}");
        // The next time of the same file, with pages of the time before.
        drop((early, map, writer, late, appends));
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }
}

#[test]
fn a_base_file_is_copied_up_under_its_readers() {
    let Some((_world, mnt)) = start("a_base_file_is_copied_up_under_its_readers") else { return };
    let path = mnt.join("old");
    let reader = File::open(&path).unwrap();
    let mut one = [0; 1];
    reader.read_exact_at(&mut one, 0).unwrap();
    let writer = open_rw(&path);
    writer.write_all_at(b"Z", 0).unwrap();
    reader.read_exact_at(&mut one, 0).unwrap();
    assert_eq!(&one, b"Z");
    drop((reader, writer));
    let writer = open_rw(&path);
    writer.write_all_at(b"Y", 0).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[0], b'Y');
}

#[test]
fn a_snapshot_does_not_change_while_the_kernel_writes_on() {
    let Some((world, mnt)) = start("a_snapshot_does_not_change_while_the_kernel_writes_on") else { return };
    let path = mnt.join("db");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let (gone, nameless) = (mnt.join("gone"), OpenOptions::new().write(true).create_new(true).open(mnt.join("gone")));
    let nameless = nameless.unwrap();
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        file.write_all_at(&vec![b'1' + n as u8; 200_000], 0).unwrap();
        nameless.write_all_at(b"x", n as u64).unwrap();
        world.snapshot("b", name);
        assert_eq!(world.diff_between(&format!("b@{name}"), "b").total(), 0, "nothing was written since");
        file.write_all_at(b"later", 0).unwrap();
        if gone.exists() {
            sys::unlink(&gone).unwrap();
        }
    }
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        assert_eq!(in_snapshot(&world, name, "db"), vec![b'1' + n as u8; 200_000], "{name}");
    }
    let mut all = vec![b'3'; 200_000];
    all[..5].copy_from_slice(b"later");
    assert_eq!(std::fs::read(&path).unwrap(), all);
    drop(file);
    // Two branches on one content: each gets its own at its first write.
    world.branch_from("c", "b@one");
    let other = world.mount_with("c", None, &["--passthrough"]);
    let (ours, theirs) = (open_rw(&path), open_rw(&other.join("db")));
    ours.write_all_at(b"ours", 0).unwrap();
    theirs.write_all_at(b"them", 0).unwrap();
    drop(theirs);
    let theirs = open_rw(&other.join("db"));
    theirs.write_all_at(b"they", 0).unwrap();
    assert_eq!(&std::fs::read(&path).unwrap()[..4], b"ours");
    assert_eq!(&std::fs::read(other.join("db")).unwrap()[..5], b"they1");
    world.snapshot("b", "four");
    ours.write_all_at(b"!!!!", 0).unwrap();
    assert_eq!(&in_snapshot(&world, "four", "db")[..4], b"ours");
    assert_eq!(&in_snapshot(&world, "one", "db")[..4], b"1111");
}

#[test]
fn a_branch_with_limits_keeps_them() {
    let Some((world, mnt)) = start("a_branch_with_limits_keeps_them") else { return };
    let file = File::create(mnt.join("f")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    let refused = world.cli_fails(&["branch", "quota", "b", "--bytes", "1M"]);
    assert!(refused.says("without passthrough"), "{refused}");
    drop(file);
    world.cli(&["branch", "quota", "b", "--bytes", "1M"]);
    let file = File::create(mnt.join("g")).unwrap();
    let failed = file.write_all_at(&vec![1; 4 << 20], 0).unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::QuotaExceeded);
}

#[test]
fn a_file_that_never_rests_is_in_the_way_of_a_snapshot() {
    let Some((world, mnt)) = start("a_file_that_never_rests") else { return };
    let (stop, path) = (Arc::new(AtomicBool::new(false)), mnt.join("restless"));
    let file = File::create(&path).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                file.write_all_at(b"y", 0).unwrap();
            }
        }
    });
    let failed = world.cli_fails(&["snapshot", "create", "--branch", "b", "--name", "s"]);
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(failed.says("without a pause"), "{failed}");
    world.snapshot("b", "s");
    assert_eq!(in_snapshot(&world, "s", "restless"), b"y");
}

#[test]
fn a_write_without_privilege_takes_setuid_away() {
    let Some((world, mnt)) = start("a_write_without_privilege_takes_setuid_away") else { return };
    for opened_before in [true, false] {
        let path = mnt.join(format!("program-{opened_before}"));
        std::fs::write(&path, b"program").unwrap();
        let early = OpenOptions::new().append(true).open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6777)).unwrap();
        let fd = if opened_before { early } else { OpenOptions::new().append(true).open(&path).unwrap() };
        let done = Command::new("/bin/sh").args(["-c", "echo more"]).uid(NOBODY).gid(NOBODY).stdout(fd).status();
        assert!(done.unwrap().success());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "opened before: {opened_before}");
        assert_eq!(std::fs::read(&path).unwrap(), b"programmore\n");
        assert_eq!(world.diff("b").kind(&format!("program-{opened_before}")), Some("added"));
    }
}

#[test]
fn writing_goes_on_without_a_daemon_and_snapshots_of_the_next_one_hold() {
    let Some((world, mnt)) = start("writing_goes_on_without_a_daemon") else { return };
    let path = mnt.join("log");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all_at(&[b'a'; 5000], 0).unwrap();
    let holder = world.holder_pid();
    let daemon = world.daemon_pid();
    procs::kill_all(&[daemon]);
    file.write_all_at(&[b'b'; 5000], 5000).unwrap();
    assert!(procs::wait_gone(daemon, Duration::from_secs(10)));
    world.daemon_pid();
    world.snapshot("b", "after");
    file.write_all_at(&[b'c'; 10], 0).unwrap();
    let again = open_rw(&path);
    again.write_all_at(&[b'd'; 10], 9990).unwrap();
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 9999).unwrap();
    assert_eq!(&byte, b"d", "an open of before and one of after are of one file");
    let mut want = vec![b'a'; 5000];
    want.extend([b'b'; 5000]);
    assert_eq!(in_snapshot(&world, "after", "log"), want);
    drop((file, again));
    assert_eq!(world.holder_pid(), holder);
    assert_eq!(&std::fs::read(&path).unwrap()[..10], [b'c'; 10]);
}

#[test]
fn another_frontend_goes_on_with_what_is_open() {
    let Some((world, mnt)) = start("another_frontend_goes_on_with_what_is_open") else { return };
    let path = mnt.join("log");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let small = File::open(mnt.join("old")).unwrap();
    for round in 0..3u8 {
        let frontends = world.frontend_pids();
        procs::kill_all(&frontends);
        file.write_all_at(&[b'0' + round], u64::from(round)).unwrap();
        let (again, reader) = (open_rw(&path), File::open(&path).unwrap());
        again.write_all_at(b"!", 10).unwrap();
        let mut all = [0; 11];
        reader.read_exact_at(&mut all, 0).unwrap();
        assert_eq!((all[usize::from(round)], all[10]), (b'0' + round, b'!'));
        small.read_exact_at(&mut [0; 10], 0).unwrap();
        if round == 1 {
            // Both at once.
            procs::kill_all(&[world.daemon_pid()]);
        }
    }
    drop(file);
    let file = open_rw(&path);
    world.snapshot("b", "s");
    file.write_all_at(b"9", 0).unwrap();
    assert_eq!(&in_snapshot(&world, "s", "log")[..3], b"012");
}

#[test]
fn opens_and_closes_under_kills_lose_nothing() {
    let Some((world, mnt)) = start("opens_and_closes_under_kills_lose_nothing") else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let (stop, mnt) = (Arc::clone(&stop), mnt.clone());
            std::thread::spawn(move || {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let path = mnt.join(format!("w{worker}-{}", n % 4));
                    let bytes = sys::pattern(n, 3000 + (n as usize % 5) * 70_000);
                    std::fs::write(&path, &bytes).unwrap();
                    let mut file = open_rw(&path);
                    file.seek(SeekFrom::End(0)).unwrap();
                    file.write_all(b"tail").unwrap();
                    let read = std::fs::read(&path).unwrap();
                    assert!(read.len() == bytes.len() + 4 && read.starts_with(&bytes), "w{worker} {n}");
                    n += 1;
                }
                n
            })
        })
        .collect();
    for round in 0..8 {
        std::thread::sleep(Duration::from_millis(150));
        let mut victims = if round % 2 == 0 { vec![world.daemon_pid()] } else { world.frontend_pids() };
        if round % 4 == 3 {
            victims.push(world.daemon_pid());
        }
        procs::kill_all(&victims);
    }
    stop.store(true, Ordering::Relaxed);
    let done: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    assert!(done.iter().all(|n| *n > 0), "{done:?}");
    world.daemon_pid();
    world.umount(&mnt);
    let mnt = world.mount("b", None);
    assert!(std::fs::read(mnt.join("w0-0")).unwrap().ends_with(b"tail"));
    world.umount(&mnt);
    world.cli(&["fsck"]);
}
