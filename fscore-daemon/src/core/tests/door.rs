//! The control door's place in a mount.

use super::Rig;
use shm_transport::wire::{Errno, NodeId, Op, Reply, SetAttr};

const DIR: NodeId = NodeId::CONTROL_DIR;
const FILE: NodeId = NodeId::CONTROL_FILE;

fn name() -> Vec<u8> {
    b".agentfs".to_vec()
}

#[test]
fn it_is_found_and_not_listed() {
    let mut rig = Rig::new(|base| std::fs::write(base.join("file"), "x").unwrap());
    let dir = rig.find(NodeId::ROOT, ".agentfs");
    assert_eq!((dir.node, dir.attr.ino, dir.attr.mode), (DIR, DIR.0, libc::S_IFDIR | 0o555));
    let file = rig.find(DIR, "control");
    assert_eq!((file.node, file.attr.ino, file.attr.mode), (FILE, FILE.0, libc::S_IFREG | 0o600));
    assert_eq!(rig.find(DIR, "other").node, NodeId::NONE);
    for plus in [false, true] {
        assert_eq!(rig.list(NodeId::ROOT, plus), ["file"]);
        assert_eq!(rig.list(DIR, plus), ["control"]);
    }
    assert_eq!(rig.attr(DIR).nlink, 2);
    assert_eq!(rig.read(FILE), b"");
    // Its numbers are given back as any others, and the directory is no other one's.
    rig.ok(NodeId::ROOT, Op::Forget { count: 2 }, &[DIR.0.to_le_bytes(), FILE.0.to_le_bytes()].concat());
    let sub = rig.entry(NodeId::ROOT, Op::Mkdir { name: b"d".to_vec(), mode: 0o755, umask: 0 });
    assert_eq!(rig.find(sub.node, ".agentfs").node, NodeId::NONE);
}

#[test]
fn it_cannot_be_changed_or_removed() {
    let mut rig = Rig::new(|base| std::fs::write(base.join("file"), "x").unwrap());
    let file = rig.find(NodeId::ROOT, "file").node;
    let other = || b"other".to_vec();
    for (op, errno) in [
        (Op::Mkdir { name: name(), mode: 0o755, umask: 0 }, Errno::EEXIST),
        (Op::Symlink { name: name() }, Errno::EEXIST),
        (Op::Mknod { name: name(), mode: libc::S_IFREG, rdev: 0, umask: 0 }, Errno::EEXIST),
        (Op::Create { name: name(), mode: 0o644, flags: 0, umask: 0 }, Errno::EEXIST),
        (Op::Link { target: file, name: name() }, Errno::EEXIST),
        (Op::Rmdir { name: name() }, Errno::EPERM),
        (Op::Unlink { name: name() }, Errno::EPERM),
        (Op::Rename { name: name(), new_parent: NodeId::ROOT, new_name: other(), flags: 0 }, Errno::EPERM),
        (Op::Rename { name: b"file".to_vec(), new_parent: NodeId::ROOT, new_name: name(), flags: 0 }, Errno::EPERM),
        (Op::Rename { name: b"file".to_vec(), new_parent: DIR, new_name: other(), flags: 0 }, Errno::EPERM),
        (Op::Link { target: FILE, name: other() }, Errno::EPERM),
    ] {
        assert_eq!(rig.error(NodeId::ROOT, op.clone()), errno, "{op:?}");
    }
    let mode = Op::SetAttr(SetAttr { mode: Some(0o666), ..SetAttr::default() });
    for op in [
        Op::Create { name: other(), mode: 0o644, flags: 0, umask: 0 },
        Op::Mkdir { name: other(), mode: 0o755, umask: 0 },
        Op::Unlink { name: b"control".to_vec() },
        Op::Rename { name: b"control".to_vec(), new_parent: NodeId::ROOT, new_name: other(), flags: 0 },
        Op::Tmpfile { mode: 0o644, flags: 0, umask: 0 },
        Op::RemoveXattr { name: b"user.a".to_vec() },
        mode.clone(),
    ] {
        assert_eq!(rig.error(DIR, op.clone()), Errno::EPERM, "{op:?}");
    }
    for op in [
        Op::Write { fh: 0, offset: 0, kill_suidgid: false },
        Op::Open { flags: libc::O_TRUNC as u32, kill_suidgid: false },
        Op::Fallocate { fh: 0, offset: 0, length: 9, mode: 0 },
        mode,
    ] {
        assert_eq!(rig.error(FILE, op.clone()), Errno::EPERM, "{op:?}");
    }
    let copy = Op::CopyFileRange { fh: 0, offset: 0, to: FILE, to_offset: 0, length: 1 };
    assert_eq!(rig.error(file, copy), Errno::EPERM);
    assert_eq!(rig.find(NodeId::ROOT, ".agentfs").node, DIR);
    assert_eq!(rig.find(DIR, "control").attr.mode, libc::S_IFREG | 0o600);
}

#[test]
fn an_entry_of_that_name_is_not_hidden() {
    let mut rig = Rig::new(|base| {
        std::fs::create_dir(base.join(".agentfs")).unwrap();
        std::fs::write(base.join(".agentfs/own"), "mine").unwrap();
    });
    let own = rig.find(NodeId::ROOT, ".agentfs").node;
    assert_ne!(own, DIR);
    assert_eq!(rig.list(NodeId::ROOT, true), [".agentfs"]);
    assert_eq!(rig.list(own, false), ["own"]);
    // It is a directory like any other, also for who removes it and makes it anew.
    rig.ok(own, Op::Unlink { name: b"own".to_vec() }, &[]);
    rig.ok(NodeId::ROOT, Op::Rmdir { name: name() }, &[]);
    assert_eq!(rig.find(NodeId::ROOT, ".agentfs").node, NodeId::NONE);
    let made = rig.entry(NodeId::ROOT, Op::Mkdir { name: name(), mode: 0o755, umask: 0 });
    assert_eq!(rig.find(NodeId::ROOT, ".agentfs").node, made.node);
    rig.freeze();
    assert_eq!(rig.find(NodeId::ROOT, ".agentfs").node, made.node);
}

#[test]
fn one_that_the_host_makes_later_is_shown() {
    let mut rig = Rig::new(|_| {});
    let door = rig.find(NodeId::ROOT, ".agentfs");
    assert_eq!(door.node, DIR);
    assert!(door.entry_valid_ns <= 1_000_000_000, "the kernel looks again");
    std::fs::create_dir(rig.base(".agentfs")).unwrap();
    let own = rig.find(NodeId::ROOT, ".agentfs").node;
    assert_ne!(own, DIR);
    rig.ok(NodeId::ROOT, Op::Rmdir { name: name() }, &[]);
}

#[test]
fn no_other_object_has_ioctls() {
    let mut rig = Rig::new(|base| std::fs::write(base.join("file"), "x").unwrap());
    let file = rig.find(NodeId::ROOT, "file").node;
    for node in [NodeId::ROOT, file, DIR] {
        assert_eq!(rig.error(node, Op::Ioctl { fh: 0, cmd: 1, out_size: 8 }), Errno::ENOTTY);
    }
    assert!(matches!(rig.ok(FILE, Op::StatFs, &[]).0, Reply::StatFs(_)));
}
