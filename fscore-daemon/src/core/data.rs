//! File data: reading, writing, sizes, holes. Data is found by object, never by handle, so that a
//! copy-up is seen at once by every reader.

use super::copy_up::Source;
use super::edit::Edit;
use super::error::{FsError, FsResult, io, sys};
use super::ids::ObjectId;
use super::nowait;
use super::quota::{charge, charge_of};
use super::session::{Op, Session};
use super::state::lock;
use super::view::View;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::unistd::{Whence, lseek64};
use shm_transport::mem::Payload;
use shm_transport::wire::{Opened, Reply, SetAttr};
use std::os::fd::AsFd;

/// Zeros to answer reads of holes with, a piece at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Session {
    /// `OPEN`.
    pub(super) fn open_file(&self, op: &Op<'_>, object: ObjectId, flags: u32, kill: bool) -> FsResult<Reply> {
        let writes = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        if self.read_only && writes {
            return Err(FsError::ReadOnly);
        }
        if flags & libc::O_TRUNC as u32 != 0 {
            let set = SetAttr { size: Some(0), kill_suidgid: kill, ..SetAttr::default() };
            return self.change_attributes(op, object, &set, &|_, _| Reply::Opened(self.opened_own()));
        }
        let own = self.opened_own();
        match self.source(op.view, object)? {
            Source::Hole(_) | Source::Content(_) => {
                let doubtful = lock(&self.doubtful).remove(&object);
                let keep_cache = own.keep_cache && self.sees_all_changes(op.view, true) && !doubtful;
                Ok(Reply::Opened(Opened { keep_cache, ..own }))
            }
            Source::Base(fd) => {
                let base = op.view.base_of(object).ok_or(FsError::Stale)?;
                let stat = base.stat_fd(object, &fd)?.attr;
                // Deleted or replaced on the host since its name was looked up: the kernel then looks again.
                if stat.nlink == 0 {
                    return Err(FsError::Stale);
                }
                let now = (stat.ctime, stat.size);
                let before = lock(&self.seen).insert(object, now);
                let keep_cache = own.keep_cache && (op.view.frozen_base || before == Some(now));
                Ok(Reply::Opened(Opened { keep_cache, ..own }))
            }
        }
    }

    /// `RELEASE`: what replaced bytes that were cut off goes to the disk without waiting for a sync.
    pub(super) fn release(&self, view: &View, object: ObjectId, flags: u32) -> FsResult<Reply> {
        let wrote = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        if wrote
            && lock(&self.emptied).remove(&object)
            && let Some((id, _)) = self.head_content(view, object)?
        {
            self.content(id)?.begin_sync().map_err(io("write content out"))?;
        }
        Ok(Reply::Ok)
    }

    /// `READ`.
    pub(super) fn read(
        &self,
        view: &View,
        object: ObjectId,
        offset: u64,
        size: usize,
        payload: &mut Payload<'_>,
    ) -> FsResult<Reply> {
        let size = size.min(payload.capacity());
        let len = match self.source(view, object)? {
            Source::Hole(end) => {
                let len = end.saturating_sub(offset).min(size as u64) as usize;
                let mut at = 0;
                while at < len {
                    let piece = (len - at).min(ZEROS.len());
                    if !ZEROS.get(..piece).is_some_and(|z| payload.copy_in(at, z)) {
                        return Err(FsError::Range);
                    }
                    at += piece;
                }
                len
            }
            Source::Content(content) => {
                nowait::read(payload, content.as_fd(), offset, size).map_err(io("read content"))?
            }
            Source::Base(fd) => nowait::read(payload, fd.as_fd(), offset, size).map_err(io("read base"))?,
        };
        Ok(Reply::Data { len: len as u32 })
    }

    /// `WRITE`: in place where the head owns the content, else after a copy-up.
    pub(super) fn write(
        &self,
        op: &Op<'_>,
        object: ObjectId,
        offset: u64,
        payload: &Payload<'_>,
        len: usize,
        kill: bool,
    ) -> FsResult<Reply> {
        if offset.checked_add(len as u64).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(FsError::FileTooBig);
        }
        // Before the bytes: changed bytes must never run with the old owner's rights.
        if kill {
            self.strip_setid(op.view, object)?;
        }
        let end = if len == 0 { 0 } else { offset + len as u64 };
        let written = self.with_own_content(op.view, object, end, |fd| {
            payload.write_to(fd, offset, len).map_err(io("write content"))
        })?;
        Ok(Reply::Written { size: written as u32 })
    }

    fn strip_setid(&self, view: &View, object: ObjectId) -> FsResult<()> {
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, view);
        let record = edit.record(object)?;
        let mode = super::attr::without_setid(record.mode);
        if mode == record.mode {
            return Ok(());
        }
        record.mode = mode;
        edit.into_change().commit(self.core.store.as_ref())
    }

    /// `FSYNC`: first the bytes, then the records that refer to them.
    pub(super) fn fsync(&self, view: &View, object: ObjectId, datasync: bool) -> FsResult<Reply> {
        match self.source(view, object)? {
            Source::Content(content) => content.sync(datasync).map_err(io("sync content"))?,
            Source::Hole(_) | Source::Base(_) => self.core.contents.check_syncs().map_err(io("sync content"))?,
        }
        self.core.sync()?;
        Ok(Reply::Ok)
    }

    /// `FALLOCATE`: allocation, holes and zeros; shifting ranges is not served.
    pub(super) fn fallocate(
        &self,
        view: &View,
        object: ObjectId,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> FsResult<Reply> {
        let flags = FallocateFlags::from_bits(mode as i32).ok_or(FsError::Unsupported)?;
        let shifts = FallocateFlags::FALLOC_FL_COLLAPSE_RANGE | FallocateFlags::FALLOC_FL_INSERT_RANGE;
        if flags.intersects(shifts) {
            return Err(FsError::Unsupported);
        }
        let (from, len) = (i64::try_from(offset), i64::try_from(length));
        let (Ok(from), Ok(len)) = (from, len) else { return Err(FsError::FileTooBig) };
        // Before anything is copied.
        from.checked_add(len).ok_or(FsError::FileTooBig)?;
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let keeps_size = flags.contains(FallocateFlags::FALLOC_FL_KEEP_SIZE);
        let end = if keeps_size { 0 } else { offset + length };
        let limited = self.branch.ledger.is_limited();
        self.with_own_content(view, object, end, |fd| {
            // Space that no size tells of would not be counted.
            let punches = flags.contains(FallocateFlags::FALLOC_FL_PUNCH_HOLE);
            if limited && keeps_size && !punches && charge(offset + length) > charge_of(&fd)? {
                return Err(FsError::Unsupported);
            }
            fallocate(fd, flags, from, len).map_err(sys("allocate"))
        })?;
        Ok(Reply::Ok)
    }

    /// `LSEEK` for data and holes.
    pub(super) fn seek(&self, view: &View, object: ObjectId, offset: u64, whence: u32) -> FsResult<Reply> {
        let to = match whence as i32 {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(FsError::Invalid),
        };
        let from = i64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?;
        // The descriptors are shared but only ever used with explicit offsets: their own does not matter.
        let found = match self.source(view, object)? {
            Source::Hole(size) if offset < size && whence as i32 == libc::SEEK_HOLE => offset,
            Source::Hole(_) => return Err(FsError::NoSuchOffset),
            Source::Content(content) => lseek64(content.as_fd(), from, to).map_err(sys("seek"))? as u64,
            Source::Base(fd) => lseek64(fd.as_fd(), from, to).map_err(sys("seek"))? as u64,
        };
        Ok(Reply::Offset(found))
    }

    /// `COPY_FILE_RANGE`.
    pub(super) fn copy_range(
        &self,
        view: &View,
        from: (ObjectId, u64),
        to: (ObjectId, u64),
        length: u64,
    ) -> FsResult<Reply> {
        let (Ok(mut in_at), Ok(mut out_at)) = (i64::try_from(from.1), i64::try_from(to.1)) else {
            return Err(FsError::FileTooBig);
        };
        let source = self.source(view, from.0)?;
        if matches!(source, Source::Hole(_)) {
            return Err(FsError::Unsupported);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
        // No more than is seen now, which is what counts against a limit.
        let there = source.size()?.saturating_sub(from.1).min(length as u64);
        let length = there as usize;
        let end = if there == 0 { 0 } else { to.1.saturating_add(there) };
        let copied = self.with_own_content(view, to.0, end, |fd| {
            let source = match &source {
                // Copied up before, so that both ends are the same file.
                Source::Content(_) | Source::Base(_) if from.0 == to.0 => fd,
                Source::Content(content) => content.as_fd(),
                Source::Base(base) => base.as_fd(),
                Source::Hole(_) => return Err(FsError::Unsupported),
            };
            let copy = copy_file_range(source, Some(&mut in_at), fd, Some(&mut out_at), length);
            // The host copies within one file system only; the kernel then copies by reading and writing.
            copy.map_err(|e| if e == nix::errno::Errno::EXDEV { FsError::Unsupported } else { sys("copy range")(e) })
        })?;
        Ok(Reply::Offset(copied as u64))
    }
}
