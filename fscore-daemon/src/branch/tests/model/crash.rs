//! Commands over whole states on a store that dies at every write.
//!
//! What is there afterwards is the state before the command or the one after it, with everything else as it was; and
//! what was not done yet can be done.

use super::real::Numbers;
use super::tree::Tree;
use super::world::{Model, World, same};
use super::{Step, What};
use crate::content::Host;
use crate::store::faulty::{FaultyDisk, Loss};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A world without mounts that can be opened again and again.
pub(super) struct Image {
    base: Arc<tempfile::TempDir>,
    store: tempfile::TempDir,
    disk: FaultyDisk,
    model: Model,
    numbers: Numbers,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
            let time = rustix::fs::stat(entry.path().as_path()).unwrap();
            let last = rustix::fs::Timespec { tv_sec: time.st_mtime, tv_nsec: time.st_mtime_nsec as i64 };
            let times = rustix::fs::Timestamps { last_access: last, last_modification: last };
            rustix::fs::utimensat(rustix::fs::CWD, to, &times, rustix::fs::AtFlags::empty()).unwrap();
        }
    }
}

/// Syncs everything.
fn settle(world: &World) {
    world.real.core.sync().unwrap();
    let contents = world.real.core.contents.root();
    world.host.sync_all(std::fs::File::open(contents).unwrap().as_fd()).unwrap();
}

impl Image {
    pub(super) fn of(mut world: World) -> Self {
        for name in world.model.lines.keys().cloned().collect::<Vec<_>>() {
            world.real.unmount(&name);
        }
        settle(&world);
        let store = tempfile::tempdir().unwrap();
        copy(&world.store_dir, store.path());
        let World { dir, disk, model, numbers, .. } = world;
        Self { base: dir, store, disk: disk.after_kill(), model, numbers }
    }

    /// Opened, with everything durable.
    fn boot(&self, dir: &Path) -> World {
        copy(self.store.path(), dir);
        let disk = self.disk.after_kill();
        let (model, numbers) = (self.model.clone(), self.numbers.clone());
        let world = World::open(Arc::clone(&self.base), dir.to_owned(), disk, model, numbers);
        settle(&world);
        world
    }
}

/// Whether a command, once acknowledged, survives the loss of power, and what was before it too.
fn syncs(step: Step, before: &Model, after: &Model) -> bool {
    let count = |model: &Model| model.lines.values().map(|line| line.snapshots.len()).sum::<usize>();
    match step.0 {
        What::Undo | What::UndoPaths => count(before) != count(after),
        _ => false,
    }
}

/// What the store has after a crash.
fn left(world: &World) -> BTreeMap<String, Tree> {
    let mut states = BTreeMap::new();
    for (id, record) in world.real.branches.records().unwrap() {
        let snapshots = world.real.branches.snapshots_of(id).unwrap();
        let names = snapshots.into_iter().map(|(snapshot, _)| format!("{}@{snapshot}", record.name));
        for name in names.chain([record.name.clone()]) {
            let tree = world.real.read(&world.real.view(&name), &world.numbers);
            states.insert(name, tree);
        }
    }
    states
}

fn is_state(found: &BTreeMap<String, Tree>, model: &Model) -> bool {
    let wanted = World::states(model);
    found.len() == wanted.len() && found.iter().all(|(name, tree)| wanted.get(name) == Some(&tree))
}

/// Dies at every operation on the disk that the steps do, or at every `stride`th, in each way that there is.
pub(super) fn die_everywhere(image: &Image, steps: &[Step], stride: usize) -> usize {
    let work = tempfile::tempdir().unwrap();
    let mut next = 0;
    let mut fresh = || -> PathBuf {
        next += 1;
        work.path().join(next.to_string())
    };
    let mut whole = image.boot(&fresh());
    let begin = whole.disk.ops();
    let mut models = vec![image.model.clone()];
    let mut durable = 0;
    let mut floors = vec![0];
    for (at, step) in steps.iter().enumerate() {
        whole.step(*step);
        if syncs(*step, &models[at], &whole.model) {
            durable = at + 1;
        }
        models.push(whole.model.clone());
        floors.push(durable);
    }
    whole.check();
    let end = whole.disk.ops();
    let mut deaths = 0;
    for cut in (0..end - begin).step_by(stride) {
        let dir = fresh();
        let mut world = image.boot(&dir);
        world.disk.cut_power_at(world.disk.ops() + cut);
        world.may_fail = true;
        let mut done = 0;
        for step in steps {
            world.step(*step);
            done += usize::from(!world.dead);
        }
        for loss in [None, Some(Loss::All), Some(Loss::Names), Some(Loss::Random(cut))] {
            let context = format!("cut {cut} of {}, {loss:?}, after {done} of {steps:?}", end - begin);
            let (dir, disk) =
                (fresh(), loss.map_or_else(|| world.disk.after_kill(), |l| world.disk.after_power_cut(l)));
            copy_store(&world.store_dir, &dir);
            match loss {
                None => world.host.after_kill(&dir.join("contents")),
                Some(loss) => world.host.after_power_cut(loss, &dir.join("contents")),
            }
            let least = if loss.is_none() { done } else { floors[done] };
            again(image, &models[least..(done + 2).min(models.len())], &steps[least..], (dir, disk), &context);
            deaths += 1;
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
    deaths
}

/// Everything but the content files.
fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_name() != "contents" {
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to.join(entry.file_name()));
            } else {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
}

/// Opens what a crash left: it is one of the states, sound, and what was not done is done now.
fn again(image: &Image, models: &[Model], steps: &[Step], (dir, disk): (PathBuf, FaultyDisk), context: &str) {
    let base = Arc::clone(&image.base);
    let mut world = World::open(base, dir.clone(), disk, models[0].clone(), image.numbers.clone());
    world.real.sound(true, context);
    let found = left(&world);
    let Some(at) = models.iter().position(|model| is_state(&found, model)) else {
        let last = models.last().unwrap();
        for (name, tree) in World::states(last) {
            match found.get(&name) {
                Some(shown) => same(shown, tree, &format!("{context}: {name}")),
                None => panic!("{context}: {name} is missing"),
            }
        }
        panic!("{context}: there are {:?}", found.keys().collect::<Vec<_>>());
    };
    world.model = models[at].clone();
    for step in &steps[at..] {
        world.step(*step);
    }
    world.check();
    drop(world);
    std::fs::remove_dir_all(dir).unwrap();
}
