//! Attributes: what `stat` tells of an object of a view, and changes to them.

use super::base::{BaseStat, attr_of};
use super::edit::Edit;
use super::error::{FsError, FsResult, io, sys};
use super::ids::ObjectId;
use super::record::{Body, FileBody, ObjectRecord};
use super::session::{Op, Session};
use super::state::Core;
use super::view::View;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use shm_transport::wire::{Attr, Reply, SetAttr, SetTime, Timestamp};
use std::os::fd::AsFd;

/// Attributes, and whether the branch alone decides them (so that they may be kept for long).
pub(super) fn attributes(
    core: &Core,
    view: &View,
    object: ObjectId,
    found: Option<BaseStat>,
) -> FsResult<(Attr, bool)> {
    match view.object(object)? {
        Some(versioned) => {
            let own = !matches!(versioned.value.body, Body::File(FileBody::Base));
            Ok((record_attributes(core, view, object, &versioned.value)?, own))
        }
        None => match found {
            Some(stat) => Ok((stat.attr, false)),
            None => Ok((view.base_of(object).ok_or(FsError::Stale)?.stat(object)?.attr, false)),
        },
    }
}

fn record_attributes(core: &Core, view: &View, object: ObjectId, record: &ObjectRecord) -> FsResult<Attr> {
    let mut attr = Attr {
        ino: object.0,
        size: 4096,
        blocks: 8,
        atime: record.atime,
        mtime: record.mtime,
        ctime: record.ctime,
        btime: record.btime,
        mode: record.mode | record.kind().mode_bits(),
        nlink: record.nlink,
        uid: record.uid,
        gid: record.gid,
        rdev: 0,
        blksize: 4096,
    };
    let data = match &record.body {
        Body::File(FileBody::Base) => Some(view.base_of(object).ok_or(FsError::Stale)?.stat(object)?.attr),
        Body::File(FileBody::Content(id)) => match core.contents.stat(*id) {
            Ok(stat) => Some(attr_of(&stat)),
            // Never synced before a power loss: the file is empty, as on other file systems.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some(Attr { size: 0, blocks: 0, ..attr }),
            Err(e) => return Err(io("stat content")(e)),
        },
        Body::File(FileBody::Hole { size }) => Some(Attr { size: *size, blocks: 0, ..attr }),
        Body::Directory { .. } => None,
        Body::Symlink { target } => Some(Attr { size: target.len() as u64, blocks: 0, ..attr }),
        Body::Special { rdev, .. } => {
            attr.rdev = *rdev;
            Some(Attr { size: 0, blocks: 0, ..attr })
        }
    };
    if let Some(data) = data {
        (attr.size, attr.blocks) = (data.size, data.blocks);
        if !record.own_times {
            (attr.atime, attr.mtime) = (data.atime, data.mtime);
            attr.ctime = attr.ctime.max(data.ctime);
        }
    }
    Ok(attr)
}

/// The permission bits after a write or a change of owner by someone without privilege.
pub(super) fn without_setid(mode: u32) -> u32 {
    let mode = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP == 0 { mode } else { mode & !libc::S_ISGID }
}

fn host_time(t: Timestamp) -> TimeSpec {
    TimeSpec::new(t.sec, i64::from(t.nsec))
}

impl Session {
    /// `GETATTR`.
    pub(super) fn get_attr(&self, view: &View, object: ObjectId) -> FsResult<Reply> {
        let (attr, own) = attributes(&self.core, view, object, None)?;
        Ok(Reply::Attr { attr, valid_ns: self.valid(view, own) })
    }

    /// `SETATTR`: the size first, for it may copy, then everything else in one batch.
    pub(super) fn set_attr(&self, op: &Op<'_>, object: ObjectId, set: &SetAttr) -> FsResult<Reply> {
        if let Some(size) = set.size {
            self.resize(op.view, object, size)?;
        }
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, op.view);
        let now = edit.now;
        let head = op.view.head();
        let at = |t: SetTime| match t {
            SetTime::At(t) => t,
            SetTime::Now => now,
        };
        let current = attributes(&self.core, op.view, object, None)?.0;
        let record = edit.record(object)?;
        let is_file = matches!(record.body, Body::File(_));
        if let Some(mode) = set.mode {
            record.mode = mode & 0o7777;
        } else if (set.kill_suidgid || ((set.uid.is_some() || set.gid.is_some()) && !is_directory(record)))
            && !is_directory(record)
        {
            record.mode = without_setid(record.mode);
        }
        record.uid = set.uid.unwrap_or(record.uid);
        record.gid = set.gid.unwrap_or(record.gid);
        if set.atime.is_some() || set.mtime.is_some() {
            record.atime = set.atime.map_or(current.atime, at);
            record.mtime = set.mtime.map_or(current.mtime, at);
            record.own_times = is_file;
            if let Body::File(FileBody::Content(id)) = record.body
                && self.owned(id, head)?
            {
                let content = self.content(id)?;
                futimens(content.as_fd(), &host_time(record.atime), &host_time(record.mtime))
                    .map_err(sys("set times"))?;
                record.own_times = false;
            }
        }
        record.ctime = set.ctime.unwrap_or(now);
        if matches!(record.body, Body::File(FileBody::Hole { .. })) && set.size.is_some() && set.mtime.is_none() {
            record.mtime = now;
        }
        let change = edit.into_change();
        let (epoch_view, store) = (op.view, self.core.store.as_ref());
        // The reply must tell the state after the batch; times and modes do not depend on it otherwise.
        let updated = change.clone_object(object)?;
        let attr = record_attributes(&self.core, epoch_view, object, &updated)?;
        let own = !matches!(updated.body, Body::File(FileBody::Base));
        let reply = Reply::Attr { attr, valid_ns: self.valid(epoch_view, own) };
        self.finish(op, change, reply, store)
    }
}

fn is_directory(record: &ObjectRecord) -> bool {
    matches!(record.body, Body::Directory { .. })
}
