//! What a branch may hold of its own, on real mounts; and what a full store still does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports a broken promise by panicking"
)]

use harness::small_disk::SmallDisk;
use harness::sys::{self, Errno};
use harness::{World, procs};
use rustix::fs::{FileType, OFlags, statvfs};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn of<T>(result: std::io::Result<T>) -> sys::Res<T> {
    result.map_err(|e| sys::of_io(&e))
}

fn full<T>(result: std::io::Result<T>, what: &str) {
    sys::expect_errno(of(result), Errno::DQUOT, what);
}

/// Bytes and inodes that are used, as the daemon and as `df` have them.
fn used(world: &World, branch: &str, mnt: &Path) -> (u64, u64) {
    used_within(world, branch, mnt, 40)
}

fn used_within(world: &World, branch: &str, mnt: &Path, tries: u32) -> (u64, u64) {
    let info = world.json(&["branch", "show", branch].map(OsStr::new));
    let number = |key: &str| info["quota"][key].as_u64().unwrap();
    let (bytes, inodes) = (number("bytes_used"), number("inodes_used"));
    let df = statvfs(mnt).unwrap();
    if (df.f_blocks - df.f_bfree) * df.f_frsize != bytes && tries > 0 {
        // The kernel forgets what was removed some time after its last close.
        std::thread::sleep(Duration::from_millis(50));
        return used_within(world, branch, mnt, tries - 1);
    }
    assert_eq!(df.f_blocks * df.f_frsize, number("bytes"), "{info}");
    assert_eq!((df.f_blocks - df.f_bfree) * df.f_frsize, bytes, "{info}");
    assert_eq!((df.f_files, df.f_files - df.f_ffree), (number("inodes"), inodes), "{info}");
    assert!(df.f_bavail <= df.f_bfree);
    (bytes, inodes)
}

#[test]
fn every_way_to_grow_ends_at_the_quota_and_no_way_to_shrink() {
    let Some(world) = World::start("every_way_to_grow_ends_at_the_quota") else { return };
    let base = world.base("p");
    std::fs::write(base.join("big"), sys::pattern(1, 12 << 20)).unwrap();
    std::fs::write(base.join("doomed"), "x").unwrap();
    let mnt = world.mount_with("b", Some(&base), &["--quota-bytes", "10M", "--quota-inodes", "20"]);
    assert_eq!(used(&world, "b", &mnt), (0, 0));
    let data = sys::pattern(2, 12 << 20);
    let mut file = std::fs::File::create_new(mnt.join("f")).unwrap();
    let mut written = 0;
    let error = loop {
        match file.write(&data[..300_000]) {
            Ok(n) => written += n as u64,
            Err(e) => break e,
        }
    };
    assert_eq!(sys::of_io(&error), Errno::DQUOT, "{error}");
    assert!(written > 9 * MIB && written <= 10 * MIB, "{written} bytes fitted");
    sys::expect_errno(sys::truncate(&mnt.join("f"), 11 * MIB), Errno::DQUOT, "truncate up");
    let more = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 11 * MIB);
    sys::expect_errno(more, Errno::DQUOT, "fallocate");
    let big = sys::open(&mnt.join("big"), OFlags::RDWR, 0).unwrap();
    full(big.write_at(b"y", 0), "copy-up of a big file");
    assert_eq!(sys::sha256_file(&mnt.join("big")).unwrap(), sys::sha256(&sys::pattern(1, 12 << 20)));
    let mut at = 10 * MIB;
    let copied = rustix::fs::copy_file_range(&big, Some(&mut 0), &file, Some(&mut at), 1 << 20);
    sys::expect_errno(copied, Errno::DQUOT, "copy_file_range");
    // In place and downwards everything goes on.
    file.write_all_at(&data[..1 << 20], 0).unwrap();
    sys::truncate(&mnt.join("f"), 2 * MIB).unwrap();
    assert_eq!(used(&world, "b", &mnt), (2 * MIB, 1));
    drop(file);
    sys::unlink(&mnt.join("f")).unwrap();
    sys::unlink(&mnt.join("doomed")).unwrap();
    assert!(procs::wait_for(Duration::from_secs(10), || used(&world, "b", &mnt) == (0, 0)), "rm gives back");
    // Objects.
    for n in 0..20 {
        std::fs::File::create_new(mnt.join(format!("o{n}"))).unwrap();
    }
    full(std::fs::File::create_new(mnt.join("one-more")), "create");
    sys::expect_errno(sys::mkdir(&mnt.join("d"), 0o755), Errno::DQUOT, "mkdir");
    sys::expect_errno(sys::symlink(b"o1", &mnt.join("l")), Errno::DQUOT, "symlink");
    sys::expect_errno(sys::mknod(&mnt.join("p"), FileType::Fifo, 0o600, 0), Errno::DQUOT, "mknod");
    sys::link(&mnt.join("o1"), &mnt.join("o1-too")).unwrap();
    sys::rename(&mnt.join("o2"), &mnt.join("o2-renamed")).unwrap();
    sys::unlink(&mnt.join("o3")).unwrap();
    assert!(procs::wait_for(Duration::from_secs(10), || sys::mkdir(&mnt.join("d"), 0o755).is_ok()));
    assert_eq!(used(&world, "b", &mnt), (0, 20));
    world.assert_no_panics();
}

/// A program that removes a file to make room for another need not wait for anything in between.
#[test]
fn what_is_removed_makes_room_at_once() {
    let Some(world) = World::start("what_is_removed_makes_room_at_once") else { return };
    let mnt = world.mount_with("b", None, &["--quota-bytes", "10M", "--quota-inodes", "2"]);
    std::fs::write(mnt.join("kept"), sys::pattern(1, 2 << 20)).unwrap();
    world.snapshot("b", "s");
    let big = sys::pattern(2, 7 << 20);
    for round in 0..40 {
        // Limited by inodes, and by bytes.
        std::fs::write(mnt.join("big"), if round % 2 == 0 { &big[..1] } else { &big }).unwrap();
        std::fs::remove_file(mnt.join("big")).unwrap();
    }
    std::fs::write(mnt.join("big"), &big).unwrap();
    full(std::fs::write(mnt.join("one-more"), "x"), "nothing was removed");
    // What is open still counts.
    let open = std::fs::File::open(mnt.join("big")).unwrap();
    std::fs::remove_file(mnt.join("big")).unwrap();
    full(std::fs::write(mnt.join("next"), "x"), "removed, and open");
    drop(open);
    assert!(procs::wait_for(Duration::from_secs(10), || std::fs::write(mnt.join("next"), &big).is_ok()));
    world.assert_no_panics();
}

#[test]
fn usage_is_exact_after_kills_and_limits_change_while_mounted() {
    let Some(world) = World::start("usage_is_exact_after_kills") else { return };
    let base = world.base("p");
    std::fs::write(base.join("file"), sys::pattern(1, 100_000)).unwrap();
    let mnt = world.mount_with("b", Some(&base), &["--quota-bytes", "64M", "--quota-inodes", "1k"]);
    let mut seed = 1;
    for round in 0..4 {
        for n in 0..30 {
            seed += 1;
            std::fs::write(mnt.join(format!("f{n}")), sys::pattern(seed, (seed * 7919 % 60_000) as usize)).unwrap();
        }
        std::fs::OpenOptions::new().append(true).open(mnt.join("file")).unwrap().write_all(b"more").unwrap();
        world.snapshot("b", &format!("s{round}"));
        std::fs::remove_file(mnt.join("f7")).unwrap();
        world.kill_daemon();
        std::fs::write(mnt.join("f8"), "after the kill").unwrap();
        let killed = used(&world, "b", &mnt);
        // A daemon that counts from nothing comes to the same.
        world.kill_daemon();
        assert_eq!(used(&world, "b", &mnt), killed);
        world.remount("b", &mnt);
        assert_eq!(used(&world, "b", &mnt).0, killed.0);
    }
    let (bytes, _) = used(&world, "b", &mnt);
    // Below what is used: programs can read and delete, and nothing else.
    world.cli(&["branch", "quota", "b", "--bytes", "100k"]);
    full(std::fs::write(mnt.join("new"), "x"), "write above the limit");
    sys::unlink(&mnt.join("f9")).unwrap();
    let df = statvfs(&mnt).unwrap();
    assert_eq!((df.f_blocks * df.f_frsize, df.f_bfree, df.f_bavail), (100 << 10, 0, 0));
    let out = world.cli(&["branch", "quota", "b", "--bytes", "none"]);
    assert!(!out.says("KiB") && out.says("inodes"), "{out}");
    std::fs::write(mnt.join("new"), sys::pattern(3, 70 << 20)).unwrap();
    world.cli(&["branch", "quota", "b", "--bytes", "1G"]);
    assert!(used(&world, "b", &mnt).0 >= bytes + 69 * MIB);
    // Branches of it have its limits and nothing used.
    world.branch_from("child", "b@s1");
    let child = world.json(&["branch", "show", "child"].map(OsStr::new));
    assert_eq!((child["quota"]["bytes"].as_u64(), child["quota"]["bytes_used"].as_u64()), (Some(1 << 30), Some(0)));
    world.cli(&["branch", "create", "free", "--from", "b", "--quota-bytes", "none", "--quota-inodes", "none"]);
    assert!(world.json(&["branch", "show", "free"].map(OsStr::new))["quota"].is_null());
    let out = world.cli(&["branch", "list"]);
    assert!(out.says("QUOTA") && out.says("of 1.0 GiB"), "{out}");
    world
        .cli_fails(&["mount", "--branch", "child", "--quota-bytes", "5M", world.mountpoint().to_str().unwrap()])
        .code(73);
    world.cli_fails(&["branch", "quota", "b", "--bytes", "1.5G"]).code(2);
    world.assert_no_panics();
}

#[test]
fn a_full_store_takes_deletions_of_every_kind() {
    let Some(outer) = World::start("a_full_store_outer") else { return };
    if !nix_is_root() {
        return;
    }
    let disk = SmallDisk::new(&outer, 96, &[]);
    {
        let world = World::start_with("a_full_store_takes_deletions", Some(&disk.path().join("store"))).unwrap();
        let mnt = world.mount_with("b", None, &["--quota-bytes", "10G"]);
        // More is not promised than there is.
        let df = statvfs(&mnt).unwrap();
        assert_eq!(df.f_blocks * df.f_frsize, 10 << 30);
        assert!(df.f_bavail * df.f_frsize < 96 * MIB, "{} bytes are available", df.f_bavail * df.f_frsize);
        std::fs::write(mnt.join("held"), sys::pattern(1, 20 << 20)).unwrap();
        world.snapshot("b", "s");
        world.branch_from("other", "b@s");
        let other = world.mount("other", None);
        let mut file = std::fs::File::create_new(other.join("filler")).unwrap();
        let piece = sys::pattern(2, 1 << 20);
        let error = std::iter::from_fn(|| file.write_all(&piece).err().map_or(Some(None), |e| Some(Some(e))))
            .take(200)
            .flatten()
            .next()
            .expect("a disk of 96 MiB fills up");
        assert_eq!(sys::of_io(&error), Errno::NOSPC, "{error}");
        drop(file);
        // The log fills up too: names until there is no room for any.
        let mut last = None;
        for n in 0..200_000 {
            if let Err(e) = sys::mkdir(&mnt.join(format!("d{n}")), 0o755) {
                last = Some(e);
                break;
            }
            if n % 2000 == 1999 && std::fs::write(other.join(format!("more{n}")), &piece[..4096]).is_err() {
                break;
            }
        }
        assert!(last.is_none_or(|e| e == Errno::NOSPC), "{last:?}");
        // Every kind of deletion.
        sys::unlink(&mnt.join("held")).unwrap();
        sys::rmdir(&mnt.join("d0")).unwrap();
        world.umount(&other);
        world.cli(&["discard", "other"]);
        world.cli(&["snapshot", "delete", "--branch", "b", "--name", "s"]);
        let roomy = procs::wait_for(Duration::from_secs(30), || std::fs::write(mnt.join("after"), &piece).is_ok());
        assert!(roomy, "after that there is room again");
        world.snapshot("b", "s2");
        world.kill_daemon();
        assert_eq!(std::fs::read(mnt.join("after")).unwrap(), piece);
        world.umount(&mnt);
        world.cli(&["discard", "b"]);
        world.assert_no_panics();
    }
    drop(disk);
}

fn nix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}
