//! What takes the place of other bytes is on the disk before it does.

use super::Rig;
use crate::core::ids::ObjectId;
use crate::core::record::{Body, FileBody};
use shm_transport::wire::{Errno, NodeId, Op, Reply, Request};
use std::process::Command;

const ROOT: NodeId = NodeId::ROOT;

fn create(name: &str) -> Op {
    Op::Create { name: name.into(), mode: 0o644, flags: 0, umask: 0 }
}

fn rename(name: &str, new_name: &str, flags: u32) -> Op {
    Op::Rename { name: name.into(), new_parent: ROOT, new_name: new_name.into(), flags }
}

fn content(rig: &Rig, node: NodeId) -> std::sync::Arc<crate::content::Content> {
    let view = rig.branch.view();
    match view.object(ObjectId(node.0)).unwrap().unwrap().value.body {
        Body::File(FileBody::Content(id)) => rig.core.content(id).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn written(rig: &mut Rig, name: &str) -> NodeId {
    let node = rig.entry(ROOT, create(name)).node;
    rig.write(node, 0, b"new bytes");
    assert!(content(rig, node).is_dirty());
    node
}

/// Whether the request would be given to a thread that may wait.
fn may_block(rig: &Rig, node: NodeId, op: Op) -> bool {
    rig.session.may_block(&Request { caller: shm_transport::wire::Caller::default(), node, op })
}

#[test]
fn a_rename_over_a_file_makes_the_new_bytes_durable_first() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("base"), "old").unwrap());
    for target in ["base", "own"] {
        if target == "own" {
            rig.entry(ROOT, create("own"));
        }
        let node = written(&mut rig, "tmp");
        assert!(may_block(&rig, ROOT, rename("tmp", target, 0)));
        rig.ok(ROOT, rename("tmp", target, 0), &[]);
        assert!(!content(&rig, node).is_dirty(), "over {target}");
        assert_eq!(
            {
                let found = rig.find(ROOT, target).node;
                rig.read(found)
            },
            b"new bytes"
        );
    }
    let node = written(&mut rig, "swap");
    rig.ok(ROOT, rename("swap", "own", libc::RENAME_EXCHANGE), &[]);
    assert!(!content(&rig, node).is_dirty(), "an exchange replaces too");
}

#[test]
fn what_replaces_nothing_or_is_clean_waits_for_no_disk() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("base"), "old").unwrap());
    let node = written(&mut rig, "tmp");
    assert!(!may_block(&rig, ROOT, rename("tmp", "free", 0)));
    rig.ok(ROOT, rename("tmp", "free", 0), &[]);
    assert!(content(&rig, node).is_dirty());
    assert_eq!(rig.error(ROOT, rename("free", "base", libc::RENAME_NOREPLACE)), Errno::EEXIST);
    assert!(content(&rig, node).is_dirty());
    rig.ok(node, Op::Fsync { fh: 0, datasync: true }, &[]);
    assert!(!content(&rig, node).is_dirty());
    assert!(!may_block(&rig, ROOT, rename("free", "base", 0)));
    rig.ok(ROOT, rename("free", "base", 0), &[]);
    rig.write(node, 0, b"x");
    assert!(content(&rig, node).is_dirty(), "written again");
    // A file of the base has nothing to write out.
    let mut rig = Rig::new(|b| std::fs::write(b.join("a"), "old").unwrap());
    rig.entry(ROOT, create("b"));
    assert!(!may_block(&rig, ROOT, rename("a", "b", 0)));
}

/// Whether the host has yet to find a place for some of the file's bytes; `None` where that cannot be seen.
fn waits_for_a_place(rig: &Rig, node: NodeId) -> Option<bool> {
    let view = rig.branch.view();
    let FileBody::Content(id) = (match view.object(ObjectId(node.0)).unwrap().unwrap().value.body {
        Body::File(body) => body,
        other => panic!("{other:?}"),
    }) else {
        panic!("no content")
    };
    let told = Command::new("filefrag").arg("-v").arg(rig.core.contents.path(id)).output().ok()?;
    told.status.success().then(|| String::from_utf8_lossy(&told.stdout).contains("delalloc"))
}

#[test]
fn bytes_that_replaced_others_are_written_out_at_the_last_close() {
    let mut rig = Rig::new(|_| {});
    let flags = libc::O_TRUNC as u32 | libc::O_WRONLY as u32;
    let f = written(&mut rig, "f");
    rig.ok(f, Op::Fsync { fh: 0, datasync: true }, &[]);
    rig.ok(f, Op::Open { flags, kill_suidgid: false }, &[]);
    rig.write(f, 0, &vec![7; 100_000]);
    if waits_for_a_place(&rig, f) != Some(true) {
        eprintln!("skipped: bytes_that_replaced_others: the host does not tell which bytes it holds back");
        return;
    }
    let release = Op::Release { fh: 0, flags };
    assert!(may_block(&rig, f, release.clone()));
    assert_eq!(rig.ok(f, release.clone(), &[]).0, Reply::Ok);
    assert_eq!(waits_for_a_place(&rig, f), Some(false));
    // Only once, and not for bytes that were added.
    rig.write(f, 200_000, &vec![8; 100_000]);
    assert!(!may_block(&rig, f, release.clone()));
    rig.ok(f, release, &[]);
    assert_eq!(waits_for_a_place(&rig, f), Some(true));
}

/// The sweep for what a crash left runs beside programs: a file whose deletion no sync covers yet must be there when a power
/// loss takes the deletion back.
#[test]
fn a_sweep_takes_no_content_whose_deletion_is_not_durable() {
    let mut rig = Rig::new(|_| {});
    let node = written(&mut rig, "f");
    let (core, content) = (std::sync::Arc::clone(&rig.core), content(&rig, node));
    let (id, path) = (core.contents.ids().unwrap().next().unwrap().unwrap(), core.contents.root().to_owned());
    drop(content);
    let path = path.join(crate::content::Contents::relative(id));
    assert!(path.exists());
    let begun = std::time::Instant::now();
    rig.ok(ROOT, Op::Unlink { name: "f".into() }, &[]);
    rig.ok(ROOT, Op::Forget { count: 1 }, &node.0.to_le_bytes());
    assert!(core.store.get(&crate::core::keys::content(id)).is_none(), "the record is gone");
    crate::core::doom::sweep(&core, u64::MAX).unwrap();
    // The reaper syncs by itself some time later.
    assert!(
        path.exists() || begun.elapsed() > std::time::Duration::from_millis(200),
        "removed before that was durable"
    );
    core.sync().unwrap();
    assert!(!path.exists());
}
