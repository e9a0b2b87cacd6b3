//! Paths that changed in the base since the branch first changed them.
//!
//! What the base had then stands in the pre-images, of objects and of names, of the epoch that made the change.

use super::diff::{Comparison, Entry, shown};
use super::merge::Preferences;
use super::paths::{Path, Tree, join, split};
use super::preimages::{Preimages, Was};
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::record::{BaseIdentity, Body, DirentRecord};
use shm_transport::control::{ChangeKind, Conflict, Side};
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};

const BOTH_MODIFIED: &str = "both modified";
const BOTH_ADDED: &str = "both added";
const DELETED_THERE: &str = "modified here, deleted in the base";
const DELETED_HERE: &str = "deleted here, modified in the base";
const ADDED_THERE: &str = "deleted here, added in the base";
const UNKNOWN: &str = "changed here, and what the base had then is not known any more";

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
            Some(reason) => {
                found.insert(path.clone(), reason);
                if was_here(&mut comparison.tree, &preimages, path, entry)? {
                    comparison.at_home.insert(path.clone());
                }
            }
            None => {}
        }
    }
    for path in &comparison.settled {
        comparison.entries.remove(path);
    }
    let mut homeless: BTreeMap<Path, BTreeSet<ObjectId>> = BTreeMap::new();
    for &object in &comparison.changed.objects {
        if let Some((path, reason)) = lost(&mut comparison.tree, object)? {
            homeless.entry(path.clone()).or_default().insert(object);
            found.entry(path).or_insert(reason);
        }
    }
    Ok(Conflicts { found, homeless, ours: BTreeSet::new() })
}

/// Paths at which the base changed to exactly what the branch has.
pub(super) fn agreed(comparison: &mut Comparison<'_>) -> FsResult<BTreeSet<Path>> {
    let preimages = Preimages::of(comparison.tree.view)?;
    let mut agreed = BTreeSet::new();
    for (path, entry) in &comparison.same {
        // What the branch shows of the base by itself.
        let view = comparison.tree.view;
        if let (Some(object), Some(stat)) = (entry.branch, entry.base)
            && object == stat.object
            && view.object(object)?.is_none()
            && view.xattrs(object)?.is_none()
        {
            continue;
        }
        if judge(&mut comparison.tree, &preimages, path, entry)?.is_some() {
            agreed.insert(path.clone());
        }
    }
    // What neither has any more.
    for (dir, name) in &comparison.changed.names {
        let gone = comparison.tree.child(*dir, name)?.is_none() && comparison.tree.base_child(*dir, name)?.is_none();
        if gone
            && matches!(preimages.name(*dir, name)?, Was::Object(_))
            && let Some(above) = comparison.tree.directory(*dir)?
        {
            agreed.insert(join(&above, name));
        }
    }
    Ok(agreed)
}

/// Whether the branch has at a path the base's object that the base had there then.
fn was_here(tree: &mut Tree<'_>, preimages: &Preimages, path: &[u8], entry: &Entry) -> FsResult<bool> {
    let (above, name) = split(path);
    let (Some(object), false, Some(dir)) = (entry.branch, path.is_empty(), tree.directories(above)?.1) else {
        return Ok(false);
    };
    Ok(matches!(preimages.name(dir, name)?, Was::Object(was) if was == object))
}

/// What both sides changed.
#[derive(Debug)]
pub(super) struct Conflicts {
    pub(super) found: BTreeMap<Path, &'static str>,
    /// Changes that the branch has no place for any more, by where they were.
    pub(super) homeless: BTreeMap<Path, BTreeSet<ObjectId>>,
    /// Paths at which the branch wins.
    pub(super) ours: BTreeSet<Path>,
}

impl Conflicts {
    /// Settles what the preferences decide, where that side can have its way.
    pub(super) fn decide(&mut self, comparison: &mut Comparison<'_>, preferences: &Preferences) -> FsResult<()> {
        let mut left = BTreeMap::new();
        for (path, reason) in std::mem::take(&mut self.found) {
            let done = match preferences.of(&path) {
                Some(Side::Ours) => !self.homeless.contains_key(&path) && comparison.has_content(&path)?,
                Some(Side::Theirs) => comparison.keep(&path),
                None => false,
            };
            if !done {
                left.insert(path, reason);
            } else if preferences.of(&path) == Some(Side::Ours) {
                self.ours.insert(path);
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

fn judge(tree: &mut Tree<'_>, preimages: &Preimages, path: &[u8], entry: &Entry) -> FsResult<Option<&'static str>> {
    let view = tree.view;
    let (above, name) = split(path);
    let dir = if path.is_empty() { None } else { tree.directories(above)?.1 };
    if is_orphaned(tree, above)? {
        return Ok(Some(DELETED_THERE));
    }
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
            Err(FsError::Stale | FsError::NotFound) => (!preimages.is_known_gone(object)).then_some(DELETED_THERE),
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
    // Every change of a name in a base directory notes what was there. Without the note nobody knows.
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

/// Whether a directory that the branch has of its base is gone there: somebody committed its removal, and the branch goes
/// on to see it.
fn is_orphaned(tree: &mut Tree<'_>, path: &[u8]) -> FsResult<bool> {
    let (Some(here), there) = tree.directories(path)? else { return Ok(false) };
    let Some(base) = tree.view.base_of(here).filter(|_| there != Some(here)) else { return Ok(false) };
    match base.stat(here) {
        Ok(_) => Ok(false),
        Err(FsError::Stale | FsError::NotFound) => Ok(true),
        Err(e) => Err(e),
    }
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
        let expected = match tree.view.dirent(dir, &name)?.map(|v| v.value) {
            None => true,
            // The name is its own, and nothing leads to the directory any more.
            Some(DirentRecord::Entry { object: to, .. }) => to == object,
            Some(DirentRecord::Whiteout) => false,
        };
        if expected {
            let reason = if tree.base_child(dir, &name)?.is_some() { BOTH_MODIFIED } else { DELETED_THERE };
            let above = match tree.directory(dir)? {
                Some(above) => above,
                None => tree.expected(dir),
            };
            return Ok(Some((join(&above, &name), reason)));
        }
    }
    Ok(None)
}
