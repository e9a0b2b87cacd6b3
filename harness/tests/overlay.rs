//! A branch over a base directory: what is read is the host's, what is written is the branch's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::tree::Columns;
use harness::{Tree, World, procs, sys};
use rustix::fs::{OFlags, XattrFlags};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

struct Overlay {
    world: World,
    base: PathBuf,
    mnt: PathBuf,
    before: Tree,
}

/// A base with files, directories, links, hard links, attributes and odd modes, and a branch of it.
fn overlay(name: &str) -> Option<Overlay> {
    let world = World::start(name)?;
    let base = world.base("project");
    let write = |name: &str, data: &[u8]| std::fs::write(base.join(name), data).unwrap();
    for dir in ["src/deep/er", "docs", "empty", "swap"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    write("readme", b"read me");
    write("src/main", &sys::pattern(1, 300_000));
    write("src/deep/er/leaf", b"leaf");
    write("docs/one", b"1");
    write("docs/two", b"2");
    write("hard1", b"hard");
    write("tool", b"#!/bin/sh\n");
    write("swap/file", b"f");
    sys::link(&base.join("hard1"), &base.join("hard2")).unwrap();
    sys::link(&base.join("hard1"), &base.join("src/hard3")).unwrap();
    sys::symlink(b"../readme", &base.join("docs/link")).unwrap();
    sys::chmod(&base.join("tool"), 0o4755).unwrap();
    sys::lchown(&base.join("docs/one"), Some(1000), Some(1001)).unwrap();
    sys::setxattr(&base.join("readme"), "user.origin", b"host", XattrFlags::empty()).unwrap();
    for (n, path) in ["readme", "src/main", "docs/one", "docs", "hard1", "docs/link"].iter().enumerate() {
        let at = 1_600_000_000 + n as i64;
        sys::utimens(&base.join(path), (at, 5), (at, 123_456_789)).unwrap();
    }
    let before = Tree::of(&base, Columns::UNTOUCHED);
    let mnt = world.mount("b", Some(&base));
    Some(Overlay { world, base, mnt, before })
}

impl Overlay {
    fn b(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    fn m(&self, path: &str) -> PathBuf {
        self.mnt.join(path)
    }

    #[track_caller]
    fn host_untouched(&self) {
        self.before.assert_same(&Tree::of(&self.base, Columns::UNTOUCHED), "the base directory");
    }

    fn remount(&self) {
        self.world.remount("b", &self.mnt);
    }
}

/// Bytes of content files and of everything else in the store, without logs of the programs.
fn content_bytes(store: &Path) -> u64 {
    fn walk(dir: &Path, sum: &mut u64) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                if entry.file_name() != "log" && entry.file_name() != "run" {
                    walk(&entry.path(), sum);
                }
            } else {
                *sum += std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
            }
        }
    }
    let mut sum = 0;
    walk(store, &mut sum);
    sum
}

#[test]
fn a_branch_looks_like_its_base_down_to_inode_numbers_and_times() {
    let Some(o) = overlay("a_branch_looks_like_its_base") else { return };
    o.before.assert_same(&Tree::of(&o.mnt, Columns::UNTOUCHED), "base and branch");
    for dir in ["", "src", "docs", "src/deep"] {
        assert_eq!(sys::readdir(&o.b(dir)).unwrap(), sys::readdir(&o.m(dir)).unwrap(), "listing of {dir:?}");
    }
    o.remount();
    o.before.assert_same(&Tree::of(&o.mnt, Columns::UNTOUCHED), "after a remount");
    o.host_untouched();
}

#[test]
fn reading_leaves_nothing_in_the_store() {
    let Some(o) = overlay("reading_leaves_nothing_in_the_store") else { return };
    for n in 0..300 {
        std::fs::write(o.b(&format!("docs/more{n}")), sys::pattern(n, 5000)).unwrap();
    }
    let before = content_bytes(o.world.store());
    drop(Tree::of(&o.mnt, Columns::UNTOUCHED));
    let reader = sys::open(&o.m("src/main"), OFlags::RDONLY, 0).unwrap();
    reader.read_at(&mut [0; 100], 0).unwrap();
    // Opening for writing without writing copies nothing that a diff would show.
    drop(reader);
    let after = content_bytes(o.world.store());
    assert!(after <= before + (64 << 10), "reading 300 files grew the store from {before} to {after} bytes");
    assert_eq!(o.world.diff("b").total(), 0, "{:?}", o.world.diff("b"));
}

#[test]
fn a_first_write_copies_up_and_leaves_the_base_alone() {
    let Some(o) = overlay("a_first_write_copies_up") else { return };
    let ino = sys::lstat(&o.m("src/main")).unwrap().st_ino;
    let reader = sys::open(&o.m("src/main"), OFlags::RDONLY, 0).unwrap();
    let mut buffer = [0; 8];
    reader.read_exact_at(&mut buffer, 100).unwrap();
    let writer = sys::open(&o.m("src/main"), OFlags::WRONLY, 0).unwrap();
    writer.write_all_at(b"CHANGED!", 100).unwrap();
    reader.read_exact_at(&mut buffer, 100).unwrap();
    assert_eq!(&buffer, b"CHANGED!", "a reader from before the copy-up sees the write");
    let mut expected = sys::pattern(1, 300_000);
    expected[100..108].copy_from_slice(b"CHANGED!");
    assert_eq!(sys::sha256_file(&o.m("src/main")).unwrap(), sys::sha256(&expected));
    assert_eq!(sys::lstat(&o.m("src/main")).unwrap().st_ino, ino, "the number stays at copy-up");
    assert!(sys::lstat(&o.m("src/main")).unwrap().st_mtime > 1_700_000_000, "the write moved mtime");
    drop((reader, writer));
    o.remount();
    assert_eq!(sys::sha256_file(&o.m("src/main")).unwrap(), sys::sha256(&expected));
    assert_eq!(sys::lstat(&o.m("src/main")).unwrap().st_ino, ino);
    o.host_untouched();
    let diff = o.world.diff("b");
    assert_eq!((diff.total(), diff.kind("src/main")), (1, Some("modified")), "{diff:?}");
}

#[test]
fn every_kind_of_first_change_keeps_the_rest_of_the_file() {
    let Some(o) = overlay("every_kind_of_first_change") else { return };
    std::io::Write::write_all(&mut sys::open(&o.m("readme"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap(), b" twice")
        .unwrap();
    assert_eq!(std::fs::read(o.m("readme")).unwrap(), b"read me twice");
    assert_eq!(sys::getxattr(&o.m("readme"), "user.origin").unwrap(), b"host", "attributes come along");
    sys::truncate(&o.m("src/main"), 1000).unwrap();
    assert_eq!(sys::sha256_file(&o.m("src/main")).unwrap(), sys::sha256(&sys::pattern(1, 300_000)[..1000]));
    drop(sys::open(&o.m("docs/one"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap());
    let stat = sys::lstat(&o.m("docs/one")).unwrap();
    assert_eq!((stat.st_size, stat.st_uid, stat.st_gid), (0, 1000, 1001), "owner comes along");
    let file = sys::open(&o.m("swap/file"), OFlags::RDWR, 0).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 10).unwrap();
    assert_eq!(std::fs::read(o.m("swap/file")).unwrap(), b"f\0\0\0\0\0\0\0\0\0");
    o.host_untouched();
}

#[test]
fn a_change_of_attributes_copies_no_data() {
    let Some(o) = overlay("a_change_of_attributes_copies_no_data") else { return };
    std::fs::write(o.b("big"), sys::pattern(9, 20 << 20)).unwrap();
    let before = content_bytes(o.world.store());
    sys::chmod(&o.m("big"), 0o600).unwrap();
    sys::lchown(&o.m("big"), Some(77), Some(78)).unwrap();
    sys::utimens(&o.m("big"), (1, 0), (2, 3)).unwrap();
    sys::setxattr(&o.m("big"), "user.mark", b"m", XattrFlags::empty()).unwrap();
    sys::rename(&o.m("big"), &o.m("docs/big")).unwrap();
    sys::link(&o.m("docs/big"), &o.m("big-too")).unwrap();
    o.remount();
    let stat = sys::lstat(&o.m("docs/big")).unwrap();
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_mtime, stat.st_nlink), (0o600, 77, 2, 2));
    assert_eq!(sys::sha256_file(&o.m("big-too")).unwrap(), sys::sha256(&sys::pattern(9, 20 << 20)));
    let grown = content_bytes(o.world.store()) - before;
    assert!(grown < 2 << 20, "attributes of a file of 20 MiB cost {grown} bytes of the store");
    assert_eq!(sys::lstat(&o.b("big")).unwrap().st_uid, 0);
}

#[test]
fn deleted_is_deleted_and_can_come_back_as_something_else() {
    let Some(o) = overlay("deleted_is_deleted") else { return };
    sys::unlink(&o.m("readme")).unwrap();
    sys::expect_errno(sys::lstat(&o.m("readme")), sys::Errno::NOENT, "a deleted base file");
    std::fs::remove_dir_all(o.m("docs")).unwrap();
    std::fs::remove_dir_all(o.m("src/deep")).unwrap();
    assert!(!sys::names(&o.mnt).contains(&"readme".to_owned()));
    o.remount();
    sys::expect_errno(sys::lstat(&o.m("docs")), sys::Errno::NOENT, "a deleted base directory");
    sys::expect_errno(sys::lstat(&o.m("docs/one")), sys::Errno::NOENT, "its content");
    assert_eq!(sys::names(&o.m("src")), ["hard3", "main"]);
    // File to directory, directory to file, directory to directory: nothing of the base shines through.
    sys::mkdir(&o.m("readme"), 0o755).unwrap();
    std::fs::write(o.m("readme/inside"), "i").unwrap();
    std::fs::write(o.m("docs"), "now a file").unwrap();
    sys::mkdir(&o.m("src/deep"), 0o755).unwrap();
    assert!(sys::names(&o.m("src/deep")).is_empty(), "a made-anew directory is empty");
    std::fs::write(o.m("src/deep/new"), "n").unwrap();
    o.remount();
    assert_eq!(sys::names(&o.m("readme")), ["inside"]);
    assert_eq!(std::fs::read(o.m("docs")).unwrap(), b"now a file");
    assert_eq!(sys::names(&o.m("src/deep")), ["new"]);
    let diff = o.world.diff("b");
    assert_eq!(diff.kind("readme"), Some("retyped"), "{diff:?}");
    assert_eq!(diff.kind("docs"), Some("retyped"), "{diff:?}");
    assert!(diff.of_kind("deleted").contains(&"src/deep/er"), "{diff:?}");
    o.host_untouched();
}

#[test]
fn listings_merge_without_duplicates() {
    let Some(o) = overlay("listings_merge_without_duplicates") else { return };
    std::fs::write(o.m("docs/one"), "changed").unwrap();
    std::fs::write(o.m("docs/three"), "new").unwrap();
    sys::unlink(&o.m("docs/two")).unwrap();
    sys::unlink(&o.m("docs/link")).unwrap();
    std::fs::write(o.m("docs/link"), "a file now").unwrap();
    for _ in 0..2 {
        assert_eq!(sys::names(&o.m("docs")), ["link", "one", "three"]);
        for (name, ino, kind) in sys::readdir(&o.m("docs")).unwrap() {
            let stat = sys::lstat(&o.m("docs").join(String::from_utf8(name).unwrap())).unwrap();
            assert_eq!((stat.st_ino, stat.st_mode & 0o170_000), (ino, kind), "d_ino and d_type are stat's");
        }
        o.remount();
    }
    sys::expect_errno(sys::rmdir(&o.m("docs")), sys::Errno::NOTEMPTY, "rmdir of a merged directory");
    for name in ["link", "one", "three"] {
        sys::unlink(&o.m("docs").join(name)).unwrap();
    }
    sys::rmdir(&o.m("docs")).unwrap();
    o.host_untouched();
}

#[test]
fn base_directories_can_be_renamed_with_what_is_in_them() {
    let Some(o) = overlay("base_directories_can_be_renamed") else { return };
    std::fs::write(o.m("src/added"), "a").unwrap();
    sys::unlink(&o.m("src/hard3")).unwrap();
    sys::rename(&o.m("src"), &o.m("docs/moved")).unwrap();
    assert_eq!(sys::names(&o.m("docs/moved")), ["added", "deep", "main"]);
    assert_eq!(std::fs::read(o.m("docs/moved/deep/er/leaf")).unwrap(), b"leaf");
    sys::rename(&o.m("docs/moved/deep"), &o.m("deep")).unwrap();
    sys::mkdir(&o.m("src"), 0o755).unwrap();
    assert!(sys::names(&o.m("src")).is_empty(), "the old name is free and empty");
    o.remount();
    assert_eq!(std::fs::read(o.m("deep/er/leaf")).unwrap(), b"leaf");
    assert_eq!(sys::sha256_file(&o.m("docs/moved/main")).unwrap(), sys::sha256(&sys::pattern(1, 300_000)));
    assert_eq!(sys::names(&o.m("docs/moved")), ["added", "main"]);
    std::fs::write(o.m("deep/er/leaf"), "changed after the move").unwrap();
    // Exchange of a base directory and a base file.
    sys::rename_with(&o.m("swap"), &o.m("tool"), rustix::fs::RenameFlags::EXCHANGE).unwrap();
    assert_eq!(std::fs::read(o.m("tool/file")).unwrap(), b"f");
    assert_eq!(sys::lstat(&o.m("swap")).unwrap().st_mode & 0o7777, 0o4755);
    o.remount();
    assert_eq!(std::fs::read(o.m("tool/file")).unwrap(), b"f");
    assert_eq!(std::fs::read(o.m("deep/er/leaf")).unwrap(), b"changed after the move");
    o.host_untouched();
}

#[test]
fn hard_links_of_the_base_stay_one_file() {
    let Some(o) = overlay("hard_links_of_the_base_stay_one_file") else { return };
    let ino = sys::lstat(&o.m("hard1")).unwrap();
    assert_eq!(ino.st_nlink, 3);
    std::fs::write(o.m("hard1"), "through one name").unwrap();
    for name in ["hard1", "hard2", "src/hard3"] {
        assert_eq!(std::fs::read(o.m(name)).unwrap(), b"through one name", "{name}");
        let stat = sys::lstat(&o.m(name)).unwrap();
        assert_eq!((stat.st_ino, stat.st_nlink), (ino.st_ino, 3), "{name}");
    }
    sys::unlink(&o.m("hard1")).unwrap();
    o.remount();
    // Found by the other names first, in a fresh mount.
    assert_eq!(std::fs::read(o.m("src/hard3")).unwrap(), b"through one name");
    assert_eq!(sys::lstat(&o.m("hard2")).unwrap().st_nlink, 2);
    sys::chmod(&o.m("hard2"), 0o400).unwrap();
    assert_eq!(sys::lstat(&o.m("src/hard3")).unwrap().st_mode & 0o7777, 0o400);
    sys::link(&o.m("hard2"), &o.m("hard4")).unwrap();
    assert_eq!(sys::lstat(&o.m("src/hard3")).unwrap().st_nlink, 3);
    sys::unlink(&o.m("hard2")).unwrap();
    sys::unlink(&o.m("hard4")).unwrap();
    sys::unlink(&o.m("src/hard3")).unwrap();
    o.host_untouched();
}

#[test]
fn an_unlinked_base_file_stays_readable_while_open() {
    let Some(o) = overlay("an_unlinked_base_file_stays_readable") else { return };
    let reader = sys::open(&o.m("src/main"), OFlags::RDONLY, 0).unwrap();
    sys::unlink(&o.m("src/main")).unwrap();
    let mut data = vec![0; 300_000];
    reader.read_exact_at(&mut data, 0).unwrap();
    assert_eq!(data, sys::pattern(1, 300_000));
    let writer = sys::open(&o.m("readme"), OFlags::RDWR, 0).unwrap();
    sys::rename(&o.m("tool"), &o.m("readme")).unwrap();
    writer.write_all_at(b"orphan", 0).unwrap();
    let mut data = [0; 7];
    writer.read_exact_at(&mut data, 0).unwrap();
    assert_eq!(&data, b"orphane");
    o.host_untouched();
}

const MMAP: &str = r#"
import mmap, os, sys
r = os.open(sys.argv[1], os.O_RDONLY)
before = mmap.mmap(r, 0, mmap.MAP_SHARED, mmap.PROT_READ)
assert before[0:7] == b"read me"
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED)
m[0:4] = b"READ"
m.flush()
assert before[0:7] == b"READ me", "the older mapping does not see the store"
"#;

#[test]
fn a_mapped_store_copies_up() {
    let Some(o) = overlay("a_mapped_store_copies_up") else { return };
    o.world.program(&o.mnt, "python3", &["-c", MMAP, o.m("readme").to_str().unwrap()]);
    o.remount();
    assert_eq!(std::fs::read(o.m("readme")).unwrap(), b"READ me");
    o.host_untouched();
}

#[test]
fn a_lazy_branch_follows_the_host_where_it_changed_nothing() {
    let Some(o) = overlay("a_lazy_branch_follows_the_host") else { return };
    std::fs::write(o.m("docs/one"), "the branch's").unwrap();
    assert_eq!(std::fs::read(o.m("readme")).unwrap(), b"read me");
    std::fs::write(o.b("readme"), "a new and longer text of the host").unwrap();
    std::fs::write(o.b("docs/one"), "the host's").unwrap();
    std::fs::write(o.b("docs/new-on-host"), "n").unwrap();
    std::fs::remove_file(o.b("docs/two")).unwrap();
    // Attributes of unchanged base objects are cached for a second at most.
    let followed = procs::wait_for(Duration::from_secs(5), || {
        std::fs::read(o.m("readme")).is_ok_and(|t| t == b"a new and longer text of the host")
            && o.m("docs/new-on-host").exists()
            && !o.m("docs/two").exists()
    });
    assert!(followed, "readme is {:?}", std::fs::read(o.m("readme")).map(|t| String::from_utf8_lossy(&t).into_owned()));
    let stat = sys::lstat(&o.m("readme")).unwrap();
    assert_eq!(stat.st_size, 33, "size and data change together");
    assert_eq!(std::fs::read(o.m("docs/one")).unwrap(), b"the branch's", "what the branch changed is its own");
}

#[test]
fn a_name_that_the_kernel_thinks_missing_is_opened_when_the_host_made_it() {
    let Some(o) = overlay("a_name_that_the_kernel_thinks_missing") else { return };
    for (n, flags) in
        [OFlags::CREATE | OFlags::RDWR, OFlags::CREATE | OFlags::RDWR | OFlags::APPEND].into_iter().enumerate()
    {
        let name = format!("docs/made{n}");
        assert!(!o.m(&name).exists());
        std::fs::write(o.b(&name), "the host's").unwrap();
        let mut text = String::new();
        let mut file = sys::open(&o.m(&name), flags, 0o600).unwrap();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "the host's");
    }
    assert!(!o.m("docs/exclusive").exists());
    std::fs::write(o.b("docs/exclusive"), "the host's").unwrap();
    let made = sys::open(&o.m("docs/exclusive"), OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, 0o600);
    assert_eq!(made.unwrap_err(), rustix::io::Errno::EXIST);
}

#[test]
fn a_read_only_mount_follows_the_one_that_writes() {
    let Some(o) = overlay("a_read_only_mount_follows") else { return };
    let reader = o.world.mountpoint();
    o.world.cli(&["mount", "--branch", "b", "--ro", reader.to_str().unwrap()]);
    let list = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    std::fs::create_dir(o.m("made")).unwrap();
    std::fs::write(o.m("made/file"), "first").unwrap();
    for (text, name) in [("a second text", "made/a"), ("a third and longer text", "made/b")] {
        // Whatever the reader's kernel keeps, it has now.
        list(&reader.join("made"));
        std::fs::read(reader.join("made/file")).unwrap();
        assert!(!reader.join(name).exists());
        std::fs::write(o.m("made/file"), text).unwrap();
        std::fs::write(o.m(name), "new").unwrap();
        let followed = procs::wait_for(Duration::from_secs(5), || {
            std::fs::read_to_string(reader.join("made/file")).is_ok_and(|t| t == text)
                && list(&reader.join("made")) == list(&o.m("made"))
                && reader.join(name).exists()
        });
        assert!(followed, "{:?}", std::fs::read_to_string(reader.join("made/file")));
    }
    o.world.cli(&["umount", reader.to_str().unwrap()]);
}

#[test]
fn a_listing_that_the_kernel_keeps_changes_with_the_directory() {
    let Some(o) = overlay("a_listing_that_the_kernel_keeps") else { return };
    let dir = o.m("made");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(o.m("from-outside"), "x").unwrap();
    let expect = |wanted: &[&str]| {
        // Twice: from the daemon, then from what the kernel kept.
        for _ in 0..2 {
            let mut names: Vec<_> =
                std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, wanted);
        }
    };
    expect(&[]);
    std::fs::write(dir.join("a"), "").unwrap();
    expect(&["a"]);
    std::fs::create_dir(dir.join("d")).unwrap();
    expect(&["a", "d"]);
    std::fs::rename(dir.join("a"), dir.join("b")).unwrap();
    expect(&["b", "d"]);
    std::fs::rename(o.m("from-outside"), dir.join("c")).unwrap();
    expect(&["b", "c", "d"]);
    sys::link(&o.m("readme"), &dir.join("e")).unwrap();
    sys::symlink(b"x", &dir.join("f")).unwrap();
    expect(&["b", "c", "d", "e", "f"]);
    std::fs::remove_file(dir.join("c")).unwrap();
    std::fs::remove_dir(dir.join("d")).unwrap();
    std::fs::rename(dir.join("e"), o.m("e")).unwrap();
    expect(&["b", "f"]);
    std::fs::rename(dir.join("b"), dir.join("f")).unwrap();
    expect(&["f"]);
}
