//! What only the whole result shows: directories that lie inside themselves, and directories that go although
//! something is, or comes to be, in them.

use super::super::paths::{Name, Tree};
use super::{ADDED_THERE, DIRECTORY_GONE, LOOP, MOVED, Merge, OTHER_NAMES, alike, is_there};
use crate::core::error::FsResult;
use crate::core::ids::ObjectId;
use shm_transport::control::Side;
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};

impl Merge<'_> {
    /// Checks, and mends what a preference decides, until nothing is left to mend.
    pub(super) fn check(&mut self) -> FsResult<()> {
        while self.keep_filled()? || self.drop_placeless()? {}
        self.find_lost()?;
        self.find_loops()
    }

    /// Where the result puts directories that theirs has elsewhere, or not at all.
    fn placed(&self) -> BTreeMap<ObjectId, Name> {
        let dirs = self.names.iter().filter_map(|(place, entry)| {
            entry.filter(|(_, kind)| *kind == FileKind::Directory).map(|(object, _)| (object, place.clone()))
        });
        dirs.collect()
    }

    /// Directories of theirs that go: where they are, and which.
    fn going(&self) -> FsResult<Vec<(Name, ObjectId)>> {
        let placed = self.placed();
        let mut going = Vec::new();
        for ((dir, name), entry) in &self.names {
            if let Some((object, FileKind::Directory)) = self.theirs.child(*dir, name)?
                && entry.is_none_or(|(new, _)| new != object)
                && !placed.contains_key(&object)
            {
                going.push(((*dir, name.clone()), object));
            }
        }
        Ok(going)
    }

    /// What theirs still has in a directory that goes. Whether anything was mended.
    fn keep_filled(&mut self) -> FsResult<bool> {
        for (place, dir) in self.going()? {
            for name in self.theirs.names(dir)? {
                let inside = (dir, name.clone());
                if self.names.get(&inside).is_some_and(Option::is_none) {
                    continue;
                }
                let path = self.path_of(dir, &name)?;
                match self.conflict(&path, ADDED_THERE) {
                    Some(Side::Ours) => {
                        self.names.insert(inside, None);
                        return Ok(true);
                    }
                    Some(Side::Theirs) => {
                        self.names.remove(&place);
                        return Ok(true);
                    }
                    None => {}
                }
            }
        }
        Ok(false)
    }

    /// What comes into a directory that is neither in theirs nor placed. Whether anything was mended.
    fn drop_placeless(&mut self) -> FsResult<bool> {
        let placed = self.placed();
        let going: BTreeSet<ObjectId> = self.going()?.into_iter().map(|(_, dir)| dir).collect();
        let mut homeless = Vec::new();
        for ((dir, name), entry) in &self.names {
            if entry.is_none() {
                continue;
            }
            let there = is_there(&mut self.theirs, *dir, FileKind::Directory)? && !going.contains(dir);
            if !there && !placed.contains_key(dir) {
                homeless.push((*dir, name.clone()));
            }
        }
        for place in &homeless {
            let path = self.path_of(place.0, &place.1)?;
            match self.conflict(&path, DIRECTORY_GONE) {
                Some(Side::Theirs) => drop(self.names.remove(place)),
                // There is no directory to put it into.
                Some(Side::Ours) => drop(self.conflicts.insert(path, DIRECTORY_GONE)),
                None => {}
            }
        }
        Ok(homeless.iter().any(|place| !self.names.contains_key(place)))
    }

    /// What both sides have, and the result would not: each side dropped the name that the other kept, and one changed
    /// what is lost; or preferences decide one end of a move and not the other.
    fn find_lost(&mut self) -> FsResult<()> {
        let named: BTreeSet<ObjectId> = self.names.values().flatten().map(|(object, _)| *object).collect();
        let mut dropped = Vec::new();
        for (place, entry) in &self.names {
            if let Some((object, kind)) = self.theirs.child(place.0, &place.1)?
                && entry.is_none_or(|(new, _)| new != object)
                && !named.contains(&object)
            {
                dropped.push((place.clone(), object, kind));
            }
        }
        for (place, object, kind) in dropped {
            let stays = kind != FileKind::Directory
                && self.theirs.places(object)?.iter().any(|(_, at)| !self.names.contains_key(at));
            if stays || !is_there(&mut self.ours, object, kind)? {
                continue;
            }
            let decided = !self.preferences.0.is_empty();
            let is_as_it_was = |tree: &Tree<'_>| alike(self.contents, (&self.fork, object), (tree, object), true);
            if decided || !is_as_it_was(&self.ours)? || !is_as_it_was(&self.theirs)? {
                let path = self.path_of(place.0, &place.1)?;
                self.conflicts.insert(path, if decided { MOVED } else { OTHER_NAMES });
            }
        }
        Ok(())
    }

    /// Directories that ours moved into one that theirs moved into them.
    fn find_loops(&mut self) -> FsResult<()> {
        let placed = self.placed();
        for (dir, (above, name)) in &placed {
            let (mut at, mut seen) = (*above, BTreeSet::from([*dir]));
            while at != self.theirs.view.root {
                if !seen.insert(at) {
                    let path = self.path_of(*above, name)?;
                    // Neither side can win alone.
                    self.conflicts.insert(path, LOOP);
                    break;
                }
                let up = match placed.get(&at) {
                    Some((up, _)) => Some(*up),
                    None => self.theirs.branch_parent(at)?.map(|(up, _)| up),
                };
                match up {
                    Some(up) => at = up,
                    None => break,
                }
            }
        }
        Ok(())
    }
}
