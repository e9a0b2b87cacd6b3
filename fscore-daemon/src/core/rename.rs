//! `RENAME`, with `RENAME_NOREPLACE` and `RENAME_EXCHANGE`. Directories of the base move like any
//! other: an object is named by its number, wherever its name is.

use super::edit::{Edit, parent_of};
use super::error::{FsError, FsResult, io};
use super::ids::ObjectId;
use super::record::{Body, DirentRecord, FileBody};
use super::session::{Op, Session};
use super::view::{Child, View};
use crate::content::Content;
use shm_transport::wire::{FileKind, NodeId, Reply};
use std::sync::Arc;

/// A name in a directory.
type Place<'a> = (ObjectId, &'a [u8]);

/// More directories than any path can have.
const DEPTH_MAX: usize = 65_536;

impl Session {
    pub(super) fn rename(
        &self,
        op: &Op<'_>,
        from: (ObjectId, &Vec<u8>),
        to: (ObjectId, &Vec<u8>),
        flags: u32,
    ) -> FsResult<Reply> {
        let (from, to): (Place<'_>, Place<'_>) = ((from.0, from.1), (to.0, to.1));
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        let replace = flags & libc::RENAME_NOREPLACE == 0;
        if flags & !(libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE) != 0 || (exchange && !replace) {
            return Err(FsError::Invalid);
        }
        // Before the names are taken, for it takes long. Who writes to the file meanwhile does so at the same time
        // as the rename.
        if let Some(content) = self.unsynced_replacement(op.view, from, to, flags)? {
            content.sync(true).map_err(io("sync what replaces a file"))?;
        }
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, op.view);
        edit.live_directory(from.0)?;
        edit.live_directory(to.0)?;
        let source = edit.child(from.0, from.1)?.ok_or(FsError::NotFound)?;
        let target = edit.child(to.0, to.1)?;
        if target.is_some() && !replace {
            return Err(FsError::Exists);
        }
        if source.kind == FileKind::Directory && is_within(op.view, to.0, source.object)? {
            return Err(FsError::Invalid);
        }
        if target.is_some_and(|t| t.object == source.object) {
            return Ok(Reply::Ok);
        }
        // Pins the names that they have in the base, before these change.
        for child in [Some(source), target].into_iter().flatten() {
            edit.record(child.object)?;
        }
        match target {
            Some(target) if exchange => {
                if target.kind == FileKind::Directory && is_within(op.view, from.0, target.object)? {
                    return Err(FsError::Invalid);
                }
                place(&mut edit, &target, from)?;
                place(&mut edit, &source, to)?;
                let (s, t) = (directories(&source), directories(&target));
                edit.touch_directory(from.0, if from.0 == to.0 { 0 } else { t - s })?;
                edit.touch_directory(to.0, if from.0 == to.0 { 0 } else { s - t })?;
            }
            None if exchange => return Err(FsError::NotFound),
            target => {
                if let Some(target) = &target {
                    replaceable(op.view, &source, target)?;
                    edit.drop_link(target)?;
                }
                edit.remove_name(from.0, from.1)?;
                place(&mut edit, &source, to)?;
                edit.touch_directory(from.0, -directories(&source))?;
                edit.touch_directory(to.0, directories(&source) - target.as_ref().map_or(0, directories))?;
            }
        }
        self.finish(op, edit.into_change(), Reply::Ok, self.core.store.as_ref())
    }

    /// The content, not durable yet, that a rename gives the name of something else. Once the rename is durable
    /// the name must not lead to less.
    fn unsynced_replacement(
        &self,
        view: &View,
        from: Place<'_>,
        to: Place<'_>,
        flags: u32,
    ) -> FsResult<Option<Arc<Content>>> {
        if flags & libc::RENAME_NOREPLACE != 0 {
            return Ok(None);
        }
        // A file that the branch changed has a record at each of its names.
        let Some(DirentRecord::Entry { object, kind: FileKind::Regular }) =
            view.dirent(from.0, from.1)?.map(|v| v.value)
        else {
            return Ok(None);
        };
        let Some(Body::File(FileBody::Content(id))) = view.object(object)?.map(|v| v.value.body) else {
            return Ok(None);
        };
        let content = self.content(id)?;
        let replaces = content.is_dirty() && view.child(to.0, to.1)?.is_some();
        Ok(replaces.then_some(content))
    }

    /// Whether a rename would have to wait for a disk.
    pub(super) fn would_sync(&self, dir: NodeId, name: &[u8], to: (NodeId, &[u8]), flags: u32) -> bool {
        let view = self.branch.view();
        let (Ok(from_dir), Ok(to_dir)) = (self.object(&view, dir), self.object(&view, to.0)) else { return false };
        // What fails now fails again where it is told.
        matches!(self.unsynced_replacement(&view, (from_dir, name), (to_dir, to.1), flags), Ok(Some(_)))
    }
}

fn directories(child: &Child) -> i32 {
    i32::from(child.kind == FileKind::Directory)
}

/// Whether `source` may take the place of `target`.
fn replaceable(view: &View, source: &Child, target: &Child) -> FsResult<()> {
    match (source.kind == FileKind::Directory, target.kind == FileKind::Directory) {
        (false, true) => Err(FsError::IsDirectory),
        (true, false) => Err(FsError::NotDirectory),
        (true, true) if !view.is_empty(target.object)? => Err(FsError::NotEmpty),
        (true, true) | (false, false) => Ok(()),
    }
}

/// Makes the name lead to the child, and tells a directory where it is.
fn place(edit: &mut Edit<'_>, child: &Child, to: Place<'_>) -> FsResult<()> {
    let now = edit.now;
    let record = edit.record(child.object)?;
    record.ctime = now;
    if let Body::Directory { parent, name } = &mut record.body {
        *parent = to.0;
        *name = to.1.to_vec();
    }
    edit.put_name(to.0, to.1, child.object, child.kind)
}

/// Whether `dir` is `ancestor` or lies below it.
fn is_within(view: &View, dir: ObjectId, ancestor: ObjectId) -> FsResult<bool> {
    let mut at = dir;
    for _ in 0..DEPTH_MAX {
        if at == ancestor {
            return Ok(true);
        }
        match parent_of(view, at)? {
            Some(parent) => at = parent,
            None => return Ok(false),
        }
    }
    Err(FsError::Damaged("directory loop"))
}
