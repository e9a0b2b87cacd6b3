//! Limits: whoever wants more is refused, whoever gives back never, and a new count finds what was kept.

use super::super::quota::{BLOCK, Usage};
use super::super::record::{BranchRecord, Quota};
use super::super::{keys, state::Core};
use super::*;
use shm_transport::wire::SetAttr;

/// A branch with these limits; the base has a file of 10 blocks.
fn rig(blocks: Option<u64>, inodes: Option<u64>) -> Rig {
    let mut rig = Rig::new(|base| {
        std::fs::write(base.join("big"), vec![7; 10 * BLOCK as usize]).unwrap();
        std::fs::write(base.join("small"), b"x").unwrap();
    });
    limit(&mut rig, blocks, inodes);
    rig
}

fn limit(rig: &mut Rig, blocks: Option<u64>, inodes: Option<u64>) {
    let quota = Quota { bytes: blocks.map(|n| n * BLOCK), inodes };
    let id = rig.branch.id;
    let core = Arc::clone(&rig.core);
    rig.core
        .set_quota(&rig.branch, quota, || -> super::super::error::FsResult<()> {
            let record = BranchRecord { quota, ..core.branch_record(id)? };
            let mut batch = Batch::default();
            batch.put(keys::branch(id), record.encode());
            Ok(core.store.commit(&batch)?)
        })
        .unwrap();
}

/// Blocks and inodes in use; a fresh count of the records must say the same.
fn used(rig: &Rig) -> (u64, u64) {
    let told = rig.branch.ledger.usage().expect("a branch with limits is counted");
    assert_eq!(told, counted(&rig.core, &rig.branch), "what is kept in memory");
    (told.bytes / BLOCK, told.inodes)
}

fn counted(core: &Core, branch: &Branch) -> Usage {
    let root = branch.view().root;
    core.usage_of(branch.id, root).unwrap()
}

fn create(name: &str) -> Op {
    Op::Create { name: name.into(), mode: 0o644, flags: 0, umask: 0 }
}

fn resize(size: u64) -> Op {
    Op::SetAttr(SetAttr { size: Some(size), ..SetAttr::default() })
}

fn write(rig: &mut Rig, node: NodeId, offset: u64, len: u64) -> Reply {
    rig.run(node, Op::Write { fh: 0, offset, kill_suidgid: false }, &vec![1; len as usize]).0
}

const FULL: Reply = Reply::Error(Errno::EDQUOT);

#[test]
fn writes_stop_at_the_limit_and_go_on_after_a_delete() {
    let mut rig = rig(Some(4), None);
    let (a, b) = (rig.entry(NodeId::ROOT, create("a")).node, rig.entry(NodeId::ROOT, create("b")).node);
    assert_eq!(write(&mut rig, a, 0, 3 * BLOCK), Reply::Written { size: 3 * BLOCK as u32 });
    assert_eq!(write(&mut rig, b, 0, 1), Reply::Written { size: 1 });
    assert_eq!(used(&rig), (4, 2));
    // The rest of a block that counts already is free; one byte more is not.
    assert_eq!(write(&mut rig, b, 1, BLOCK - 1), Reply::Written { size: BLOCK as u32 - 1 });
    assert_eq!(write(&mut rig, b, BLOCK, 1), FULL);
    assert_eq!(write(&mut rig, a, 10 * BLOCK, 1), FULL);
    // In place there is nothing to count.
    assert_eq!(write(&mut rig, a, BLOCK, 2 * BLOCK), Reply::Written { size: 2 * BLOCK as u32 });
    assert_eq!((rig.attr(a).size, rig.attr(b).size), (3 * BLOCK, BLOCK));
    assert_eq!(used(&rig), (4, 2));
    rig.ok(NodeId::ROOT, Op::Unlink { name: "a".into() }, &[]);
    // Still held by the kernel.
    assert_eq!(used(&rig), (4, 2));
    let node = a.0.to_le_bytes();
    rig.ok(NodeId::ROOT, Op::Forget { count: 1 }, &node);
    assert_eq!(used(&rig), (1, 1));
    assert_eq!(write(&mut rig, b, BLOCK, 3 * BLOCK), Reply::Written { size: 3 * BLOCK as u32 });
    assert_eq!(used(&rig), (4, 1));
}

#[test]
fn sizes_that_grow_count_and_sizes_that_shrink_give_back() {
    let mut rig = rig(Some(4), None);
    let a = rig.entry(NodeId::ROOT, create("a")).node;
    assert_eq!(rig.error(a, resize(5 * BLOCK)), Errno::EDQUOT);
    rig.ok(a, resize(4 * BLOCK), &[]);
    assert_eq!(used(&rig).0, 4);
    assert_eq!(rig.error(a, Op::Fallocate { fh: 0, offset: 4 * BLOCK, length: 1, mode: 0 }), Errno::EDQUOT);
    // Space that no size tells of is not given out.
    let keep = libc::FALLOC_FL_KEEP_SIZE as u32;
    assert_eq!(rig.error(a, Op::Fallocate { fh: 0, offset: 4 * BLOCK, length: 1, mode: keep }), Errno::EOPNOTSUPP);
    rig.ok(a, Op::Fallocate { fh: 0, offset: 0, length: BLOCK, mode: keep }, &[]);
    rig.ok(a, resize(BLOCK + 1), &[]);
    assert_eq!(used(&rig).0, 2);
    rig.ok(a, Op::Fallocate { fh: 0, offset: BLOCK, length: 2 * BLOCK, mode: 0 }, &[]);
    assert_eq!(used(&rig).0, 3);
    // A change of the mode beside the size makes a new content: a smaller one fits where the old one did.
    rig.ok(a, resize(4 * BLOCK), &[]);
    let smaller = SetAttr { size: Some(3 * BLOCK), mode: Some(0o600), ..SetAttr::default() };
    rig.ok(a, Op::SetAttr(smaller), &[]);
    assert_eq!(used(&rig).0, 3);
    let emptied = SetAttr { size: Some(0), mode: Some(0o640), ..SetAttr::default() };
    rig.ok(a, Op::SetAttr(emptied), &[]);
    assert_eq!(used(&rig).0, 0);
}

#[test]
fn copies_of_base_files_count_once_they_are_made() {
    let mut rig = rig(Some(9), None);
    let (big, small) = (rig.find(NodeId::ROOT, "big").node, rig.find(NodeId::ROOT, "small").node);
    assert_eq!(used(&rig), (0, 0));
    assert_eq!(write(&mut rig, big, 0, 1), FULL);
    assert_eq!(rig.read(big), vec![7; 10 * BLOCK as usize]);
    // Other attributes copy nothing; neither does an end that leaves nothing.
    rig.ok(big, Op::SetAttr(SetAttr { mode: Some(0o600), ..SetAttr::default() }), &[]);
    assert_eq!(write(&mut rig, small, 1, 1), Reply::Written { size: 1 });
    assert_eq!(used(&rig), (1, 0));
    rig.ok(big, resize(8 * BLOCK), &[]);
    assert_eq!(used(&rig), (9, 0));
    let copy = |to, to_offset, length| Op::CopyFileRange { fh: 0, offset: 0, to, to_offset, length };
    assert_eq!(rig.error(big, copy(small, 1, 2 * BLOCK)), Errno::EDQUOT);
    rig.ok(big, copy(small, 0, BLOCK), &[]);
    assert_eq!(used(&rig), (9, 0));
}

/// Whoever is refused leaves nothing behind: the copy fits, what is to follow does not.
#[test]
fn a_refused_growth_copies_nothing_up() {
    let mut rig = rig(Some(11), None);
    let big = rig.find(NodeId::ROOT, "big").node;
    let copy = Op::CopyFileRange { fh: 0, offset: 0, to: big, to_offset: 10 * BLOCK, length: 2 * BLOCK };
    let allocate = Op::Fallocate { fh: 0, offset: 0, length: 12 * BLOCK, mode: 0 };
    for frozen in [false, true] {
        assert_eq!(write(&mut rig, big, 11 * BLOCK, 1), FULL);
        assert_eq!(rig.error(big, copy.clone()), Errno::EDQUOT);
        assert_eq!(rig.error(big, allocate.clone()), Errno::EDQUOT);
        assert_eq!(used(&rig).0, if frozen { 10 } else { 0 });
        assert_eq!(rig.read(big).len() as u64, 10 * BLOCK);
        if !frozen {
            // As of a base file, so of one whose bytes a snapshot keeps.
            assert_eq!(write(&mut rig, big, 0, 1), Reply::Written { size: 1 });
            rig.freeze();
            limit(&mut rig, Some(21), None);
        }
    }
    assert_eq!(write(&mut rig, big, 10 * BLOCK, 1), Reply::Written { size: 1 });
    assert_eq!(used(&rig).0, 21);
}

#[test]
fn a_snapshot_keeps_what_it_holds_counted() {
    let mut rig = rig(Some(3), Some(1));
    let a = rig.entry(NodeId::ROOT, create("a")).node;
    write(&mut rig, a, 0, 2 * BLOCK);
    rig.freeze();
    assert_eq!(used(&rig), (2, 1));
    // The first write makes a copy, for which there is no room; the file stays.
    assert_eq!(write(&mut rig, a, 0, 1), FULL);
    assert_eq!(rig.read(a).len() as u64, 2 * BLOCK);
    rig.ok(NodeId::ROOT, Op::Unlink { name: "a".into() }, &[]);
    let node = a.0.to_le_bytes();
    rig.ok(NodeId::ROOT, Op::Forget { count: 1 }, &node);
    assert_eq!(used(&rig), (2, 1));
    assert_eq!(rig.error(NodeId::ROOT, create("b")), Errno::EDQUOT);
}

/// What no snapshot has comes back with the file; nothing has to be folded for it.
#[test]
fn what_a_snapshot_does_not_have_comes_back_at_once() {
    let mut rig = rig(Some(9), Some(2));
    let a = rig.entry(NodeId::ROOT, create("a")).node;
    write(&mut rig, a, 0, 2 * BLOCK);
    rig.freeze();
    // A version of its own for the head, and a file that only the head has.
    write(&mut rig, a, 0, 3 * BLOCK);
    let b = rig.entry(NodeId::ROOT, create("b")).node;
    write(&mut rig, b, 0, 4 * BLOCK);
    assert_eq!(used(&rig), (9, 2));
    for (name, node, left) in [("b", b, (5, 1)), ("a", a, (2, 1))] {
        rig.ok(NodeId::ROOT, Op::Unlink { name: name.into() }, &[]);
        rig.ok(NodeId::ROOT, Op::Forget { count: 1 }, &node.0.to_le_bytes());
        assert_eq!(used(&rig), left, "{name} is gone");
    }
}

#[test]
fn objects_are_counted_and_names_are_not() {
    let mut rig = rig(None, Some(4));
    let a = rig.entry(NodeId::ROOT, create("a")).node;
    rig.ok(NodeId::ROOT, Op::Mkdir { name: "d".into(), mode: 0o755, umask: 0 }, &[]);
    rig.ok(NodeId::ROOT, Op::Symlink { name: "l".into() }, b"a");
    rig.ok(NodeId::ROOT, Op::Mknod { name: "p".into(), mode: libc::S_IFIFO | 0o600, rdev: 0, umask: 0 }, &[]);
    assert_eq!(used(&rig), (0, 4));
    assert_eq!(rig.error(NodeId::ROOT, create("b")), Errno::EDQUOT);
    assert_eq!(rig.error(NodeId::ROOT, create("a")), Errno::ESTALE, "what exists is said first");
    assert_eq!(rig.error(NodeId::ROOT, Op::Mkdir { name: "e".into(), mode: 0o755, umask: 0 }), Errno::EDQUOT);
    assert_eq!(rig.error(NodeId::ROOT, Op::Tmpfile { mode: 0o600, flags: 0, umask: 0 }), Errno::EDQUOT);
    rig.ok(NodeId::ROOT, Op::Link { target: a, name: "again".into() }, &[]);
    rig.ok(NodeId::ROOT, Op::Rmdir { name: "d".into() }, &[]);
    assert_eq!(used(&rig), (0, 4));
    let found = rig.branch.view().object(super::super::ids::ObjectId(a.0)).unwrap();
    assert!(found.is_some_and(|found| found.value.nlink == 2));
}

#[test]
fn the_disk_that_a_mount_shows_is_the_quota() {
    let mut rig = rig(Some(100), Some(50));
    let a = rig.entry(NodeId::ROOT, create("a")).node;
    write(&mut rig, a, 0, 30 * BLOCK);
    let told = |rig: &mut Rig| match rig.ok(NodeId::ROOT, Op::StatFs, &[]).0 {
        Reply::StatFs(told) => told,
        other => panic!("{other:?}"),
    };
    let full = told(&mut rig);
    assert_eq!((full.blocks, full.bfree, full.bavail, full.bsize), (100, 70, 70, BLOCK as u32));
    assert_eq!((full.files, full.ffree), (50, 49));
    // Less than is used: nothing is left, and what is there can be read and given back.
    limit(&mut rig, Some(20), Some(0));
    let over = told(&mut rig);
    assert_eq!((over.blocks, over.bfree, over.files, over.ffree), (20, 0, 0, 0));
    assert_eq!(rig.read(a).len() as u64, 30 * BLOCK);
    assert_eq!(write(&mut rig, a, 30 * BLOCK, 1), FULL);
    rig.ok(a, resize(25 * BLOCK), &[]);
    assert_eq!(used(&rig).0, 25);
    limit(&mut rig, None, None);
    assert!(told(&mut rig).blocks > 100, "without limits the store's disk");
    assert_eq!(rig.branch.ledger.usage(), None);
}

#[test]
fn another_daemon_counts_the_same() {
    let mut rig = rig(Some(100), Some(50));
    let a = rig.entry(NodeId::ROOT, create("a")).node;
    write(&mut rig, a, 0, 5 * BLOCK + 1);
    rig.ok(NodeId::ROOT, Op::Mkdir { name: "d".into(), mode: 0o755, umask: 0 }, &[]);
    rig.freeze();
    write(&mut rig, a, 0, 1);
    let before = used(&rig);
    assert_eq!(before, (12, 2));
    rig.restart_daemon();
    assert_eq!(rig.branch.ledger.usage(), None, "nobody asked yet");
    rig.attach();
    assert_eq!(used(&rig), before);
}
