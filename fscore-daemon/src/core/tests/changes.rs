//! A change of attributes happens whole or not at all, and once.

use super::Rig;
use super::spy::Spy;
use crate::core::edit::Edit;
use crate::core::ids::ObjectId;
use crate::core::keys;
use crate::core::record::{Body, FileBody};
use crate::store::Store;
use shm_transport::wire::{Errno, NodeId, Op, Reply, RequestId, SetAttr, SetTime, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ROOT: NodeId = NodeId::ROOT;
const NONE: SetAttr = SetAttr {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    atime: None,
    mtime: None,
    ctime: None,
    kill_suidgid: false,
};
const O_TRUNC: Op = Op::Open { flags: libc::O_TRUNC as u32 | libc::O_WRONLY as u32, kill_suidgid: true };

fn create(name: &str, mode: u32) -> Op {
    Op::Create { name: name.into(), mode, flags: 0, umask: 0 }
}

fn body(rig: &Rig, node: NodeId) -> FileBody {
    match rig.branch.view().object(ObjectId(node.0)).unwrap().unwrap().value.body {
        Body::File(body) => body,
        other => panic!("{other:?}"),
    }
}

/// A file of the base, one with own content, one without, and one whose content a snapshot shares.
fn every_body(rig: &mut Rig) -> Vec<NodeId> {
    let own = rig.entry(ROOT, create("own", 0o4755)).node;
    let shared = rig.entry(ROOT, create("shared", 0o4755)).node;
    rig.write(shared, 0, b"0123456789");
    rig.freeze();
    rig.write(own, 0, b"0123456789");
    let hole = rig.entry(ROOT, create("hole", 0o4755)).node;
    rig.ok(hole, Op::SetAttr(SetAttr { size: Some(10), ..NONE }), &[]);
    vec![rig.find(ROOT, "base").node, own, hole, shared]
}

fn with_base(spy: &Arc<Spy>) -> Rig {
    let store: Arc<dyn Store> = Arc::<Spy>::clone(spy);
    Rig::over(store, |b| std::fs::write(b.join("base"), "0123456789").unwrap())
}

#[test]
fn a_full_store_refuses_a_change_of_size_and_leaves_everything_as_it_was() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    for node in every_body(&mut rig) {
        let bytes = rig.read(node);
        let before = rig.attr(node);
        for size in [0, 4, 20] {
            spy.set_full(true);
            let set = SetAttr { size: Some(size), mode: Some(0o600), mtime: Some(SetTime::Now), ..NONE };
            assert_eq!(rig.error(node, Op::SetAttr(set)), Errno::ENOSPC);
            spy.set_full(false);
            assert_eq!(rig.attr(node), before, "size {size}");
            assert_eq!(rig.read(node), bytes);
        }
        // The bits that such an open strips are part of the batch, too.
        if before.mode & 0o4000 != 0 {
            spy.set_full(true);
            assert_eq!(rig.error(node, O_TRUNC), Errno::ENOSPC);
            spy.set_full(false);
            assert_eq!((rig.attr(node), rig.read(node)), (before, bytes));
        }
    }
    rig.core.sync().unwrap();
    assert_eq!(rig.core.contents.ids().unwrap().count(), 2, "nothing half-made is left");
}

#[test]
fn times_that_do_not_get_into_a_batch_are_taken_back() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    let own = *every_body(&mut rig).get(1).unwrap();
    let before = rig.attr(own);
    spy.set_full(true);
    let mtime = Some(SetTime::At(Timestamp { sec: 5, nsec: 0 }));
    assert_eq!(rig.error(own, Op::SetAttr(SetAttr { mode: Some(0o600), mtime, ..NONE })), Errno::ENOSPC);
    let after = rig.attr(own);
    assert_eq!((after.mode, after.atime, after.mtime), (before.mode, before.atime, before.mtime));
    // Alone they are the content file's own and need no batch.
    rig.ok(own, Op::SetAttr(SetAttr { mtime, ..NONE }), &[]);
    assert_eq!(rig.attr(own).mtime, Timestamp { sec: 5, nsec: 0 });
}

#[test]
fn a_change_of_size_is_at_most_one_batch_with_its_reply() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    for (index, node) in every_body(&mut rig).into_iter().enumerate() {
        for (step, size) in [6, 30, 0, 7].into_iter().enumerate() {
            let (before, mode) = (spy.batches(), 0o600 + step as u32);
            let id = RequestId(10_001 + (index * 100 + step * 2) as u64);
            let set = Op::SetAttr(SetAttr { size: Some(size), mode: Some(mode), ..NONE });
            let (first, _) = rig.run_as(id, node, set.clone(), &[]);
            let Reply::Attr { attr, .. } = first else { panic!("{first:?}") };
            assert_eq!((attr.size, attr.mode & 0o7777), (size, mode));
            assert_eq!(spy.batches(), before + 1, "body {index}, size {size}");
            rig.attach();
            assert_eq!(rig.run_as(id, node, set, &[]).0, first, "answered from the record");
            assert_eq!(rig.attr(node).size, size);
        }
        assert_eq!(rig.read(node), [0; 7]);
    }
    rig.core.sync().unwrap();
    assert_eq!(
        rig.core.contents.ids().unwrap().count(),
        1,
        "contents that were replaced are gone; the snapshot's stays"
    );
}

#[test]
fn an_own_content_is_cut_in_place_without_a_batch() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    let f = rig.entry(ROOT, create("f", 0o644)).node;
    rig.write(f, 0, b"0123456789");
    let (content, batches) = (body(&rig, f), spy.batches());
    spy.set_full(true);
    rig.ok(f, Op::SetAttr(SetAttr { size: Some(5), ..NONE }), &[]);
    assert_eq!(rig.read(f), b"01234");
    rig.ok(f, O_TRUNC, &[]);
    assert_eq!((rig.attr(f).size, body(&rig, f), spy.batches()), (0, content, batches));
}

#[test]
fn a_snapshot_keeps_the_bytes_of_a_file_that_is_cut() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    let f = rig.entry(ROOT, create("f", 0o644)).node;
    rig.write(f, 0, b"0123456789");
    let FileBody::Content(old) = body(&rig, f) else { panic!("content") };
    rig.freeze();
    rig.ok(f, Op::SetAttr(SetAttr { size: Some(3), ..NONE }), &[]);
    assert_eq!(rig.read(f), b"012");
    rig.freeze();
    rig.ok(f, O_TRUNC, &[]);
    assert_eq!(rig.read(f), b"");
    rig.core.sync().unwrap();
    assert_eq!(std::fs::read(rig.core.contents.path(old)).unwrap(), b"0123456789");
}

#[test]
fn a_batch_that_may_be_in_the_log_keeps_its_content_file() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    let base = rig.find(ROOT, "base").node;
    spy.lies_once.store(true, Ordering::SeqCst);
    let (reply, _) = rig.run(base, Op::Write { fh: 0, offset: 2, kill_suidgid: false }, b"xy");
    assert_eq!(reply, Reply::Error(Errno::EIO));
    // What the next start finds in the log refers to the copy.
    assert_eq!(rig.read(base), b"0123456789");
}

#[test]
fn a_cut_file_keeps_its_access_time_and_gets_a_new_modification_time() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    let old = Timestamp { sec: 1_000, nsec: 7 };
    for node in every_body(&mut rig) {
        let at = Some(SetTime::At(old));
        for size in [4, 0] {
            rig.ok(node, Op::SetAttr(SetAttr { atime: at, mtime: at, ..NONE }), &[]);
            rig.ok(node, Op::SetAttr(SetAttr { size: Some(size), mode: Some(0o640), ..NONE }), &[]);
            let attr = rig.attr(node);
            assert_eq!((attr.size, attr.atime), (size, old));
            assert!(attr.mtime > old && attr.ctime > old, "{attr:?}");
            // Both at once: the time that was given counts.
            rig.ok(node, Op::SetAttr(SetAttr { size: Some(size), mode: Some(0o600), mtime: at, ..NONE }), &[]);
            assert_eq!(rig.attr(node).mtime, old);
        }
    }
}

#[test]
fn numbers_that_no_host_takes_are_refused() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    for node in every_body(&mut rig) {
        let before = rig.attr(node);
        for nsec in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2, u32::MAX] {
            let time = Timestamp { sec: 1, nsec };
            let at = Some(SetTime::At(time));
            assert_eq!(rig.error(node, Op::SetAttr(SetAttr { mtime: at, ..NONE })), Errno::EINVAL);
            assert_eq!(rig.error(node, Op::SetAttr(SetAttr { atime: at, size: Some(1), ..NONE })), Errno::EINVAL);
            assert_eq!(rig.error(node, Op::SetAttr(SetAttr { ctime: Some(time), ..NONE })), Errno::EINVAL);
        }
        assert_eq!(rig.error(node, Op::SetAttr(SetAttr { size: Some(u64::MAX), ..NONE })), Errno::EFBIG);
        assert_eq!(rig.error(node, Op::Write { fh: 0, offset: u64::MAX, kill_suidgid: false }), Errno::EFBIG);
        assert_eq!(rig.attr(node), before);
        assert_eq!(rig.read(node).len(), 10);
    }
    // Larger than the host's file system can have: it says so, and not the first write.
    let f = rig.entry(ROOT, create("f", 0o644)).node;
    let huge = Op::SetAttr(SetAttr { size: Some(i64::MAX as u64), ..NONE });
    match rig.run(f, huge, &[]).0 {
        Reply::Error(error) => {
            assert_eq!((error, rig.attr(f).size), (Errno::EFBIG, 0));
        }
        Reply::Attr { .. } => rig.write(f, 0, b"x"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.error(ROOT, Op::SetAttr(SetAttr { size: Some(1), ..NONE })), Errno::EISDIR);
}

#[test]
fn a_range_that_no_file_has_is_refused_before_anything_is_copied() {
    let spy = Spy::new();
    let mut rig = with_base(&spy);
    let base = rig.find(ROOT, "base").node;
    let fallocate = |offset, length| Op::Fallocate { fh: 0, offset, length, mode: 0 };
    let max = i64::MAX as u64;
    for (offset, length) in [(max, 1), (1, max), (u64::MAX, 1), (0, u64::MAX), (max, max)] {
        assert_eq!(rig.error(base, fallocate(offset, length)), Errno::EFBIG);
    }
    assert_eq!(rig.error(base, fallocate(0, 0)), Errno::EINVAL);
    assert_eq!(rig.core.contents.ids().unwrap().count(), 0);
}

#[test]
fn writers_that_meet_at_the_first_change_lose_nothing() {
    const WRITERS: usize = 8;
    const PIECE: usize = 4096;
    for round in 0..16_u8 {
        let mut rig = with_base(&Spy::new());
        let base = rig.find(ROOT, "base").node;
        let (session, branch) = (Arc::clone(&rig.session), Arc::clone(&rig.branch));
        let start = std::sync::Barrier::new(WRITERS);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (session, branch, start) = (&session, &branch, &start);
                scope.spawn(move || {
                    start.wait();
                    let view = branch.view();
                    let bytes = [round + writer as u8; PIECE];
                    let at = (writer * PIECE) as i64;
                    let write = |fd: std::os::fd::BorrowedFd<'_>| {
                        nix::sys::uio::pwrite(fd, &bytes, at).map_err(crate::core::error::sys("write"))
                    };
                    assert_eq!(session.with_own_content(&view, ObjectId(base.0), 0, write).unwrap(), PIECE);
                });
            }
        });
        let expected: Vec<u8> = (0..WRITERS).flat_map(|writer| [round + writer as u8; PIECE]).collect();
        assert_eq!(rig.read(base), expected);
        assert_eq!(rig.core.contents.ids().unwrap().count(), 1, "copied once");
        assert_eq!(std::fs::read(rig.base("base")).unwrap(), b"0123456789");
    }
}

#[test]
fn one_change_looks_at_a_name_of_the_base_once() {
    let spy = Spy::new();
    let rig = with_base(&spy);
    let view = rig.branch.view();
    let mut edit = Edit::new(&rig.core, &view);
    let found = edit.child(view.root, b"base").unwrap().unwrap().object;
    // What is decided by the first look is not mixed with what the host has a moment later.
    std::fs::remove_file(rig.base("base")).unwrap();
    edit.remove_name(view.root, b"base").unwrap();
    edit.into_change().commit(spy.as_ref()).unwrap();
    let noted = spy.get(&keys::prename(view.head(), view.root, b"base")).unwrap();
    assert_eq!(noted, found.0.to_le_bytes());
    assert!(view.child(view.root, b"base").unwrap().is_none());
}
