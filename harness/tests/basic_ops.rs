//! Every operation of a file system on a mounted branch without a base, and contents of many sizes by
//! SHA-256.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::{World, sys};
use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags, SeekFrom, XattrFlags};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn mounted(name: &str) -> Option<(World, PathBuf)> {
    let world = World::start(name)?;
    let mnt = world.mount("b", None);
    Some((world, mnt))
}

#[test]
fn contents_survive_a_remount_by_sha256() {
    let Some((world, mnt)) = mounted("contents_survive_a_remount_by_sha256") else { return };
    let sizes =
        [0, 1, 4095, 4096, 4097, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1];
    let mut expected = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let path = mnt.join(format!("f{size}"));
        let data = sys::pattern(n as u64, size);
        std::fs::write(&path, &data).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size as u64);
        assert_eq!(sys::sha256_file(&path).unwrap(), sys::sha256(&data), "{size} bytes, from the cache");
        expected.push((path, sys::sha256(&data)));
    }
    world.remount("b", &mnt);
    for (path, sha) in &expected {
        assert_eq!(sys::sha256_file(path).unwrap(), *sha, "{} after a remount", path.display());
    }
}

fn sha256sum(world: &World, path: &Path) -> String {
    let out = world.try_program(world.dir(), "sha256sum", &[path.to_str().unwrap()]).success();
    out.stdout.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn large_contents_survive_a_remount_by_sha256() {
    let Some((world, mnt)) = mounted("large_contents_survive_a_remount_by_sha256") else { return };
    let piece = sys::pattern(7, 1 << 20);
    let original = world.out().join("64m");
    {
        let mut host = std::fs::File::create(&original).unwrap();
        let mut branch = std::fs::File::create(mnt.join("64m")).unwrap();
        for n in 0_u8..64 {
            let mut piece = piece.clone();
            piece[0] = n;
            host.write_all(&piece).unwrap();
            branch.write_all(&piece).unwrap();
        }
    }
    // 1 GiB: a piece at every 16 MiB and one at the very end, holes between.
    let big = world.out().join("1g");
    for path in [&big, &mnt.join("1g")] {
        let file = std::fs::File::create(path).unwrap();
        file.set_len(1 << 30).unwrap();
        for n in 0..64_u64 {
            file.write_all_at(&piece, (n << 24) + 4095 * n).unwrap();
        }
        file.write_all_at(&piece, (1 << 30) - (1 << 20)).unwrap();
    }
    world.remount("b", &mnt);
    assert_eq!(sha256sum(&world, &mnt.join("64m")), sha256sum(&world, &original));
    assert_eq!(std::fs::metadata(mnt.join("1g")).unwrap().len(), 1 << 30);
    assert_eq!(sha256sum(&world, &mnt.join("1g")), sha256sum(&world, &big));
    let blocks = std::fs::metadata(mnt.join("1g")).unwrap().blocks();
    assert!(blocks * 512 < 200 << 20, "holes take space: {blocks} blocks for 65 MiB of data in 1 GiB");
}

#[test]
fn create_write_read_append_truncate() {
    let Some((_world, mnt)) = mounted("create_write_read_append_truncate") else { return };
    let path = mnt.join("file");
    let mut file = sys::open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, 0o640).unwrap();
    let stat = sys::lstat(&path).unwrap();
    assert_eq!((stat.st_size, stat.st_nlink, stat.st_mode & 0o7777), (0, 1, 0o640));
    file.write_all(b"hello").unwrap();
    file.write_all(b" world").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
    sys::open(&path, OFlags::WRONLY | OFlags::APPEND, 0).unwrap().write_all(b"!").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"hello world!");
    file.write_all_at(b"HELLO", 0).unwrap();
    file.set_len(5).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"HELLO");
    file.set_len(8).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"HELLO\0\0\0", "extending gives zeros");
    file.write_all_at(b"x", 10_000).unwrap();
    let data = std::fs::read(&path).unwrap();
    assert_eq!(data.len(), 10_001);
    assert!(data[8..10_000].iter().all(|b| *b == 0), "a gap reads as zeros");
    drop(sys::open(&path, OFlags::WRONLY | OFlags::TRUNC, 0).unwrap());
    assert_eq!(sys::lstat(&path).unwrap().st_size, 0, "O_TRUNC empties");
    assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 0, "other descriptors see it");
}

#[test]
fn two_appenders_lose_nothing() {
    let Some((_world, mnt)) = mounted("two_appenders_lose_nothing") else { return };
    let path = mnt.join("log");
    std::fs::write(&path, "").unwrap();
    let threads: Vec<_> = [b'a', b'b']
        .into_iter()
        .map(|letter| {
            let mut file = sys::open(&path, OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
            std::thread::spawn(move || {
                for _ in 0..500 {
                    file.write_all(&[letter; 50]).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let data = std::fs::read(&path).unwrap();
    assert_eq!(data.len(), 50_000);
    for record in data.chunks(50) {
        assert!(record.iter().all(|b| *b == record[0]), "a record is torn");
    }
}

#[test]
fn rename_replaces_and_moves_between_directories() {
    let Some((_world, mnt)) = mounted("rename_replaces_and_moves_between_directories") else { return };
    std::fs::create_dir_all(mnt.join("a/sub")).unwrap();
    std::fs::create_dir(mnt.join("b")).unwrap();
    std::fs::write(mnt.join("a/f"), "one").unwrap();
    std::fs::write(mnt.join("b/g"), "two").unwrap();
    std::fs::write(mnt.join("a/sub/deep"), "deep").unwrap();
    let ino = sys::lstat(&mnt.join("a/f")).unwrap().st_ino;
    sys::rename(&mnt.join("a/f"), &mnt.join("b/g")).unwrap();
    assert_eq!(sys::lstat(&mnt.join("b/g")).unwrap().st_ino, ino, "a file keeps its number");
    assert_eq!(std::fs::read(mnt.join("b/g")).unwrap(), b"one");
    assert_eq!(sys::names(&mnt.join("a")), ["sub"]);
    sys::rename(&mnt.join("a/sub"), &mnt.join("b/sub")).unwrap();
    assert_eq!(std::fs::read(mnt.join("b/sub/deep")).unwrap(), b"deep");
    assert_eq!(sys::lstat(&mnt.join("b/sub/..")).unwrap().st_ino, sys::lstat(&mnt.join("b")).unwrap().st_ino);
    // An empty directory is replaced, a full one is not.
    sys::rename(&mnt.join("b"), &mnt.join("a")).unwrap();
    assert_eq!(sys::names(&mnt), ["a"]);
    assert_eq!(sys::names(&mnt.join("a")), ["g", "sub"]);
    // Exchange and no-replace.
    sys::rename_with(&mnt.join("a/g"), &mnt.join("a/sub"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(std::fs::read(mnt.join("a/sub")).unwrap(), b"one");
    assert_eq!(std::fs::read(mnt.join("a/g/deep")).unwrap(), b"deep");
    let clash = sys::rename_with(&mnt.join("a/sub"), &mnt.join("a/g"), RenameFlags::NOREPLACE);
    sys::expect_errno(clash, sys::Errno::EXIST, "RENAME_NOREPLACE onto a name");
    sys::rename_with(&mnt.join("a/sub"), &mnt.join("a/new"), RenameFlags::NOREPLACE).unwrap();
    assert_eq!(sys::names(&mnt.join("a")), ["g", "new"]);
}

#[test]
fn an_open_file_survives_being_replaced_or_unlinked() {
    let Some((_world, mnt)) = mounted("an_open_file_survives_being_replaced_or_unlinked") else { return };
    std::fs::write(mnt.join("a"), "old").unwrap();
    std::fs::write(mnt.join("b"), "new").unwrap();
    let mut open = sys::open(&mnt.join("a"), OFlags::RDWR, 0).unwrap();
    sys::rename(&mnt.join("b"), &mnt.join("a")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    open.write_all_at(b"still", 0).unwrap();
    let reader = sys::open(&mnt.join("a"), OFlags::RDONLY, 0).unwrap();
    sys::unlink(&mnt.join("a")).unwrap();
    let mut buffer = [0; 16];
    let n = reader.read_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer[..n], b"new");
    let n = open.read_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer[..n], b"still");
    assert!(sys::names(&mnt).is_empty());
}

#[test]
fn links() {
    let Some((world, mnt)) = mounted("links") else { return };
    std::fs::write(mnt.join("one"), "1").unwrap();
    sys::link(&mnt.join("one"), &mnt.join("two")).unwrap();
    let (a, b) = (sys::lstat(&mnt.join("one")).unwrap(), sys::lstat(&mnt.join("two")).unwrap());
    assert_eq!((a.st_ino, a.st_nlink), (b.st_ino, 2));
    std::fs::write(mnt.join("two"), "22").unwrap();
    assert_eq!(std::fs::read(mnt.join("one")).unwrap(), b"22");
    sys::unlink(&mnt.join("one")).unwrap();
    assert_eq!(sys::lstat(&mnt.join("two")).unwrap().st_nlink, 1);
    let target = "t".repeat(1000);
    sys::symlink(target.as_bytes(), &mnt.join("sym")).unwrap();
    assert_eq!(sys::readlink(&mnt.join("sym")).unwrap(), target.as_bytes());
    assert_eq!(sys::lstat(&mnt.join("sym")).unwrap().st_size, 1000, "a link's size is its target's length");
    sys::symlink(b"two", &mnt.join("to-two")).unwrap();
    assert_eq!(std::fs::read(mnt.join("to-two")).unwrap(), b"22");
    sys::link(&mnt.join("to-two"), &mnt.join("to-two-hard")).unwrap();
    assert_eq!(sys::readlink(&mnt.join("to-two-hard")).unwrap(), b"two");
    world.remount("b", &mnt);
    assert_eq!(std::fs::read(mnt.join("to-two-hard")).unwrap(), b"22");
    assert_eq!(sys::lstat(&mnt.join("to-two")).unwrap().st_nlink, 2);
}

#[test]
fn directories() {
    let Some((world, mnt)) = mounted("directories") else { return };
    sys::mkdir(&mnt.join("d"), 0o750).unwrap();
    assert_eq!(sys::lstat(&mnt.join("d")).unwrap().st_mode & 0o7777, 0o750);
    for n in 0..1200 {
        std::fs::write(mnt.join(format!("d/file-{n:04}-{}", "x".repeat(n % 100))), "").unwrap();
    }
    let names = sys::names(&mnt.join("d"));
    assert_eq!(names.len(), 1200);
    // Removing while listing: no entry that stays is missed, none comes twice.
    let dir = std::fs::read_dir(mnt.join("d")).unwrap();
    let mut seen = Vec::new();
    for (n, entry) in dir.enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if n % 2 == 0 {
            sys::unlink(&mnt.join("d").join(&name)).unwrap();
        }
        seen.push(name);
    }
    seen.sort();
    assert_eq!(seen, names, "listing while removing");
    assert_eq!(sys::names(&mnt.join("d")).len(), 600);
    world.remount("b", &mnt);
    assert_eq!(sys::names(&mnt.join("d")).len(), 600);
    std::fs::remove_dir_all(mnt.join("d")).unwrap();
    assert!(sys::names(&mnt).is_empty());
    let root = sys::lstat(&mnt).unwrap();
    assert_eq!(FileType::from_raw_mode(root.st_mode), FileType::Directory);
    for entry in sys::readdir(&mnt).unwrap() {
        assert_ne!(entry.0, b".agentfs", "control files are not listed");
    }
}

#[test]
fn directory_entries_agree_with_stat() {
    let Some((_world, mnt)) = mounted("directory_entries_agree_with_stat") else { return };
    std::fs::write(mnt.join("file"), "").unwrap();
    sys::mkdir(&mnt.join("dir"), 0o755).unwrap();
    sys::symlink(b"x", &mnt.join("link")).unwrap();
    sys::mknod(&mnt.join("fifo"), FileType::Fifo, 0o600, 0).unwrap();
    sys::mknod(&mnt.join("sock"), FileType::Socket, 0o600, 0).unwrap();
    sys::mknod(&mnt.join("null"), FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3)).unwrap();
    for (name, ino, kind) in sys::readdir(&mnt).unwrap() {
        let name = String::from_utf8(name).unwrap();
        let stat = sys::lstat(&mnt.join(&name)).unwrap();
        assert_eq!((stat.st_ino, stat.st_mode & 0o170_000), (ino, kind), "{name}");
    }
    assert_eq!(sys::lstat(&mnt.join("null")).unwrap().st_rdev, rustix::fs::makedev(1, 3));
    std::fs::write(mnt.join("null"), "gone").unwrap();
    assert_eq!(std::fs::read(mnt.join("null")).unwrap(), b"", "a device node works as one");
}

#[test]
fn attributes_and_their_times() {
    let Some((world, mnt)) = mounted("attributes_and_their_times") else { return };
    let path = mnt.join("f");
    std::fs::write(&path, "x").unwrap();
    sys::chmod(&path, 0o4751).unwrap();
    sys::lchown(&path, Some(1234), Some(5678)).unwrap();
    let stat = sys::lstat(&path).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (1234, 5678));
    assert_eq!(stat.st_mode & 0o7777, 0o751, "chown strips setuid");
    sys::chmod(&path, 0o6755).unwrap();
    sys::utimens(&path, (1_000_000_000, 123_456_789), (-1, 999_999_999)).unwrap();
    let before = sys::lstat(&path).unwrap();
    assert_eq!((before.st_atime, before.st_atime_nsec), (1_000_000_000, 123_456_789));
    assert_eq!((before.st_mtime, before.st_mtime_nsec), (-1, 999_999_999));
    world.remount("b", &mnt);
    let after = sys::lstat(&path).unwrap();
    assert_eq!((after.st_mtime, after.st_mtime_nsec, after.st_ctime), (-1, 999_999_999, before.st_ctime));
    assert_eq!((after.st_mode & 0o7777, after.st_uid, after.st_ino), (0o6755, 1234, before.st_ino));

    // Which times move.
    let times = |p: &Path| {
        let s = sys::lstat(p).unwrap();
        ((s.st_mtime, s.st_mtime_nsec), (s.st_ctime, s.st_ctime_nsec))
    };
    let pause = || std::thread::sleep(Duration::from_millis(15));
    pause();
    let (m0, c0) = times(&path);
    sys::chmod(&path, 0o600).unwrap();
    let (m1, c1) = times(&path);
    assert!(m1 == m0 && c1 > c0, "chmod moves ctime only");
    pause();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"y").unwrap();
    let (m2, c2) = times(&path);
    assert!(m2 > m1 && c2 > c1, "write moves mtime and ctime: {m1:?} {m2:?} {c1:?} {c2:?}");
    pause();
    let (dir_m0, _) = times(&mnt);
    sys::rename(&path, &mnt.join("g")).unwrap();
    let (m3, c3) = times(&mnt.join("g"));
    assert!(m3 == m2 && c3 > c2, "rename moves the file's ctime only");
    assert!(times(&mnt).0 > dir_m0, "and the directory's mtime");
    pause();
    let (_, c4) = times(&mnt.join("g"));
    sys::link(&mnt.join("g"), &mnt.join("h")).unwrap();
    assert!(times(&mnt.join("g")).1 > c4, "link moves ctime");
    pause();
    let (m5, c5) = times(&mnt.join("g"));
    sys::setxattr(&mnt.join("g"), "user.a", b"1", XattrFlags::empty()).unwrap();
    let (m6, c6) = times(&mnt.join("g"));
    assert!(m6 == m5 && c6 > c5, "setxattr moves ctime only");
}

#[test]
fn extended_attributes() {
    let Some((world, mnt)) = mounted("extended_attributes") else { return };
    let path = mnt.join("f");
    std::fs::write(&path, "").unwrap();
    sys::mkdir(&mnt.join("d"), 0o755).unwrap();
    sys::symlink(b"f", &mnt.join("s")).unwrap();
    let big = sys::pattern(1, 60_000);
    sys::setxattr(&path, "user.one", b"1", XattrFlags::CREATE).unwrap();
    sys::setxattr(&path, "user.empty", b"", XattrFlags::empty()).unwrap();
    sys::setxattr(&path, "user.big", &big, XattrFlags::empty()).unwrap();
    sys::setxattr(&path, "trusted.t", b"\0\xff", XattrFlags::empty()).unwrap();
    sys::setxattr(&mnt.join("d"), "user.dir", b"d", XattrFlags::empty()).unwrap();
    sys::setxattr(&mnt.join("s"), "trusted.link", b"l", XattrFlags::empty()).unwrap();
    sys::setxattr(&path, "user.one", b"one", XattrFlags::REPLACE).unwrap();
    world.remount("b", &mnt);
    let names: Vec<String> =
        sys::listxattr(&path).unwrap().into_iter().map(|n| String::from_utf8(n).unwrap()).collect();
    assert_eq!(names, ["trusted.t", "user.big", "user.empty", "user.one"]);
    assert_eq!(sys::getxattr(&path, "user.one").unwrap(), b"one");
    assert_eq!(sys::getxattr(&path, "user.empty").unwrap(), b"");
    assert_eq!(sys::getxattr(&path, "user.big").unwrap(), big);
    assert_eq!(sys::getxattr(&path, "trusted.t").unwrap(), b"\0\xff");
    assert_eq!(sys::getxattr(&mnt.join("d"), "user.dir").unwrap(), b"d");
    assert_eq!(sys::getxattr(&mnt.join("s"), "trusted.link").unwrap(), b"l");
    // It asks for the length with size 0 first.
    let shown = harness::run::run(
        std::process::Command::new("getfattr").args(["--only-values", "-n", "user.one"]).arg(&path),
        Duration::from_secs(60),
    )
    .success();
    assert_eq!(shown.stdout, "one");
    sys::removexattr(&path, "user.big").unwrap();
    assert_eq!(sys::listxattr(&path).unwrap().len(), 3);
    // A list that says no more than permission bits becomes them.
    let acl =
        [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255];
    sys::chmod(&path, 0o600).unwrap();
    sys::setxattr(&path, "system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
    assert_eq!(sys::lstat(&path).unwrap().st_mode & 0o777, 0o644, "the ACL's mode holds");
    assert_eq!(sys::listxattr(&path).unwrap().len(), 3);
}

#[test]
fn space_and_names_of_the_file_system() {
    let Some((world, mnt)) = mounted("space_and_names_of_the_file_system") else { return };
    let stat = rustix::fs::statvfs(&mnt).unwrap();
    assert_eq!(stat.f_namemax, 255);
    let host = rustix::fs::statvfs(world.store()).unwrap();
    assert_eq!(stat.f_frsize * stat.f_blocks, host.f_frsize * host.f_blocks, "the space is the store's");
    assert!(stat.f_bavail > 0 && stat.f_files > 0);
}

#[test]
fn allocation_holes_and_copies() {
    let Some((_world, mnt)) = mounted("allocation_holes_and_copies") else { return };
    let mut file = sys::open(&mnt.join("f"), OFlags::RDWR | OFlags::CREATE, 0o644).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 100_000, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    let data = sys::pattern(3, 100_000);
    file.write_all_at(&data, 0).unwrap();
    match rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 16384) {
        Ok(()) => {
            let mut found = vec![0; 100_000];
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found[8192..24576].iter().all(|b| *b == 0), "a punched hole reads as zeros");
            assert_eq!((&found[..8192], &found[24576..]), (&data[..8192], &data[24576..]));
        }
        Err(e) => assert_eq!(e, sys::Errno::OPNOTSUPP),
    }
    // The kernel passes these on to no FUSE server.
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE, FallocateFlags::UNSHARE_RANGE] {
        let refused = rustix::fs::fallocate(&file, mode, 8192, 8192);
        assert_eq!(refused, Err(sys::Errno::OPNOTSUPP), "{mode:?}");
    }
    let sparse = sys::open(&mnt.join("sparse"), OFlags::RDWR | OFlags::CREATE, 0o644).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(&data[..4096], 5 << 20).unwrap();
    let first = rustix::fs::seek(&sparse, SeekFrom::Data(0)).unwrap();
    assert_eq!(first, 5 << 20, "SEEK_DATA finds the data");
    assert_eq!(rustix::fs::seek(&sparse, SeekFrom::Hole(first)).unwrap(), (5 << 20) + 4096);
    sys::expect_errno(rustix::fs::seek(&sparse, SeekFrom::Data(6 << 20)), sys::Errno::NXIO, "SEEK_DATA at the end");
    let copy = sys::open(&mnt.join("copy"), OFlags::RDWR | OFlags::CREATE, 0o644).unwrap();
    let (mut from, mut to) = (1000, 10);
    let mut left = 50_000;
    while left > 0 {
        let n = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), left).unwrap();
        assert!(n > 0, "copy_file_range stops early");
        left -= n;
    }
    let mut source = vec![0; 50_000];
    file.read_exact_at(&mut source, 1000).unwrap();
    let mut copied = vec![0; 50_000];
    copy.read_exact_at(&mut copied, 10).unwrap();
    assert_eq!(sys::sha256(&copied), sys::sha256(&source));
    file.seek(std::io::SeekFrom::End(0)).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    std::fs::File::open(&mnt).unwrap().sync_all().unwrap();
    rustix::fs::syncfs(&file).unwrap();
}

#[test]
fn locks_exclude_each_other() {
    let Some((_world, mnt)) = mounted("locks_exclude_each_other") else { return };
    use rustix::fs::{FlockOperation, flock};
    std::fs::write(mnt.join("lock"), "").unwrap();
    let one = sys::open(&mnt.join("lock"), OFlags::RDWR, 0).unwrap();
    let two = sys::open(&mnt.join("lock"), OFlags::RDWR, 0).unwrap();
    flock(&one, FlockOperation::LockExclusive).unwrap();
    sys::expect_errno(flock(&two, FlockOperation::NonBlockingLockExclusive), sys::Errno::AGAIN, "a second flock");
    flock(&one, FlockOperation::Unlock).unwrap();
    flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
}

const MMAP: &str = r#"
import mmap, os, sys
path = sys.argv[1]
fd = os.open(path, os.O_RDWR)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED)
m[0:6] = b"MAPPED"
m[-3:] = b"END"
m.flush()
assert os.pread(fd, 6, 0) == b"MAPPED", "a mapped store is not seen by read"
os.pwrite(fd, b"written", 100)
assert m[100:107] == b"written", "a write is not seen by the mapping"
m[200:203] = b"tail"[:3]
m.close()
os.close(fd)
"#;

#[test]
fn shared_mappings_are_coherent_and_kept() {
    let Some((world, mnt)) = mounted("shared_mappings_are_coherent_and_kept") else { return };
    let path = mnt.join("f");
    std::fs::write(&path, sys::pattern(5, 10_000)).unwrap();
    world.program(&mnt, "python3", &["-c", MMAP, path.to_str().unwrap()]);
    world.remount("b", &mnt);
    let mut expected = sys::pattern(5, 10_000);
    expected[..6].copy_from_slice(b"MAPPED");
    expected[9_997..].copy_from_slice(b"END");
    expected[100..107].copy_from_slice(b"written");
    expected[200..203].copy_from_slice(b"tai");
    assert_eq!(sys::sha256_file(&path).unwrap(), sys::sha256(&expected));
}

#[test]
fn programs_can_be_executed() {
    let Some((world, mnt)) = mounted("programs_can_be_executed") else { return };
    std::fs::copy("/bin/true", mnt.join("true")).unwrap();
    sys::chmod(&mnt.join("true"), 0o755).unwrap();
    world.program(&mnt, mnt.join("true").to_str().unwrap(), &[]);
    std::fs::write(mnt.join("script"), "#!/bin/sh\nexit 42\n").unwrap();
    sys::chmod(&mnt.join("script"), 0o755).unwrap();
    world.try_program(&mnt, mnt.join("script").to_str().unwrap(), &[]).code(42);
}

#[test]
fn the_mount_shows_its_branch_and_ends_cleanly() {
    let Some((world, mnt)) = mounted("the_mount_shows_its_branch_and_ends_cleanly") else { return };
    let table = harness::mounts::below(&mnt);
    assert_eq!(table.len(), 1);
    assert_eq!((table[0].source.to_str(), table[0].fstype.as_str()), (Some("b"), "fuse.agentfs"));
    let held = std::fs::File::open(&mnt).unwrap();
    let busy = world.cli_fails(&["umount", mnt.to_str().unwrap()]);
    assert!(harness::mounts::is_mounted(&mnt), "a busy mount stays: {busy}");
    drop(held);
    world.umount(&mnt);
    world.stop();
    world.assert_no_panics();
}
