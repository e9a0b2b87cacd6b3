//! Spare segments: preallocated, with a durable header, waiting to become the next log segment. They
//! are made off the commit path, and they are the head-room that lets deletions work on a full disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use super::disk::{Disk, DiskFile};
use super::format::{FileHeader, HEADER_LEN, SEGMENT_MAGIC, fresh_salt};

/// A segment that has no frames and no place in the log yet.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) salt: u64,
    /// Bytes preallocated, header included.
    pub(super) capacity: u64,
}

impl Spare {
    /// Bytes for frames.
    pub(super) fn room(&self) -> u64 {
        self.capacity.saturating_sub(HEADER_LEN)
    }
}

/// Makes spares, each under a name of its own.
#[derive(Debug)]
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    made: AtomicU64,
}

/// Whether a file of the metadata directory is a spare.
pub(super) fn is_spare(name: &str) -> bool {
    name.starts_with("spare-")
}

impl Spares {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, made: AtomicU64::new(0) }
    }

    /// Makes a spare of `capacity` bytes. `Full` if there is no space; nothing is left behind then.
    pub(super) fn make(&self, capacity: u64) -> Result<Spare, StoreError> {
        let name = format!("meta/spare-{}", self.made.fetch_add(1, Ordering::Relaxed));
        let made = self.disk.create(&name).and_then(|file| {
            file.allocate(capacity)?;
            Self::stamp(name.clone(), file, capacity)
        });
        made.map_err(|e| {
            self.discard(&name);
            StoreError::io(format!("cannot prepare the log segment {name}"), e)
        })
    }

    /// Takes over a spare that an earlier run left, so that a store on a full disk keeps its head-room.
    /// The new salt makes frames void that it may hold if its renaming to a segment was lost.
    pub(super) fn adopt(&self, file_name: &str) -> Option<Spare> {
        // Names of this run must not meet names of earlier ones.
        let number = file_name.strip_prefix("spare-").and_then(|n| n.parse::<u64>().ok());
        self.made.fetch_max(number?.checked_add(1)?, Ordering::Relaxed);
        let name = format!("meta/{file_name}");
        let adopted = self.disk.open(&name).and_then(|file| {
            let capacity = file.len()?;
            if capacity <= HEADER_LEN {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            Self::stamp(name.clone(), file, capacity)
        });
        adopted.map_err(|_| self.discard(&name)).ok()
    }

    /// Writes a header and makes it durable: a segment of the log with a bad header is always damage.
    fn stamp(name: String, file: Arc<dyn DiskFile>, capacity: u64) -> std::io::Result<Spare> {
        let salt = fresh_salt();
        file.pwrite(&FileHeader { salt, number: 0 }.encode(SEGMENT_MAGIC), 0)?;
        file.fdatasync()?;
        Ok(Spare { name, file, salt, capacity })
    }

    /// Removes a spare that is not needed.
    pub(super) fn discard(&self, name: &str) {
        if let Err(e) = self.disk.unlink(name)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            // The next open tries again.
            tracing::warn!("cannot remove {name}: {e}");
        }
    }
}
