//! The cost of an operation does not grow with siblings or with snapshots, counted in reads of the store.

use super::Rig;
use super::counting::Counting;
use crate::core::ids::{EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{DirentRecord, EpochRecord};
use crate::store::{Batch, Store};
use shm_transport::wire::{FileKind, NodeId, Op};
use std::sync::Arc;

/// So many names are in the directory, whatever its history.
const NAMES: usize = 20;

struct Flat {
    store: Arc<Counting>,
    rig: Rig,
    dir: ObjectId,
}

impl Flat {
    fn new() -> Self {
        let store = Arc::new(Counting::default());
        let mut rig = Rig::over(Arc::clone(&store) as Arc<dyn Store>, |base| {
            std::fs::create_dir(base.join("d")).unwrap();
            std::fs::write(base.join("d/base"), "x").unwrap();
        });
        let dir = rig.find(NodeId::ROOT, "d");
        for n in 0..NAMES {
            rig.entry(dir.node, create(&format!("n{n}")));
        }
        rig.freeze();
        let dir = ObjectId(dir.attr.ino);
        Self { store, rig, dir }
    }

    /// What an epoch has that changed the directory: one name, which leads elsewhere.
    fn touch(&self, epoch: EpochId, batch: &mut Batch) {
        let object = self.rig.core.new_object().unwrap();
        let record = DirentRecord::Entry { object, kind: FileKind::Regular };
        batch.put(keys::changed_dirent(epoch, self.dir, b"n0"), []);
        batch.put(keys::dirent(self.dir, epoch, b"n0"), record.encode());
        let view = self.rig.branch.view().clone();
        let old = view.child(self.dir, b"n1").unwrap().unwrap().object;
        for (at, from) in [(object, old), (self.dir, self.dir)] {
            let record = view.object(from).unwrap().unwrap().value;
            batch.put(keys::changed_object(epoch, at), []);
            batch.put(keys::object(at, epoch), record.encode());
        }
    }

    /// Snapshots of the branch that each changed the directory.
    fn deepen(&self, snapshots: usize) {
        for _ in 0..snapshots {
            let head = self.rig.branch.view().head();
            let mut batch = Batch::default();
            self.touch(head, &mut batch);
            self.store.commit(&batch).unwrap();
            self.rig.freeze();
        }
    }

    /// Branches of the same state that each changed the directory.
    fn widen(&self, branches: usize) {
        let view = self.rig.branch.view().clone();
        let parent = view.chain.get(1).copied();
        for _ in 0..branches {
            let mut batch = Batch::default();
            let epoch = self.rig.core.new_epoch().unwrap();
            let branch = self.rig.core.new_branch().unwrap();
            batch.put(keys::epoch(epoch), EpochRecord { parent, branch, base: None }.encode());
            self.touch(epoch, &mut batch);
            self.store.commit(&batch).unwrap();
        }
        // The branch goes on above them.
        self.rig.freeze();
    }

    /// Reads of the store for a lookup of a name, of one of the base and of none, for a listing, and for a create.
    fn cost(&mut self) -> [u64; 5] {
        let dir = self.rig.find(NodeId::ROOT, "d").node;
        // What is made once is not counted.
        self.rig.list(dir, false);
        let mut counted = |run: &mut dyn FnMut(&mut Rig)| {
            let before = self.store.reads();
            run(&mut self.rig);
            self.store.reads() - before
        };
        [
            counted(&mut |rig| {
                rig.find(dir, "n1");
            }),
            counted(&mut |rig| {
                rig.find(dir, "base");
            }),
            counted(&mut |rig| {
                rig.missing(dir, "none");
            }),
            counted(&mut |rig| assert_eq!(rig.list(dir, false).len(), NAMES + 1)),
            counted(&mut |rig| {
                rig.entry(dir, create("made"));
            }),
        ]
    }
}

impl Flat {
    fn dir_node(&mut self) -> NodeId {
        self.rig.find(NodeId::ROOT, "d").node
    }
}

impl Rig {
    fn missing(&mut self, dir: NodeId, name: &str) {
        // An answer that is kept: no node.
        assert_eq!(self.entry(dir, Op::Lookup { name: name.into() }).node, NodeId(0));
    }
}

fn create(name: &str) -> Op {
    Op::Mknod { name: name.into(), mode: libc::S_IFREG | 0o644, rdev: 0, umask: 0 }
}

#[test]
fn the_cost_is_flat_in_siblings() {
    let one = Flat::new().cost();
    let mut many = Flat::new();
    many.widen(1000);
    let many = many.cost();
    for (one, many) in one.into_iter().zip(many) {
        assert!(many <= one + 8, "{one} reads with one branch, {many} with a thousand");
    }
}

#[test]
fn the_cost_is_flat_in_snapshots() {
    let mut one = Flat::new();
    one.deepen(8);
    let one = one.cost();
    let mut many = Flat::new();
    many.deepen(1000);
    let many = many.cost();
    for (one, many) in one.into_iter().zip(many) {
        assert!(many <= one + one / 3 + 8, "{one} reads with a few snapshots, {many} with a thousand");
    }
}

/// What is asked of several snapshots again and again is merged: the next lookup asks one.
#[test]
fn names_that_are_asked_for_again_cost_what_they_cost_with_one_snapshot() {
    let cost = |snapshots: usize| {
        let mut flat = Flat::new();
        flat.deepen(snapshots);
        for _ in 0..5 {
            flat.cost();
            let dir = flat.dir_node();
            flat.rig.ok(dir, Op::Unlink { name: "made".into() }, &[]);
        }
        let [own, of_base, none, ..] = flat.cost();
        [own, of_base, none]
    };
    for snapshots in [9, 1000, 1005] {
        for (one, many) in cost(1).into_iter().zip(cost(snapshots)) {
            assert!(many <= one + 4, "{one} reads with a snapshot, {many} with {snapshots}");
        }
    }
}

#[test]
fn deep_chains_show_what_short_ones_do() {
    let mut flat = Flat::new();
    let dir = flat.rig.find(NodeId::ROOT, "d").node;
    // Each epoch makes a name, and removes one that an epoch long before it made.
    for n in 0..60 {
        flat.rig.entry(dir, create(&format!("e{n}")));
        if n >= 20 {
            flat.rig.ok(dir, Op::Unlink { name: format!("e{}", n - 20).into() }, &[]);
        }
        flat.rig.freeze();
        let expected: Vec<String> = (0..=n).skip((n + 1_usize).saturating_sub(20)).map(|n| format!("e{n}")).collect();
        let mut found: Vec<String> =
            flat.rig.list(dir, false).into_iter().filter(|name| name.starts_with('e')).collect();
        found.sort_by_key(|name| name[1..].parse::<usize>().unwrap());
        assert_eq!(found, expected);
        for name in &expected {
            flat.rig.find(dir, name);
        }
        if n >= 20 {
            flat.rig.missing(dir, &format!("e{}", n - 20));
        }
    }
}
