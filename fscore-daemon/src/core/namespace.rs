//! Names: finding, making, linking and removing them. Renaming has a file of its own.

use super::acl;
use super::dispatch::mknod_kind;
use super::edit::Edit;
use super::error::{FsError, FsResult, io};
use super::ids::ObjectId;
use super::record::{Body, FileBody, ObjectRecord, XattrSet};
use super::session::{Op, Session};
use super::view::{Child, View};
use shm_transport::mem::Payload;
use shm_transport::wire::{FileKind, NodeId, Reply};

/// A new object: what kind, its permission bits and what it holds.
struct Fresh {
    kind: FileKind,
    mode: u32,
    umask: u32,
    body: Body,
}

impl Session {
    /// `LOOKUP`.
    pub(super) fn lookup(&self, view: &View, dir: ObjectId, name: &[u8]) -> FsResult<Reply> {
        if self.is_dead(view, dir)? {
            return Err(FsError::NotFound);
        }
        match view.child(dir, name)? {
            Some(child) => Ok(Reply::Entry(self.entry(view, &child)?)),
            None => {
                let own = view.base_of(dir).is_none() || view.dirent(dir, name)?.is_some();
                Ok(Reply::Entry(self.negative(view, own)))
            }
        }
    }

    /// Whether a directory was removed while somebody still holds it: it has no names any more.
    pub(super) fn is_dead(&self, view: &View, dir: ObjectId) -> FsResult<bool> {
        Ok(view.object(dir)?.is_some_and(|v| v.value.nlink == 0))
    }

    /// `READLINK`.
    pub(super) fn read_link(&self, view: &View, object: ObjectId, payload: &mut Payload<'_>) -> FsResult<Reply> {
        let target = match view.object(object)?.map(|v| v.value.body) {
            Some(Body::Symlink { target }) => target,
            Some(_) => return Err(FsError::Invalid),
            None => view.base_of(object).ok_or(FsError::Stale)?.read_link(object)?,
        };
        if !payload.copy_in(0, &target) {
            return Err(FsError::NameTooLong);
        }
        Ok(Reply::Data { len: target.len() as u32 })
    }

    /// `SYMLINK`.
    pub(super) fn symlink(&self, op: &Op<'_>, dir: ObjectId, name: &[u8], target: Vec<u8>) -> FsResult<Reply> {
        if target.is_empty() || target.contains(&0) {
            return Err(FsError::Invalid);
        }
        let fresh = Fresh { kind: FileKind::Symlink, mode: 0o777, umask: 0, body: Body::Symlink { target } };
        self.make(op, dir, name, fresh, false)
    }

    /// `MKDIR`.
    pub(super) fn mkdir(&self, op: &Op<'_>, dir: ObjectId, name: &[u8], (mode, umask): (u32, u32)) -> FsResult<Reply> {
        let body = Body::Directory { parent: dir, name: name.to_vec() };
        self.make(op, dir, name, Fresh { kind: FileKind::Directory, mode, umask, body }, false)
    }

    /// `MKNOD`.
    pub(super) fn mknod(
        &self,
        op: &Op<'_>,
        dir: ObjectId,
        name: &[u8],
        (mode, umask): (u32, u32),
        rdev: u32,
    ) -> FsResult<Reply> {
        let kind = mknod_kind(mode)?;
        let body = if kind == FileKind::Regular {
            Body::File(FileBody::Hole { size: 0 })
        } else {
            Body::Special { kind, rdev }
        };
        self.make(op, dir, name, Fresh { kind, mode, umask, body }, false)
    }

    /// `CREATE`.
    pub(super) fn create(
        &self,
        op: &Op<'_>,
        dir: ObjectId,
        name: &[u8],
        (mode, umask): (u32, u32),
        flags: u32,
    ) -> FsResult<Reply> {
        let body = Body::File(FileBody::Hole { size: 0 });
        match self.make(op, dir, name, Fresh { kind: FileKind::Regular, mode, umask, body }, true) {
            // The kernel remembers that there was nothing of that name, which the base's host has changed since.
            // It looks again, and checks the right to open what is there.
            Err(FsError::Exists) if flags & libc::O_EXCL as u32 == 0 => Err(FsError::Stale),
            made => made,
        }
    }

    fn fresh_record(
        &self,
        edit: &mut Edit<'_>,
        op: &Op<'_>,
        dir: ObjectId,
        fresh: Fresh,
    ) -> FsResult<(ObjectRecord, XattrSet)> {
        let now = edit.now;
        let parent = edit.live_directory(dir)?;
        let inherits = parent.mode & libc::S_ISGID != 0;
        let gid = if inherits { parent.gid } else { op.caller.gid };
        let directory = fresh.kind == FileKind::Directory;
        let setgid = if inherits && directory { libc::S_ISGID } else { 0 };
        let (mode, lists) = match acl::inherited_from(op.view, dir)? {
            Some(list) if fresh.kind != FileKind::Symlink => list.begin(fresh.mode & 0o7777, directory),
            Some(_) | None => (fresh.mode & 0o7777 & !fresh.umask, XattrSet::default()),
        };
        let record = ObjectRecord {
            mode: mode | setgid,
            uid: op.caller.uid,
            gid,
            nlink: if directory { 2 } else { 1 },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            own_times: false,
            body: fresh.body,
        };
        Ok((record, lists))
    }

    fn make(&self, op: &Op<'_>, dir: ObjectId, name: &[u8], fresh: Fresh, open: bool) -> FsResult<Reply> {
        let kind = fresh.kind;
        let object = self.core.new_object()?;
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, op.view);
        let (record, lists) = self.fresh_record(&mut edit, op, dir, fresh)?;
        if edit.child(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        edit.touch_directory(dir, i32::from(kind == FileKind::Directory))?;
        let entry = self.fresh_entry(op.view, object, &record);
        edit.insert(object, record);
        edit.change.first_xattrs(object, &lists);
        edit.put_name(dir, name, object, kind)?;
        let taken = self.branch.ledger.take(0, 1)?;
        let reply = if open { Reply::Created(entry, self.opened_own()) } else { Reply::Entry(entry) };
        let made = self.finish(op, edit.into_change(), reply, self.core.store.as_ref())?;
        taken.keep();
        Ok(made)
    }

    fn fresh_entry(&self, view: &View, object: ObjectId, record: &ObjectRecord) -> shm_transport::wire::Entry {
        let (size, blocks) = match &record.body {
            Body::Directory { .. } => (4096, 8),
            Body::Symlink { target } => (target.len() as u64, 0),
            Body::File(_) | Body::Special { .. } => (0, 0),
        };
        let mut entry = self.negative(view, true);
        entry.node = NodeId::in_view(object.0, self.slot);
        entry.entry_valid_ns = self.name_valid(view, true);
        entry.attr_valid_ns = self.valid(view, true);
        entry.attr.ino = object.0;
        (entry.attr.size, entry.attr.blocks) = (size, blocks);
        (entry.attr.atime, entry.attr.mtime) = (record.atime, record.mtime);
        (entry.attr.ctime, entry.attr.btime) = (record.ctime, record.btime);
        entry.attr.mode = record.mode | record.kind().mode_bits();
        (entry.attr.nlink, entry.attr.uid, entry.attr.gid) = (record.nlink, record.uid, record.gid);
        entry.attr.blksize = 4096;
        if let Body::Special { rdev, .. } = &record.body {
            entry.attr.rdev = *rdev;
        }
        entry
    }

    /// `TMPFILE`: a file that starts as an orphan and may be linked.
    pub(super) fn tmpfile(&self, op: &Op<'_>, dir: ObjectId, (mode, umask): (u32, u32)) -> FsResult<Reply> {
        let object = self.core.new_object()?;
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, op.view);
        let fresh = Fresh { kind: FileKind::Regular, mode, umask, body: Body::File(FileBody::Hole { size: 0 }) };
        let (mut record, lists) = self.fresh_record(&mut edit, op, dir, fresh)?;
        record.nlink = 0;
        let entry = self.fresh_entry(op.view, object, &record);
        // The directory itself does not change: only the new record goes into the batch.
        let mut edit = Edit::new(&self.core, op.view);
        edit.insert(object, record);
        edit.change.orphan(object);
        edit.change.first_xattrs(object, &lists);
        let taken = self.branch.ledger.take(0, 1)?;
        let reply = Reply::Created(entry, self.opened_own());
        let made = self.finish(op, edit.into_change(), reply, self.core.store.as_ref())?;
        taken.keep();
        Ok(made)
    }

    /// `LINK`.
    pub(super) fn link(&self, op: &Op<'_>, target: ObjectId, dir: ObjectId, name: &[u8]) -> FsResult<Reply> {
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, op.view);
        let kind = edit.record(target)?.kind();
        if kind == FileKind::Directory {
            return Err(FsError::NotPermitted);
        }
        edit.live_directory(dir)?;
        if edit.child(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        edit.add_link(target)?;
        let nlink = edit.record(target)?.nlink;
        edit.touch_directory(dir, 0)?;
        edit.put_name(dir, name, target, kind)?;
        let now = edit.now;
        let mut entry = self.entry(op.view, &Child { object: target, kind, found: None })?;
        (entry.attr.nlink, entry.attr.ctime) = (nlink, now);
        self.finish(op, edit.into_change(), Reply::Entry(entry), self.core.store.as_ref())
    }

    /// `UNLINK` and `RMDIR`.
    pub(super) fn remove(&self, op: &Op<'_>, dir: ObjectId, name: &[u8], directory: bool) -> FsResult<Reply> {
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, op.view);
        edit.live_directory(dir)?;
        let child = edit.child(dir, name)?.ok_or(FsError::NotFound)?;
        match (child.kind == FileKind::Directory, directory) {
            (true, false) => return Err(FsError::IsDirectory),
            (false, true) => return Err(FsError::NotDirectory),
            (true, true) if !op.view.is_empty(child.object)? => return Err(FsError::NotEmpty),
            (true, true) | (false, false) => {}
        }
        edit.drop_link(&child)?;
        edit.remove_name(dir, name)?;
        edit.touch_directory(dir, -i32::from(directory))?;
        self.finish(op, edit.into_change(), Reply::Ok, self.core.store.as_ref())
    }

    /// Makes everything that was written to the branch durable.
    pub(super) fn sync_all(&self) -> FsResult<Reply> {
        self.core.contents.sync_all().map_err(io("sync contents"))?;
        self.core.sync()?;
        Ok(Reply::Ok)
    }
}
