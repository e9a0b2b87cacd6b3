//! The result as records of one epoch above theirs.

use super::super::preimages::Preimages;
use super::{Entry, Merge, facts, is_there};
use crate::core::edit::{Edit, record_from_base};
use crate::core::error::{FsError, FsResult};
use crate::core::ids::{ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, ContentRecord, FileBody, ObjectRecord, XattrSet};
use crate::core::state::Core;
use crate::core::view::View;
use crate::store::Batch;
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};

/// A name whose meaning changes.
struct Turn {
    dir: ObjectId,
    name: Vec<u8>,
    before: Entry,
    after: Entry,
}

impl Merge<'_> {
    /// The records of an epoch `result` that continues theirs.
    pub(super) fn records(&mut self, core: &Core, result: &View) -> FsResult<Batch> {
        let mut turns = Vec::new();
        for ((dir, name), after) in &self.names {
            let before = self.theirs.child(*dir, name)?;
            if before.map(|(object, _)| object) != after.map(|(object, _)| object) {
                turns.push(Turn { dir: *dir, name: name.clone(), before, after: *after });
            }
        }
        let mut links: BTreeMap<ObjectId, i32> = BTreeMap::new();
        let mut places: BTreeMap<ObjectId, (ObjectId, Vec<u8>)> = BTreeMap::new();
        let mut subdirs: BTreeMap<ObjectId, i32> = BTreeMap::new();
        for turn in &turns {
            let inside = subdirs.entry(turn.dir).or_default();
            for (entry, by) in [(turn.before, -1), (turn.after, 1)] {
                match entry {
                    Some((_, FileKind::Directory)) => *inside += by,
                    Some((object, _)) => *links.entry(object).or_default() += by,
                    None => {}
                }
            }
            if let Some((object, FileKind::Directory)) = turn.after {
                places.insert(object, (turn.dir, turn.name.clone()));
            }
        }
        let mut edit = Edit::new(core, result);
        // Objects first: the first change of one of the base pins its names, which may change then.
        self.take(core, &mut edit, &subdirs)?;
        for (object, by) in links {
            self.count_links(&mut edit, object, by)?;
        }
        let now = edit.now;
        for turn in &turns {
            if let Some((object, FileKind::Directory)) = turn.before
                && !places.contains_key(&object)
            {
                let record = edit.record(object)?;
                (record.nlink, record.ctime) = (0, now);
            }
        }
        for (object, (parent, name)) in places {
            let record = edit.record(object)?;
            record.body = Body::Directory { parent, name };
            record.ctime = now;
        }
        for (dir, by) in subdirs {
            // What is new came with its times, and what goes needs none.
            if is_there(&mut self.theirs, dir, FileKind::Directory)? && edit.record(dir)?.nlink > 0 {
                edit.touch_directory(dir, by)?;
            }
        }
        for turn in turns {
            match turn.after {
                Some((object, kind)) => edit.put_name(turn.dir, &turn.name, object, kind)?,
                None => edit.remove_name(turn.dir, &turn.name)?,
            }
        }
        let mut batch = edit.into_change().batch;
        self.hand_over(result, &mut batch)?;
        Ok(batch)
    }

    /// Attributes and content of what ours made or changed.
    fn take(&mut self, core: &Core, edit: &mut Edit<'_>, subdirs: &BTreeMap<ObjectId, i32>) -> FsResult<()> {
        for (to, from) in self.taken.clone() {
            let ours = match self.ours.view.object(from)? {
                Some(found) => Some(found.value),
                // As the base has it, which theirs no longer shows by itself.
                None if self.theirs.view.object(to)?.is_some() => Some(record_from_base(self.ours.view, from)?.0),
                None => None,
            };
            let kind = ours.as_ref().map_or(FileKind::Regular, ObjectRecord::kind);
            let known = is_there(&mut self.theirs, to, kind)?;
            match ours {
                Some(mut ours) if !known => {
                    // Of other kinds counted by name.
                    ours.nlink = if kind == FileKind::Directory { links_of(&ours, subdirs.get(&to)) } else { 0 };
                    edit.insert(to, ours);
                }
                Some(ours) => {
                    let now = edit.now;
                    let record = edit.record(to)?;
                    let nlink = record.nlink;
                    let body = match (&record.body, ours.body) {
                        (Body::Directory { parent, name }, Body::Directory { .. }) => {
                            Body::Directory { parent: *parent, name: name.clone() }
                        }
                        (_, body) => body,
                    };
                    *record = ObjectRecord { nlink, body, ctime: now, ..ours };
                }
                None => {
                    let known = is_there(&mut self.theirs, to, FileKind::Directory)?;
                    let record = edit.record(to)?;
                    if record.kind() == FileKind::Directory && !known {
                        record.nlink = links_of(record, subdirs.get(&to));
                    }
                }
            }
            if let Some(set) = self.ours.view.xattrs(from)? {
                edit.change.xattrs(to, &set.value);
            } else if self.theirs.view.xattrs(to)?.is_some() {
                let xattrs = facts(&self.ours, self.contents, from)?.map(|facts| facts.xattrs).unwrap_or_default();
                edit.change.xattrs(to, &XattrSet(xattrs));
            }
            if let Body::File(FileBody::Content(id)) = edit.record(to)?.body
                && !is_owned_by(core, id, self.theirs.view)?
            {
                edit.change.content(id, to);
            }
        }
        Ok(())
    }

    fn count_links(&mut self, edit: &mut Edit<'_>, object: ObjectId, by: i32) -> FsResult<()> {
        // Any kind that is no directory does.
        let known = is_there(&mut self.theirs, object, FileKind::Regular)?;
        let now = edit.now;
        let record = edit.record(object)?;
        let before = if known { record.nlink } else { 0 };
        record.nlink = before.saturating_add_signed(by);
        record.ctime = now;
        Ok(())
    }

    /// What the base was when ours first changed something is what counts for what is taken of ours, and not what it is
    /// now or was when theirs changed it.
    fn hand_over(&self, result: &View, batch: &mut Batch) -> FsResult<()> {
        let preimages = Preimages::of(self.ours.view)?;
        let (ours, theirs, head) = (self.ours.view, self.theirs.view, result.head());
        let mut handed = Vec::new();
        for (key, _) in &batch.changes {
            if keys::number(key, 1) != Some(head.0) {
                continue;
            }
            let Some(object) = keys::number(key, 0).map(ObjectId).filter(|o| o.is_base()) else { continue };
            match key.first() {
                Some(b'O') => {
                    let taken = self.taken.get(&object) == Some(&object) || theirs.object(object)?.is_none();
                    if taken && ours.object(object)?.is_some() {
                        handed.push((keys::preimage(head, object), preimages.objects.get(&object)));
                    }
                }
                Some(b'D') => {
                    let name = (object, keys::tail(key, 2).unwrap_or_default().to_vec());
                    let taken = self.names.contains_key(&name) || theirs.dirent(object, &name.1)?.is_none();
                    if taken && ours.dirent(object, &name.1)?.is_some() {
                        handed.push((keys::prename(head, object, &name.1), preimages.names.get(&name)));
                    }
                }
                _ => {}
            }
        }
        let replaced: BTreeSet<&Vec<u8>> = handed.iter().map(|(key, _)| key).collect();
        batch.changes.retain(|(key, _)| !replaced.contains(key));
        for (key, value) in &handed {
            // Without one it is not known, which is a conflict when it is committed.
            if let Some(value) = value {
                batch.put(key.as_slice(), value.as_slice());
            }
        }
        Ok(())
    }
}

/// The links of a directory that theirs does not have, or has removed: what it holds is what comes into it.
fn links_of(record: &ObjectRecord, subdirs: Option<&i32>) -> u32 {
    // Some file systems do not count.
    if record.nlink < 2 { record.nlink } else { 2u32.saturating_add_signed(subdirs.copied().unwrap_or(0)) }
}

/// Whether a content file belongs to an epoch that a view inherits.
fn is_owned_by(core: &Core, id: ContentId, view: &View) -> FsResult<bool> {
    let bytes = core.store.get(&keys::content(id)).ok_or(FsError::Damaged("content record missing"))?;
    let owner: EpochId = ContentRecord::decode(&bytes)?.epoch;
    Ok(view.chain.contains(&owner))
}
