//! A request that is submitted again after a crash is answered, not run again.

use super::Rig;
use shm_transport::wire::{Errno, NodeId, Op, Reply, RequestId};

const ROOT: NodeId = NodeId::ROOT;

#[test]
fn a_repeated_mutation_answers_what_it_answered_before() {
    let mut rig = Rig::new(|_| {});
    let mkdir = Op::Mkdir { name: "d".into(), mode: 0o755, umask: 0 };
    let id = RequestId(1001);
    let (first, _) = rig.run_as(id, ROOT, mkdir.clone(), &[]);
    assert!(matches!(first, Reply::Entry(_)));
    assert_eq!(rig.run_as(id, ROOT, mkdir.clone(), &[]).0, first, "same number: the recorded answer");
    assert_eq!(rig.error(ROOT, mkdir), Errno::EEXIST, "another number: a new request");
}

#[test]
fn the_record_outlives_the_daemon_and_ends_with_the_mount() {
    let mut rig = Rig::new(|_| {});
    let id = RequestId(1003);
    let unlink = Op::Unlink { name: "f".into() };
    rig.entry(ROOT, Op::Create { name: "f".into(), mode: 0o644, flags: 0, umask: 0 });
    assert_eq!(rig.run_as(id, ROOT, unlink.clone(), &[]).0, Reply::Ok);
    // A daemon that starts afresh knows nothing but the store.
    rig.attach();
    assert_eq!(rig.run_as(id, ROOT, unlink.clone(), &[]).0, Reply::Ok);
    rig.session.close().unwrap();
    rig.attach();
    assert_eq!(rig.run_as(id, ROOT, unlink, &[]).0, Reply::Error(Errno::ENOENT), "nothing is left to repeat");
}
