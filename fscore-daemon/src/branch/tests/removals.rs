//! What goes with a branch or snapshot, and what must stay for others.

use super::World;
use super::merges::{merge, preferring};
use crate::branch::Step;
use crate::core::ids::BranchId;
use crate::core::keys;
use crate::core::record::{Body, FileBody, ObjectRecord, XattrSet};
use shm_transport::control::{
    BranchInfo, Collected, Command, CommitPlan, Limit, Limits, Merged, Removed, Side, Undone,
};
use std::collections::BTreeSet;

impl World {
    pub(super) fn delete(&self, name: &str) -> Removed {
        let removed = self.ask(&Command::BranchDelete { name: name.into(), dry_run: false }).unwrap();
        self.sound();
        removed
    }

    pub(super) fn forget(&self, branch: &str, name: &str) {
        let command = Command::SnapshotDelete { branch: branch.into(), name: name.into(), dry_run: false };
        self.ask::<()>(&command).unwrap();
        self.sound();
    }

    /// A commit into the base that somebody carries out by hand.
    fn committed(&self, branch: &str, by_hand: impl FnOnce()) {
        let command = Command::CommitPrepare { branch: branch.into(), dry_run: false, prefer: Vec::new() };
        let plan: CommitPlan = self.ask(&command).unwrap();
        assert!(plan.id > 0 && plan.conflicts.is_empty(), "{plan:?}");
        by_hand();
        self.ask::<()>(&Command::CommitFinish { id: plan.id }).unwrap();
        self.sound();
    }

    fn undone(&self, branch: &str, to: &str) -> Undone {
        let command = Command::Undo { branch: branch.into(), to: Some(to.into()), paths: Vec::new(), dry_run: false };
        self.ask(&command).unwrap()
    }
}

/// After a commit into the base neither the branch nor its parent shows the state that they have in common any more;
/// the branch's next merge asks for it.
#[test]
fn a_fork_point_stays_for_the_next_merge() {
    let world = World::new();
    let a = world.make("a");
    world.add(a, world.ino(""), "mine", "text");
    let b = world.fork("b", "a");
    world.write(b, "f", "ours");
    let (_, fork) = world.core.branch_record(b).unwrap().from.unwrap();
    let base = world.base();
    world.committed("b", || {
        world.add_in_base("mine", "text");
        std::fs::write(base.join("f"), "ours").unwrap();
    });
    world.write(a, "d/g", "theirs");
    world.committed("a", || std::fs::write(base.join("d/g"), "theirs").unwrap());
    for branch in [a, b] {
        assert!(!world.view(branch).chain.contains(&fork), "nobody inherits from it");
    }
    assert!(world.store.get(&keys::epoch(fork)).is_some(), "the fork point is kept alive");
    // It goes with the branch that asks for it.
    world.ask::<Merged>(&merge("b", false)).unwrap();
    world.delete("b");
    assert!(world.store.get(&keys::epoch(fork)).is_none(), "nobody asks for it any more");
}

#[test]
fn what_another_branch_kept_of_a_deleted_one_stays() {
    let world = World::new();
    let a = world.make("a");
    world.write(a, "f", "first");
    let b = world.fork("b", "a");
    world.write(b, "d/g", "second");
    world.snapshot("b", "kept");
    let state = |name: &str| world.tree(&world.branches.state(name).unwrap());
    let before = state("b@kept");
    // From the base on: it is the child of `a` no longer.
    world.undone("b", "@base");
    world.forget("b", "before-undo-1");
    let dry: Removed = world.ask(&Command::BranchDelete { name: "a".into(), dry_run: true }).unwrap();
    let removed = world.delete("a");
    assert_eq!((dry.contents, removed.contents), (0, 0), "the other branch needs them");
    assert_eq!(state("b@kept"), before);
    assert_eq!(contents(&world, b), 0);
    // The last one that needs it takes it along.
    world.forget("b", "kept");
    assert_eq!(files(&world), 0, "everything was given back");
}

/// Whichever way two states become one, what is left of both knows what the base had.
#[test]
fn states_that_become_one_know_what_the_base_had() {
    for named in [true, false] {
        let world = World::new();
        let a = world.make("a");
        world.write(a, "f", "first");
        world.snapshot("a", "one");
        world.unlink(a, "d", "g");
        world.snapshot("a", "two");
        world.add(a, world.ino(""), "new", "text");
        if named {
            world.snapshot("a", "three");
        }
        world.forget("a", "one");
        world.forget("a", "two");
        let collect = Command::Gc { branches: Vec::new(), dry_run: false };
        let collected: Collected = world.ask(&collect).unwrap();
        assert!(collected.folded > 0 && !collected.left, "{collected:?}");
        world.sound();
        let conflicts = || {
            let command = Command::CommitPrepare { branch: "a".into(), dry_run: true, prefer: Vec::new() };
            let plan: CommitPlan = world.ask(&command).unwrap();
            plan.conflicts.into_iter().map(|conflict| conflict.path).collect::<Vec<_>>()
        };
        assert!(conflicts().is_empty());
        std::fs::write(world.base().join("f"), "work of the host").unwrap();
        std::fs::write(world.base().join("d/g"), "work of the host").unwrap();
        std::fs::write(world.base().join("new"), "work of the host").unwrap();
        assert_eq!(conflicts(), ["d/g", "f", "new"]);
    }
}

impl World {
    /// Sets limits, and answers what is known to be used: bytes and inodes.
    fn limited(&self, name: &str) -> (u64, u64) {
        let limits = Limits { bytes: Some(Limit::Max(1 << 20)), inodes: Some(Limit::Max(100)) };
        self.ask::<BranchInfo>(&Command::BranchQuota { name: name.into(), limits }).unwrap();
        self.used(name)
    }

    /// What is known to be used is what a fresh count finds.
    #[track_caller]
    fn used(&self, name: &str) -> (u64, u64) {
        let branch = self.core.branch(self.branches.find(name).unwrap()).unwrap();
        let known = branch.ledger.usage().unwrap();
        let root = branch.view().root;
        assert_eq!(known, self.core.usage_of(branch.id, root).unwrap());
        (known.bytes, known.inodes)
    }
}

/// What a merge brought counts for who got it, whatever becomes of who made it: it was known to be less than a fresh count
/// found, and a collection gave one branch's count to the other.
#[test]
fn what_a_merge_brought_counts_whatever_becomes_of_its_maker() {
    let world = World::new();
    let p = world.make("p");
    let c = world.fork("c", "p");
    world.add(c, world.ino(""), "new", "text");
    world.snapshot("c", "s");
    world.applies(&merge("c", true));
    assert_eq!((world.limited("p"), world.limited("c")), ((4096, 1), (0, 1)));
    let collect = || world.ask::<Collected>(&Command::Gc { branches: Vec::new(), dry_run: false }).unwrap();
    assert!(!collect().left);
    assert_eq!((world.used("p"), world.used("c")), ((4096, 1), (0, 1)));
    world.forget("c", "s");
    assert!(!collect().left);
    assert_eq!((world.used("p"), world.used("c")), ((4096, 1), (0, 0)));
    world.delete("c");
    assert_eq!(world.used("p"), (4096, 1));
    world.shows(p, "/new", "text");
}

/// The last one that needs a content of a deleted branch owns it, and counts it.
#[test]
fn who_takes_a_content_along_counts_it() {
    let world = World::new();
    let p = world.make("p");
    let c = world.fork("c", "p");
    world.add(c, world.ino(""), "new", "text");
    world.snapshot("c", "s");
    world.applies(&merge("c", true));
    world.shows(p, "/new", "text");
    world.undone("c", "@base");
    assert_eq!(world.limited("c"), (0, 1));
    world.delete("p");
    // The state before the undo goes on from the parent's.
    assert_eq!(world.used("c"), (0, 1));
    world.forget("c", "before-undo-1");
    assert_eq!(world.used("c"), (4096, 1));
    world.undone("c", "s");
    world.shows(c, "/new", "text");
}

/// An undo and a merge take a content over from a branch that has no part in it, which uses less then.
#[test]
fn what_is_taken_from_a_third_branch_counts_there_no_longer() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    world.add(p, world.ino(""), "new", "text");
    world.applies(&merge("c", false));
    world.undone("c", "@base");
    assert_eq!((world.limited("p"), world.limited("c")), ((4096, 1), (0, 0)));
    let to = Some("before-undo-1".into());
    let undo = Command::Undo { branch: "c".into(), to, paths: vec!["new".into()], dry_run: false };
    world.ask::<Undone>(&undo).unwrap();
    assert_eq!((world.used("p"), world.used("c")), ((0, 1), (4096, 1)));
    // From `c`, which the others do not go on from, on to `p`.
    let d = world.fork("d", "p");
    world.change(d, |view, change| {
        let object = view.child(view.root, b"new").unwrap().unwrap().object;
        let record = view.object(object).unwrap().unwrap().value;
        change.object(object, &ObjectRecord { mode: 0o600, ..record });
    });
    world.undone("p", "@base");
    world.applies(&preferring("d", true, &[(".", Side::Ours)]));
    assert_eq!((world.used("p"), world.used("c")), ((4096, 1), (0, 1)));
    for id in [p, c, d] {
        world.shows(id, "/new", "text");
    }
}

/// Whoever looks at a branch sees the same at every step of a collection, also while it is looked at all the time: what
/// becomes one is not moved past states that it is still found in.
#[test]
fn nothing_moves_past_what_is_still_looked_at() {
    const FILLING: usize = 12;
    for sizes in 0..16_usize {
        let world = World::new();
        let a = world.make("a");
        let root = world.ino("");
        let object = world.add(a, root, "file", "text");
        for (state, value) in [&b"first"[..], b"", b"second"].into_iter().enumerate() {
            let set = if value.is_empty() { Vec::new() } else { vec![(b"user.x".to_vec(), value.to_vec())] };
            world.change(a, |_, change| change.xattrs(object, &XattrSet(set)));
            let filling = if sizes >> state & 1 == 1 { FILLING } else { 1 };
            for n in 0..filling {
                world.add(a, root, &format!("f{state}-{n}"), "x");
            }
            world.snapshot("a", &format!("s{state}"));
        }
        for n in 0..(sizes >> 3) * FILLING {
            world.add(a, root, &format!("head{n}"), "x");
        }
        let forget = |name: &str| {
            let command = Command::SnapshotDelete { branch: "a".into(), name: name.into(), dry_run: false };
            world.ask::<()>(&command).unwrap();
        };
        let branch = world.core.branch(a).unwrap();
        let looking = branch.view();
        let seen = || (looking.xattrs(object).unwrap().map(|found| found.value), looking.names(root).unwrap());
        let before = seen();
        // The oldest goes when the others have become one.
        for names in [&["s1", "s2"][..], &["s0"]] {
            for name in names {
                forget(name);
            }
            let mut busy = 0;
            let collected = world.branches.collect(&BTreeSet::from([a]), |step, _| {
                assert_eq!(seen(), before, "sizes {sizes:04b}");
                busy += usize::from(step == Step::Busy);
                busy < 3
            });
            collected.unwrap();
        }
        drop(looking);
        world.ask::<Collected>(&Command::Gc { branches: Vec::new(), dry_run: false }).unwrap();
        world.sound();
        let view = world.view(a);
        assert_eq!(view.xattrs(object).unwrap().map(|found| found.value), before.0);
    }
}

/// Content files of a branch's head.
fn contents(world: &World, id: BranchId) -> usize {
    let view = world.view(id);
    let has = |object| match view.object(object).unwrap().map(|found| found.value.body) {
        Some(Body::File(FileBody::Content(_))) => 1,
        _ => 0,
    };
    has(world.ino("f")) + has(world.ino("d/g"))
}

/// Content files of the store.
pub(super) fn files(world: &World) -> usize {
    world.core.sync().unwrap();
    world.core.contents.ids().unwrap().map(Result::unwrap).count()
}
