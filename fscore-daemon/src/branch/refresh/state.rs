//! What a branch changed, as one epoch without a parent.

use super::super::conflict::Conflicts;
use super::super::diff::Comparison;
use super::super::paths::{Changed, Name, Path, Tree, join, split};
use super::super::preimages::Preimages;
use crate::core::base::{Base, BaseStat};
use crate::core::change::Change;
use crate::core::error::FsResult;
use crate::core::ids::{EpochId, ObjectId};
use crate::core::keys;
use crate::core::merged::Merged;
use crate::core::record::{DirentRecord, EpochRecord, ObjectRecord, XattrSet};
use crate::core::view::View;
use crate::store::{Batch, MemStore, Store};
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The epoch that stands for the result until it has a number.
const RESULT: EpochId = EpochId(u64::MAX);

/// The records.
#[derive(Debug, Default)]
pub(super) struct State {
    names: BTreeMap<Name, DirentRecord>,
    objects: BTreeMap<ObjectId, ObjectRecord>,
    xattrs: BTreeMap<ObjectId, XattrSet>,
    known: Preimages,
    /// Base objects that got a name in a directory of the branch.
    pinned: Vec<ObjectId>,
}

/// A name that leads elsewhere when a change is dropped.
struct Turn {
    path: Path,
    dir: ObjectId,
    before: Option<(ObjectId, FileKind)>,
    after: Option<BaseStat>,
}

impl State {
    /// Everything that a view's epochs say, and what they know of the base.
    pub(super) fn of(view: &View, changed: &Changed) -> FsResult<Self> {
        let mut it = Self { known: Preimages::of_changes(view, changed)?, ..Self::default() };
        for (dir, name) in &changed.names {
            if let Some(found) = view.dirent(*dir, name)? {
                it.names.insert((*dir, name.clone()), found.value);
            }
        }
        for &object in &changed.objects {
            if let Some(found) = view.object(object)? {
                it.objects.insert(object, found.value);
            }
            if let Some(found) = view.xattrs(object)? {
                it.xattrs.insert(object, found.value);
            }
        }
        Ok(it)
    }

    /// Puts the records into a batch.
    pub(super) fn put(&self, view: &View, (epoch, parent): (EpochId, Option<EpochId>), batch: &mut Batch) {
        let mut change = Change::new(&View { chain: [epoch].into(), ..view.clone() });
        for ((dir, name), record) in &self.names {
            change.dirent(*dir, name, *record, true);
        }
        for (object, record) in &self.objects {
            change.object(*object, record);
        }
        for (object, set) in &self.xattrs {
            change.xattrs(*object, set);
        }
        batch.put(keys::epoch(epoch), EpochRecord { parent, branch: view.branch, base: None }.encode());
        batch.changes.extend(change.batch.changes);
        self.known.put(epoch, batch);
    }

    /// Has the base find again what got a name on the branch.
    pub(super) fn pin(&self, base: &Base, batch: &mut Batch) {
        for object in &self.pinned {
            base.pin(*object, batch);
        }
    }

    /// As a view, without anything of it being in the store; with what is known besides.
    pub(super) fn view(&self, of: &View, renewed: Option<&Preimages>) -> FsResult<View> {
        let mut batch = Batch::default();
        self.put(of, (RESULT, None), &mut batch);
        if let Some(known) = renewed {
            known.put(RESULT, &mut batch);
        }
        in_memory(of, &batch, [RESULT].into())
    }

    /// Drops what the branch has at these paths, so that the base shows through. Answers the paths at which that cannot
    /// be done without others.
    pub(super) fn drop_changes(
        &mut self,
        comparison: &mut Comparison<'_>,
        found: &Conflicts,
        dropped: &BTreeSet<Path>,
    ) -> FsResult<BTreeSet<Path>> {
        let mut refused = BTreeSet::new();
        for objects in found.homeless.iter().filter(|(path, _)| dropped.contains(*path)).map(|(_, objects)| objects) {
            self.forget(objects);
        }
        let turns = self.turn_names(comparison, dropped, &mut refused)?;
        self.restore(comparison, &turns, &mut refused)?;
        self.prune(comparison.tree.view)?;
        self.give_up_objects(comparison, dropped, &mut refused)?;
        Ok(refused)
    }

    /// Objects that no path leads to, and everything in them.
    fn forget(&mut self, objects: &BTreeSet<ObjectId>) {
        let mut left: Vec<ObjectId> = objects.iter().copied().collect();
        let mut done = BTreeSet::new();
        while let Some(object) = left.pop() {
            if !done.insert(object) {
                continue;
            }
            self.objects.remove(&object);
            self.xattrs.remove(&object);
            let inside = (object, Vec::new())..;
            let names: Vec<Name> =
                self.names.range(inside).map(|(name, _)| name.clone()).take_while(|(dir, _)| *dir == object).collect();
            for name in names {
                if let Some(DirentRecord::Entry { object, .. }) = self.names.remove(&name) {
                    left.push(object);
                }
            }
            self.names.retain(|_, record| !matches!(record, DirentRecord::Entry { object: to, .. } if *to == object));
        }
    }

    /// Takes the records of names away; where the branch has another directory at a place, its names are set.
    fn turn_names(
        &mut self,
        comparison: &mut Comparison<'_>,
        dropped: &BTreeSet<Path>,
        refused: &mut BTreeSet<Path>,
    ) -> FsResult<Vec<Turn>> {
        let mut turns: BTreeMap<Name, Turn> = BTreeMap::new();
        let changed = comparison.changed;
        for (dir, name) in &changed.names {
            let mut paths = Vec::new();
            paths.extend(comparison.tree.directory(*dir)?.map(|above| join(&above, name)));
            if dir.is_base() {
                paths.extend(comparison.tree.base_directory(*dir)?.map(|above| join(&above, name)));
            }
            let wanted = |path: &Path| dropped.contains(path) || comparison.is_kept(path);
            let Some(path) = paths.into_iter().find(wanted) else { continue };
            let (before, after) = (comparison.tree.child(*dir, name)?, comparison.tree.base_child(*dir, name)?);
            self.names.remove(&(*dir, name.clone()));
            self.known.names.remove(&(*dir, name.clone()));
            turns.insert((*dir, name.clone()), Turn { path, dir: *dir, before, after });
        }
        for path in dropped.iter().filter(|path| !path.is_empty()) {
            let (above, name) = split(path);
            let (Some(here), there) = comparison.tree.directories(above)? else { continue };
            if Some(here) == there {
                continue;
            }
            let before = comparison.tree.child(here, name)?;
            let after = there.map_or(Ok(None), |there| comparison.tree.base_child(there, name))?;
            let place = (here, name.to_vec());
            match &after {
                // It would have two places at once.
                Some(stat) if stat.kind == FileKind::Directory => drop(refused.insert(path.clone())),
                Some(stat) => {
                    self.names.insert(place.clone(), DirentRecord::Entry { object: stat.object, kind: stat.kind });
                    self.pinned.push(stat.object);
                }
                None => drop(self.names.remove(&place)),
            }
            turns.insert(place, Turn { path: path.clone(), dir: here, before, after });
        }
        Ok(turns.into_values().collect())
    }

    /// Records of what shows again, and of the directories in which names changed.
    fn restore(
        &mut self,
        comparison: &mut Comparison<'_>,
        turns: &[Turn],
        refused: &mut BTreeSet<Path>,
    ) -> FsResult<()> {
        for Turn { path, dir, before, after } in turns {
            let is_dir = |kind: FileKind| i32::from(kind == FileKind::Directory);
            let by = after.map_or(0, |stat| is_dir(stat.kind)) - before.map_or(0, |(_, kind)| is_dir(kind));
            if let Some(record) = self.objects.get_mut(dir).filter(|record| record.nlink >= 2) {
                record.nlink = record.nlink.saturating_add_signed(by).max(2);
            }
            let Some(stat) = after else { continue };
            if before.is_some_and(|(object, _)| object == stat.object) {
                continue;
            }
            let Some(record) = self.objects.get(&stat.object) else { continue };
            if record.nlink == 0 {
                self.objects.remove(&stat.object);
                self.xattrs.remove(&stat.object);
            } else if stat.kind == FileKind::Directory {
                refused.insert(path.clone());
            } else {
                // It has another place on the branch: it must be the same there.
                let (facts, base) = (comparison.branch_facts(stat.object)?, comparison.base_facts(stat)?);
                if !comparison.same(&facts, &base)?.whole() {
                    refused.insert(path.clone());
                }
            }
        }
        Ok(())
    }

    /// Takes away what lies in directories of the branch that nothing leads to any more.
    fn prune(&mut self, view: &View) -> FsResult<()> {
        loop {
            let now = self.view(view, None)?;
            let mut tree = Tree::new(&now, &Changed::of(&now)?)?;
            let mut gone = BTreeSet::new();
            let dirs =
                self.objects.iter().filter(|(dir, record)| !dir.is_base() && record.kind() == FileKind::Directory);
            for (&dir, _) in dirs {
                if dir != now.root && tree.directory(dir)?.is_none() {
                    gone.insert(dir);
                }
            }
            if gone.is_empty() {
                return Ok(());
            }
            self.names.retain(|(dir, _), _| !gone.contains(dir));
            self.objects.retain(|object, _| !gone.contains(object));
            self.xattrs.retain(|object, _| !gone.contains(object));
        }
    }

    /// What the base wins is dropped with its attributes and content; links are counted anew.
    fn give_up_objects(
        &mut self,
        comparison: &mut Comparison<'_>,
        dropped: &BTreeSet<Path>,
        refused: &mut BTreeSet<Path>,
    ) -> FsResult<()> {
        let view = comparison.tree.view;
        let now = self.view(view, None)?;
        let mut tree = Tree::new(&now, &Changed::of(&now)?)?;
        let objects: Vec<ObjectId> = self.objects.keys().chain(self.xattrs.keys()).copied().collect();
        for object in objects {
            let Some(record) = self.objects.get(&object) else { continue };
            if record.nlink == 0 {
                continue;
            }
            if record.kind() == FileKind::Directory {
                if let Some(path) = tree.directory(object)?
                    && dropped.contains(&path)
                    && let Some(base) = view.base_of(object)
                {
                    let stat = base.stat(object)?;
                    if let Some(record) = self.objects.get_mut(&object) {
                        (record.mode, record.uid, record.gid) = (stat.attr.mode & 0o7777, stat.attr.uid, stat.attr.gid);
                    }
                    self.xattrs.remove(&object);
                    self.known.objects.insert(object, stat.identity().encode());
                }
                continue;
            }
            let (old, new) = (comparison.tree.places(object)?, tree.places(object)?);
            let of_base = new.iter().filter(|(path, _)| dropped.contains(path) || comparison.is_kept(path)).count();
            if new.is_empty() || (of_base == new.len() && object.is_base()) {
                self.objects.remove(&object);
                self.known.objects.remove(&object);
                self.xattrs.remove(&object);
            } else if of_base > 0 {
                refused.extend(new.into_iter().map(|(path, _)| path).find(|path| dropped.contains(path)));
            } else if let Some(record) = self.objects.get_mut(&object) {
                let lost = old.iter().filter(|place| !new.contains(place)).count() as u32;
                let gained = new.iter().filter(|place| !old.contains(place)).count() as u32;
                record.nlink = (record.nlink.saturating_sub(lost) + gained).max(new.len() as u32);
            }
        }
        Ok(())
    }
}

/// A view over nothing but a batch.
fn in_memory(of: &View, batch: &Batch, chain: Arc<[EpochId]>) -> FsResult<View> {
    let store = MemStore::default();
    store.commit(batch)?;
    Ok(View { chain, store: Arc::new(store), merged: Arc::new(Merged::default()), ..of.clone() })
}

/// A view of the store, with everything of it in the store of another one: two states are compared in one store.
pub(super) fn copy_of(view: &View, beside: Option<&View>) -> FsResult<View> {
    let mut batch = Batch::default();
    for &epoch in view.chain.iter() {
        let changes = keys::changes(epoch);
        let mut index = Vec::new();
        view.store.scan(&changes, &mut |key, _| {
            let inside = key.starts_with(&changes);
            if inside {
                index.push(key.to_vec());
            }
            inside
        });
        for key in index {
            if let Some((record, _)) = super::super::paths::record_key(&key, epoch)
                && let Some(value) = view.store.get(&record)
            {
                batch.put(record, value);
            }
            batch.put(key, []);
        }
        batch.put(keys::epoch(epoch), view.store.get(&keys::epoch(epoch)).unwrap_or_default());
    }
    let Some(beside) = beside else { return in_memory(view, &batch, Arc::clone(&view.chain)) };
    beside.store.commit(&batch)?;
    Ok(View { store: Arc::clone(&beside.store), merged: Arc::new(Merged::default()), ..view.clone() })
}
