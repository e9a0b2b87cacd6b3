//! Attributes: what `stat` tells of an object of a view, and changes to them.

use super::acl;
use super::base::{BaseStat, attr_of};
use super::edit::{Edit, body_of};
use super::error::{FsError, FsResult, io, sys};
use super::ids::{ContentId, ObjectId};
use super::quota::charge;
use super::record::{Body, FileBody, ObjectRecord};
use super::session::{Op, Session};
use super::state::{Core, lock};
use super::view::View;
use super::xattr::set_of;
use crate::content::Content;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use nix::unistd::ftruncate;
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

pub(super) fn host_time(t: Timestamp) -> TimeSpec {
    TimeSpec::new(t.sec, i64::from(t.nsec))
}

impl Session {
    /// `GETATTR`.
    pub(super) fn get_attr(&self, view: &View, object: ObjectId) -> FsResult<Reply> {
        let (attr, own) = attributes(&self.core, view, object, None)?;
        Ok(Reply::Attr { attr, valid_ns: self.valid(view, own) })
    }

    /// `SETATTR`.
    pub(super) fn set_attr(&self, op: &Op<'_>, object: ObjectId, set: &SetAttr) -> FsResult<Reply> {
        self.change_attributes(op, object, set, &|attr, own| Reply::Attr { attr, valid_ns: self.valid(op.view, own) })
    }

    /// Changes attributes, the size among them, whole or not at all.
    ///
    /// What a content file itself keeps (size, times) is set in place when nothing else changes; that is
    /// no batch, and doing it again does no harm. Otherwise one batch holds everything with the reply, and
    /// another size goes with another body: zeros, or a new content with the bytes that stay.
    pub(super) fn change_attributes(
        &self,
        op: &Op<'_>,
        object: ObjectId,
        set: &SetAttr,
        reply: &dyn Fn(Attr, bool) -> Reply,
    ) -> FsResult<Reply> {
        check(set)?;
        let of_content = set.size.is_some() || sets_times(set);
        let _exclusive = of_content.then(|| self.branch.contents.exclusive(object));
        let own = if of_content { self.head_content(op.view, object)? } else { None };
        let result = match &own {
            Some((id, record)) if !changes_record(record, set) => {
                self.set_in_place(*id, set)?;
                let (attr, own) = attributes(&self.core, op.view, object, None)?;
                Ok(reply(attr, own))
            }
            _ => {
                let own = own.map(|(id, _)| id);
                self.publish_attributes(&Publication { op, object, set, own, reply })
            }
        }?;
        if set.size == Some(0) {
            lock(&self.emptied).insert(object);
        }
        Ok(result)
    }

    /// The caller has the content to itself.
    fn set_in_place(&self, id: ContentId, set: &SetAttr) -> FsResult<()> {
        let content = self.content(id)?;
        if let Some(size) = set.size {
            let before = self.counted(id)?;
            let taken = self.branch.ledger.take(charge(size).saturating_sub(before), 0)?;
            ftruncate(content.as_fd(), length(size)?).map_err(sys("set size"))?;
            content.written();
            taken.keep();
            self.branch.ledger.give_back(before.saturating_sub(charge(size)), 0);
        }
        set_times(&content, set, self.core.clock.now())
    }

    fn publish_attributes(&self, p: &Publication<'_>) -> FsResult<Reply> {
        let (view, object) = (p.op.view, p.object);
        let Some(size) = p.set.size else {
            let _names = self.branch.names();
            return self.publish_times(p, Edit::new(&self.core, view));
        };
        let limited = self.branch.ledger.is_limited();
        let reply = if needs_content(view, object, size, limited)? {
            self.with_copy(view, object, Some(size), p.own, |edit, content| {
                set_times(content, p.set, edit.now)?;
                self.publish(p, edit)
            })?
        } else {
            let _names = self.branch.names();
            let mut edit = Edit::new(&self.core, view);
            let (now, before) = (edit.now, attributes(&self.core, view, object, None)?.0);
            let record = edit.record(object)?;
            record.body = Body::File(FileBody::Hole { size });
            (record.atime, record.mtime, record.own_times) = (before.atime, now, false);
            record_times(record, p.set, now);
            let replaced = p.own.map_or(Ok(0), |old| self.counted(old))?;
            let reply = self.publish(p, edit)?;
            self.branch.ledger.give_back(replaced, 0);
            reply
        };
        if let Some(old) = p.own {
            self.core.doom(old);
        }
        Ok(reply)
    }

    /// The rest of a change without a size. The caller has the names.
    fn publish_times(&self, p: &Publication<'_>, mut edit: Edit<'_>) -> FsResult<Reply> {
        if !sets_times(p.set) {
            return self.publish(p, edit);
        }
        let now = edit.now;
        let before = attributes(&self.core, p.op.view, p.object, None)?.0;
        let Some(own) = p.own else {
            let record = edit.record(p.object)?;
            (record.atime, record.mtime) = (before.atime, before.mtime);
            record.own_times = matches!(record.body, Body::File(_));
            record_times(record, p.set, now);
            return self.publish(p, edit);
        };
        let content = self.content(own)?;
        set_times(&content, p.set, now)?;
        self.publish(p, edit).inspect_err(|_| {
            let (atime, mtime) = (host_time(before.atime), host_time(before.mtime));
            if let Err(error) = futimens(content.as_fd(), &atime, &mtime) {
                tracing::warn!(content = %own, %error, "the times of a failed change stay");
            }
        })
    }

    /// Owner, mode and change time, and all of it as one batch.
    fn publish(&self, p: &Publication<'_>, mut edit: Edit<'_>) -> FsResult<Reply> {
        let now = edit.now;
        let record = edit.record(p.object)?;
        (record.mode, record.uid, record.gid) = owner_and_mode(record, p.set);
        record.ctime = p.set.ctime.unwrap_or(now);
        let record = record.clone();
        if p.set.mode.is_some() {
            let mut set = set_of(p.op.view, p.object)?;
            if let Some(list) = acl::of_set(&set, acl::ACCESS)? {
                acl::put(&mut set, acl::ACCESS, Some(&list.with_mode(record.mode)));
                edit.change.xattrs(p.object, &set);
            }
        }
        if p.set.size.is_some()
            && let Some(old) = p.own
        {
            edit.change.drop_content(old);
            edit.change.batch.reclaims = true;
        }
        let attr = record_attributes(&self.core, p.op.view, p.object, &record)?;
        let own = !matches!(record.body, Body::File(FileBody::Base));
        self.finish(p.op, edit.into_change(), (p.reply)(attr, own), self.core.store.as_ref())
    }
}

/// A change of attributes on its way into a batch.
struct Publication<'a> {
    op: &'a Op<'a>,
    object: ObjectId,
    set: &'a SetAttr,
    /// The content that the head owns.
    own: Option<ContentId>,
    /// The answer for attributes, and whether they are the branch's own.
    reply: &'a dyn Fn(Attr, bool) -> Reply,
}

/// Larger files without bytes get a content file at once, so that the host says whether it can have them.
const HOLE_MAX: u64 = 1 << 40;

/// Whether a file of this size cannot do without a content file. Where a quota counts sizes it is counted at once.
fn needs_content(view: &View, object: ObjectId, size: u64, limited: bool) -> FsResult<bool> {
    match body_of(view, object)? {
        Body::File(FileBody::Hole { size: now }) => Ok(size > HOLE_MAX || limited && size > now),
        Body::File(FileBody::Base | FileBody::Content(_)) => Ok(size > 0),
        Body::Directory { .. } => Err(FsError::IsDirectory),
        Body::Symlink { .. } | Body::Special { .. } => Err(FsError::Invalid),
    }
}

/// Refuses what no host can have, before anything is changed.
fn check(set: &SetAttr) -> FsResult<()> {
    let given = |time: Option<SetTime>| match time {
        Some(SetTime::At(time)) => Some(time),
        Some(SetTime::Now) | None => None,
    };
    let times = [given(set.atime), given(set.mtime), set.ctime];
    if times.into_iter().flatten().any(|time| time.nsec >= 1_000_000_000) {
        return Err(FsError::Invalid);
    }
    set.size.map_or(Ok(0), length).map(drop)
}

/// A size as the host takes it.
pub(super) fn length(size: u64) -> FsResult<i64> {
    i64::try_from(size).map_err(|_| FsError::FileTooBig)
}

fn sets_times(set: &SetAttr) -> bool {
    set.atime.is_some() || set.mtime.is_some()
}

fn record_times(record: &mut ObjectRecord, set: &SetAttr, now: Timestamp) {
    let at = |time| match time {
        SetTime::At(time) => time,
        SetTime::Now => now,
    };
    record.atime = set.atime.map_or(record.atime, at);
    record.mtime = set.mtime.map_or(record.mtime, at);
}

fn set_times(content: &Content, set: &SetAttr, now: Timestamp) -> FsResult<()> {
    let at = |time: Option<SetTime>| match time {
        Some(SetTime::At(time)) => host_time(time),
        Some(SetTime::Now) => host_time(now),
        None => TimeSpec::UTIME_OMIT,
    };
    if !sets_times(set) {
        return Ok(());
    }
    futimens(content.as_fd(), &at(set.atime), &at(set.mtime)).map_err(sys("set times"))
}

/// Mode, owner and group after the change.
fn owner_and_mode(record: &ObjectRecord, set: &SetAttr) -> (u32, u32, u32) {
    let directory = matches!(record.body, Body::Directory { .. });
    let strips = set.kill_suidgid || set.uid.is_some() || set.gid.is_some();
    let mode = match set.mode {
        Some(mode) => mode & 0o7777,
        None if strips && !directory => without_setid(record.mode),
        None => record.mode,
    };
    (mode, set.uid.unwrap_or(record.uid), set.gid.unwrap_or(record.gid))
}

/// Whether there is more to change than what a content file keeps itself.
fn changes_record(record: &ObjectRecord, set: &SetAttr) -> bool {
    owner_and_mode(record, set) != (record.mode, record.uid, record.gid)
}
