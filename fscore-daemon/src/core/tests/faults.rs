//! The store's disk has no space, or fails, at every operation: the store stays consistent and the mount works.

use super::history::History;
use super::*;
use crate::core::error::FsError;
use nix::errno::Errno as Host;

const OPERATIONS: usize = 60;

fn span(seed: u64) -> (u64, u64) {
    let mut whole = History::begin(seed);
    let begin = whole.disk.ops();
    whole.go_on(OPERATIONS, false);
    (begin, whole.disk.ops())
}

fn after_kill(history: &History, context: &str) {
    let left = tempfile::tempdir().unwrap();
    history.host.after_kill(&left.path().join("contents"));
    history.check_after(&history.disk.after_kill(), left, true, context);
}

#[test]
fn no_space_at_any_operation_is_told_and_passes() {
    let (begin, end) = span(6);
    for at in begin..end {
        for times in [1, 5] {
            let context = format!("operation {at}, {times} times");
            let mut history = History::begin(6);
            history.disk.fail_at(at, times, Host::ENOSPC);
            history.go_on(OPERATIONS, false);
            history.disk.fail_at(at, 0, Host::ENOSPC);
            history.check_now(&context);
            if history.store.refusing_writes().is_none() && history.rig.core.contents.failed_sync().is_none() {
                let rig = &mut history.rig;
                let node =
                    rig.entry(NodeId::ROOT, Op::Mknod { name: "x".into(), mode: 0o100644, rdev: 0, umask: 0 }).node;
                rig.write(node, 0, b"goes on");
                rig.ok(node, Op::Fsync { fh: 0, datasync: false }, &[]);
                rig.ok(NodeId::ROOT, Op::Unlink { name: "x".into() }, &[]);
            }
            after_kill(&history, &context);
        }
    }
}

#[test]
fn an_io_error_at_any_operation_loses_nothing_that_was_acknowledged() {
    let (begin, end) = span(7);
    let (mut refused, mut unsynced) = (0, 0);
    for at in begin..end {
        let context = format!("operation {at}");
        let mut history = History::begin(7);
        history.disk.fail_at(at, 1, Host::EIO);
        history.go_on(OPERATIONS, false);
        history.disk.fail_at(at, 0, Host::EIO);
        history.check_now(&context);
        let rig = &mut history.rig;
        if history.store.refusing_writes().is_some() {
            refused += 1;
            let made = rig.run(NodeId::ROOT, Op::Mkdir { name: "no".into(), mode: 0o755, umask: 0 }, &[]).0;
            assert_eq!(made, Reply::Error(Errno::EIO), "{context}");
            assert!(matches!(rig.core.sync(), Err(FsError::Store(_)) | Ok(())), "{context}");
        }
        if rig.core.contents.failed_sync().is_some() {
            unsynced += 1;
            for op in [Op::SyncFs, Op::FsyncDir { datasync: false }] {
                assert_eq!(rig.run(NodeId::ROOT, op, &[]).0, Reply::Error(Errno::EIO), "{context}");
            }
        }
        after_kill(&history, &context);
    }
    assert!(refused > 10 && unsynced > 2, "{refused} {unsynced}");
}
