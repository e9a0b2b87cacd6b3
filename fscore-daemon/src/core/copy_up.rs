//! Copy-up: gives the head of a branch a content file of its own, whole or not at all.

use super::edit::Edit;
use super::error::{FsError, FsResult, io, sys};
use super::ids::ObjectId;
use super::record::{Body, FileBody};
use super::session::Session;
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
        let id = self.core.new_content()?;
        let made = self.fill(view, object, id);
        let content = match made {
            Ok(content) => content,
            Err(e) => {
                if let Err(left) = self.core.contents.remove(id) {
                    tracing::warn!(content = %id, error = %left, "a half-made content file stays until the next start");
                }
                return Err(e);
            }
        };
        let _names = self.branch.names();
        let mut edit = Edit::new(&self.core, view);
        let record = edit.record(object)?;
        if record.own_times || matches!(record.body, Body::File(FileBody::Hole { .. })) {
            futimens(content.as_fd(), &host_time(record.atime), &host_time(record.mtime)).map_err(sys("set times"))?;
            record.own_times = false;
        }
        record.body = Body::File(FileBody::Content(id));
        edit.change.content(id, object);
        edit.into_change().commit(self.core.store.as_ref())?;
        Ok(content)
    }

    fn fill(&self, view: &View, object: ObjectId, id: super::ids::ContentId) -> FsResult<Arc<Content>> {
        match self.source(view, object)? {
            Source::Hole(size) => {
                let content = self.core.contents.create(id).map_err(io("create content"))?;
                if size > 0 {
                    let size = i64::try_from(size).map_err(|_| FsError::FileTooBig)?;
                    ftruncate(content.as_fd(), size).map_err(sys("set size"))?;
                }
                Ok(content)
            }
            Source::Content(old) => Ok(self.core.contents.copy_from(id, old.as_fd()).map_err(io("copy content"))?.0),
            Source::Base(fd) => {
                let base = view.base_of(object).ok_or(FsError::Stale)?;
                for _ in 0..TRIES {
                    let before = base.stat_fd(&fd)?.identity();
                    let content = self.core.contents.copy_from(id, fd.as_fd()).map_err(io("copy up"))?.0;
                    if base.stat_fd(&fd)?.identity() == before {
                        return Ok(content);
                    }
                    drop(content);
                    self.core.contents.remove(id).map_err(io("remove torn copy"))?;
                }
                Err(FsError::Io {
                    what: "copy up a file that the host keeps writing",
                    source: std::io::Error::from_raw_os_error(libc::EBUSY),
                })
            }
        }
    }
}
