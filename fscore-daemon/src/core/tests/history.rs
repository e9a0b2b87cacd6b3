//! Random histories of a mount, and what a store that was opened again after them has to hold.

use super::host::FaultyHost;
use super::*;
use crate::fsck;
use crate::store::faulty::{Dice, FaultyDisk};
use crate::store::{LogStore, Options, read_disk};
use shm_transport::control::FsckSeverity;
use shm_transport::wire::{FileKind, SetAttr};
use std::collections::BTreeMap;

/// So small that a short history fills segments and writes checkpoints.
const SMALL: Options = Options { segment_bytes: 4096, headroom_bytes: 512, checkpoint_bytes: 12_000, threads: false };
/// The directories: the root, one of the base, one of the branch.
const DIRECTORIES: [&str; 3] = ["", "d0", "d1"];
/// Bytes of a file of the base.
const BASE_LEN: usize = 1500;

/// Where a name is, and which file it leads to.
pub(super) type Names = BTreeMap<(usize, String), usize>;

#[derive(Debug)]
struct File {
    node: NodeId,
    /// Every content that it had, one after the other.
    versions: Vec<Vec<u8>>,
    /// The last of them that was acknowledged.
    known: usize,
}

/// A version of a file that is there from a state of the names on.
#[derive(Debug)]
struct Floor {
    state: usize,
    file: usize,
    version: usize,
}

pub(super) struct History {
    pub(super) rig: Rig,
    pub(super) disk: FaultyDisk,
    pub(super) host: Arc<FaultyHost>,
    pub(super) store: Arc<LogStore>,
    directories: [NodeId; 3],
    files: Vec<File>,
    names: Names,
    /// The names after each change that was acknowledged.
    states: Vec<Names>,
    /// The names as a failed change would have made them.
    perhaps: Vec<Names>,
    /// The last state that a sync covers.
    synced: usize,
    floors: Vec<Floor>,
    dice: Dice,
    /// Errors that programs saw.
    pub(super) errors: Vec<Errno>,
}

impl History {
    /// Everything that is there at the start is durable.
    pub(super) fn begin(seed: u64) -> Self {
        let disk = FaultyDisk::new();
        let store = Arc::new(LogStore::open_on(Arc::new(disk.clone()), SMALL).unwrap());
        let mut host = None;
        let contents = |dir: &Path| {
            let made = host.insert(Arc::new(FaultyHost::new(&disk, dir)));
            Contents::open_on(dir, 2, Arc::clone(made) as Arc<dyn crate::content::Host>).unwrap()
        };
        let mut rig = Rig::with(Arc::clone(&store) as Arc<dyn Store>, contents, |base| {
            std::fs::create_dir(base.join("d0")).unwrap();
            for (at, path) in ["f0", "f1", "d0/f0"].into_iter().enumerate() {
                std::fs::write(base.join(path), vec![at as u8 + 1; BASE_LEN]).unwrap();
            }
        });
        let d0 = rig.find(NodeId::ROOT, "d0").node;
        let d1 = rig.entry(NodeId::ROOT, Op::Mkdir { name: "d1".into(), mode: 0o755, umask: 0 }).node;
        rig.ok(NodeId::ROOT, Op::SyncFs, &[]);
        let directories = [NodeId::ROOT, d0, d1];
        let (mut files, mut names, mut floors) = (Vec::new(), Names::new(), Vec::new());
        for (at, (dir, name)) in [(0, "f0"), (0, "f1"), (1, "f0")].into_iter().enumerate() {
            let node = rig.find(directories[dir], name).node;
            files.push(File { node, versions: vec![vec![at as u8 + 1; BASE_LEN]], known: 0 });
            names.insert((dir, name.to_owned()), at);
            floors.push(Floor { state: 0, file: at, version: 0 });
        }
        Self {
            rig,
            disk,
            host: host.unwrap(),
            store,
            directories,
            files,
            states: vec![names.clone()],
            names,
            perhaps: Vec::new(),
            synced: 0,
            floors,
            dice: Dice::new(seed),
            errors: Vec::new(),
        }
    }

    /// Goes on for so many operations; with `stop`, to the first error at most.
    pub(super) fn go_on(&mut self, operations: usize, stop: bool) {
        for _ in 0..operations {
            self.step();
            if stop && !self.errors.is_empty() {
                return;
            }
        }
    }

    fn pick(&mut self) -> Option<((usize, String), usize)> {
        let at = self.dice.below(self.names.len() as u64) as usize;
        self.names.iter().nth(at).map(|(place, file)| (place.clone(), *file))
    }

    fn place(&mut self) -> (usize, String) {
        (self.dice.below(3) as usize, format!("f{}", self.dice.below(5)))
    }

    /// Runs an operation; whether it was acknowledged.
    fn try_op(&mut self, node: NodeId, op: Op, payload: &[u8]) -> Option<Reply> {
        match self.rig.run(node, op, payload).0 {
            Reply::Error(e) => {
                self.errors.push(e);
                None
            }
            reply => Some(reply),
        }
    }

    /// A change of names, as the model has it when it succeeds.
    fn changed(&mut self, done: bool, names: Names) {
        if done {
            self.names = names.clone();
            self.states.push(names);
        } else {
            self.perhaps.push(names);
        }
    }

    /// A change of the bytes; one that was not acknowledged may be there in part after the power went.
    fn version(&mut self, file: usize, done: bool, change: impl FnOnce(&mut Vec<u8>)) {
        if !done && !self.disk.is_off() {
            return;
        }
        let mut next = self.files[file].versions.last().unwrap().clone();
        change(&mut next);
        self.files[file].versions.push(next);
        if done {
            self.files[file].known = self.files[file].versions.len() - 1;
        }
    }

    fn is_durable(&mut self, file: usize) {
        let (state, version) = (self.states.len() - 1, self.files[file].versions.len() - 1);
        self.floors.push(Floor { state, file, version });
    }

    fn step(&mut self) {
        let what = self.dice.below(20);
        let Some((from, file)) = self.pick() else { return self.create() };
        let node = self.files[file].node;
        match what {
            0..3 => self.create(),
            3..8 => {
                let (offset, len) = (self.dice.below(2000), 1 + self.dice.below(1800) as usize);
                let bytes = vec![self.dice.below(250) as u8; len];
                let op = Op::Write { fh: 0, offset, kill_suidgid: false };
                let done = self.try_op(node, op, &bytes).is_some();
                self.version(file, done, |content| {
                    let end = offset as usize + len;
                    content.resize(content.len().max(end), 0);
                    content[offset as usize..end].copy_from_slice(&bytes);
                });
            }
            8 | 9 => {
                let datasync = what == 8;
                if self.try_op(node, Op::Fsync { fh: 0, datasync }, &[]).is_some() {
                    self.synced = self.states.len() - 1;
                    self.is_durable(file);
                }
            }
            10 | 11 => {
                let op = if what == 10 { Op::SyncFs } else { Op::FsyncDir { datasync: false } };
                if self.try_op(NodeId::ROOT, op, &[]).is_some() {
                    self.synced = self.states.len() - 1;
                    (0..self.files.len()).for_each(|file| self.is_durable(file));
                }
            }
            12..15 => self.rename(from, file),
            15 => {
                let mut names = self.names.clone();
                names.remove(&from);
                let op = Op::Unlink { name: from.1.clone().into() };
                let done = self.try_op(self.directories[from.0], op, &[]).is_some();
                self.changed(done, names);
            }
            16 | 17 => {
                let size = if what == 16 { 0 } else { self.dice.below(3000) };
                let set = SetAttr { size: Some(size), mode: (size == 0).then_some(0o600), ..SetAttr::default() };
                let done = self.try_op(node, Op::SetAttr(set), &[]).is_some();
                self.version(file, done, |content| content.resize(size as usize, 0));
            }
            18 => {
                let to = self.place();
                let mut names = self.names.clone();
                if names.contains_key(&to) {
                    return;
                }
                names.insert(to.clone(), file);
                let op = Op::Link { target: node, name: to.1.into() };
                let done = self.try_op(self.directories[to.0], op, &[]).is_some();
                self.changed(done, names);
            }
            _ => self.freeze(),
        }
    }

    fn create(&mut self) {
        let to = self.place();
        if self.names.contains_key(&to) {
            return;
        }
        let op = Op::Create { name: to.1.clone().into(), mode: 0o644, flags: 0, umask: 0 };
        match self.try_op(self.directories[to.0], op, &[]) {
            Some(Reply::Created(entry, _)) => {
                let mut names = self.names.clone();
                names.insert(to, self.files.len());
                self.files.push(File { node: entry.node, versions: vec![Vec::new()], known: 0 });
                self.changed(true, names);
            }
            Some(other) => panic!("{other:?}"),
            None => {
                // The number of what may be there all the same is not known.
                let mut names = self.names.clone();
                names.insert(to, usize::MAX);
                self.perhaps.push(names);
            }
        }
    }

    fn rename(&mut self, from: (usize, String), file: usize) {
        let to = self.place();
        let replaced = self.names.get(&to).copied();
        if replaced == Some(file) {
            return;
        }
        let mut names = self.names.clone();
        names.remove(&from);
        names.insert(to.clone(), file);
        let (new_parent, new_name) = (self.directories[to.0], to.1.into());
        let op = Op::Rename { name: from.1.into(), new_parent, new_name, flags: 0 };
        let done = self.try_op(self.directories[from.0], op, &[]).is_some();
        self.changed(done, names);
        if replaced.is_some() {
            // Also where it failed: the bytes were made durable before the record.
            if done {
                self.is_durable(file);
            }
        }
    }

    fn freeze(&mut self) {
        let (core, branch) = (Arc::clone(&self.rig.core), Arc::clone(&self.rig.branch));
        let mut view = branch.view_mut();
        let done = core.new_epoch().and_then(|epoch| {
            let mut record = core.branch_record(branch.id)?;
            let mut batch = Batch::default();
            batch.put(
                keys::epoch(epoch),
                EpochRecord { parent: Some(record.head), branch: branch.id, base: None }.encode(),
            );
            record.head = epoch;
            batch.put(keys::branch(branch.id), record.encode());
            core.store.commit(&batch)?;
            *view = core.view_at(branch.id, epoch)?;
            Ok(())
        });
        if done.is_err() {
            self.errors.push(Errno::EIO);
        }
    }

    /// What a mount shows.
    fn shown(&self, rig: &mut Rig) -> Names {
        let mut shown = Names::new();
        for (dir, node) in self.directories.into_iter().enumerate() {
            for name in rig.list(node, false) {
                if dir == 0 && DIRECTORIES.contains(&name.as_str()) {
                    continue;
                }
                let found = rig.find(node, &name).node;
                let file = self.files.iter().position(|file| file.node == found).unwrap_or(usize::MAX);
                shown.insert((dir, name), file);
            }
        }
        shown
    }

    /// The running mount shows what was acknowledged, and nothing else.
    pub(super) fn check_now(&mut self, context: &str) {
        let mut rig = std::mem::replace(&mut self.rig, Rig::new(|_| ()));
        assert_eq!(self.shown(&mut rig), self.names, "{context}");
        for file in self.names.values() {
            let file = &self.files[*file];
            assert_eq!(rig.read(file.node), *file.versions.last().unwrap(), "{context}");
        }
        self.rig = rig;
        let found = fsck::check(&self.store.snapshot(), self.rig.core.contents.root()).unwrap();
        assert_eq!(errors(&found), Vec::<String>::new(), "{context}");
    }

    /// Opens what is left of the store, and holds every promise against it. With `killed` nothing acknowledged
    /// may be missing.
    pub(super) fn check_after(&self, disk: &FaultyDisk, left: tempfile::TempDir, killed: bool, context: &str) {
        let contents = left.path().join("contents");
        let (_, map) = read_disk(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
        let raw = fsck::check(&map, &contents).unwrap();
        let store = Arc::new(LogStore::open_on(Arc::new(disk.clone()), SMALL).unwrap());
        let made = Arc::new(Contents::open(&contents, 16).unwrap());
        let core = Core::open(Arc::clone(&store) as Arc<dyn Store>, made, Arc::new(HostClock)).unwrap();
        let mut rig = Rig::mount(left, core, self.rig.branch.id);
        // Requests of before would be answered from their records.
        rig.next.store(1 << 40, Ordering::Relaxed);
        let shown = self.shown(&mut rig);
        let from = if killed { self.states.len() - 1 } else { self.synced };
        let state = (from..self.states.len()).find(|at| self.states[*at] == shown);
        assert!(
            state.is_some() || self.perhaps.contains(&shown),
            "{context}: none of the states from {from} on: {shown:?}, last {:?}",
            self.states.last()
        );
        // What a failed change left is newer than every acknowledged state.
        let state = state.unwrap_or(self.states.len() - 1);
        for file in shown.values().filter(|file| **file != usize::MAX) {
            let floor = self.floor(*file, state);
            let file = &self.files[*file];
            let bytes = rig.read(file.node);
            let least = if killed { file.known } else { floor };
            let versions = &file.versions[least..];
            let lengths: Vec<_> = versions.iter().map(Vec::len).collect();
            assert!(
                is_mixture(&bytes, versions),
                "{context}: {:?} has {} bytes in state {state}; since version {least} it had {lengths:?}",
                file.node,
                bytes.len(),
            );
        }
        for finding in raw.findings.iter().filter(|finding| finding.told.severity == FsckSeverity::Error) {
            let lost = !killed && finding.told.kind == "content-missing" && self.never_synced(finding, state);
            assert!(lost, "{context}: {finding:?}");
        }
        // Everything can be used, and what the start tidied up is in order.
        let node = rig.entry(NodeId::ROOT, Op::Create { name: "after".into(), mode: 0o644, flags: 0, umask: 0 }).node;
        rig.write(node, 0, b"after");
        rig.ok(node, Op::Fsync { fh: 0, datasync: false }, &[]);
        let found = fsck::check(&store.snapshot(), rig.core.contents.root()).unwrap();
        let errors: Vec<_> = errors(&found).into_iter().filter(|kind| kind != "content-missing").collect();
        assert_eq!(errors, Vec::<String>::new(), "{context}");
    }

    fn floor(&self, file: usize, state: usize) -> usize {
        let floors = self.floors.iter().filter(|floor| floor.file == file && floor.state <= state);
        floors.map(|floor| floor.version).max().unwrap_or(0)
    }

    /// Only a file that nobody synced, or that was empty then or later, may lose its content file.
    fn never_synced(&self, finding: &fsck::Finding, state: usize) -> bool {
        let path = finding.told.path.clone().unwrap_or_default();
        let path = path.trim_start_matches("b:/");
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = DIRECTORIES.iter().position(|known| *known == dir);
        let place = dir.map(|dir| (dir, name.to_owned()));
        match place.and_then(|place| self.states[state].get(&place)) {
            Some(file) => {
                let floor = self.floor(*file, state);
                floor == 0 || self.files[*file].versions[floor..].iter().any(Vec::is_empty)
            }
            // It has no name any more.
            None => true,
        }
    }
}

/// Kinds of the errors that were found.
pub(super) fn errors(found: &fsck::Found) -> Vec<String> {
    let errors = found.findings.iter().filter(|finding| finding.told.severity == FsckSeverity::Error);
    errors.map(|finding| finding.told.kind.clone()).collect()
}

/// Whether each byte is that of one of the versions, and the length too; a hole may be where one was shorter.
fn is_mixture(bytes: &[u8], versions: &[Vec<u8>]) -> bool {
    let least = versions.iter().map(Vec::len).min().unwrap_or(0);
    let greatest = versions.iter().map(Vec::len).max().unwrap_or(0);
    (least..=greatest).contains(&bytes.len())
        && bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| versions.iter().any(|version| version.get(at).map_or(*byte == 0, |known| known == byte)))
}

#[test]
fn the_history_is_rich() {
    let mut history = History::begin(1);
    let before = history.disk.ops();
    history.go_on(400, false);
    assert_eq!(history.errors, []);
    assert!(history.states.len() > 50 && history.floors.len() > 50 && history.disk.ops() - before > 300);
    assert!(history.store.snapshot().get(&keys::content(super::super::ids::ContentId(1))).is_some());
    assert_eq!(FileKind::Regular.mode_bits(), libc::S_IFREG);
    history.check_now("without a fault");
}
