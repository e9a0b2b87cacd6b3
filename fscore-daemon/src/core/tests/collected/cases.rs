//! What a collection gives back, what it costs, and who is in its way.

use super::super::counting::Counting;
use super::*;
use crate::branch::Step;
use std::sync::atomic::AtomicBool;

#[test]
fn what_is_dropped_gives_its_bytes_back() {
    let world = World::new(Arc::new(MemStore::default()));
    world.done(&create("a", None, None));
    let big = "x".repeat(1 << 20);
    world.with("a", |rig| {
        put(rig, NodeId::ROOT, "rewritten", "");
        put(rig, NodeId::ROOT, "removed", "");
        for name in ["rewritten", "removed"] {
            let node = look_up(rig, NodeId::ROOT, name).unwrap();
            for at in 0..8 {
                rig.write(node, at << 17, &big.as_bytes()[..1 << 17]);
            }
        }
    });
    world.done(&snapshot("a", "s"));
    world.with("a", |rig| {
        put(rig, NodeId::ROOT, "rewritten", "small");
        unlink(rig, NodeId::ROOT, "removed");
    });
    let before = world.states()["a"].clone();
    assert_eq!(world.files(), 3);
    world.done(&forget("a", "s"));
    let estimate = world.estimate();
    assert_eq!((estimate.folded, estimate.contents), (1, 2), "{estimate:?}");
    assert!(estimate.bytes >= 2 << 20, "{estimate:?}");
    assert_eq!(world.files(), 3, "a dry run changes nothing");
    let told = world.gc();
    assert_eq!((told.folded, told.contents, told.bytes), (1, 2, estimate.bytes), "{told:?}");
    assert_eq!(world.files(), 1);
    assert_eq!(world.states()["a"], before);
    assert_eq!(world.count(b'E'), 1);
    assert_eq!(world.count(b'O'), 2, "the root and one file");
    world.sound("in the end");
}

/// A long run of states that nobody refers to any more is looked at once, and not once for each state above.
#[test]
fn what_is_to_be_done_is_told_at_a_cost_that_follows_the_changes() {
    let cost = |states: u64| {
        let store = Arc::new(Counting::default());
        let world = World::new(Arc::clone(&store) as Arc<dyn Store>);
        world.done(&create("a", None, None));
        for n in 0..states {
            world.with("a", |rig| {
                put(rig, NodeId::ROOT, "each", &format!("{n}"));
                // Content of its own, which a later state does not have.
                put(rig, NodeId::ROOT, &format!("own{n}"), "own");
                if n > 0 {
                    unlink(rig, NodeId::ROOT, &format!("own{}", n - 1));
                }
            });
            world.done(&snapshot("a", &format!("s{n}")));
        }
        (0..states).for_each(|n| world.done(&forget("a", &format!("s{n}"))));
        let before = store.reads();
        let told = world.estimate();
        let reads = store.reads() - before;
        assert_eq!((told.folded, told.contents), (states, 2 * (states - 1)), "{told:?}");
        let freed = world.gc();
        assert_eq!((freed.folded, freed.contents), (told.folded, told.contents), "{freed:?}");
        assert_eq!(world.files(), 2);
        reads
    };
    let (few, many) = (cost(20), cost(160));
    assert!(many < few * 9, "{few} reads for 20 states, {many} for 160");
}

/// Thousands of names in the oldest state, a few in each of many younger ones: what moves is little, whoever goes first.
#[test]
fn deep_histories_become_flat_at_a_small_cost() {
    const DEEP: u64 = 60;
    for order in 0..3 {
        let world = World::new(Arc::new(MemStore::default()));
        world.done(&create("a", None, None));
        world.with("a", |rig| {
            (0..1500).for_each(|n| {
                rig.entry(
                    NodeId::ROOT,
                    Op::Mknod { name: format!("n{n}").into(), mode: libc::S_IFREG | 0o644, umask: 0, rdev: 0 },
                );
            });
        });
        for n in 0..DEEP {
            world.done(&snapshot("a", &format!("s{n}")));
            world.with("a", |rig| put(rig, NodeId::ROOT, "last", &format!("{n}")));
        }
        let before = world.states()["a"].clone();
        let mut moved = 0;
        for n in 0..DEEP {
            let which = match order {
                0 => n,
                1 => DEEP - 1 - n,
                _ => (n * 7) % DEEP,
            };
            world.done(&forget("a", &format!("s{which}")));
            moved += world.gc().moved;
        }
        assert!(world.count(b'E') <= 2, "{} epochs", world.count(b'E'));
        assert!(moved < 12_000, "order {order}: {moved} records were moved");
        assert_eq!(world.states()["a"], before);
        assert_eq!(world.files(), 1, "one version of one file");
        world.sound("flat");
    }
}

/// A merge left a content with a snapshot of another branch, which must not see what is written to it afterwards.
#[test]
fn a_shared_content_is_not_written_through() {
    let world = World::new(Arc::new(MemStore::default()));
    world.done(&create("a", Some(world.dir.join("base")), None));
    world.done(&create("b", None, Some("a")));
    world.with("b", |rig| put(rig, NodeId::ROOT, "new", "shared"));
    world.done(&snapshot("b", "kept"));
    let prefer = Vec::new();
    world.done(&Command::Merge { branch: "b".into(), into_parent: true, dry_run: false, prefer });
    world.done(&Command::Undo { branch: "b".into(), to: Some("@base".into()), paths: Vec::new(), dry_run: false });
    world.done(&forget("b", "before-undo-1"));
    let before = world.states();
    let told = world.gc();
    assert!(told.folded > 0, "{told:?}");
    assert_eq!(world.states(), before);
    world.with("a", |rig| {
        let node = look_up(rig, NodeId::ROOT, "new").unwrap();
        rig.write(node, 0, b"WRITTEN");
    });
    let after = world.states();
    assert_eq!(after["b@kept"], before["b@kept"]);
    assert!(after["a"]["/new"].ends_with("WRITTEN"), "{:?}", after["a"]);
    world.done(&delete("b"));
    world.gc();
    assert_eq!(world.files(), 1);
    world.sound("in the end");
}

/// Programs look names up and list directories while the states below them become one.
#[test]
fn who_looks_meanwhile_sees_everything() {
    let world = World::new(Arc::new(MemStore::default()));
    world.done(&create("a", None, None));
    for round in 0..3 {
        for n in 0..40 {
            world.with("a", |rig| {
                for name in [format!("own{round}-{n}"), "all".into()] {
                    put(rig, NodeId::ROOT, &name, &format!("{round} {n}"));
                }
            });
            world.done(&snapshot("a", &format!("s{round}-{n}")));
        }
        world.done(&create(&format!("b{round}"), None, Some("a")));
        for n in 0..40 {
            world.done(&forget("a", &format!("s{round}-{n}")));
        }
        let branch = world.core.branch(world.branches.find(&format!("b{round}")).unwrap()).unwrap();
        let (over, names) = (AtomicBool::new(false), (round + 1) * 40 + 1);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let view = branch.view();
                        let found = view.names(view.root).unwrap();
                        assert_eq!(found.len(), names);
                        for (name, (object, _)) in found {
                            assert_eq!(view.child(view.root, &name).unwrap().map(|child| child.object), Some(object));
                            assert!(view.object(object).unwrap().is_some(), "{name:?}");
                        }
                    }
                });
            }
            let mut told = world.gc();
            for _ in 0..100 {
                if !told.left {
                    break;
                }
                told = world.gc();
            }
            over.store(true, Ordering::Relaxed);
            assert!(!told.left, "{told:?}");
        });
        world.sound("meanwhile");
    }
    assert!(world.count(b'E') < 12, "{}", world.count(b'E'));
}

/// Files that were made in one state, changed in the next and removed in a third; one of them of the base.
#[test]
fn what_is_removed_later_is_given_back_too() {
    for gone in [["one", "two"], ["two", "one"]] {
        let world = World::new(Arc::new(MemStore::default()));
        world.done(&create("a", Some(world.dir.join("base")), None));
        world.with("a", |rig| {
            put(rig, NodeId::ROOT, "made", "text");
            put(rig, NodeId::ROOT, "f0", "text");
        });
        world.done(&snapshot("a", "one"));
        world.with("a", |rig| {
            put(rig, NodeId::ROOT, "made", "other");
            put(rig, NodeId::ROOT, "f0", "other");
        });
        world.done(&snapshot("a", "two"));
        world.with("a", |rig| {
            unlink(rig, NodeId::ROOT, "made");
            unlink(rig, NodeId::ROOT, "f0");
        });
        let before = world.states()["a"].clone();
        for (at, snapshot) in gone.into_iter().enumerate() {
            world.done(&forget("a", snapshot));
            world.gc();
            world.sound("between");
            assert_eq!(world.files(), if at == 0 { 2 } else { 0 }, "{gone:?}: the versions of one snapshot");
            assert_eq!(world.states()["a"], before);
        }
        assert_eq!(world.count(b'E'), 1 + world.count(b'G'), "the head, and what it stands on");
        assert_eq!(world.count(b'K'), 0);
    }
}

/// A file without a name is kept for who has it open, also when the state it was removed in is folded.
#[test]
fn open_files_outlive_a_fold() {
    let world = World::new(Arc::new(MemStore::default()));
    world.done(&create("a", None, None));
    world.with("a", |rig| put(rig, NodeId::ROOT, "open", "text"));
    world.done(&snapshot("a", "one"));
    world.with("a", |rig| {
        let node = look_up(rig, NodeId::ROOT, "open").unwrap();
        unlink(rig, NodeId::ROOT, "open");
        world.done(&snapshot("a", "two"));
        world.done(&forget("a", "one"));
        world.done(&forget("a", "two"));
        world.gc();
        assert_eq!(rig.read(node), b"text");
        rig.write(node, 4, b" and more");
        assert_eq!(rig.read(node), b"text and more");
    });
    world.gc();
    assert_eq!(world.files(), 0, "nobody has it open any more");
    assert_eq!((world.count(b'E'), world.count(b'O')), (1, 1));
    world.sound("in the end");
}

#[test]
fn a_step_waits_for_nobody() {
    let world = World::new(Arc::new(MemStore::default()));
    world.done(&create("a", None, None));
    world.done(&snapshot("a", "s"));
    world.done(&forget("a", "s"));
    let id = world.branches.find("a").unwrap();
    let branch = world.core.branch(id).unwrap();
    let running = branch.view();
    let mut steps = Vec::new();
    let all = BTreeSet::from([id]);
    world
        .branches
        .collect(&all, |step, _| {
            steps.push(step);
            steps.len() < 5
        })
        .unwrap();
    assert_eq!(steps[1..], [Step::Busy; 4], "an operation runs on the head");
    assert_eq!(world.count(b'E'), 2);
    drop(running);
    world.branches.collect(&all, |_, _| true).unwrap();
    assert_eq!(world.count(b'E'), 1);
}
