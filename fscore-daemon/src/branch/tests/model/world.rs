//! The core and its model side by side.

use super::limits::Want;
use super::real::{Numbers, Real, make_base, read_base};
use super::tree::{Data, Id, Object, Tree};
use super::{Reply, Step, What};
use crate::content::{Contents, Host};
use crate::core::ids::ObjectId;
use crate::core::record::Quota;
use crate::core::tests::host::FaultyHost;
use crate::store::faulty::FaultyDisk;
use crate::store::{LogStore, Options};
use shm_transport::control::{BranchInfo, Command, SnapshotInfo};
use shm_transport::wire::{NodeId, Op, SetAttr};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// So few names that steps meet.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// So small that a history fills segments and writes checkpoints.
const SMALL: Options = Options { segment_bytes: 16_384, headroom_bytes: 512, checkpoint_bytes: 65_536, threads: false };
const BRANCHES_MAX: usize = 5;
const SNAPSHOTS_MAX: usize = 5;
const OBJECTS_MAX: usize = 40;

/// A state of a branch, and the state of its parent that it goes on from.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) fork: Option<Tree>,
}

/// A branch.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) head: State,
    pub(super) parent: Option<String>,
    /// With the order in which they were made.
    pub(super) snapshots: BTreeMap<String, (usize, State)>,
    pub(super) based: bool,
    pub(super) quota: Quota,
}

/// All branches.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) lines: BTreeMap<String, Line>,
    pub(super) base: Tree,
    pub(super) next: Id,
    /// Counts what is made, for times, names and contents that are used once.
    pub(super) tick: usize,
}

pub(super) struct World {
    pub(super) dir: Arc<tempfile::TempDir>,
    pub(super) store_dir: PathBuf,
    pub(super) disk: FaultyDisk,
    pub(super) host: Arc<FaultyHost>,
    pub(super) real: Real,
    pub(super) model: Model,
    pub(super) numbers: Numbers,
    /// Operations may fail from now on, and one did.
    pub(super) may_fail: bool,
    pub(super) dead: bool,
}

fn at<T: Clone>(all: &[T], number: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[usize::from(number) % all.len()].clone())
}

/// Two trees are the same; what is not is shown.
#[track_caller]
pub(super) fn same(shown: &Tree, wanted: &Tree, context: &str) {
    if shown == wanted {
        return;
    }
    let lines = |tree: &Tree| -> Vec<String> {
        let paths = std::iter::once((String::new(), tree.root)).chain(tree.paths());
        paths
            .map(|(path, id)| match &tree.objects[&id] {
                object if object.is_dir() => format!("/{path} {id} dir {:o} {:?}", object.mode, object.xattrs),
                object => format!("/{path} {id} {object:?}"),
            })
            .collect()
    };
    let (shown, wanted) = (lines(shown), lines(wanted));
    let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
    panic!("{context}\nshown only: {:#?}\nwanted only: {:#?}", only(&shown, &wanted), only(&wanted, &shown));
}

impl World {
    /// One branch of a base.
    pub(super) fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        make_base(&dir.path().join("base"));
        let (mut numbers, mut next) = (Numbers::default(), 1);
        let base = read_base(&dir.path().join("base"), &mut numbers, &mut next);
        let model = Model { lines: BTreeMap::new(), base, next, tick: 2000 };
        let store_dir = dir.path().join("store");
        std::fs::create_dir(&store_dir).unwrap();
        let mut it = Self::open(dir, store_dir, FaultyDisk::new(), model, numbers);
        it.step(Step(What::NewBranch, 0, 0, 0, 0));
        it
    }

    /// On what there is already.
    pub(super) fn open(
        dir: Arc<tempfile::TempDir>,
        store_dir: PathBuf,
        disk: FaultyDisk,
        model: Model,
        numbers: Numbers,
    ) -> Self {
        let contents_dir = store_dir.join("contents");
        let host = Arc::new(FaultyHost::new(&disk, &contents_dir));
        let contents = Contents::open_on(&contents_dir, 16, Arc::clone(&host) as Arc<dyn Host>).unwrap();
        let store = LogStore::open_on(Arc::new(disk.clone()), SMALL).unwrap();
        let real = Real::start(store, contents, store_dir.clone(), dir.path().to_owned());
        Self { dir, store_dir, disk, host, real, model, numbers, may_fail: false, dead: false }
    }

    pub(super) fn tick(&mut self) -> usize {
        self.model.tick += 1;
        self.model.tick
    }

    pub(super) fn line(&mut self, name: &str) -> &mut Line {
        self.model.lines.get_mut(name).unwrap()
    }

    fn tree(&mut self, name: &str) -> &mut Tree {
        &mut self.line(name).head.tree
    }

    pub(super) fn step(&mut self, step: Step) {
        let Step(what, on, a, b, c) = step;
        if self.dead {
            return;
        }
        let names: Vec<String> = self.model.lines.keys().cloned().collect();
        let Some(name) = at(&names, on) else { return self.new_branch(true) };
        match what {
            What::Create | What::Mkdir | What::Symlink | What::Fifo => self.make(&name, what, (a, b, c)),
            What::Write | What::Truncate => self.write(&name, what, (a, b, c)),
            What::Chmod | What::SetXattr | What::RemoveXattr => self.attribute(&name, what, (a, b)),
            What::Link => self.link(&name, (a, b, c)),
            What::Rename | What::Exchange => self.rename(&name, what, (a, b, c)),
            What::Remove | What::RemoveAll => self.remove(&name, what, a),
            What::Snapshot => self.snapshot(&name),
            What::DeleteSnapshot => self.delete_snapshot(&name, a),
            What::NewBranch => self.new_branch(a % 2 == 0),
            What::Fork => self.fork(&name, a),
            What::DeleteBranch => self.delete_branch(&name),
            What::Commit | What::CommitOurs | What::CommitTheirs => self.merge(&name, true, what),
            What::Refresh | What::RefreshOurs | What::RefreshTheirs => self.merge(&name, false, what),
            What::Undo => self.undo(&name, a),
            What::UndoPaths => self.undo_paths(&name, (a, b, c)),
            What::Collect => self.collect(),
            What::CollectSome => self.collect_some(1 + a % 6),
            What::Limit => self.limit(&name, (a, b, c)),
            What::Diff => self.diff(&name, (a, b, c)),
            What::Restart => self.restart(),
        }
    }

    /// Whether something was done; a failure ends the history where the store may fail.
    fn done<T>(&mut self, result: Option<T>, what: impl FnOnce() -> String) -> Option<T> {
        if result.is_none() {
            assert!(self.may_fail, "{}", what());
            self.dead = true;
        }
        result
    }

    /// The same for a command.
    pub(super) fn commanded<T: serde::de::DeserializeOwned>(&mut self, command: &Command) -> Option<T> {
        match self.real.ask(command) {
            Ok(answer) => Some(answer),
            Err(e) => {
                assert!(self.may_fail, "{command:?}: {e:?}");
                self.dead = true;
                None
            }
        }
    }

    /// Runs what there may be no room for; then it is refused, and nothing of it is done.
    fn run_within(&mut self, name: &str, node: NodeId, op: Op, payload: &[u8], room: bool) -> Option<Reply> {
        if room {
            return self.run(name, node, op, payload);
        }
        let refused = self.real.is_refused(name, node, op.clone(), payload);
        self.done(refused.then_some(()), || format!("{name}: {op:?} passes a limit"));
        None
    }

    fn run(&mut self, name: &str, node: NodeId, op: Op, payload: &[u8]) -> Option<Reply> {
        let reply = self.real.run(name, node, op.clone(), payload);
        self.done(reply, || format!("{name}: {op:?}"))
    }

    fn date(&mut self, name: &str, node: NodeId, id: Id) {
        let tick = self.tick() as i64;
        let dated = self.real.date(name, node, tick).then_some(());
        if self.done(dated, || format!("{name}: a time")).is_some() {
            self.tree(name).objects.get_mut(&id).unwrap().mtime = tick;
        }
    }

    fn make(&mut self, name: &str, what: What, (a, b, c): (u8, u8, u8)) {
        let tree = self.tree(name);
        let Some((path, dir)) = at(&tree.directories(), a) else { return };
        let new = NAMES[usize::from(b) % NAMES.len()];
        if tree.names(dir).contains_key(new) || tree.objects.len() > OBJECTS_MAX {
            return;
        }
        let parent = self.real.node(name, &path);
        let tick = self.tick();
        let target = format!("to {tick}");
        let (bytes, mode) = (new.as_bytes().to_vec(), 0o600 | u32::from(c % 4));
        let (op, payload, data) = match what {
            What::Mkdir => (Op::Mkdir { name: bytes, mode, umask: 0 }, "", Data::Directory(BTreeMap::new())),
            What::Symlink => (Op::Symlink { name: bytes }, target.as_str(), Data::Symlink(target.clone().into())),
            What::Fifo => (Op::Mknod { name: bytes, mode: libc::S_IFIFO | mode, rdev: 0, umask: 0 }, "", Data::Fifo),
            _ => (Op::Create { name: bytes, mode, flags: 2, umask: 0 }, "", Data::File(Vec::new())),
        };
        let room = self.has_room(name, 0, 1);
        let node = match self.run_within(name, parent, op, payload.as_bytes(), room) {
            Some(Reply::Created(entry, opened)) => {
                if self.run(name, entry.node, Op::Release { fh: opened.fh, flags: 2 }, &[]).is_none() {
                    return;
                }
                entry.node
            }
            Some(Reply::Entry(entry)) => entry.node,
            Some(other) => panic!("{other:?}"),
            None => return,
        };
        let id = self.model.next;
        self.model.next += 1;
        self.numbers.0.insert(id, ObjectId(node.0));
        let mode = if what == What::Symlink { 0o777 } else { mode };
        let tree = self.tree(name);
        tree.objects.insert(id, Object::new(mode, 0, data));
        tree.names_mut(dir).insert(new.into(), id);
        if what != What::Mkdir {
            self.date(name, node, id);
        }
    }

    fn write(&mut self, name: &str, what: What, (a, b, c): (u8, u8, u8)) {
        let tree = self.tree(name);
        let files: Vec<_> = tree.paths().into_iter().filter(|(_, id)| tree.objects[id].bytes().is_some()).collect();
        let Some((path, id)) = at(&files, a) else { return };
        let node = self.real.node(name, &path);
        let mut bytes = tree_bytes(self.tree(name), id);
        if what == What::Truncate {
            let size = if c % 8 == 7 { 4096 * u64::from(b % 4) } else { u64::from(b % 40) };
            bytes.resize(size as usize, 0);
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            let room = self.has_room_for(name, id, Want::Resize(size));
            if self.run_within(name, node, Op::SetAttr(set), &[], room).is_none() {
                return;
            }
        } else {
            let text = format!("<{}>", self.tick());
            let far = if c % 8 == 7 { 4096 * usize::from(b % 3) } else { usize::from(b % 30) };
            let offset = if c % 2 == 0 { 0 } else { far };
            bytes.resize(bytes.len().max(offset + text.len()), 0);
            bytes[offset..offset + text.len()].copy_from_slice(text.as_bytes());
            let op = Op::Write { fh: 0, offset: offset as u64, kill_suidgid: false };
            let room = self.has_room_for(name, id, Want::Write((offset + text.len()) as u64));
            if self.run_within(name, node, op, text.as_bytes(), room).is_none() {
                return;
            }
        }
        self.tree(name).objects.get_mut(&id).unwrap().data = Data::File(bytes);
        self.date(name, node, id);
    }

    fn attribute(&mut self, name: &str, what: What, (a, b): (u8, u8)) {
        let tree = self.tree(name);
        // Links have no bits of their own, and no attributes for users.
        let able = |id: &Id| matches!(tree.objects[id].data, Data::File(_) | Data::Directory(_));
        let Some((path, id)) = at(&tree.paths().into_iter().filter(|(_, id)| able(id)).collect::<Vec<_>>(), a) else {
            return;
        };
        let key = ["user.x", "user.y"][usize::from(b % 2)];
        let had = tree.objects[&id].xattrs.contains_key(key);
        let node = self.real.node(name, &path);
        let value = format!("{}", self.tick());
        let mode = 0o700 | u32::from(b % 64);
        let op = match what {
            What::Chmod => Op::SetAttr(SetAttr { mode: Some(mode), ..SetAttr::default() }),
            What::SetXattr => Op::SetXattr { name: key.into(), flags: 0, clear_setgid: false },
            _ if had => Op::RemoveXattr { name: key.into() },
            _ => return,
        };
        let payload = if what == What::SetXattr { value.as_bytes() } else { &[] };
        if self.run(name, node, op, payload).is_none() {
            return;
        }
        let object = self.tree(name).objects.get_mut(&id).unwrap();
        match what {
            What::Chmod => object.mode = mode,
            What::SetXattr => drop(object.xattrs.insert(key.into(), value.into_bytes())),
            _ => drop(object.xattrs.remove(key)),
        }
    }

    fn link(&mut self, name: &str, (a, b, c): (u8, u8, u8)) {
        let tree = self.tree(name);
        let files: Vec<_> = tree.paths().into_iter().filter(|(_, id)| !tree.is_dir(*id)).collect();
        let (Some((path, id)), Some((above, dir))) = (at(&files, a), at(&tree.directories(), b)) else { return };
        let new = NAMES[usize::from(c) % NAMES.len()];
        if tree.names(dir).contains_key(new) {
            return;
        }
        let (target, parent) = (self.real.node(name, &path), self.real.node(name, &above));
        if self.run(name, parent, Op::Link { target, name: new.into() }, &[]).is_some() {
            self.tree(name).names_mut(dir).insert(new.into(), id);
        }
    }

    fn rename(&mut self, name: &str, what: What, (a, b, c): (u8, u8, u8)) {
        let tree = self.tree(name).clone();
        let all: Vec<_> = tree.paths().into_iter().collect();
        let (Some((path, id)), Some((above, dir))) = (at(&all, a), at(&tree.directories(), b)) else { return };
        let (from_path, old) = path.rsplit_once('/').unwrap_or(("", &path));
        let from = if from_path.is_empty() { tree.root } else { tree.paths()[from_path] };
        let new = NAMES[usize::from(c) % NAMES.len()];
        let target = tree.names(dir).get(new).copied();
        let exchange = what == What::Exchange;
        let fits = match target {
            _ if tree.is_dir(id) && tree.is_within(dir, id) => false,
            None => !exchange,
            Some(target) if target == id => false,
            Some(target) if exchange => !(tree.is_dir(target) && tree.is_within(from, target)),
            Some(target) if tree.is_dir(target) => tree.is_dir(id) && tree.names(target).is_empty(),
            Some(_) => !tree.is_dir(id),
        };
        if !fits {
            return;
        }
        let (node, new_parent) = (self.real.node(name, from_path), self.real.node(name, &above));
        let flags = if exchange { libc::RENAME_EXCHANGE } else { 0 };
        let op = Op::Rename { name: old.into(), new_parent, new_name: new.into(), flags };
        if self.run(name, node, op, &[]).is_none() {
            return;
        }
        let tree = self.tree(name);
        tree.names_mut(from).remove(old);
        tree.names_mut(dir).insert(new.into(), id);
        if let Some(target) = target.filter(|_| exchange) {
            tree.names_mut(from).insert(old.into(), target);
        }
        tree.prune();
    }

    fn remove(&mut self, name: &str, what: What, a: u8) {
        let tree = self.tree(name).clone();
        let Some((top, _)) = at(&tree.paths().into_iter().collect::<Vec<_>>(), a) else { return };
        let below = format!("{top}/");
        let gone: Vec<_> =
            tree.paths().into_iter().filter(|(path, _)| *path == top || path.starts_with(&below)).collect();
        if gone.len() > 1 && what == What::Remove {
            return;
        }
        for (path, id) in gone.into_iter().rev() {
            let (above, last) = path.rsplit_once('/').unwrap_or(("", &path));
            let node = self.real.node(name, above);
            let last: Vec<u8> = last.into();
            let op = if tree.is_dir(id) { Op::Rmdir { name: last } } else { Op::Unlink { name: last } };
            if self.run(name, node, op, &[]).is_none() {
                return;
            }
            let tree = self.tree(name);
            let dir = if above.is_empty() { tree.root } else { tree.paths()[above] };
            let last = path.rsplit('/').next().unwrap();
            tree.names_mut(dir).remove(last);
            tree.prune();
        }
    }

    fn snapshot(&mut self, name: &str) {
        if self.line(name).snapshots.len() >= SNAPSHOTS_MAX {
            return;
        }
        let tick = self.tick();
        let snapshot = format!("s{tick}");
        let command = Command::SnapshotCreate { branch: name.into(), name: snapshot.clone() };
        if self.commanded::<SnapshotInfo>(&command).is_some() {
            let state = self.line(name).head.clone();
            self.line(name).snapshots.insert(snapshot, (tick, state));
        }
    }

    fn new_branch(&mut self, based: bool) {
        if self.model.lines.len() >= BRANCHES_MAX {
            return;
        }
        let name = format!("b{}", self.tick());
        let base = based.then(|| std::fs::canonicalize(self.dir.path().join("base")).unwrap());
        let command = Command::BranchCreate {
            name: name.clone(),
            base,
            from: None,
            frozen: false,
            reuse: false,
            limits: shm_transport::control::Limits::default(),
        };
        if self.commanded::<BranchInfo>(&command).is_none() {
            return;
        }
        let tree = if based {
            self.model.base.clone()
        } else {
            let id = self.model.next;
            self.model.next += 1;
            self.numbers.0.insert(id, self.real.view(&name).root);
            Tree::new(id)
        };
        let head = State { tree, fork: None };
        self.model
            .lines
            .insert(name, Line { head, parent: None, snapshots: BTreeMap::new(), based, quota: Quota::default() });
    }

    fn fork(&mut self, name: &str, a: u8) {
        if self.model.lines.len() >= BRANCHES_MAX {
            return;
        }
        let new = format!("b{}", self.tick());
        let line = self.line(name).clone();
        let mut sources = vec![(name.to_owned(), line.head.tree)];
        sources.extend(line.snapshots.into_iter().map(|(s, (_, state))| (format!("{name}@{s}"), state.tree)));
        let Some((source, tree)) = at(&sources, a) else { return };
        let command = Command::BranchCreate {
            name: new.clone(),
            base: None,
            from: Some(source),
            frozen: false,
            reuse: false,
            limits: shm_transport::control::Limits::default(),
        };
        if self.commanded::<BranchInfo>(&command).is_some() {
            let head = State { tree: tree.clone(), fork: Some(tree) };
            let parent = Some(name.to_owned());
            self.model
                .lines
                .insert(new, Line { head, parent, snapshots: BTreeMap::new(), based: line.based, quota: line.quota });
        }
    }

    fn restart(&mut self) {
        if self.may_fail {
            return;
        }
        for name in self.model.lines.keys().cloned().collect::<Vec<_>>() {
            self.real.unmount(&name);
        }
        // What waits for its removal would be found by the next start only after a pause.
        self.real.core.sync().unwrap();
        let (model, numbers) = (self.model.clone(), self.numbers.clone());
        *self = Self::open(Arc::clone(&self.dir), self.store_dir.clone(), self.disk.after_kill(), model, numbers);
    }

    /// Every state that the model has.
    pub(super) fn states(model: &Model) -> BTreeMap<String, &Tree> {
        let mut states = BTreeMap::new();
        for (name, line) in &model.lines {
            states.insert(name.clone(), &line.head.tree);
            states.extend(line.snapshots.iter().map(|(s, (_, state))| (format!("{name}@{s}"), &state.tree)));
        }
        states
    }

    /// Every state is what the model says.
    pub(super) fn check(&mut self) {
        for (name, tree) in Self::states(&self.model) {
            same(&self.real.read(&self.real.view(&name), &self.numbers), tree, &name);
        }
        self.real.sound(false, "check");
        for (name, line) in &self.model.lines {
            self.real.counted(name, line.quota, "check");
        }
    }

    /// Programs on the branches see it too.
    pub(super) fn check_mounts(&mut self) {
        for (name, line) in &self.model.lines {
            self.real.shows(name, &line.head.tree, "mounted");
        }
    }
}

fn tree_bytes(tree: &Tree, id: Id) -> Vec<u8> {
    tree.objects[&id].bytes().cloned().unwrap()
}
