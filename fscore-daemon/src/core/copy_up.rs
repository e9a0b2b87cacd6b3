//! Copy-up: gives the head of a branch a content file of its own, whole or not at all.

use super::edit::Edit;
use super::error::{FsError, FsResult, io, sys};
use super::ids::{ContentId, ObjectId};
use super::record::{Body, FileBody};
use super::session::Session;
use super::state::lock;
use super::view::View;
use crate::content::Content;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use nix::unistd::ftruncate;
use shm_transport::wire::Timestamp;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, RwLockWriteGuard};

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

fn host_time(t: Timestamp) -> TimeSpec {
    TimeSpec::new(t.sec, i64::from(t.nsec))
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

    /// The content that the head may write in place, if it has one.
    fn own_content(&self, view: &View, object: ObjectId) -> FsResult<Option<Arc<Content>>> {
        match view.object(object)?.map(|v| v.value.body) {
            Some(Body::File(FileBody::Content(id))) if self.owned(id, view.head())? => self.content(id).map(Some),
            Some(Body::Directory { .. }) => Err(FsError::IsDirectory),
            Some(Body::Symlink { .. } | Body::Special { .. }) => Err(FsError::Invalid),
            Some(Body::File(_)) | None => Ok(None),
        }
    }

    /// Runs `work` on a content that is the head's own, copied up first if need be. The content stays
    /// in place meanwhile.
    pub(super) fn with_own_content<T>(
        &self,
        view: &View,
        object: ObjectId,
        work: impl FnOnce(BorrowedFd<'_>) -> FsResult<T>,
    ) -> FsResult<T> {
        {
            let _shared = self.branch.contents.shared(object);
            if let Some(content) = self.own_content(view, object)? {
                return work(content.as_fd());
            }
        }
        let exclusive = self.branch.contents.exclusive(object);
        let content = self.copy_up(view, object, &exclusive)?;
        work(content.as_fd())
    }

    /// The copy-up itself. A crash before the batch leaves a content file without a record, which the
    /// next start removes.
    pub(super) fn copy_up(
        &self,
        view: &View,
        object: ObjectId,
        _exclusive: &RwLockWriteGuard<'_, ()>,
    ) -> FsResult<Arc<Content>> {
        if let Some(content) = self.own_content(view, object)? {
            return Ok(content);
        }
        for _ in 0..TRIES {
            let id = self.core.new_content()?;
            match self.try_copy_up(view, object, id) {
                Ok(Some(content)) => return Ok(content),
                Ok(None) => self.drop_unrecorded(id),
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
    fn try_copy_up(&self, view: &View, object: ObjectId, id: ContentId) -> FsResult<Option<Arc<Content>>> {
        let source = self.source(view, object)?;
        let from_base = match &source {
            Source::Base(fd) => {
                let base = view.base_of(object).ok_or(FsError::Stale)?;
                Some((base, base.stat_fd(fd)?.identity()))
            }
            Source::Hole(_) | Source::Content(_) => None,
        };
        let content = self.fill(&source, id)?;
        if !matches!(source, Source::Hole(_)) {
            // These bytes may have been durable for long. The record that refers to the copy may become so
            // at any moment, and must not find less than was there before.
            content.sync(true).map_err(io("sync copy"))?;
        }
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, view);
        let record = edit.record(object)?;
        if record.own_times || matches!(record.body, Body::File(FileBody::Hole { .. })) {
            futimens(content.as_fd(), &host_time(record.atime), &host_time(record.mtime)).map_err(sys("set times"))?;
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
        edit.into_change().commit(self.core.store.as_ref())?;
        Ok(Some(content))
    }

    fn fill(&self, source: &Source, id: ContentId) -> FsResult<Arc<Content>> {
        let contents = &self.core.contents;
        match source {
            Source::Hole(size) => {
                let content = contents.create(id).map_err(io("create content"))?;
                if *size > 0 {
                    let size = i64::try_from(*size).map_err(|_| FsError::FileTooBig)?;
                    ftruncate(content.as_fd(), size).map_err(sys("set size"))?;
                }
                Ok(content)
            }
            Source::Content(old) => Ok(contents.copy_from(id, old.as_fd()).map_err(io("copy content"))?.0),
            Source::Base(fd) => Ok(contents.copy_from(id, fd.as_fd()).map_err(io("copy up"))?.0),
        }
    }
}
