//! Names and objects, one by one.

use super::super::paths::Name;
use super::{
    BOTH_ADDED, BOTH_MODIFIED, BOTH_MOVED, DELETED_HERE, DELETED_THERE, DIRECTORY_GONE, Entry, Merge, alike, is_there,
    paths_in,
};
use crate::core::error::FsResult;
use crate::core::ids::ObjectId;
use shm_transport::control::Side;
use shm_transport::wire::FileKind;
use std::collections::BTreeSet;

fn object_of(entry: Entry) -> Option<ObjectId> {
    entry.map(|(object, _)| object)
}

impl Merge<'_> {
    /// A place whose name ours changed, or that leads to an object that ours changed; `dirs` are those of ours and of
    /// the fork that theirs has there.
    pub(super) fn judge_place(&mut self, place: &Name, dirs: &[ObjectId]) -> FsResult<()> {
        let mut known = Vec::new();
        for dir in dirs.iter().copied() {
            let before = self.fork.directory(dir)?.map(|_| dir);
            known.push((before, self.ours.directory(dir)?.map(|_| dir)));
        }
        // Unless ours moved one away and has another one in its place, they are one.
        if known.iter().filter(|(_, now)| now.is_some()).count() < 2 {
            let before = known.iter().find_map(|(before, _)| *before);
            known = vec![(before, known.iter().find_map(|(_, now)| *now))];
        }
        for (before, now) in known {
            let name = &place.1;
            let was = before.map_or(Ok(None), |dir| self.fork.child(dir, name))?;
            let ours = now.map_or(Ok(None), |dir| self.ours.child(dir, name))?;
            let path = self.path_of(now.or(before).unwrap_or(place.0), name)?;
            self.judge_name(place, &path, was, ours)?;
        }
        Ok(())
    }

    fn judge_name(&mut self, place: &Name, path: &[u8], was: Entry, ours: Entry) -> FsResult<()> {
        let theirs = self.theirs.child(place.0, &place.1)?;
        if object_of(ours) == object_of(theirs) {
            return if object_of(was) == object_of(ours) { Ok(()) } else { self.both_moved(ours) };
        }
        let takes = if object_of(ours) == object_of(was) {
            self.judge_kept(path, ours, was, theirs)?
        } else {
            self.judge_changed(path, ours, was, theirs)?
        };
        if takes {
            self.names.insert(place.clone(), ours);
            self.both_moved(ours)?;
        }
        Ok(())
    }

    /// A name in a directory that theirs has no more.
    pub(super) fn judge_placeless(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<()> {
        let was = if self.fork.directory(dir)?.is_some() { self.fork.child(dir, name)? } else { None };
        let ours = if self.ours.directory(dir)?.is_some() { self.ours.child(dir, name)? } else { None };
        // What ours only removed is gone already.
        let Some((object, kind)) = ours else { return Ok(()) };
        // Ours kept it; theirs moved it, or removed what ours only gave another name.
        if object_of(was) == Some(object)
            && (is_there(&mut self.theirs, object, kind)?
                || alike(self.contents, (&self.fork, object), (&self.ours, object), true)?)
        {
            return Ok(());
        }
        let path = self.path_of(dir, name)?;
        let reason = if was.is_some() { DELETED_THERE } else { DIRECTORY_GONE };
        if self.conflict(&path, reason) == Some(Side::Ours) {
            // There is no directory to put it into.
            self.conflicts.insert(path, reason);
        }
        Ok(())
    }

    /// A name that ours kept, with another content. Whether ours takes it.
    fn judge_kept(&mut self, path: &[u8], ours: Entry, was: Entry, theirs: Entry) -> FsResult<bool> {
        let (Some((object, kind)), Some((before, _))) = (ours, was) else { return Ok(false) };
        // Recorded because another name of it came and went, and otherwise as it was.
        if alike(self.contents, (&self.fork, before), (&self.ours, object), true)? {
            return Ok(false);
        }
        // Theirs moved it: it is judged where it is.
        if is_there(&mut self.theirs, object, kind)? {
            return Ok(false);
        }
        let reason = match theirs {
            None => DELETED_THERE,
            Some((other, _)) if alike(self.contents, (&self.fork, before), (&self.theirs, other), false)? => {
                return Ok(true);
            }
            Some((other, _)) if alike(self.contents, (&self.ours, object), (&self.theirs, other), false)? => {
                self.settled.insert(path.to_vec());
                return Ok(false);
            }
            Some(_) => BOTH_MODIFIED,
        };
        Ok(self.conflict(path, reason) == Some(Side::Ours))
    }

    /// A name that leads elsewhere in ours. Whether ours takes it.
    fn judge_changed(&mut self, path: &[u8], ours: Entry, was: Entry, theirs: Entry) -> FsResult<bool> {
        let reason = match (was, ours, theirs) {
            // Only ours changed the name; what it led to must not have changed if ours dropped it.
            (Some((before, kind)), _, Some((still, _))) if before == still => {
                let dropped = !is_there(&mut self.ours, before, kind)?;
                let contents = self.contents;
                if !dropped || alike(contents, (&self.fork, before), (&self.theirs, before), true)? {
                    return Ok(true);
                }
                if ours.is_some() { BOTH_MODIFIED } else { DELETED_HERE }
            }
            (None, Some(_), None) => return Ok(true),
            (None, Some((a, a_kind)), Some((b, b_kind))) => {
                if a_kind == b_kind && alike(self.contents, (&self.ours, a), (&self.theirs, b), false)? {
                    self.settled.insert(path.to_vec());
                    return Ok(false);
                }
                BOTH_ADDED
            }
            (Some((before, _)), ours, Some((other, _))) => {
                if let Some((now, _)) = ours
                    && alike(self.contents, (&self.ours, now), (&self.theirs, other), false)?
                {
                    self.settled.insert(path.to_vec());
                    return Ok(false);
                }
                if alike(self.contents, (&self.fork, before), (&self.theirs, other), false)? {
                    return Ok(true);
                }
                if ours.is_some() { BOTH_MODIFIED } else { DELETED_HERE }
            }
            (_, Some(_), None) => DELETED_THERE,
            (_, None, _) => return Ok(false),
        };
        Ok(self.conflict(path, reason) == Some(Side::Ours))
    }

    /// An object that both sides gave other names.
    fn both_moved(&mut self, entry: Entry) -> FsResult<()> {
        let Some((object, kind)) = entry else { return Ok(()) };
        if !is_there(&mut self.fork, object, kind)? || !is_there(&mut self.theirs, object, kind)? {
            return Ok(());
        }
        let places = |tree: &mut super::Tree<'_>| -> FsResult<BTreeSet<Name>> {
            Ok(if kind == FileKind::Directory {
                tree.branch_parent(object)?.into_iter().collect()
            } else {
                tree.places(object)?.into_iter().map(|(_, place)| place).collect()
            })
        };
        let (was, ours, theirs) = (places(&mut self.fork)?, places(&mut self.ours)?, places(&mut self.theirs)?);
        // A directory that both made at one place is one.
        let (was, ours) = (self.in_theirs(was)?, self.in_theirs(ours)?);
        let both_left = was.iter().any(|place| !ours.contains(place) && !theirs.contains(place));
        let (mine, other): (Vec<_>, Vec<_>) = (
            ours.difference(&was).filter(|place| !theirs.contains(*place)).cloned().collect(),
            theirs.difference(&was).filter(|place| !ours.contains(*place)).cloned().collect(),
        );
        if !both_left || mine.is_empty() || other.is_empty() {
            return Ok(());
        }
        let Some((dir, name)) = mine.first() else { return Ok(()) };
        let path = self.path_of(*dir, name)?;
        match self.conflict(&path, BOTH_MOVED) {
            Some(Side::Ours) => {
                for place in other {
                    // Unless ours has something of its own there.
                    self.names.entry(place).or_insert(None);
                }
            }
            Some(Side::Theirs) => {
                for place in mine {
                    self.names.remove(&place);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Places by the directories that theirs has there.
    fn in_theirs(&mut self, places: BTreeSet<Name>) -> FsResult<BTreeSet<Name>> {
        places.into_iter().map(|(dir, name)| Ok((self.target(dir)?.unwrap_or(dir), name))).collect()
    }

    /// An object of ours that the fork does not have. Theirs has it as well where both put back what was removed before.
    pub(super) fn judge_added(&mut self, object: ObjectId, kind: FileKind) -> FsResult<()> {
        if !is_there(&mut self.theirs, object, kind)?
            || alike(self.contents, (&self.ours, object), (&self.theirs, object), false)?
        {
            return Ok(());
        }
        for path in paths_in(&mut self.ours, object, kind)? {
            if self.conflict(&path, BOTH_ADDED) == Some(Side::Ours) {
                self.taken.insert(object, object);
            }
        }
        Ok(())
    }

    /// An object of the fork that ours changed, in itself.
    pub(super) fn judge_object(&mut self, object: ObjectId, kind: FileKind) -> FsResult<()> {
        let contents = self.contents;
        if is_there(&mut self.theirs, object, kind)? {
            if alike(contents, (&self.fork, object), (&self.theirs, object), true)? {
                self.taken.insert(object, object);
                return Ok(());
            }
            let same = alike(contents, (&self.ours, object), (&self.theirs, object), false)?;
            for path in paths_in(&mut self.ours, object, kind)? {
                if same {
                    self.settled.insert(path);
                } else if self.conflict(&path, BOTH_MODIFIED) == Some(Side::Ours) {
                    self.taken.insert(object, object);
                }
            }
            return Ok(());
        }
        // Of other kinds the names were judged; a directory that ours moved comes as ours has it.
        if kind != FileKind::Directory || self.names.values().any(|entry| object_of(*entry) == Some(object)) {
            return Ok(());
        }
        let there = self.target(object)?.filter(|there| *there != object);
        let Some(path) = self.ours.directory(object)? else { return Ok(()) };
        let reason = match there {
            Some(there) if alike(contents, (&self.ours, object), (&self.theirs, there), false)? => {
                self.settled.insert(path);
                return Ok(());
            }
            Some(there) => {
                let unchanged = alike(contents, (&self.fork, object), (&self.theirs, there), false)?;
                if unchanged || self.conflict(&path, BOTH_MODIFIED) == Some(Side::Ours) {
                    self.taken.insert(there, object);
                }
                return Ok(());
            }
            None => DELETED_THERE,
        };
        if self.conflict(&path, reason) == Some(Side::Ours) {
            self.conflicts.insert(path, reason);
        }
        Ok(())
    }
}
