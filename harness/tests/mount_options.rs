//! What mount options promise, seen by what the kernel asks and by what programs get.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports a broken promise by panicking"
)]

use harness::World;
use harness::run::run;
use harness::sys::{self, Errno};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Requests of all mounts so far.
fn requests(world: &World) -> u64 {
    let mounts = world.json(&["mounts"].map(OsStr::new));
    mounts.as_array().unwrap().iter().map(|mount| mount["requests"].as_u64().unwrap()).sum()
}

fn asked(world: &World, work: impl FnOnce()) -> u64 {
    let before = requests(world);
    work();
    requests(world) - before
}

fn mounted(world: &World, branch: &str, options: &[&str]) -> PathBuf {
    let base = world.base("p");
    fs::write(base.join("f"), "of the base").unwrap();
    world.mount_with(branch, Some(&base), options)
}

fn look(path: &Path, times: usize) {
    for _ in 0..times {
        fs::metadata(path).ok();
    }
}

#[test]
fn nothing_is_kept_where_the_timeouts_are_zero() {
    const TIMES: usize = 50;
    let Some(world) = World::start("nothing_is_kept_where_the_timeouts_are_zero") else { return };
    let none = "entry_timeout=0,attr_timeout=0,negative_timeout=0";
    for (branch, options, least, most) in [
        ("kept", &[][..], 0, 10),
        ("brief", &["-o", "attr_timeout=1000.5"][..], 0, 10),
        ("asked", &["-o", none][..], 100, 1000),
    ] {
        let mnt = mounted(&world, branch, options);
        let (here, missing) = (mnt.join("new"), mnt.join("missing"));
        fs::write(&here, "x").unwrap();
        look(&here, 2);
        look(&missing, 2);
        let count = asked(&world, || {
            look(&here, TIMES);
            look(&missing, TIMES);
        });
        assert!((least..=most).contains(&count), "{branch}: {count} requests");
        world.cli(&["umount".as_ref(), mnt.as_os_str()]);
    }
}

#[test]
fn direct_io_keeps_no_data_and_maps_it_all_the_same() {
    let Some(world) = World::start("direct_io_keeps_no_data_and_maps_it_all_the_same") else { return };
    let mnt = mounted(&world, "b", &["-o", "direct_io"]);
    let path = mnt.join("new");
    fs::write(&path, sys::pattern(1, 8192)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut page = [0; 4096];
    let count = asked(&world, || {
        for _ in 0..50 {
            file.read_exact_at(&mut page, 0).unwrap();
        }
    });
    assert!(count >= 50, "{count} requests for 50 reads");
    assert_eq!(page[..], sys::pattern(1, 8192)[..4096]);
    // A shared mapping, since Linux 6.6.
    let script =
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[:3] = b'new'; m.flush()";
    let kernel = sys::kernel();
    if kernel >= (6, 6) {
        world.program(&mnt, "python3", &["-c", script, "new"]);
        file.read_exact_at(&mut page, 0).unwrap();
        assert_eq!(page[..3], *b"new");
    } else {
        eprintln!("not run: shared mappings of files with direct_io need Linux 6.6, this is {kernel:?}");
    }
}

#[test]
fn a_write_is_as_long_as_it_may_be() {
    let Some(world) = World::start("a_write_is_as_long_as_it_may_be") else { return };
    let data = sys::pattern(3, 1 << 20);
    for (branch, options, least, most) in
        [("long", &[][..], 1, 8), ("short", &["-o", "max_write=16384,max_background=1"][..], 64, 72)]
    {
        let mnt = mounted(&world, branch, options);
        let mut file = File::create(mnt.join("new")).unwrap();
        let count = asked(&world, || file.write_all(&data).unwrap());
        assert!((least..=most).contains(&count), "{branch}: {count} requests");
        assert!(fs::read(mnt.join("new")).unwrap() == data);
        drop(file);
        world.cli(&["umount".as_ref(), mnt.as_os_str()]);
    }
}

#[test]
fn the_kernel_writes_back_and_tells_a_failure_to_the_file_it_is_of() {
    const PIECES: usize = 256;
    let Some(world) = World::start("the_kernel_writes_back_and_tells_a_failure") else { return };
    let mnt = mounted(&world, "b", &["-o", "writeback_cache", "--quota-bytes", "1M"]);
    let mut small = File::create(mnt.join("small")).unwrap();
    let count = asked(&world, || {
        for n in 0..PIECES {
            small.write_all(&[n as u8; 16]).unwrap();
        }
    });
    assert!(count < PIECES as u64 / 8, "{count} requests for {PIECES} writes");
    small.sync_all().unwrap();
    assert_eq!(fs::metadata(mnt.join("small")).unwrap().len(), 16 * PIECES as u64);
    // The write ends in the page cache; what the quota says comes later, to this file, and to no other.
    let mut large = File::create(mnt.join("large")).unwrap();
    let mut closed = File::create(mnt.join("closed")).unwrap();
    for _ in 0..768 {
        large.write_all(&[7; 4096]).unwrap();
        closed.write_all(&[8; 4096]).unwrap();
    }
    sys::expect_errno(large.sync_all().map_err(|e| sys::of_io(&e)), Errno::DQUOT, "fsync");
    large.sync_all().expect("it is told once");
    small.sync_all().expect("another file's failure");
    let errno = nix::unistd::close(closed).unwrap_err();
    // At a close, the kernel knows "no space" and "any other error" only.
    assert_eq!(errno, nix::errno::Errno::EIO, "close");
    nix::unistd::close(small).unwrap();
    drop(large);
    // The branch goes on.
    fs::remove_file(mnt.join("large")).unwrap();
    fs::remove_file(mnt.join("closed")).unwrap();
    fs::write(mnt.join("after"), "fine").unwrap();
    File::open(mnt.join("after")).unwrap().sync_all().unwrap();
    // A daemon that dies in between costs nothing of what is still to be written back.
    let mut file = OpenOptions::new().append(true).open(mnt.join("small")).unwrap();
    file.write_all(b"the end").unwrap();
    world.kill_daemon();
    file.sync_all().unwrap();
    let (mut text, end) = (Vec::new(), 16 * PIECES);
    File::open(mnt.join("small")).unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text[end..], *b"the end");
    drop(file);
    world.cli(&["umount".as_ref(), mnt.as_os_str()]);
    let mnt = world.mount_with("b", None, &[]);
    assert_eq!(fs::read(mnt.join("small")).unwrap(), text);
    assert_eq!(fs::read_to_string(mnt.join("after")).unwrap(), "fine");
}

#[test]
fn options_out_of_bounds_are_refused_with_their_bounds() {
    let Some(world) = World::start("options_out_of_bounds_are_refused_with_their_bounds") else { return };
    let mnt = world.mountpoint();
    for (option, said) in [
        ("max_write=1", "from 4096 to 1048576"),
        ("max_write=2097152", "from 4096 to 1048576"),
        ("max_background=0", "from 1 to 48"),
        ("max_background=many", "from 1 to 48"),
        ("attr_timeout=-1", "from 0 to 86400"),
        ("entry_timeout=nan", "from 0 to 86400"),
        ("negative_timeout", "from 0 to 86400"),
        ("frozen", "--frozen"),
        ("base=/tmp", "--base"),
        ("no_such_option", "attr_timeout="),
    ] {
        let out = world.cli_fails(&[
            "mount".as_ref(),
            "--branch".as_ref(),
            "b".as_ref(),
            "-o".as_ref(),
            OsStr::new(option),
            mnt.as_os_str(),
        ]);
        let told = out.stderr;
        assert!(told.contains(said), "{option}: {told}");
    }
    // The other ways to say them.
    let mut mount = world.agentfs(["mount".as_ref(), "--branch".as_ref(), "b".as_ref(), mnt.as_os_str()]);
    let by_environment = run(mount.env("AGENTFS_MOUNT_OPTIONS", "max_write=1"), Duration::from_mins(1));
    assert!(by_environment.says("from 4096"), "{by_environment}");
    let by_run = world.cli_fails(&["run", "--branch", "r", "-o", "max_write=1", "--", "true"]);
    assert!(by_run.says("from 4096"), "{by_run}");
}
