//! One change of records: reads each record once, changes it in memory, commits all of them together.
//!
//! Whoever makes an `Edit` holds the branch's `names` lock until it is committed.

use super::base::BaseStat;
use super::change::Change;
use super::error::{FsError, FsResult};
use super::ids::ObjectId;
use super::record::{Body, DirentRecord, FileBody, ObjectRecord};
use super::state::Core;
use super::view::{Child, View};
use super::xattr::base_set;
use shm_transport::wire::{FileKind, Timestamp};
use std::collections::BTreeMap;

/// Most names of one object, as on ext4.
const LINK_MAX: u32 = 65_000;

/// A set of changed records and names on their way into one batch.
pub struct Edit<'a> {
    view: &'a View,
    /// The batch.
    pub change: Change,
    records: BTreeMap<ObjectId, ObjectRecord>,
    /// What the base has at the names that were asked for, so that each is looked up once.
    base_names: BTreeMap<(ObjectId, Vec<u8>), Option<BaseStat>>,
    /// The time of the change.
    pub now: Timestamp,
}

impl std::fmt::Debug for Edit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edit").field("records", &self.records).finish_non_exhaustive()
    }
}

/// The record that a base object would have if the branch had made it: what the base says now.
pub fn record_from_base(view: &View, object: ObjectId) -> FsResult<(ObjectRecord, BaseStat)> {
    let base = view.base_of(object).ok_or(FsError::Stale)?;
    let stat = base.stat(object)?;
    let a = stat.attr;
    let body = match stat.kind {
        FileKind::Regular => Body::File(FileBody::Base),
        FileKind::Symlink => Body::Symlink { target: base.read_link(object)? },
        FileKind::Directory if object == view.root => Body::Directory { parent: object, name: Vec::new() },
        FileKind::Directory => {
            let (parent, name) = base.place_of(object)?;
            Body::Directory { parent, name }
        }
        kind @ (FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice) => {
            Body::Special { kind, rdev: a.rdev }
        }
    };
    let record = ObjectRecord {
        mode: a.mode & 0o7777,
        uid: a.uid,
        gid: a.gid,
        nlink: a.nlink,
        atime: a.atime,
        mtime: a.mtime,
        ctime: a.ctime,
        btime: a.btime,
        own_times: false,
        body,
    };
    Ok((record, stat))
}

/// What an object is now.
pub fn body_of(view: &View, object: ObjectId) -> FsResult<Body> {
    match view.object(object)? {
        Some(found) => Ok(found.value.body),
        None => Ok(record_from_base(view, object)?.0.body),
    }
}

/// The directory that a directory is in; `None` for a root or one that is gone.
pub fn parent_of(view: &View, dir: ObjectId) -> FsResult<Option<ObjectId>> {
    let body = match body_of(view, dir) {
        Err(FsError::Stale) => return Ok(None),
        body => body?,
    };
    match body {
        Body::Directory { parent, .. } => Ok((dir != view.root).then_some(parent)),
        Body::File(_) | Body::Symlink { .. } | Body::Special { .. } => Err(FsError::NotDirectory),
    }
}

impl<'a> Edit<'a> {
    /// Nothing changed yet.
    pub fn new(core: &'a Core, view: &'a View) -> Self {
        let (records, base_names) = (BTreeMap::new(), BTreeMap::new());
        Self { view, change: Change::new(view), records, base_names, now: core.clock.now() }
    }

    /// The record of an object, to be changed. For a base object's first change its pre-image is kept.
    pub fn record(&mut self, object: ObjectId) -> FsResult<&mut ObjectRecord> {
        if !self.records.contains_key(&object) {
            if let Some(found) = self.view.object(object)? {
                self.records.insert(object, found.value);
            } else {
                let (record, stat) = record_from_base(self.view, object)?;
                self.change.preimage(object, &stat.identity());
                if let Some(base) = self.view.base_of(object) {
                    base.pin(object, &mut self.change.batch);
                }
                self.records.insert(object, record);
                if stat.kind != FileKind::Directory {
                    self.pin(object, stat.kind)?;
                }
            }
        }
        self.records.get_mut(&object).ok_or(FsError::Stale)
    }

    /// From its first change on, the names of a base object lead to it by records of the branch, and its
    /// extended attributes are the branch's: when the host replaces the file under one of them, the branch
    /// keeps its own version. This comes before anything else happens to them: read the record first, then
    /// change names and attributes.
    fn pin(&mut self, object: ObjectId, kind: FileKind) -> FsResult<()> {
        let Some(base) = self.view.base_of(object) else { return Ok(()) };
        if self.view.xattrs(object)?.is_none() {
            let set = base_set(base, object)?;
            if !set.0.is_empty() {
                self.change.xattrs(object, &set);
            }
        }
        for (dir, name) in base.locators(object) {
            let undecided = self.view.dirent(dir, &name)?.is_none();
            if undecided && self.base_name(dir, &name)?.is_some_and(|s| s.object == object) {
                self.put_name(dir, &name, object, kind)?;
            }
        }
        Ok(())
    }

    /// Adds a record of a new object.
    pub fn insert(&mut self, object: ObjectId, record: ObjectRecord) {
        self.records.insert(object, record);
    }

    /// The record of a directory in which names may be made.
    pub fn live_directory(&mut self, dir: ObjectId) -> FsResult<&mut ObjectRecord> {
        let record = self.record(dir)?;
        if record.kind() != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        if record.nlink == 0 { Err(FsError::NotFound) } else { Ok(record) }
    }

    /// A name was made or removed in `dir`; `subdirs` says by how many directories its links change.
    pub fn touch_directory(&mut self, dir: ObjectId, subdirs: i32) -> FsResult<()> {
        let now = self.now;
        let record = self.live_directory(dir)?;
        (record.mtime, record.ctime) = (now, now);
        // A file system that does not count subdirectories says 1; it stays so.
        if record.nlink >= 2 {
            record.nlink = record.nlink.saturating_add_signed(subdirs).max(2);
        }
        Ok(())
    }

    /// What the base has at a name.
    fn base_name(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<Option<BaseStat>> {
        let Some(base) = self.view.base_of(dir) else { return Ok(None) };
        let key = (dir, name.to_vec());
        if let Some(found) = self.base_names.get(&key) {
            return Ok(*found);
        }
        let found = base.lookup(dir, name)?;
        self.base_names.insert(key, found);
        Ok(found)
    }

    /// Where `name` leads in `dir` before this change.
    pub fn child(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<Option<Child>> {
        match self.view.dirent(dir, name)?.map(|v| v.value) {
            Some(DirentRecord::Whiteout) => Ok(None),
            Some(DirentRecord::Entry { object, kind }) => Ok(Some(Child { object, kind, found: None })),
            None => {
                let found = self.base_name(dir, name)?;
                Ok(found.map(|found| Child { object: found.object, kind: found.kind, found: Some(found) }))
            }
        }
    }

    /// Keeps what the base has at a name that the view changes for the first time.
    fn note_base_name(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<()> {
        if self.view.base_of(dir).is_none() {
            return Ok(());
        }
        // What hides the base's name was decided before, against what the base had then.
        if self.view.dirent(dir, name)?.is_none() {
            let found = self.base_name(dir, name)?.map(|s| s.object);
            self.change.prename(dir, name, found);
        }
        Ok(())
    }

    /// Makes `name` lead to `object`.
    pub fn put_name(&mut self, dir: ObjectId, name: &[u8], object: ObjectId, kind: FileKind) -> FsResult<()> {
        self.note_base_name(dir, name)?;
        self.change.dirent(dir, name, DirentRecord::Entry { object, kind }, true);
        Ok(())
    }

    /// Whether `name` leads somewhere without the head's record.
    fn is_inherited(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<bool> {
        if let Some(found) = self.view.dirent_from(dir, name, 1)? {
            return Ok(found.value != DirentRecord::Whiteout);
        }
        Ok(self.base_name(dir, name)?.is_some())
    }

    /// Removes `name`.
    pub fn remove_name(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<()> {
        self.note_base_name(dir, name)?;
        let inherited = self.is_inherited(dir, name)?;
        self.change.dirent(dir, name, DirentRecord::Whiteout, inherited);
        self.change.batch.reclaims = true;
        Ok(())
    }

    /// Takes one name from an object that is not a directory, or the only one from a directory.
    pub fn drop_link(&mut self, child: &Child) -> FsResult<()> {
        let now = self.now;
        let record = self.record(child.object)?;
        record.ctime = now;
        record.nlink = if child.kind == FileKind::Directory { 0 } else { record.nlink.saturating_sub(1) };
        if record.nlink == 0 {
            self.change.orphan(child.object);
        }
        Ok(())
    }

    /// Gives an object that is not a directory one more name.
    pub fn add_link(&mut self, object: ObjectId) -> FsResult<()> {
        let now = self.now;
        let record = self.record(object)?;
        if record.nlink >= LINK_MAX {
            return Err(FsError::TooManyLinks);
        }
        record.nlink += 1;
        record.ctime = now;
        if record.nlink == 1 {
            self.change.unorphan(object);
        }
        Ok(())
    }

    /// The change as one batch, all records in it.
    pub fn into_change(mut self) -> Change {
        for (object, record) in &self.records {
            self.change.object(*object, record);
        }
        self.change
    }
}
