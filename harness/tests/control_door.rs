//! The control file of a mount, and `agentfs-control-cli`, which asks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use harness::run::{Output, run};
use harness::world::COMMAND_LIMIT;
use harness::{World, procs, sys};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::OFlags;
use serde_json::Value;
use shm_transport::control::door::{self, BUFFER_MAX, Door, DoorError, HEAD, KIND, NUMBER};
use shm_transport::control::{BranchInfo, Command, ErrorCode, SnapshotInfo};
use shm_transport::mem::sys::FuseFile;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const NOBODY: u32 = 65534;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs on a thread whose file system ids are those of an unprivileged user.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setfsgid(Gid::from_raw(NOBODY));
            setfsuid(Uid::from_raw(NOBODY));
            work()
        });
        thread.join().unwrap()
    })
}

/// The control file, opened as an ordinary program would.
fn opened(mnt: &Path) -> FuseFile {
    let file = sys::open(&mnt.join(".agentfs/control"), OFlags::RDWR, 0).unwrap();
    FuseFile::of(OwnedFd::from(file)).unwrap().unwrap()
}

fn errno(result: std::io::Result<()>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn the_door_is_found_and_not_listed_and_cannot_be_changed() {
    let Some(world) = World::start("the_door_is_found_and_not_listed_and_cannot_be_changed") else { return };
    let base = world.base("project");
    std::fs::write(base.join("file"), "x").unwrap();
    let mnt = world.mount("b", Some(&base));
    let (dir, file) = (mnt.join(".agentfs"), mnt.join(".agentfs/control"));
    assert_eq!(names(&mnt), ["file"]);
    assert_eq!(names(&dir), ["control"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"");
    use sys::Errno;
    sys::expect_errno(sys::mkdir(&dir, 0o755), Errno::EXIST, "mkdir");
    sys::expect_errno(sys::rmdir(&dir), Errno::PERM, "rmdir");
    sys::expect_errno(sys::unlink(&file), Errno::PERM, "unlink");
    sys::expect_errno(sys::rename(&dir, &mnt.join("moved")), Errno::PERM, "rename of it");
    sys::expect_errno(sys::rename(&file, &mnt.join("moved")), Errno::PERM, "rename of the file");
    sys::expect_errno(sys::rename(&mnt.join("file"), &file), Errno::PERM, "rename onto it");
    sys::expect_errno(sys::rename(&mnt.join("file"), &dir.join("in")), Errno::PERM, "rename into it");
    sys::expect_errno(sys::open(&dir.join("new"), OFlags::CREATE | OFlags::WRONLY, 0o644), Errno::PERM, "create in it");
    sys::expect_errno(sys::chmod(&file, 0o666), Errno::PERM, "chmod");
    sys::expect_errno(sys::lchown(&dir, Some(NOBODY), None), Errno::PERM, "chown");
    sys::expect_errno(sys::open(&file, OFlags::WRONLY | OFlags::TRUNC, 0), Errno::PERM, "truncate");
    sys::expect_errno(sys::link(&file, &mnt.join("hard")), Errno::PERM, "link");
    // As `rm -rf` by a glob, and a program that removes everything it lists.
    world.program(&mnt, "sh", &["-c", "rm -rf ./* && find . -mindepth 1 | wc -l | grep -qx 0"]);
    assert_eq!(names(&dir), ["control"]);
    assert_eq!(world.diff("b").by_path().into_iter().collect::<Vec<_>>(), [("file".into(), "deleted".into())]);
}

#[test]
fn an_entry_of_the_base_is_not_hidden() {
    let Some(world) = World::start("an_entry_of_the_base_is_not_hidden") else { return };
    let base = world.base("project");
    std::fs::create_dir(base.join(".agentfs")).unwrap();
    // Opened by whoever takes it for the control file, it would wait for ever.
    let fifo = base.join(".agentfs/control");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mnt = world.mount("b", Some(&base));
    assert_eq!(names(&mnt), [".agentfs"]);
    assert!(matches!(Door::open(&mnt), Err(DoorError::Missing(_))));
    let out = control_cli(&world, &["--mount", mnt.to_str().unwrap(), "snapshot-list"]);
    assert_eq!(out.status.code(), Some(68), "{out}");
    assert!(out.stderr.contains(".agentfs"), "{out}");
    world.program(&mnt, "sh", &["-c", "rm -r .agentfs && mkdir .agentfs && echo own > .agentfs/file"]);
    assert_eq!(std::fs::read_to_string(mnt.join(".agentfs/file")).unwrap(), "own\n");
    // Where there is no mount at all, there is no door either.
    assert!(matches!(Door::open(&base), Err(DoorError::Missing(_))));
    assert!(matches!(Door::open(world.dir()), Err(DoorError::Missing(_))));
}

#[test]
fn what_is_no_call_has_its_errno() {
    let Some(world) = World::start("what_is_no_call_has_its_errno") else { return };
    let mnt = world.mount("b", Some(&world.base("project")));
    let file = opened(&mnt);
    let list = br#"{"v":1,"op":"branch-list"}"#;
    let good = door::encode(list, 0, 0, 4096).unwrap();
    let ask = |mut buffer: Vec<u8>| {
        let before = buffer.clone();
        let result = file.exchange(KIND, NUMBER, &mut buffer);
        assert_eq!(buffer, before, "the buffer of what is no call is left as it is");
        errno(result)
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut buffer = good.clone();
        buffer[at..at + bytes.len()].copy_from_slice(bytes);
        buffer
    };
    assert!(file.exchange(KIND, NUMBER, &mut good.clone()).is_ok());
    for size in [0, 1, HEAD - 1] {
        assert_eq!(ask(vec![0; size]), libc_errno("EINVAL"), "{size} bytes");
    }
    assert_eq!(ask(vec![0xff; BUFFER_MAX]), libc_errno("EPROTONOSUPPORT"));
    assert_eq!(ask(with(0, &2u32.to_le_bytes())), libc_errno("EPROTONOSUPPORT"));
    assert_eq!(ask(with(4, &4096u32.to_le_bytes())), libc_errno("EMSGSIZE"));
    assert_eq!(ask(with(4, &u32::MAX.to_le_bytes())), libc_errno("EMSGSIZE"));
    assert_eq!(ask(with(4, &5u32.to_le_bytes())), libc_errno("EINVAL"));
    assert_eq!(ask(with(16, &[1])), libc_errno("EINVAL"));
    assert_eq!(ask(with(HEAD, b"[[[[")), libc_errno("EINVAL"));
    // A call that nests as deep as there is room.
    let mut deep = vec![b'['; BUFFER_MAX - HEAD];
    deep.truncate(BUFFER_MAX - HEAD);
    assert_eq!(ask(door::encode(&deep, 0, 0, BUFFER_MAX).unwrap()), libc_errno("EINVAL"));
    // Another type, another number, another file.
    assert_eq!(errno(file.exchange(KIND, NUMBER + 1, &mut good.clone())), libc_errno("ENOTTY"));
    assert_eq!(errno(file.exchange(b'f', NUMBER, &mut good.clone())), libc_errno("ENOTTY"));
    std::fs::write(mnt.join("ordinary"), "x").unwrap();
    let ordinary = std::fs::File::open(mnt.join("ordinary")).unwrap();
    let ordinary = FuseFile::of(OwnedFd::from(ordinary)).unwrap().unwrap();
    assert_eq!(errno(ordinary.exchange(KIND, NUMBER, &mut good.clone())), libc_errno("ENOTTY"));
    drop((file, ordinary));
    world.assert_no_panics();
}

fn libc_errno(name: &str) -> i32 {
    use nix::errno::Errno;
    (match name {
        "EINVAL" => Errno::EINVAL,
        "EMSGSIZE" => Errno::EMSGSIZE,
        "ENOTTY" => Errno::ENOTTY,
        "EPERM" => Errno::EPERM,
        "EPROTONOSUPPORT" => Errno::EPROTONOSUPPORT,
        _ => panic!("{name}"),
    }) as i32
}

#[test]
fn others_are_refused() {
    let Some(world) = World::start("others_are_refused") else { return };
    let mnt = world.mount("b", Some(&world.base("project")));
    let place = mnt.join(".agentfs/control");
    assert!(as_nobody(|| std::fs::metadata(&place)).is_ok(), "it can be seen");
    sys::expect_errno(as_nobody(|| sys::open(&place, OFlags::RDONLY, 0)), sys::Errno::ACCESS, "open");
    // Not even with a descriptor that root opened.
    let file = opened(&mnt);
    let good = door::encode(br#"{"v":1,"op":"snapshot-create","branch":"","name":"s"}"#, 0, 0, 4096).unwrap();
    let refused = as_nobody(|| file.exchange(KIND, NUMBER, &mut good.clone()));
    assert_eq!(errno(refused), libc_errno("EPERM"));
    let list: Vec<SnapshotInfo> =
        Door::open(&mnt).unwrap().ask(Command::SnapshotList { branch: Some(String::new()) }).unwrap();
    assert!(list.is_empty(), "nothing was done for them");
    file.exchange(KIND, NUMBER, &mut good.clone()).unwrap();
}

/// `agentfs-control-cli`: the `agentfs` program under its other name.
fn control_cli(world: &World, args: &[&str]) -> Output {
    let link: PathBuf = world.out().join("agentfs-control-cli");
    if !link.exists() {
        std::os::unix::fs::symlink(world.bins().path("agentfs"), &link).unwrap();
    }
    // No way to the socket is needed.
    let mut command = world.command(link);
    command.env("AGENTFS_SOCKET", "/nowhere/sock").env("AGENTFS_STORE", "/nowhere/store").args(args);
    run(&mut command, COMMAND_LIMIT)
}

fn json(out: &Output) -> Value {
    assert!(out.status.success(), "{out}");
    serde_json::from_str(out.stdout.trim()).unwrap()
}

#[test]
fn the_spellings_of_the_control_cli_work() {
    let Some(world) = World::start("the_spellings_of_the_control_cli_work") else { return };
    let base = world.base("project");
    std::fs::write(base.join("file"), "base").unwrap();
    let mnt = world.mount("b", Some(&base));
    let at = mnt.to_str().unwrap();
    let ask = |args: &[&str]| control_cli(&world, &[&["--mount", at], args].concat());
    std::fs::write(mnt.join("file"), "first").unwrap();
    let made = json(&ask(&["snapshot-create", "--name", "one", "--json"]));
    assert_eq!((&made["id"], &made["branch"]), (&"b@one".into(), &"b".into()));
    std::fs::write(mnt.join("file"), "second").unwrap();
    let text = ask(&["snapshot-create", "--name", "two"]).success();
    assert!(text.stdout.starts_with("made the snapshot b@two"), "{text}");
    let list = json(&ask(&["snapshot-list", "--json"]));
    let ids: Vec<&str> = list.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["b@one", "b@two"]);
    // By name, by id, and from the present state.
    std::fs::write(mnt.join("file"), "third").unwrap();
    json(&ask(&["branch-create", "--snapshot", "one", "--name", "f1", "--json"]));
    json(&ask(&["branch-create", "--snapshot", "b@two", "--name", "f2", "--json"]));
    json(&ask(&["branch-create", "--name", "f3", "--json"]));
    for (branch, content) in [("f1", "first"), ("f2", "second"), ("f3", "third")] {
        let at = world.mount(branch, None);
        assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), content);
        world.umount(&at);
    }
    let listed = json(&ask(&["branch-list", "--json"]));
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let diff = json(&ask(&["diff", "--json"]));
    assert_eq!((&diff["modified"], &diff["changes"][0]["path"]), (&1.into(), &"file".into()));
    // What is not there, taken, in use, and not meant.
    let failed = |args: &[&str]| {
        let out = ask(&[args, &["--json"]].concat());
        let error: Value = serde_json::from_str(out.stderr.trim()).unwrap_or_else(|e| panic!("{e}: {out}"));
        (out.status.code().unwrap(), error["error"]["code"].as_str().unwrap().to_owned())
    };
    let of = |code, name: &str| (code, name.to_owned());
    assert_eq!(failed(&["branch-create", "--snapshot", "bogus", "--name", "f4"]), of(68, "not-found"));
    assert_eq!(failed(&["branch-create", "--snapshot", "none@one", "--name", "f4"]), of(68, "not-found"));
    assert_eq!(failed(&["snapshot-create", "--name", "one"]), of(73, "exists"));
    assert_eq!(failed(&["snapshot-delete", "--snapshot", "one"]), of(75, "busy"));
    assert_eq!(failed(&["branch-delete", "--branch", "b"]), of(75, "busy"));
    assert_eq!(failed(&["snapshot-create", "--name", "../x"]), of(2, "usage"));
    assert_eq!(failed(&["snapshot-create"]), of(2, "usage"));
    let nowhere = control_cli(&world, &["snapshot-list"]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere}");
    ask(&["branch-delete", "--branch", "f1"]).success();
    ask(&["snapshot-delete", "--snapshot", "one"]).success();
    let after = world.json(&[OsStr::new("snapshot"), OsStr::new("list")]);
    assert_eq!(after.as_array().unwrap().len(), 1);
}

#[test]
fn it_works_inside_of_run_and_after_a_remount() {
    let Some(world) = World::start("it_works_inside_of_run_and_after_a_remount") else { return };
    let base = world.base("project");
    control_cli(&world, &["--help"]).success();
    let link = world.out().join("agentfs-control-cli");
    let script = format!("{} snapshot-create --name inside", link.display());
    let base_arg = base.to_str().unwrap();
    world.cli(&["run", "--base", base_arg, "--branch", "r", "--", "sh", "-c", &script]);
    let mnt = world.mount_with("r", None, &["--ro"]);
    let list = json(&control_cli(&world, &["snapshot-list", "--json", "--mount", mnt.to_str().unwrap()]));
    assert_eq!(list[0]["id"], "r@inside");
}

#[test]
fn commands_are_carried_out_once_whatever_dies() {
    let Some(world) = World::start("commands_are_carried_out_once_whatever_dies") else { return };
    let mnt = world.mount("b", Some(&world.base("project")));
    let door = Door::open(&mnt).unwrap();
    let done = AtomicUsize::new(0);
    const ROUNDS: usize = 150;
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            for n in 0..ROUNDS {
                let (name, fork) = (format!("s{n:03}"), format!("f{n:03}"));
                let made: SnapshotInfo =
                    door.ask(Command::SnapshotCreate { branch: String::new(), name: name.clone() }).unwrap();
                assert_eq!(made.name, name);
                done.fetch_add(1, Ordering::Release);
                let from = Some(format!("b@{name}"));
                let create = Command::BranchCreate {
                    name: fork,
                    base: None,
                    from,
                    frozen: false,
                    reuse: false,
                    limits: shm_transport::control::Limits::default(),
                };
                let made: BranchInfo = door.ask(create).unwrap();
                assert!(made.made);
                done.fetch_add(1, Ordering::Release);
                if n % 3 == 0 {
                    door.call(Command::BranchDelete { name: made.name, dry_run: false }).unwrap();
                }
            }
        });
        let (mut kills, mut seen) = (0u32, 0);
        while !asker.is_finished() {
            // It must have come so far that it can be killed over a call.
            if done.load(Ordering::Acquire) < seen + 4 {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            std::thread::sleep(Duration::from_micros(u64::from(kills) * 700 % 6000));
            seen = done.load(Ordering::Acquire);
            let daemons = world.processes("agentfsd", None);
            let frontends = if kills % 4 == 3 { world.frontend_pids() } else { Vec::new() };
            procs::kill_all(&daemons.iter().map(|p| p.pid).chain(frontends).collect::<Vec<_>>());
            kills += 1;
        }
        asker.join().unwrap();
        assert!(kills > 5, "killed {kills} times only");
    });
    let list: Vec<SnapshotInfo> = door.ask(Command::SnapshotList { branch: Some(String::new()) }).unwrap();
    assert_eq!(list.len(), ROUNDS);
    assert_eq!(world.branches().len(), 1 + ROUNDS - ROUNDS.div_ceil(3));
    let refused = door.call(Command::SnapshotCreate { branch: String::new(), name: "s000".into() });
    assert!(matches!(refused, Err(DoorError::Refused(failure)) if failure.code == ErrorCode::Exists));
    drop(door);
    let checked = world.json(&[OsStr::new("fsck")]);
    assert_eq!(checked["errors"], 0, "{checked}");
    world.assert_no_panics();
}
