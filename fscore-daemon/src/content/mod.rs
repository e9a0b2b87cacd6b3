//! Content files: the bytes of regular files, one host file each, fanned out below one directory.
//!
//! Nothing here knows branches or objects. A content file is named by its number, its size, blocks,
//! atime and mtime are those of the file that it holds, and its descriptor is cached while it is used.
#![forbid(unsafe_code)]

mod cache;
mod copy;
mod failed;
mod file;
mod host;
mod ids;
mod root;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};
use nix::sys::statvfs::{Statvfs, fstatvfs};

use crate::core::ids::ContentId;
use cache::Cache;
use host::RealHost;
use root::Root;

pub use copy::CopyKind;
pub use file::Content;
pub use host::Host;
pub use ids::Ids;

/// All content files of a store.
#[derive(Debug)]
pub struct Contents {
    root: Arc<Root>,
    cache: Mutex<Cache<Content>>,
}

impl Contents {
    /// The contents below `dir`, which is made if it is not there. At most `open_files_max` descriptors
    /// are kept for files that nobody uses at the moment.
    pub fn open(dir: &Path, open_files_max: usize) -> io::Result<Self> {
        Self::open_on(dir, open_files_max, Arc::new(RealHost))
    }

    /// The same on a disk of the test's.
    pub fn open_on(dir: &Path, open_files_max: usize, host: Arc<dyn Host>) -> io::Result<Self> {
        Ok(Self { root: Arc::new(Root::open(dir, host)?), cache: Mutex::new(Cache::new(open_files_max)) })
    }

    /// Makes an empty content file. One with this number that a crashed run left, and that no record
    /// names, is replaced.
    pub fn create(&self, id: ContentId) -> io::Result<Arc<Content>> {
        let fd = self.with_descriptors(|| self.root.create(id))?;
        let content = Arc::new(Content::new(fd, id, Arc::clone(&self.root)));
        let displaced = self.cache().replace(id, Arc::clone(&content));
        drop(displaced);
        Ok(content)
    }

    /// A content file, opened for reading and writing.
    pub fn get(&self, id: ContentId) -> io::Result<Arc<Content>> {
        if let Some(content) = self.cache().get(id) {
            return Ok(content);
        }
        let fd = self.with_descriptors(|| self.root.openat(id, OFlag::O_RDWR))?;
        let content = Arc::new(Content::new(fd, id, Arc::clone(&self.root)));
        // Files are closed after the lock is gone: closing may wait for the disk.
        let (content, displaced) = self.cache().insert(id, content);
        drop(displaced);
        Ok(content)
    }

    /// Size, blocks and times of a content file.
    pub fn stat(&self, id: ContentId) -> io::Result<FileStat> {
        let cached = self.cache().get(id);
        match cached {
            Some(content) => Ok(fstat(content.as_fd())?),
            None => self.root.stat(id),
        }
    }

    /// Makes a content file with the bytes, holes, atime and mtime of `source`; shares the bytes where
    /// the filesystem can. Bytes from `len_max` on may be left out. On an error nothing is left behind.
    pub fn copy_from(
        &self,
        id: ContentId,
        source: BorrowedFd<'_>,
        len_max: Option<u64>,
    ) -> io::Result<(Arc<Content>, CopyKind)> {
        let content = self.create(id)?;
        match copy::copy(source, content.as_fd(), len_max) {
            Ok(kind) => Ok((content, kind)),
            Err(e) => {
                if let Err(also) = self.remove(id) {
                    tracing::warn!("cannot remove the unfinished content file {id}: {also}");
                }
                Err(e)
            }
        }
    }

    /// Removes a content file; one that is not there is fine. Who holds it open keeps its bytes.
    pub fn remove(&self, id: ContentId) -> io::Result<()> {
        let cached = self.cache().remove(id);
        drop(cached);
        self.root.unlink(id)
    }

    /// Where a content file lies.
    pub fn path(&self, id: ContentId) -> PathBuf {
        self.root.path().join(root::relative(id))
    }

    /// The directory that they lie in.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where a content file lies below that directory.
    pub fn relative(id: ContentId) -> String {
        root::relative(id)
    }

    /// The numbers of all content files, in no order. Files made or removed meanwhile may be missed.
    pub fn ids(&self) -> io::Result<Ids> {
        Ids::open(self.root.path())
    }

    /// Space of the filesystem that the contents lie on.
    pub fn space(&self) -> io::Result<Statvfs> {
        Ok(fstatvfs(self.root.as_fd())?)
    }

    /// Makes every content file survive a power loss, with all else on that filesystem.
    pub fn sync_all(&self) -> io::Result<()> {
        self.check_syncs()?;
        let synced = self.root.host.sync_all(self.root.as_fd());
        synced.inspect_err(|e| self.root.failed.disk(&format!("content files cannot be made durable: {e}"), e))
    }

    /// Fails when an earlier sync did: nobody may be told then that everything is durable.
    pub fn check_syncs(&self) -> io::Result<()> {
        self.root.failed.check_all()
    }

    /// Why syncs fail until the store is opened again, if they do.
    pub fn failed_sync(&self) -> Option<String> {
        self.root.failed.told()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache<Content>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an open; if descriptors have run out, once more after the idle ones were closed.
    fn with_descriptors<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match open() {
            Err(e) if matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE)) => {
                let idle = self.cache().clear();
                drop(idle);
                open()
            }
            other => other,
        }
    }
}
