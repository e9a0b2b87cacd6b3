//! What differs between two states of one tree: heads, snapshots, or the base, which is a view without epochs.
//!
//! Names are compared by directory and not by path: a directory that moved is one change, whatever it holds. Where
//! a directory is on one side only, what the other has at its place is its *counterpart*.

use super::facts::{Facts, same_content};
use super::links;
use super::paths::{Changed, Path, Tree, join};
use crate::content::Contents;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::{EpochId, ObjectId};
use crate::core::view::View;
use shm_transport::control::ChangeKind;
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) kind: ChangeKind,
    /// Kind of object in the new state; in the old one where it is deleted.
    pub(super) object: FileKind,
    /// Modified, but not in content.
    pub(super) metadata_only: bool,
    /// Size in the new state; in the old one where it is deleted.
    pub(super) size: u64,
    pub(super) new: Option<ObjectId>,
    pub(super) old: Option<ObjectId>,
    /// Its path in the old state, if that is another one.
    pub(super) from: Option<Path>,
    /// Renamed, and not the same as before.
    pub(super) edited: bool,
}

/// A name that only one side has at its place.
struct Loose {
    path: Path,
    object: ObjectId,
    kind: FileKind,
}

/// A name in the directories of both sides that count as one.
type Spot = (Option<ObjectId>, Option<ObjectId>, Vec<u8>);

/// What two views changed against each other: the epochs that not both have.
pub(super) fn changed_between(a: &View, b: &View) -> FsResult<Changed> {
    let sets: [HashSet<EpochId>; 2] = [a, b].map(|view| view.chain.iter().copied().collect());
    let [in_a, in_b] = &sets;
    let mut all = Changed::default();
    for &epoch in in_a.symmetric_difference(in_b) {
        all.add(a.store.as_ref(), epoch)?;
    }
    Ok(all)
}

/// A comparison.
pub(super) struct Between<'a> {
    pub(super) old: Tree<'a>,
    pub(super) new: Tree<'a>,
    contents: &'a Contents,
    /// By path, and whether it is the new one; what is deleted has its old one. Both can differ at one path: a directory
    /// that moved to the place of another brings names that the other had.
    pub(super) deltas: BTreeMap<(Path, bool), Delta>,
    lost: BTreeMap<ObjectId, Vec<Loose>>,
    gained: BTreeMap<ObjectId, Vec<Loose>>,
    /// What the other side has for a directory that only one side has.
    counterparts: HashMap<(bool, ObjectId), Option<ObjectId>>,
}

impl<'a> Between<'a> {
    /// Compares two views of one tree; `changed` is what [`changed_between`] says.
    pub(super) fn run(old: &'a View, new: &'a View, contents: &'a Contents, changed: &Changed) -> FsResult<Self> {
        for view in [old, new] {
            if !view.chain.is_empty() {
                links::note(view, contents, changed)?;
            }
        }
        let mut it = Self {
            old: Tree::new(old, changed)?,
            new: Tree::new(new, changed)?,
            contents,
            deltas: BTreeMap::new(),
            lost: BTreeMap::new(),
            gained: BTreeMap::new(),
            counterparts: HashMap::new(),
        };
        let mut left = Vec::new();
        for (dir, name) in &changed.names {
            left.extend(it.spot(*dir, name)?);
        }
        let mut seen = BTreeSet::new();
        while let Some(spot) = left.pop() {
            if seen.insert(spot.clone()) {
                it.compare(spot, &mut left)?;
            }
        }
        it.pair_up()?;
        for &object in &changed.objects {
            it.compare_object(object)?;
        }
        Ok(it)
    }

    /// Whether a path leads to an object.
    fn is_there(tree: &mut Tree<'_>, object: ObjectId, kind: FileKind) -> FsResult<bool> {
        if object == tree.view.root {
            return Ok(true);
        }
        if kind == FileKind::Directory {
            return Ok(tree.directory(object)?.is_some());
        }
        if tree.view.object(object)?.is_some_and(|v| v.value.nlink == 0) {
            return Ok(false);
        }
        Ok(!tree.places(object)?.is_empty())
    }

    /// The directory of the other side that counts as the same as one which that side does not have.
    fn counterpart(&mut self, of_new: bool, dir: ObjectId) -> FsResult<Option<ObjectId>> {
        if let Some(known) = self.counterparts.get(&(of_new, dir)) {
            return Ok(*known);
        }
        let (here, there) = if of_new { (&mut self.new, &mut self.old) } else { (&mut self.old, &mut self.new) };
        let found = if there.directory(dir)?.is_some() {
            Some(dir)
        } else if here.directory(dir)?.is_some()
            && let Some((above, name)) = here.branch_parent(dir)?
        {
            match self.counterpart(of_new, above)? {
                None => None,
                Some(above) => {
                    let (here, there) = if of_new { (&mut self.new, &self.old) } else { (&mut self.old, &self.new) };
                    let found = there.child(above, &name)?.filter(|(_, kind)| *kind == FileKind::Directory);
                    match found {
                        Some((object, _)) if here.directory(object)?.is_none() => Some(object),
                        Some(_) | None => None,
                    }
                }
            }
        } else {
            None
        };
        self.counterparts.insert((of_new, dir), found);
        Ok(found)
    }

    /// Where a changed name is; `None` where no path leads there on either side.
    fn spot(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<Option<Spot>> {
        Ok(if self.new.directory(dir)?.is_some() {
            Some((self.counterpart(true, dir)?, Some(dir), name.to_vec()))
        } else if self.old.directory(dir)?.is_some() {
            Some((Some(dir), self.counterpart(false, dir)?, name.to_vec()))
        } else {
            None
        })
    }

    fn compare(&mut self, spot: Spot, left: &mut Vec<Spot>) -> FsResult<()> {
        let (old_dir, new_dir, name) = spot;
        let old = old_dir.map_or(Ok(None), |dir| self.old.child(dir, &name))?;
        let new = new_dir.map_or(Ok(None), |dir| self.new.child(dir, &name))?;
        if old.map(|(object, _)| object) == new.map(|(object, _)| object) {
            return Ok(());
        }
        let old_path = self.path(false, old_dir, &name)?;
        let new_path = self.path(true, new_dir, &name)?;
        let stays = old.map_or(Ok(false), |(object, kind)| Self::is_there(&mut self.new, object, kind))?;
        let came = new.map_or(Ok(false), |(object, kind)| Self::is_there(&mut self.old, object, kind))?;
        let is_dir = |side: Option<(ObjectId, FileKind)>| {
            side.filter(|(_, kind)| *kind == FileKind::Directory).map(|(object, _)| object)
        };
        let (old_inside, new_inside) = (is_dir(old).filter(|_| !stays), is_dir(new).filter(|_| !came));
        let mut names = BTreeSet::new();
        if let Some(dir) = old_inside {
            names.extend(self.old.names(dir)?);
        }
        if let Some(dir) = new_inside {
            names.extend(self.new.names(dir)?);
        }
        left.extend(names.into_iter().map(|name| (old_inside, new_inside, name)));
        // A directory that was moved to the place of something else is not walked: what tells of it is its move.
        let moved_over = came && !stays && is_dir(new).is_some();
        match (old, new) {
            (Some((before, before_kind)), Some((after, after_kind))) if !stays && !moved_over => {
                if let Some(path) = new_path {
                    let kinds = (before_kind, after_kind);
                    self.compare_pair(path, before, after, kinds)?;
                }
            }
            _ => {
                if let (Some((object, kind)), Some(path), false) = (old, old_path, moved_over) {
                    self.lost.entry(object).or_default().push(Loose { path, object, kind });
                }
                if let (Some((object, kind)), Some(path)) = (new, new_path) {
                    self.gained.entry(object).or_default().push(Loose { path, object, kind });
                }
            }
        }
        // What came here over something else is gone from where it was: its old name tells.
        Ok(())
    }

    fn path(&mut self, new: bool, dir: Option<ObjectId>, name: &[u8]) -> FsResult<Option<Path>> {
        let tree = if new { &mut self.new } else { &mut self.old };
        Ok(match dir {
            Some(dir) => tree.directory(dir)?.map(|above| join(&above, name)),
            None => None,
        })
    }

    /// Two objects at one place.
    fn compare_pair(
        &mut self,
        path: Path,
        before: ObjectId,
        after: ObjectId,
        kinds: (FileKind, FileKind),
    ) -> FsResult<()> {
        let mut delta = Delta {
            kind: ChangeKind::Retyped,
            object: kinds.1,
            metadata_only: false,
            size: self.size(true, after)?,
            new: Some(after),
            old: Some(before),
            from: None,
            edited: false,
        };
        if kinds.0 == kinds.1 {
            let Some(metadata_only) = self.difference(before, after)? else { return Ok(()) };
            (delta.kind, delta.metadata_only) = (ChangeKind::Modified, metadata_only);
        }
        self.deltas.insert((path, true), delta);
        Ok(())
    }

    /// How an object of the old state differs from one of the new: `None` if it does not, else whether it does in
    /// attributes and time only.
    fn difference(&self, before: ObjectId, after: ObjectId) -> FsResult<Option<bool>> {
        let old = facts(&self.old, self.contents, before)?;
        let new = facts(&self.new, self.contents, after)?;
        // What the host has lost cannot be looked at, and is told.
        let (Some(old), Some(new)) = (old, new) else { return Ok(Some(false)) };
        let base = self.new.view.base.as_ref();
        let content = same_content(self.contents, base, &new, &old)?;
        let same = content && new.same_attributes(&old) && new.same_time(&old);
        Ok((!same).then_some(content))
    }

    fn size(&self, new: bool, object: ObjectId) -> FsResult<u64> {
        let tree = if new { &self.new } else { &self.old };
        Ok(facts(tree, self.contents, object)?.map_or(0, |facts| facts.size))
    }

    /// Names that an object lost and gained: moves first, then what is left.
    fn pair_up(&mut self) -> FsResult<()> {
        let (mut lost, mut gained) = (std::mem::take(&mut self.lost), std::mem::take(&mut self.gained));
        // Another directory has the place, and in it the same name leads to the same object: no path changed.
        let mut stayed = BTreeMap::new();
        for (object, names) in &mut gained {
            let Some(before) = lost.get_mut(object) else { continue };
            names.retain(|Loose { path, kind, .. }| match before.iter().position(|loose| loose.path == *path) {
                Some(at) => {
                    before.remove(at);
                    stayed.insert(path.clone(), (*object, *kind));
                    false
                }
                None => true,
            });
        }
        for names in lost.values_mut() {
            names.sort_by(|a, b| b.path.cmp(&a.path));
        }
        for (object, mut names) in gained {
            names.sort_by(|a, b| a.path.cmp(&b.path));
            for Loose { path, kind, .. } in names {
                let from = lost.get_mut(&object).and_then(Vec::pop).map(|loose| loose.path);
                self.tell_gained(path, object, kind, from)?;
            }
        }
        let mut moved = self.moved_directories();
        for (path, (object, kind)) in stayed {
            // It did not go with its directory.
            if is_carried(&moved, &path) {
                moved.insert(path.clone(), path.clone());
                self.tell_gained(path.clone(), object, kind, Some(path))?;
            }
        }
        for Loose { path, object, kind } in lost.into_values().flatten() {
            // Another directory has the place, and in it the same name.
            let at = (path.clone(), true);
            if self.deltas.get(&at).is_some_and(|delta| delta.kind == ChangeKind::Added)
                && let Some(added) = self.deltas.remove(&at)
                && let Some(after) = added.new
            {
                self.compare_pair(path.clone(), object, after, (kind, added.object))?;
                if self.deltas.contains_key(&at) || !is_carried(&moved, &path) {
                    continue;
                }
                // It looks the same, and is not the one that went with its directory.
                self.deltas.insert(at, added);
            }
            let delta = Delta {
                kind: ChangeKind::Deleted,
                object: kind,
                metadata_only: false,
                size: self.size(false, object)?,
                new: None,
                old: Some(object),
                from: None,
                edited: false,
            };
            self.deltas.insert((path, false), delta);
        }
        Ok(())
    }

    fn tell_gained(&mut self, path: Path, object: ObjectId, kind: FileKind, from: Option<Path>) -> FsResult<()> {
        let delta = Delta {
            kind: if from.is_some() { ChangeKind::Renamed } else { ChangeKind::Added },
            object: kind,
            metadata_only: false,
            size: self.size(true, object)?,
            new: Some(object),
            old: from.is_some().then_some(object),
            from,
            edited: false,
        };
        self.deltas.insert((path, true), delta);
        Ok(())
    }

    /// Directories that are told as moved, by their old paths.
    fn moved_directories(&self) -> BTreeMap<Path, Path> {
        let dirs = self.deltas.iter().filter(|(_, delta)| delta.object == FileKind::Directory);
        dirs.filter_map(|((path, _), delta)| Some((delta.from.clone()?, path.clone()))).collect()
    }

    /// An object that both sides have.
    fn compare_object(&mut self, object: ObjectId) -> FsResult<()> {
        let Some(kind) = kind_of(&self.new, object)? else { return Ok(()) };
        // The root of a branch without a base.
        if kind_of(&self.old, object)?.is_none() {
            return Ok(());
        }
        if !Self::is_there(&mut self.new, object, kind)? || !Self::is_there(&mut self.old, object, kind)? {
            return Ok(());
        }
        let Some(metadata_only) = self.difference(object, object)? else { return Ok(()) };
        let paths: Vec<Path> = if kind == FileKind::Directory {
            self.new.directory(object)?.into_iter().collect()
        } else {
            self.new.places(object)?.into_iter().map(|(path, _)| path).collect()
        };
        let size = self.size(true, object)?;
        for path in paths {
            match self.deltas.get_mut(&(path.clone(), true)) {
                Some(delta) if delta.kind == ChangeKind::Renamed => delta.edited = true,
                Some(_) => {}
                None => {
                    let delta = Delta {
                        kind: ChangeKind::Modified,
                        object: kind,
                        metadata_only,
                        size,
                        new: Some(object),
                        old: Some(object),
                        from: None,
                        edited: false,
                    };
                    self.deltas.insert((path, true), delta);
                }
            }
        }
        Ok(())
    }
}

/// Whether the directory that a path is in moved, so that whoever reads of the move takes what is there to have gone along.
fn is_carried(moved: &BTreeMap<Path, Path>, path: &[u8]) -> bool {
    let mut above =
        path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').filter_map(|(end, _)| path.get(..end));
    let nearest = above.find_map(|dir| moved.get(dir).map(|to| to.as_slice() != dir));
    nearest.unwrap_or(false)
}

/// Attributes and content of an object of a view; `None` for a base object that the host has no more.
pub(super) fn facts(tree: &Tree<'_>, contents: &Contents, object: ObjectId) -> FsResult<Option<Facts>> {
    match Facts::of_branch(tree.view, contents, object) {
        Ok(facts) => Ok(Some(facts)),
        Err(FsError::Stale | FsError::NotFound) if object.is_base() => Ok(None),
        Err(e) => Err(e),
    }
}

/// The kind of an object; `None` for what a view does not know, or the host has no more.
pub(super) fn kind_of(tree: &Tree<'_>, object: ObjectId) -> FsResult<Option<FileKind>> {
    if let Some(found) = tree.view.object(object)? {
        return Ok(Some(found.value.kind()));
    }
    let Some(base) = tree.view.base_of(object) else { return Ok(None) };
    match base.stat(object) {
        Ok(stat) => Ok(Some(stat.kind)),
        Err(FsError::Stale | FsError::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}
