//! Paths that changed in the base since the branch first changed them.
//!
//! What the base had then stands in the pre-images, of objects and of names, of the branch that made the
//! change: this one or one that it was made from.

use super::diff::{Comparison, Entry, shown};
use super::merge::Preferences;
use super::paths::{Path, Tree, join, split};
use crate::core::error::{FsError, FsResult};
use crate::core::ids::{BranchId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{BaseIdentity, Body, BranchRecord, EpochRecord};
use crate::core::view::View;
use shm_transport::control::{ChangeKind, Conflict, Side};
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const BOTH_MODIFIED: &str = "both modified";
const BOTH_ADDED: &str = "both added";
const DELETED_THERE: &str = "modified here, deleted in the base";
const DELETED_HERE: &str = "deleted here, modified in the base";
const ADDED_THERE: &str = "deleted here, added in the base";
const UNKNOWN: &str = "changed here, and what the base had then is not known any more";

/// What the base had at a name when the branch first changed the name.
enum Was {
    /// The branch did not change it.
    Unknown,
    Nothing,
    Object(ObjectId),
}

/// Finds the pre-images that count for a view.
pub(super) struct Preimages<'a> {
    view: &'a View,
    owners: HashMap<EpochId, BranchId>,
    /// The view's branch, and those it was made from, nearest first.
    lineage: Vec<BranchId>,
}

impl<'a> Preimages<'a> {
    pub(super) fn of(view: &'a View) -> FsResult<Self> {
        let mut owners = HashMap::new();
        for &epoch in view.chain.iter() {
            let bytes = view.store.get(&keys::epoch(epoch)).ok_or(FsError::Damaged("epoch missing"))?;
            owners.insert(epoch, EpochRecord::decode(&bytes)?.branch);
        }
        let mut lineage = vec![view.branch];
        let mut at = view.branch;
        while let Some(bytes) = view.store.get(&keys::branch(at)) {
            match BranchRecord::decode(&bytes)?.from {
                // Numbers rise, so a damaged lineage cannot make a loop.
                Some((from, _)) if from < at => {
                    lineage.push(from);
                    at = from;
                }
                _ => break,
            }
        }
        Ok(Self { view, owners, lineage })
    }

    /// The value recorded by the branch that made the oldest change; where that is gone (the branch was
    /// committed meanwhile), by the nearest that has one.
    fn find(&self, record: impl Fn(EpochId) -> Vec<u8>, preimage: impl Fn(BranchId) -> Vec<u8>) -> Option<Vec<u8>> {
        let store = &self.view.store;
        let oldest = self.view.chain.iter().rev().find(|e| store.get(&record(**e)).is_some());
        let owner = oldest.and_then(|e| self.owners.get(e)).copied();
        owner.into_iter().chain(self.lineage.iter().copied()).find_map(|branch| store.get(&preimage(branch)))
    }

    /// As recorded, of an object.
    pub(super) fn object_bytes(&self, object: ObjectId) -> Option<Vec<u8>> {
        self.find(|e| keys::object(object, e), |b| keys::preimage(b, object))
    }

    /// As recorded, of a name.
    pub(super) fn name_bytes(&self, dir: ObjectId, name: &[u8]) -> Option<Vec<u8>> {
        self.find(|e| keys::dirent(dir, e, name), |b| keys::prename(b, dir, name))
    }

    fn object(&self, object: ObjectId) -> FsResult<Option<BaseIdentity>> {
        let found = self.object_bytes(object);
        Ok(found.map(|bytes| BaseIdentity::decode(&bytes)).transpose()?)
    }

    fn name(&self, dir: ObjectId, name: &[u8]) -> FsResult<Was> {
        let Some(bytes) = self.name_bytes(dir, name) else { return Ok(Was::Unknown) };
        let number = u64::from_le_bytes(bytes.try_into().map_err(|_| FsError::Damaged("prename"))?);
        Ok(if number == 0 { Was::Nothing } else { Was::Object(ObjectId(number)) })
    }
}

/// Whether the base object changed. What is in a directory is compared by name, not by its times.
fn differs(was: &BaseIdentity, is: &BaseIdentity) -> bool {
    let directory = FileKind::from_mode(was.mode) == Some(FileKind::Directory);
    (was.mode, was.uid, was.gid) != (is.mode, is.uid, is.gid)
        || (!directory && (was.size, was.mtime) != (is.size, is.mtime))
}

/// All conflicts, by path. Where the base changed, but to what the branch has, times aside, there is none, and
/// the path is no change any more.
pub(super) fn conflicts(comparison: &mut Comparison<'_>) -> FsResult<Conflicts> {
    let preimages = Preimages::of(comparison.tree.view)?;
    let mut found: BTreeMap<Path, &'static str> = BTreeMap::new();
    for (path, entry) in &comparison.entries {
        match judge(&mut comparison.tree, &preimages, path, entry)? {
            Some(_) if entry.time_only => drop(comparison.settled.insert(path.clone())),
            Some(reason) => drop(found.insert(path.clone(), reason)),
            None => {}
        }
    }
    for path in &comparison.settled {
        comparison.entries.remove(path);
    }
    let mut homeless = BTreeSet::new();
    for &object in &comparison.changed.objects {
        if let Some((path, reason)) = lost(&mut comparison.tree, object)? {
            homeless.insert(path.clone());
            found.entry(path).or_insert(reason);
        }
    }
    Ok(Conflicts { found, homeless })
}

/// What both sides changed.
#[derive(Debug)]
pub(super) struct Conflicts {
    found: BTreeMap<Path, &'static str>,
    /// Paths of changes that the branch has no place for any more.
    homeless: BTreeSet<Path>,
}

impl Conflicts {
    /// Settles what the preferences decide, where that side can have its way.
    pub(super) fn decide(&mut self, comparison: &mut Comparison<'_>, preferences: &Preferences) -> FsResult<()> {
        let mut left = BTreeMap::new();
        for (path, reason) in std::mem::take(&mut self.found) {
            let done = match preferences.of(&path) {
                Some(Side::Ours) => !self.homeless.contains(&path) && comparison.has_content(&path)?,
                Some(Side::Theirs) => comparison.keep(&path),
                None => false,
            };
            if !done {
                left.insert(path, reason);
            }
        }
        self.found = left;
        Ok(())
    }

    /// As answers have them.
    pub(super) fn told(&self) -> Vec<Conflict> {
        let told = |(path, reason): (&Path, &&str)| Conflict { path: shown(path), reason: (*reason).to_owned() };
        self.found.iter().map(told).collect()
    }
}

fn judge(tree: &mut Tree<'_>, preimages: &Preimages<'_>, path: &[u8], entry: &Entry) -> FsResult<Option<&'static str>> {
    let view = tree.view;
    let (above, name) = split(path);
    let dir = if path.is_empty() { None } else { tree.directories(above)?.1 };
    let was = match dir {
        Some(dir) => preimages.name(dir, name)?,
        None => Was::Unknown,
    };
    let forgotten = matches!(was, Was::Unknown);
    let Some(stat) = entry.base else {
        if let Was::Object(_) = was {
            return Ok(Some(DELETED_THERE));
        }
        let object = entry.branch.filter(|o| o.is_base());
        let Some((object, base)) = object.and_then(|o| Some((o, view.base.as_ref()?))) else { return Ok(None) };
        // Moved here: its content must be what it was.
        return Ok(match base.stat(object) {
            Ok(now) => match preimages.object(object)? {
                Some(then) if differs(&then, &now.identity()) => Some(BOTH_MODIFIED),
                _ => None,
            },
            Err(FsError::Stale | FsError::NotFound) => Some(DELETED_THERE),
            Err(e) => return Err(e),
        });
    };
    let changed = if entry.kind == ChangeKind::Deleted { DELETED_HERE } else { BOTH_MODIFIED };
    match was {
        // Both show the base's own object: the name was given back after a change.
        Was::Nothing if entry.branch == Some(stat.object) => {}
        Was::Nothing => return Ok(Some(BOTH_ADDED)),
        Was::Object(object) if object != stat.object => return Ok(Some(changed)),
        // A directory that the branch removed was empty then but for names that it had removed. Its
        // record may be gone by now, so what tells is that no path leads to it.
        Was::Unknown if entry.branch.is_none() => {
            if let Some(dir) = dir
                && tree.directory(dir)?.is_none()
            {
                return Ok(Some(ADDED_THERE));
            }
        }
        Was::Object(_) | Was::Unknown => {}
    }
    // Every change of a name in a base directory notes what was there. Without the note it was made before a commit,
    // which forgets them, and somebody went back to it: the base has another object at the name since.
    if forgotten
        && let Some(dir) = dir.filter(|dir| dir.is_base())
        && view.dirent(dir, name)?.is_some()
    {
        return Ok(Some(UNKNOWN));
    }
    Ok(match preimages.object(stat.object)? {
        Some(then) if differs(&then, &stat.identity()) => Some(changed),
        Some(_) => None,
        // Known by name only is enough where nothing of the object itself was changed.
        None if view.object(stat.object)?.is_some() => Some(UNKNOWN),
        None => None,
    })
}

/// A changed base object that no path leads to, because the base has something else, or nothing, where
/// the branch expects it.
fn lost(tree: &mut Tree<'_>, object: ObjectId) -> FsResult<Option<(Path, &'static str)>> {
    if !object.is_base() || object == tree.view.root {
        return Ok(None);
    }
    let record = tree.view.object(object)?.map(|v| v.value);
    if record.as_ref().is_some_and(|r| r.nlink == 0) || !tree.places(object)?.is_empty() {
        return Ok(None);
    }
    let mut expected = Vec::new();
    if let Some(Body::Directory { parent, name }) = record.map(|r| r.body) {
        expected.push((parent, name));
    }
    expected.extend(tree.locators(object));
    for (dir, name) in expected {
        if tree.view.dirent(dir, &name)?.is_none() {
            let reason = if tree.base_child(dir, &name)?.is_some() { BOTH_MODIFIED } else { DELETED_THERE };
            let above = tree.directory(dir)?.unwrap_or_default();
            return Ok(Some((join(&above, &name), reason)));
        }
    }
    Ok(None)
}
