//! Garbage collection changes nothing that anybody can look at, whatever came before it and wherever it ends.

use super::*;
use crate::branch::Branches;
use crate::core::attr::attributes;
use crate::core::ids::{BranchId, EpochId};
use crate::core::record::SnapshotRecord;
use crate::core::view::View;
use crate::fsck;
use crate::store::faulty::Dice;
use shm_transport::control::{Collected, Command, ErrorCode, Failure, Limits, Preference, Side};
use shm_transport::wire::{FileKind, SetAttr};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

mod cases;
mod crash;

/// Everything that a state shows, by path.
type Listing = BTreeMap<String, String>;

struct World {
    dir: PathBuf,
    store: Arc<dyn Store>,
    core: Arc<Core>,
    branches: Branches,
    _kept: Option<tempfile::TempDir>,
}

fn create(name: &str, base: Option<PathBuf>, from: Option<&str>) -> Command {
    Command::BranchCreate {
        name: name.into(),
        base,
        from: from.map(Into::into),
        frozen: false,
        reuse: false,
        limits: Limits::default(),
    }
}

fn snapshot(branch: &str, name: &str) -> Command {
    Command::SnapshotCreate { branch: branch.into(), name: name.into() }
}

fn forget(branch: &str, name: &str) -> Command {
    Command::SnapshotDelete { branch: branch.into(), name: name.into(), dry_run: false }
}

fn delete(name: &str) -> Command {
    Command::BranchDelete { name: name.into(), dry_run: false }
}

impl World {
    /// With a base that has a file and a directory with another one.
    fn new(store: Arc<dyn Store>) -> Self {
        let kept = tempfile::tempdir().unwrap();
        for name in ["base", "base/d", "store"] {
            std::fs::create_dir(kept.path().join(name)).unwrap();
        }
        for (path, text) in [("base/f0", "base zero"), ("base/d/f1", "base one")] {
            std::fs::write(kept.path().join(path), text).unwrap();
        }
        let dir = std::fs::canonicalize(kept.path()).unwrap();
        Self { _kept: Some(kept), ..Self::open(dir, store) }
    }

    fn open(dir: PathBuf, store: Arc<dyn Store>) -> Self {
        let contents = Arc::new(Contents::open(&dir.join("store/contents"), 64).unwrap());
        let core = Core::open(Arc::clone(&store), contents, Arc::new(HostClock)).unwrap();
        let branches = Branches::open(Arc::clone(&core), dir.join("store"), vec![dir.clone()], 0).unwrap();
        Self { dir, store, core, branches, _kept: None }
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, command: &Command) -> Result<T, Failure> {
        self.branches.handle(command).map(|value| serde_json::from_value(value).unwrap())
    }

    fn done(&self, command: &Command) {
        self.ask::<serde_json::Value>(command).unwrap();
    }

    fn gc(&self) -> Collected {
        self.ask(&Command::Gc { branches: Vec::new(), dry_run: false }).unwrap()
    }

    fn estimate(&self) -> Collected {
        self.ask(&Command::Gc { branches: Vec::new(), dry_run: true }).unwrap()
    }

    /// What a program does on a branch.
    fn with<T>(&self, branch: &str, work: impl FnOnce(&mut Rig) -> T) -> T {
        let id = self.branches.find(branch).unwrap();
        let mut rig = Rig::mount(tempfile::tempdir().unwrap(), Arc::clone(&self.core), id);
        let result = work(&mut rig);
        self.core.end_session(SESSION).unwrap();
        result
    }

    fn views(&self) -> BTreeMap<String, View> {
        let mut views = BTreeMap::new();
        let mut found: Vec<(String, BranchId, EpochId)> = Vec::new();
        let mut names = BTreeMap::new();
        self.store.scan(b"B", &mut |key, value| {
            let inside = key.starts_with(b"B");
            if inside {
                let (id, record) = (BranchId(keys::number(key, 0).unwrap()), BranchRecord::decode(value).unwrap());
                names.insert(id, record.name.clone());
                found.push((record.name, id, record.head));
            }
            inside
        });
        self.store.scan(b"S", &mut |key, value| {
            let inside = key.starts_with(b"S");
            if inside {
                let id = BranchId(keys::number(key, 0).unwrap());
                let name = String::from_utf8(keys::tail(key, 1).unwrap().to_vec()).unwrap();
                found.push((format!("{}@{name}", names[&id]), id, SnapshotRecord::decode(value).unwrap().epoch));
            }
            inside
        });
        for (name, branch, epoch) in found {
            views.insert(name, self.core.view_at(branch, epoch).unwrap());
        }
        views
    }

    /// What every head and every snapshot shows.
    fn states(&self) -> BTreeMap<String, Listing> {
        self.views().into_iter().map(|(name, view)| (name, self.listing(&view))).collect()
    }

    fn listing(&self, view: &View) -> Listing {
        let mut listing = Listing::new();
        let mut left = vec![(String::new(), view.root)];
        while let Some((path, dir)) = left.pop() {
            for (name, (object, kind)) in view.names(dir).unwrap() {
                let path = format!("{path}/{}", String::from_utf8(name).unwrap());
                let (attr, _) = attributes(&self.core, view, object, None).unwrap();
                let xattrs = view.xattrs(object).unwrap().map(|found| found.value);
                let bytes = if kind == FileKind::Regular { self.bytes(view, object, attr.size) } else { Vec::new() };
                let text = String::from_utf8(bytes).unwrap();
                let about = format!("{object} {kind:?} {:o} {} {} {xattrs:?} {text}", attr.mode, attr.nlink, attr.size);
                assert!(listing.insert(path.clone(), about).is_none());
                if kind == FileKind::Directory {
                    left.push((path, object));
                }
            }
        }
        listing
    }

    fn bytes(&self, view: &View, object: ObjectId, size: u64) -> Vec<u8> {
        use crate::core::record::{Body, FileBody};
        match view.object(object).unwrap().map(|found| found.value.body) {
            Some(Body::File(FileBody::Content(id))) => std::fs::read(self.core.contents.path(id)).unwrap(),
            Some(Body::File(FileBody::Hole { size })) => vec![0; size as usize],
            Some(Body::File(FileBody::Base)) | None => {
                let fd = view.base.as_ref().unwrap().file(object).unwrap();
                let mut bytes = vec![0; size as usize];
                nix::sys::uio::pread(&*fd, &mut bytes, 0).unwrap();
                bytes
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn sound(&self, context: &str) {
        let found = fsck::check(self.store.as_ref(), self.core.contents.root()).unwrap();
        // Files that wait for their removal have no record.
        let wrong: Vec<_> = found.findings.iter().filter(|f| f.told.kind != "content-unrecorded").collect();
        assert!(wrong.is_empty(), "{context}: {wrong:#?}");
    }

    fn count(&self, letter: u8) -> usize {
        let mut found = 0;
        self.store.scan(&[letter], &mut |key, _| {
            let inside = key.first() == Some(&letter);
            found += usize::from(inside);
            inside
        });
        found
    }

    fn files(&self) -> usize {
        self.core.sync().unwrap();
        self.core.contents.ids().unwrap().map(Result::unwrap).count()
    }

    /// Nothing is left of any branch.
    fn empty(&self) {
        for letter in *b"BCDKOSUXpq" {
            assert_eq!(self.count(letter), 0, "records {}", char::from(letter));
        }
        assert_eq!(self.count(b'E'), self.count(b'G'), "what new branches stand on");
        assert_eq!(self.files(), 0);
    }
}

fn look_up(rig: &mut Rig, dir: NodeId, name: &str) -> Option<NodeId> {
    match rig.run(dir, Op::Lookup { name: name.into() }, &[]).0 {
        Reply::Entry(entry) => Some(entry.node).filter(|node| node.0 != 0),
        _ => None,
    }
}

fn put(rig: &mut Rig, dir: NodeId, name: &str, text: &str) {
    let node = match look_up(rig, dir, name) {
        Some(node) => node,
        None => rig.entry(dir, Op::Create { name: name.into(), mode: 0o644, flags: 0, umask: 0 }).node,
    };
    rig.ok(node, Op::SetAttr(SetAttr { size: Some(0), ..SetAttr::default() }), &[]);
    rig.write(node, 0, text.as_bytes());
}

fn unlink(rig: &mut Rig, dir: NodeId, name: &str) {
    rig.ok(dir, Op::Unlink { name: name.into() }, &[]);
}

/// One random operation of a program; those that cannot be done are not.
fn act(rig: &mut Rig, dice: &mut Dice) {
    let file = |dice: &mut Dice| format!("f{}", dice.below(5));
    let dirs: Vec<NodeId> = ["d", "x"].iter().filter_map(|name| look_up(rig, NodeId::ROOT, name)).collect();
    let dir = |dice: &mut Dice| match dice.below(3) {
        at if at > 0 && (at as usize) <= dirs.len() => dirs[at as usize - 1],
        _ => NodeId::ROOT,
    };
    let (from, to) = (dir(dice), dir(dice));
    let (name, other) = (file(dice), file(dice));
    match dice.below(12) {
        0..4 => {
            let text = format!("{name} {}", dice.below(1 << 40));
            if let Some(node) = look_up(rig, from, &name) {
                rig.run(node, Op::Write { fh: 0, offset: dice.below(4), kill_suidgid: false }, text.as_bytes());
            } else {
                put(rig, from, &name, &text);
            }
        }
        4 | 5 => drop(rig.run(from, Op::Unlink { name: name.into() }, &[])),
        6 => {
            let rename = Op::Rename { name: name.into(), new_parent: to, new_name: other.into(), flags: 0 };
            drop(rig.run(from, rename, &[]));
        }
        7 => {
            if let Some(target) = look_up(rig, from, &name) {
                drop(rig.run(to, Op::Link { target, name: other.into() }, &[]));
            }
        }
        8 => {
            if let Some(node) = look_up(rig, from, &name) {
                let mode = Some(0o600 + dice.below(64) as u32);
                drop(rig.run(node, Op::SetAttr(SetAttr { mode, ..SetAttr::default() }), &[]));
            }
        }
        9 => {
            if let Some(node) = look_up(rig, from, &name) {
                let set = Op::SetXattr { name: b"user.a".into(), flags: 0, clear_setgid: false };
                drop(rig.run(node, set, format!("{}", dice.below(100)).as_bytes()));
            }
        }
        10 => match look_up(rig, NodeId::ROOT, "x") {
            None => drop(rig.entry(NodeId::ROOT, Op::Mkdir { name: b"x".into(), mode: 0o755, umask: 0 })),
            Some(x) => {
                for name in rig.list(x, false) {
                    unlink(rig, x, &name);
                }
                rig.ok(NodeId::ROOT, Op::Rmdir { name: b"x".into() }, &[]);
            }
        },
        _ => {
            if let Some(node) = look_up(rig, from, &name) {
                let size = Some(dice.below(20));
                drop(rig.run(node, Op::SetAttr(SetAttr { size, ..SetAttr::default() }), &[]));
            }
        }
    }
}

struct History {
    world: World,
    dice: Dice,
    made: u64,
}

impl History {
    fn begin(store: Arc<dyn Store>, seed: u64) -> Self {
        let world = World::new(store);
        world.done(&create("a", Some(world.dir.join("base")), None));
        Self { world, dice: Dice::new(seed), made: 0 }
    }

    fn pick(&mut self, of: &[String]) -> Option<String> {
        of.get(self.dice.below(of.len() as u64) as usize).cloned()
    }

    /// One step; the states that it may change, and what it was.
    fn step(&mut self) -> (BTreeSet<String>, String) {
        let all: Vec<String> = self.world.views().into_keys().collect();
        let (snapshots, branches): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|name| name.contains('@'));
        let Some(branch) = self.pick(&branches) else {
            self.world.done(&create("a", Some(self.world.dir.join("base")), None));
            return (BTreeSet::new(), "create".into());
        };
        let touched = BTreeSet::from([branch.clone()]);
        self.made += 1;
        let made = self.made;
        match self.dice.below(20) {
            0..8 => {
                let dice = &mut self.dice;
                self.world.with(&branch, |rig| (0..4).for_each(|_| act(rig, dice)));
                (touched, format!("write on {branch}"))
            }
            8..11 => {
                self.world.done(&snapshot(&branch, &format!("s{made}")));
                (BTreeSet::new(), format!("snapshot of {branch}"))
            }
            11 if branches.len() < 5 => {
                let from = self.pick(&all).unwrap();
                self.world.done(&create(&format!("b{made}"), None, Some(&from)));
                (BTreeSet::new(), format!("branch from {from}"))
            }
            12 | 13 => {
                let Some(name) = self.pick(&snapshots) else { return (BTreeSet::new(), "nothing".into()) };
                let (of, snapshot) = name.split_once('@').unwrap();
                let refused = self.world.ask::<()>(&forget(of, snapshot)).err().map(|failure| failure.code);
                assert!(refused.is_none_or(|code| code == ErrorCode::Busy));
                (BTreeSet::from([name.clone()]), format!("forget {name}"))
            }
            14 => {
                let refused = self.world.ask::<serde_json::Value>(&delete(&branch)).err().map(|failure| failure.code);
                assert!(refused.is_none_or(|code| code == ErrorCode::Busy));
                let gone = all.iter().filter(|name| name.split('@').next() == Some(&branch));
                (gone.cloned().collect(), format!("delete {branch}"))
            }
            15 => {
                let own: Vec<_> =
                    snapshots.iter().filter(|name| name.split('@').next() == Some(&branch)).cloned().collect();
                let Some(to) = self.pick(&own) else { return (BTreeSet::new(), "nothing".into()) };
                let undo =
                    Command::Undo { branch: branch.clone(), to: Some(to.clone()), paths: Vec::new(), dry_run: false };
                self.world.done(&undo);
                (touched, format!("undo {branch} to {to}"))
            }
            16 => {
                let id = self.world.branches.find(&branch).unwrap();
                let Some((parent, _)) = self.world.core.branch_record(id).unwrap().from else {
                    return (BTreeSet::new(), "nothing".into());
                };
                let parent = self.world.core.branch_record(parent).unwrap().name;
                let prefer = vec![Preference { path: ".".into(), side: Side::Ours }];
                let into_parent = self.dice.below(2) == 0;
                let merge = Command::Merge { branch: branch.clone(), into_parent, dry_run: false, prefer };
                drop(self.world.ask::<serde_json::Value>(&merge));
                (BTreeSet::from([branch.clone(), parent]), format!("merge {branch}, into its parent: {into_parent}"))
            }
            17 => {
                // It ends in the middle.
                let ids = (1..100).map(BranchId).collect();
                let mut left = self.dice.below(6);
                self.world
                    .branches
                    .collect(&ids, |_, _| {
                        left = left.saturating_sub(1);
                        left > 0
                    })
                    .unwrap();
                (BTreeSet::new(), "a part of gc".into())
            }
            _ => {
                let told = self.world.gc();
                assert!(!told.left || told.folded > 0 || told.moved == 0, "{told:?}");
                (BTreeSet::new(), format!("{told:?}"))
            }
        }
    }

    fn run(&mut self, steps: usize, seed: u64) {
        let mut before = self.world.states();
        let mut log = Vec::new();
        for _ in 0..steps {
            let (touched, what) = self.step();
            log.push(what);
            let after = self.world.states();
            for (name, listing) in before.iter().filter(|(name, _)| !touched.contains(*name)) {
                assert_eq!(after.get(name), Some(listing), "seed {seed}: {name} after {log:#?}");
            }
            self.world.sound(&format!("seed {seed}: {log:#?}"));
            before = after;
        }
    }

    /// Everything goes, in any order.
    fn end(&mut self, seed: u64) {
        for _ in 0..1000 {
            let all: Vec<String> = self.world.views().into_keys().collect();
            let Some(name) = self.pick(&all) else { break };
            // What others were made from goes later.
            match name.split_once('@') {
                Some((branch, snapshot)) => drop(self.world.ask::<()>(&forget(branch, snapshot))),
                None => drop(self.world.ask::<serde_json::Value>(&delete(&name))),
            }
            if self.dice.below(4) == 0 {
                let before = self.world.states();
                self.world.gc();
                assert_eq!(self.world.states(), before, "seed {seed}");
            }
            self.world.sound(&format!("seed {seed}, at the end"));
        }
        self.world.gc();
        self.world.empty();
    }
}

#[test]
fn nothing_changes_that_anybody_can_look_at() {
    for seed in 0..16 {
        let mut history = History::begin(Arc::new(MemStore::default()), seed);
        history.run(60, seed);
        history.end(seed);
    }
}
