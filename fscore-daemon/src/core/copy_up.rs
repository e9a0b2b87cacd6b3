//! Copy-up: gives the head of a branch a content file of its own, whole or not at all.

use super::attr::{host_time, length};
use super::edit::Edit;
use super::error::{FsError, FsResult, io, sys};
use super::ids::{ContentId, ObjectId};
use super::quota::{charge, charge_of};
use super::record::{Body, FileBody, ObjectRecord};
use super::session::Session;
use super::state::lock;
use super::view::View;
use crate::content::Content;
use crate::store::StoreError;
use nix::sys::stat::{fstat, futimens};
use nix::unistd::ftruncate;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How often a copy is tried again while the host writes to the base file.
const TRIES: usize = 8;

/// Where a regular file's bytes are now.
pub(super) enum Source {
    /// Zeros, so many.
    Hole(u64),
    /// A content file.
    Content(Arc<Content>),
    /// The base.
    Base(Arc<OwnedFd>),
}

impl Source {
    /// How many bytes these are.
    pub(super) fn size(&self) -> FsResult<u64> {
        let stat = match self {
            Self::Hole(size) => return Ok(*size),
            Self::Content(content) => fstat(content.as_fd()),
            Self::Base(fd) => fstat(fd.as_fd()),
        };
        Ok(stat.map_err(sys("stat"))?.st_size.max(0) as u64)
    }
}

impl Session {
    /// Finds a file's bytes.
    pub(super) fn source(&self, view: &View, object: ObjectId) -> FsResult<Source> {
        let body = match view.object(object)? {
            None => FileBody::Base,
            Some(found) => match found.value.body {
                Body::File(body) => body,
                Body::Directory { .. } => return Err(FsError::IsDirectory),
                Body::Symlink { .. } | Body::Special { .. } => return Err(FsError::Invalid),
            },
        };
        Ok(match body {
            FileBody::Hole { size } => Source::Hole(size),
            FileBody::Content(id) => Source::Content(self.content(id)?),
            FileBody::Base => Source::Base(view.base_of(object).ok_or(FsError::Stale)?.file(object)?),
        })
    }

    /// The content that the head may write in place, if it has one, and the object's record.
    pub(super) fn head_content(&self, view: &View, object: ObjectId) -> FsResult<Option<(ContentId, ObjectRecord)>> {
        let Some(found) = view.object(object)? else { return Ok(None) };
        match found.value.body {
            Body::File(FileBody::Content(id)) if self.owned(id, view.head())? => Ok(Some((id, found.value))),
            Body::File(_) | Body::Directory { .. } | Body::Symlink { .. } | Body::Special { .. } => Ok(None),
        }
    }

    fn own_content(&self, view: &View, object: ObjectId) -> FsResult<Option<Arc<Content>>> {
        self.head_content(view, object)?.map(|(id, _)| self.content(id)).transpose()
    }

    /// Runs `work` on a content that is the head's own, copied up first if need be. The content stays
    /// in place meanwhile. It may be as long as `end` afterwards, where it was shorter.
    pub(super) fn with_own_content<T>(
        &self,
        view: &View,
        object: ObjectId,
        end: u64,
        work: impl FnOnce(BorrowedFd<'_>) -> FsResult<T>,
    ) -> FsResult<T> {
        {
            let _shared = self.branch.contents.shared(object);
            if let Some(content) = self.own_content(view, object)? {
                let grows = self.branch.ledger.is_limited() && charge(end) > charge_of(&*content)?;
                if !grows {
                    return changed(&content, work);
                }
            }
        }
        let _exclusive = self.branch.contents.exclusive(object);
        let ledger = &self.branch.ledger;
        let room = |content: &Content| {
            let before = if ledger.is_limited() { charge_of(content)? } else { 0 };
            Ok::<_, FsError>((before, ledger.take(charge(end).saturating_sub(before), 0)?))
        };
        let (content, (before, taken)) = if let Some(content) = self.own_content(view, object)? {
            let room = room(&content)?;
            (content, room)
        } else {
            if ledger.is_limited() {
                // Before anything is copied in vain.
                drop(ledger.take(charge(end.max(self.source(view, object)?.size()?)), 0)?);
            }
            self.with_copy(view, object, None, None, |edit, content| {
                // Without room to grow the copy goes as well.
                let room = room(content)?;
                edit.into_change().commit(self.core.store.as_ref())?;
                Ok((Arc::clone(content), room))
            })?
        };
        if !ledger.is_limited() {
            return changed(&content, work);
        }
        let done = changed(&content, work);
        taken.keep_bytes(charge_of(&*content)?.saturating_sub(before));
        done
    }

    /// Copies what the object holds into a new content of the head's own, of another size if one is given,
    /// and has `publish` commit the change that refers to it, and drop `replaces`. The caller has the content lock to
    /// itself.
    ///
    /// A crash before the batch leaves a content file without a record, which the next start removes.
    pub(super) fn with_copy<T>(
        &self,
        view: &View,
        object: ObjectId,
        size: Option<u64>,
        replaces: Option<ContentId>,
        publish: impl Fn(Edit<'_>, &Arc<Content>) -> FsResult<T>,
    ) -> FsResult<T> {
        for _ in 0..TRIES {
            let id = self.core.new_content()?;
            match self.try_copy(view, object, (id, replaces), size, &publish) {
                Ok(Some(done)) => {
                    self.core.counts.copy_ups.fetch_add(1, Ordering::Relaxed);
                    return Ok(done);
                }
                Ok(None) => self.drop_unrecorded(id),
                // The record may be in the log all the same: the next start decides.
                Err(e @ FsError::Store(StoreError::Io { .. })) => return Err(e),
                Err(e) => {
                    self.drop_unrecorded(id);
                    return Err(e);
                }
            }
        }
        Err(FsError::Io {
            what: "copy up a file that the host keeps writing",
            source: std::io::Error::from_raw_os_error(libc::EBUSY),
        })
    }

    fn drop_unrecorded(&self, id: ContentId) {
        if let Err(error) = self.core.contents.remove(id) {
            tracing::warn!(content = %id, %error, "a half-made content file stays until the next start");
        }
    }

    /// One attempt; `None` when the host changed the base file meanwhile.
    fn try_copy<T>(
        &self,
        view: &View,
        object: ObjectId,
        (id, replaces): (ContentId, Option<ContentId>),
        size: Option<u64>,
        publish: &impl Fn(Edit<'_>, &Arc<Content>) -> FsResult<T>,
    ) -> FsResult<Option<T>> {
        let source = self.source(view, object)?;
        let from_base = match &source {
            Source::Base(fd) => {
                let base = view.base_of(object).ok_or(FsError::Stale)?;
                Some((base, base.stat_fd(object, fd)?.identity()))
            }
            Source::Hole(_) | Source::Content(_) => None,
        };
        // A smaller one in its place needs no room.
        let replaced = replaces.map_or(Ok(0), |old| self.counted(old))?;
        let size_max = size.map_or_else(|| source.size(), Ok)?;
        let mut taken = self.branch.ledger.take(charge(size_max).saturating_sub(replaced), 0)?;
        let content = self.fill(&source, id, size)?;
        let copied = charge_of(&*content)?;
        taken.set_bytes(copied.saturating_sub(replaced))?;
        if !matches!(source, Source::Hole(0)) {
            // These bytes, or zeros of a hole, may have been durable for long. The record that refers to the copy may become so
            // at any moment, and must not find less than was there before.
            content.sync(true).map_err(io("sync copy"))?;
        }
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, view);
        let now = edit.now;
        let record = edit.record(object)?;
        let Body::File(body) = record.body else { return Err(FsError::Invalid) };
        if record.own_times || matches!(body, FileBody::Hole { .. }) {
            let mtime = if size.is_some() { now } else { record.mtime };
            futimens(content.as_fd(), &host_time(record.atime), &host_time(mtime)).map_err(sys("set times"))?;
            record.own_times = false;
        }
        record.body = Body::File(FileBody::Content(id));
        if let Some((base, copied)) = from_base {
            // Looked at after the pre-image was taken: what was copied is what the pre-image says.
            let now = base.stat(object)?;
            if now.identity() != copied {
                return Ok(None);
            }
            let given_out = lock(&self.seen).get(&object).copied();
            if given_out != Some((now.attr.ctime, now.attr.size)) {
                lock(&self.doubtful).insert(object);
            }
        }
        edit.change.content(id, object);
        let done = publish(edit, &content)?;
        taken.keep();
        self.branch.ledger.give_back(replaced.saturating_sub(copied), 0);
        Ok(Some(done))
    }

    /// What a content file counts.
    pub(super) fn counted(&self, id: ContentId) -> FsResult<u64> {
        if self.branch.ledger.is_limited() { charge_of(&*self.content(id)?) } else { Ok(0) }
    }

    /// Makes the content; with a size no more is copied than it takes.
    fn fill(&self, source: &Source, id: ContentId, size: Option<u64>) -> FsResult<Arc<Content>> {
        let contents = &self.core.contents;
        let copied = match source {
            Source::Hole(_) => contents.create(id).map_err(io("create content")),
            Source::Content(old) => {
                contents.copy_from(id, old.as_fd(), size).map(|(copy, _)| copy).map_err(io("copy content"))
            }
            Source::Base(fd) => contents.copy_from(id, fd.as_fd(), size).map(|(copy, _)| copy).map_err(io("copy up")),
        }?;
        let size = match source {
            Source::Hole(hole) => size.unwrap_or(*hole),
            Source::Content(_) | Source::Base(_) => match size {
                Some(size) => size,
                None => return Ok(copied),
            },
        };
        if size > 0 {
            ftruncate(copied.as_fd(), length(size)?).map_err(sys("set size"))?;
        }
        Ok(copied)
    }
}

/// Runs `work` on a content, which counts as changed whatever comes of it.
fn changed<T>(content: &Content, work: impl FnOnce(BorrowedFd<'_>) -> FsResult<T>) -> FsResult<T> {
    let done = work(content.as_fd());
    content.written();
    done
}
