//! Who has a branch mounted is known to a daemon that starts afresh.

use super::{Rig, SESSION, open};
use crate::core::error::FsError;
use crate::core::ids::ObjectId;
use crate::core::keys;
use crate::core::member::Member;
use crate::core::session::Session;
use crate::store::Batch;
use shm_transport::wire::{Errno, NodeId, Op, Reply, RequestId, SessionId};
use std::path::Path;
use std::sync::Arc;

const ROOT: NodeId = NodeId::ROOT;
const READER: SessionId = SessionId(8);

fn reader(rig: &Rig) -> Arc<Session> {
    Session::open(Arc::clone(&rig.core), READER, Arc::clone(&rig.branch), true, Path::new("/mnt/reader")).unwrap()
}

/// A file without a name that both mounts may have open.
fn orphan(rig: &mut Rig) -> NodeId {
    let f = rig.entry(ROOT, Op::Create { name: "f".into(), mode: 0o644, flags: 0, umask: 0 }).node;
    rig.write(f, 0, b"held");
    rig.ok(ROOT, Op::Unlink { name: "f".into() }, &[]);
    f
}

fn is_there(rig: &Rig, node: NodeId) -> bool {
    rig.core.store.get(&keys::object(ObjectId(node.0), rig.branch.view().head())).is_some()
}

fn replies(rig: &Rig, session: SessionId) -> usize {
    let (prefix, mut count) = (keys::prefix(b'R', &[session.0]), 0);
    rig.core.store.scan(&prefix, &mut |key, _| {
        count += usize::from(key.starts_with(&prefix));
        key.starts_with(&prefix)
    });
    count
}

#[test]
fn what_a_mount_may_hold_that_is_still_on_its_way_back_is_kept() {
    let mut rig = Rig::new(|_| {});
    let _reader = reader(&rig);
    let f = orphan(&mut rig);
    rig.restart_daemon();
    rig.attach();
    // The writer's kernel lets go of it; the reader has not come back yet and may have it open.
    rig.ok(ROOT, Op::Forget { count: 1 }, &f.0.to_le_bytes());
    assert!(is_there(&rig, f), "an open file of the other mount must not go");
    rig.session.close().unwrap();
    assert!(is_there(&rig, f), "the writer is not the last mount");
    let back = reader(&rig);
    back.close().unwrap();
    assert!(!is_there(&rig, f));
    assert!(rig.core.members().unwrap().is_empty());
}

#[test]
fn the_last_forget_of_the_only_mount_gives_back() {
    let mut rig = Rig::new(|_| {});
    reader(&rig).close().unwrap();
    let f = orphan(&mut rig);
    rig.restart_daemon();
    rig.attach();
    rig.ok(ROOT, Op::Forget { count: 1 }, &f.0.to_le_bytes());
    assert!(!is_there(&rig, f));
}

#[test]
fn a_mount_that_never_comes_back_can_be_ended() {
    let mut rig = Rig::new(|_| {});
    let f = orphan(&mut rig);
    rig.restart_daemon();
    let members = rig.core.members_of(rig.branch.id).unwrap();
    let [member] = members.as_slice() else { panic!("{members:?}") };
    assert_eq!((member.session, member.read_only, member.mountpoint.as_path()), (SESSION, false, Path::new("/mnt/b")));
    assert!(is_there(&rig, f) && replies(&rig, SESSION) > 0);
    assert!(rig.core.end_session(SESSION).unwrap());
    assert!(!is_there(&rig, f));
    assert_eq!(replies(&rig, SESSION), 0);
    assert!(rig.core.members().unwrap().is_empty());
    assert!(!rig.core.end_session(SESSION).unwrap(), "it is known no longer");
}

#[test]
fn ending_a_dead_mount_leaves_what_a_living_one_may_hold() {
    let mut rig = Rig::new(|_| {});
    let living = reader(&rig);
    let f = orphan(&mut rig);
    assert!(rig.core.end_session(SESSION).unwrap());
    assert!(is_there(&rig, f));
    living.close().unwrap();
    assert!(!is_there(&rig, f));
}

#[test]
fn a_start_of_the_host_ends_every_mount_of_before() {
    let mut rig = Rig::new(|_| {});
    let f = orphan(&mut rig);
    let mut record = Member::new(SESSION, rig.branch.id, false, Path::new("/mnt/b"));
    record.set_boot("of another start");
    let mut batch = Batch::default();
    batch.put(keys::member(rig.branch.id, SESSION), record.encode());
    rig.core.store.commit(&batch).unwrap();
    rig.restart_daemon();
    assert!(rig.core.members().unwrap().is_empty());
    assert_eq!((is_there(&rig, f), replies(&rig, SESSION)), (false, 0));
}

#[test]
fn a_start_goes_on_with_giving_back() {
    let mut rig = Rig::new(|_| {});
    let f = orphan(&mut rig);
    // The daemon died between the batch that ended the last session and the one that gives back.
    let mut batch = Batch::default();
    batch.delete(keys::member(rig.branch.id, SESSION));
    rig.core.store.commit(&batch).unwrap();
    rig.restart_daemon();
    assert!(!is_there(&rig, f));
}

#[test]
fn a_session_stays_with_its_branch_and_mode() {
    let rig = Rig::new(|_| {});
    let open_as_reader =
        || Session::open(Arc::clone(&rig.core), SESSION, Arc::clone(&rig.branch), true, Path::new("/mnt/b")).map(drop);
    assert!(matches!(open_as_reader(), Err(FsError::Invalid)));
    drop(open(&rig.core, &rig.branch, SESSION));
    assert_eq!(rig.core.members().unwrap().len(), 1);
}

#[test]
fn a_mutation_of_before_the_restart_is_answered_and_not_run_again() {
    let mut rig = Rig::new(|_| {});
    let id = RequestId(901);
    let rmdir = Op::Rmdir { name: "d".into() };
    rig.entry(ROOT, Op::Mkdir { name: "d".into(), mode: 0o755, umask: 0 });
    assert_eq!(rig.run_as(id, ROOT, rmdir.clone(), &[]).0, Reply::Ok);
    rig.restart_daemon();
    rig.attach();
    assert_eq!(rig.run_as(id, ROOT, rmdir.clone(), &[]).0, Reply::Ok);
    assert_eq!(rig.error(ROOT, rmdir), Errno::ENOENT);
}

#[test]
fn one_orphan_that_cannot_go_does_not_keep_the_others() {
    let mut rig = Rig::new(|_| {});
    let (bad, good) = (orphan(&mut rig), orphan(&mut rig));
    let mut batch = Batch::default();
    batch.put(keys::object(ObjectId(bad.0), rig.branch.view().head()), b"damaged".to_vec());
    rig.core.store.commit(&batch).unwrap();
    let both: Vec<u8> = [bad, good].iter().flat_map(|node| node.0.to_le_bytes()).collect();
    assert_eq!(rig.run(ROOT, Op::Forget { count: 2 }, &both).0, Reply::Error(Errno::EIO));
    assert!(!is_there(&rig, good));
}
