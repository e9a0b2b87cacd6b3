//! What a branch shows of its base, and what changes do and do not do to it.

use super::Rig;
use shm_transport::wire::{Errno, NodeId, Op, Reply, SetAttr, SetTime, Timestamp};
use std::os::unix::fs::MetadataExt;

const ROOT: NodeId = NodeId::ROOT;

fn create(name: &str) -> Op {
    Op::Create { name: name.into(), mode: 0o644, flags: 0, umask: 0 }
}

#[test]
fn base_objects_are_as_the_host_has_them_and_reading_stores_no_content() {
    let mut rig = Rig::new(|b| {
        std::fs::create_dir(b.join("d")).unwrap();
        std::fs::write(b.join("d/f"), "hello").unwrap();
        std::os::unix::fs::symlink("d/f", b.join("l")).unwrap();
    });
    let d = rig.find(ROOT, "d");
    let f = rig.find(d.node, "f");
    let host = std::fs::metadata(rig.base("d/f")).unwrap();
    assert_eq!((f.attr.ino, f.attr.size, f.attr.mode), (host.ino(), 5, host.mode()));
    assert_eq!((f.attr.mtime.sec, i64::from(f.attr.mtime.nsec)), (host.mtime(), host.mtime_nsec()));
    assert_eq!(rig.read(f.node), b"hello");
    let l = rig.find(ROOT, "l");
    assert_eq!(rig.ok(l.node, Op::ReadLink, &[]).1, b"d/f");
    assert_eq!(rig.list(ROOT, false), ["d", "l"]);
    assert_eq!(rig.list(ROOT, true), ["d", "l"]);
    assert_eq!(rig.core.contents.ids().unwrap().count(), 0);
}

#[test]
fn the_first_write_copies_up_and_leaves_the_base_alone() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("f"), "0123456789").unwrap());
    let f = rig.find(ROOT, "f");
    rig.write(f.node, 3, b"XY");
    assert_eq!(rig.read(f.node), b"012XY56789");
    assert_eq!(std::fs::read(rig.base("f")).unwrap(), b"0123456789");
    assert_eq!(rig.find(ROOT, "f").attr.ino, f.attr.ino, "the inode number stays");
}

#[test]
fn metadata_changes_copy_no_data_and_follow_the_bytes_of_the_base() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("f"), "abc").unwrap());
    let f = rig.find(ROOT, "f");
    rig.ok(f.node, Op::SetAttr(SetAttr { mode: Some(0o600), ..SetAttr::default() }), &[]);
    let when = Timestamp { sec: 1_000, nsec: 5 };
    rig.ok(f.node, Op::SetAttr(SetAttr { mtime: Some(SetTime::At(when)), ..SetAttr::default() }), &[]);
    let attr = rig.attr(f.node);
    assert_eq!((attr.mode & 0o7777, attr.size, attr.mtime), (0o600, 3, when));
    assert_eq!(rig.core.contents.ids().unwrap().count(), 0);
    // The time that was set stays through the copy-up of a later open for writing at the end.
    rig.write(f.node, 3, b"d");
    assert_eq!(rig.read(f.node), b"abcd");
    assert_ne!(rig.attr(f.node).mtime, when, "a write sets the time");
}

#[test]
fn removed_names_stay_removed_and_may_come_back_as_something_else() {
    let mut rig = Rig::new(|b| {
        std::fs::write(b.join("f"), "old").unwrap();
        std::fs::create_dir(b.join("d")).unwrap();
        std::fs::write(b.join("d/x"), "x").unwrap();
    });
    let d = rig.find(ROOT, "d");
    assert_eq!(rig.error(ROOT, Op::Rmdir { name: "d".into() }), Errno::ENOTEMPTY);
    assert_eq!(rig.error(ROOT, Op::Unlink { name: "d".into() }), Errno::EISDIR);
    rig.ok(d.node, Op::Unlink { name: "x".into() }, &[]);
    rig.ok(ROOT, Op::Rmdir { name: "d".into() }, &[]);
    rig.ok(ROOT, Op::Unlink { name: "f".into() }, &[]);
    assert_eq!(rig.find(ROOT, "f").node, NodeId::NONE);
    assert!(rig.list(ROOT, false).is_empty());
    assert_eq!(rig.error(d.node, create("late")), Errno::ENOENT, "a removed directory takes no names");
    let f = rig.entry(ROOT, Op::Mkdir { name: "f".into(), mode: 0o755, umask: 0 });
    assert!(rig.list(f.node, false).is_empty());
    let d = rig.entry(ROOT, create("d"));
    rig.write(d.node, 0, b"file now");
    assert_eq!(rig.list(ROOT, false), ["d", "f"]);
    assert_eq!(rig.error(ROOT, create("d")), Errno::ESTALE, "the kernel shall look again");
    let exclusive = Op::Create { name: "d".into(), mode: 0o644, flags: libc::O_EXCL as u32, umask: 0 };
    assert_eq!(rig.error(ROOT, exclusive), Errno::EEXIST);
    assert_eq!(std::fs::read(rig.base("d/x")).unwrap(), b"x");
}

#[test]
fn a_base_directory_moves_with_everything_in_it() {
    let mut rig = Rig::new(|b| {
        std::fs::create_dir_all(b.join("a/b")).unwrap();
        std::fs::write(b.join("a/b/f"), "deep").unwrap();
        std::fs::create_dir(b.join("to")).unwrap();
    });
    let (a, to) = (rig.find(ROOT, "a"), rig.find(ROOT, "to"));
    let rename = |name: &str, new_parent, new_name: &str| Op::Rename {
        name: name.into(),
        new_parent,
        new_name: new_name.into(),
        flags: 0,
    };
    rig.ok(ROOT, rename("a", to.node, "moved"), &[]);
    assert_eq!(rig.list(ROOT, false), ["to"]);
    let moved = rig.find(to.node, "moved");
    assert_eq!(moved.node, a.node);
    let b = rig.find(moved.node, "b");
    let f = rig.find(b.node, "f");
    assert_eq!(rig.read(f.node), b"deep");
    assert_eq!(rig.error(ROOT, rename("to", b.node, "inside")), Errno::EINVAL, "not into itself");
    assert_eq!(std::fs::read(rig.base("a/b/f")).unwrap(), b"deep");
}

#[test]
fn hard_links_of_the_base_are_one_object() {
    let mut rig = Rig::new(|b| {
        std::fs::write(b.join("one"), "same").unwrap();
        std::fs::hard_link(b.join("one"), b.join("two")).unwrap();
    });
    let (one, two) = (rig.find(ROOT, "one"), rig.find(ROOT, "two"));
    assert_eq!(one.node, two.node);
    rig.write(one.node, 0, b"SAME");
    assert_eq!(rig.read(two.node), b"SAME");
    rig.ok(ROOT, Op::Unlink { name: "one".into() }, &[]);
    assert_eq!(rig.find(ROOT, "two").attr.nlink, 1);
}

#[test]
fn a_file_without_a_name_lives_until_it_is_forgotten() {
    let mut rig = Rig::new(|_| {});
    let f = rig.entry(ROOT, create("f"));
    rig.write(f.node, 0, b"still here");
    rig.ok(ROOT, Op::Unlink { name: "f".into() }, &[]);
    assert_eq!(rig.attr(f.node).nlink, 0);
    assert_eq!(rig.read(f.node), b"still here");
    assert_eq!(rig.core.contents.ids().unwrap().count(), 1);
    rig.ok(ROOT, Op::Forget { count: 1 }, &f.node.0.to_le_bytes());
    rig.core.sync().unwrap();
    assert_eq!(rig.core.contents.ids().unwrap().count(), 0, "its bytes are given back");
    assert_eq!(rig.error(f.node, Op::GetAttr), Errno::ESTALE);
}

#[test]
fn writes_after_a_freeze_leave_the_frozen_epoch_alone() {
    let mut rig = Rig::new(|_| {});
    let f = rig.entry(ROOT, create("f"));
    rig.write(f.node, 0, b"before");
    let frozen = rig.branch.view().clone();
    rig.freeze();
    rig.write(f.node, 0, b"AFTER");
    assert_eq!(rig.read(f.node), b"AFTERe");
    let old = rig.session.source(&frozen, super::ObjectId(f.node.0)).unwrap();
    let super::super::copy_up::Source::Content(old) = old else { panic!("content") };
    let mut bytes = [0; 16];
    let len = nix::sys::uio::pread(std::os::fd::AsFd::as_fd(&*old), &mut bytes, 0).unwrap();
    assert_eq!(&bytes[..len], b"before");
    // A name removed after the freeze is a whiteout, and the frozen view still has it.
    rig.ok(ROOT, Op::Unlink { name: "f".into() }, &[]);
    assert_eq!(rig.find(ROOT, "f").node, NodeId::NONE);
    assert!(frozen.child(frozen.root, b"f").unwrap().is_some());
}

#[test]
fn a_changed_file_stays_the_branchs_own_when_the_host_replaces_it() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("f"), "host").unwrap());
    let f = rig.find(ROOT, "f");
    rig.write(f.node, 0, b"mine");
    std::fs::write(rig.base("new"), "replaced by the host").unwrap();
    std::fs::rename(rig.base("new"), rig.base("f")).unwrap();
    let again = rig.find(ROOT, "f");
    assert_eq!(again.node, f.node);
    assert_eq!(rig.read(again.node), b"mine");
    // Names that change in the same operation are what the operation makes them.
    let rename = Op::Rename { name: "f".into(), new_parent: ROOT, new_name: "g".into(), flags: 0 };
    rig.ok(ROOT, rename, &[]);
    assert_eq!(rig.find(ROOT, "f").node, NodeId::NONE, "the host's new file does not show under a renamed name");
    assert_eq!(rig.read(f.node), b"mine");
}

#[test]
fn base_names_exchange_places() {
    let mut rig = Rig::new(|b| {
        std::fs::write(b.join("a"), "A").unwrap();
        std::fs::write(b.join("b"), "B").unwrap();
    });
    let (a, b) = (rig.find(ROOT, "a"), rig.find(ROOT, "b"));
    let flags = libc::RENAME_EXCHANGE;
    rig.ok(ROOT, Op::Rename { name: "a".into(), new_parent: ROOT, new_name: "b".into(), flags }, &[]);
    assert_eq!((rig.find(ROOT, "a").node, rig.find(ROOT, "b").node), (b.node, a.node));
    let onto = Op::Rename { name: "a".into(), new_parent: ROOT, new_name: "b".into(), flags: 0 };
    rig.ok(ROOT, onto, &[]);
    assert_eq!((rig.find(ROOT, "a").node, rig.find(ROOT, "b").node), (NodeId::NONE, b.node));
    rig.ok(ROOT, Op::Unlink { name: "b".into() }, &[]);
    assert!(rig.list(ROOT, false).is_empty());
}

#[test]
fn holes_sizes_and_attributes() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("base"), vec![7; 10_000]).unwrap());
    let f = rig.entry(ROOT, create("f"));
    let size = |n| Op::SetAttr(SetAttr { size: Some(n), ..SetAttr::default() });
    rig.ok(f.node, size(5_000), &[]);
    assert_eq!(rig.read(f.node), vec![0; 5_000]);
    rig.write(f.node, 6_000, b"end");
    assert_eq!(rig.attr(f.node).size, 6_003);
    let base = rig.find(ROOT, "base");
    rig.ok(base.node, size(4), &[]);
    assert_eq!(rig.read(base.node), [7; 4]);
    rig.ok(base.node, Op::Open { flags: libc::O_TRUNC as u32 | libc::O_WRONLY as u32, kill_suidgid: false }, &[]);
    assert_eq!(rig.attr(base.node).size, 0);
    let set = |name: &str| Op::SetXattr { name: name.into(), flags: 0, clear_setgid: false };
    rig.ok(f.node, set("user.a"), b"value");
    let (reply, value) = rig.ok(f.node, Op::GetXattr { name: "user.a".into(), size: 64 }, &[]);
    assert_eq!((reply, value.as_slice()), (Reply::Data { len: 5 }, b"value".as_slice()));
    assert_eq!(rig.error(f.node, Op::GetXattr { name: "user.b".into(), size: 64 }), Errno::ENODATA);
    assert_eq!(rig.error(f.node, Op::GetXattr { name: "user.a".into(), size: 2 }), Errno::ERANGE);
    rig.ok(f.node, Op::RemoveXattr { name: "user.a".into() }, &[]);
    assert_eq!(rig.ok(f.node, Op::ListXattr { size: 0 }, &[]).0, Reply::XattrSize { size: 0 });
}

#[test]
fn a_change_of_owner_strips_setid_bits() {
    let mut rig = Rig::new(|_| {});
    let f = rig.entry(ROOT, Op::Create { name: "f".into(), mode: 0o6755, flags: 0, umask: 0 });
    rig.ok(f.node, Op::SetAttr(SetAttr { uid: Some(5), ..SetAttr::default() }), &[]);
    let attr = rig.attr(f.node);
    assert_eq!((attr.uid, attr.mode & 0o7777), (5, 0o755));
}

#[test]
fn a_long_listing_is_whole_while_names_come_and_go() {
    let mut rig = Rig::new(|b| {
        for n in 0..300 {
            std::fs::write(b.join(format!("base{n}")), "").unwrap();
        }
    });
    for n in 0..200 {
        rig.entry(ROOT, create(&format!("new{n}")));
    }
    rig.ok(ROOT, Op::Unlink { name: "base7".into() }, &[]);
    let names = rig.list(ROOT, true);
    assert_eq!(names.len(), 499);
    let mut distinct = names.clone();
    distinct.dedup();
    assert_eq!(distinct, names);
    assert!(!names.contains(&"base7".to_owned()));
}
