//! One open content file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::root::Root;
use crate::core::ids::ContentId;
use shm_transport::mem::sys::begin_writing;

/// An open content file; read and written through its descriptor.
#[derive(Debug)]
pub struct Content {
    fd: OwnedFd,
    id: ContentId,
    root: Arc<Root>,
    name_durable: AtomicBool,
    /// Bytes may have been written that no sync covered. What an earlier descriptor wrote is not known.
    dirty: AtomicBool,
}

impl Content {
    pub(super) fn new(fd: OwnedFd, id: ContentId, root: Arc<Root>) -> Self {
        Self { fd, id, root, name_durable: AtomicBool::new(false), dirty: AtomicBool::new(true) }
    }

    /// Makes the bytes, the size and the name survive a power loss; with `datasync` no more than that,
    /// otherwise the times as well. Once it fails, it fails until the store is opened again.
    pub fn sync(&self, datasync: bool) -> io::Result<()> {
        self.root.failed.check(self.id)?;
        // Before the bytes are written out: a write that goes on beside it says again that it was there.
        self.dirty.store(false, Ordering::SeqCst);
        self.write_out(datasync).inspect_err(|_| self.dirty.store(true, Ordering::SeqCst))
    }

    /// To be told after every change of the bytes or the size, before it is acknowledged.
    pub fn written(&self) {
        self.dirty.store(true, Ordering::SeqCst);
    }

    /// Whether bytes may be there that no sync covered.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::SeqCst)
    }

    /// Has the host begin to write the bytes out, and does not wait for it.
    pub fn begin_sync(&self) -> io::Result<()> {
        begin_writing(self.fd.as_fd())
    }

    fn write_out(&self, datasync: bool) -> io::Result<()> {
        let failed = &self.root.failed;
        self.root.host.sync_file(self.id, self.fd.as_fd(), datasync).inspect_err(|e| failed.file(self.id, e))?;
        if !self.name_durable.load(Ordering::Relaxed) {
            self.root.sync_name(self.id).inspect_err(|e| {
                failed.disk(&format!("the name of content file {} cannot be made durable: {e}", self.id), e);
            })?;
            // Only saves work: whoever does not see it yet finds the directory durable.
            self.name_durable.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl AsFd for Content {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
