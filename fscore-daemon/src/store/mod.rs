//! The metadata store: an ordered map from byte keys to byte values, changed by atomic batches.
//!
//! Nothing here knows FUSE, branches or files. `specs/on-disk-format.md` gives the bytes on disk,
//! `specs/consistency-durability.md` the promises.
//!
//! ```text
//! LogStore   commit, sync, close; owns the pieces below
//!   map         the ordered map that readers see
//!   log         segments: append, head-room, rotation, sticky failure
//!   checkpoint  writes the whole map beside the running log
//!   recovery    files -> map; decides what is a torn tail and what is damage
//!   format      the bytes of segments, frames and checkpoints
//!   disk        the few file operations that all of them use; `faulty` is the one that fails
//! MemStore   the same promises without a disk, for tests
//! ```
//!
//! Lock order: `Inner::syncing`, then `Inner::log`, then the map. The map is never locked across a
//! disk operation.
#![forbid(unsafe_code)]

mod check;
mod checkpoint;
mod disk;
pub mod faulty;
mod format;
mod key;
mod lock;
mod log;
mod log_store;
mod map;
mod mem;
mod recovery;
mod spare;
mod worker;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use check::read_from as read_disk;
pub use check::{Report, check, read};
pub use disk::{Disk, DiskFile, RealDisk};
pub use lock::Claim;
pub use log_store::{LogStore, Opened, Options};
pub use mem::MemStore;

/// Format of the stores that this build reads and writes.
pub const FORMAT: u32 = format::VERSION;

/// Why the store cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused an operation. Writes are refused from now on until the store is opened again.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No space for the log; nothing of the batch was written, later batches may succeed.
    #[error("no space left for the metadata log")]
    Full,
    /// An earlier write or fsync failed; the store must be opened again before it takes writes.
    #[error("the store refuses writes since an earlier failure: {0}")]
    Poisoned(String),
    /// The bytes on disk are not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Another process has the store open.
    #[error("the store is in use by process {pid}")]
    InUse {
        /// That process.
        pid: i32,
    },
    /// The store was written by a newer release.
    #[error("the store has format {found}, this release reads up to {supported}")]
    NewerFormat {
        /// Its format.
        found: u32,
        /// The newest we know.
        supported: u32,
    },
}

impl StoreError {
    /// Names what was tried. "No space" is its own case: it does not end the store.
    fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded) {
            Self::Full
        } else {
            Self::Io { what: what.into(), source }
        }
    }
}

/// A set of changes that is applied whole or not at all. Later entries win over earlier ones.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `Some(value)` puts, `None` deletes.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The operation frees space (it deletes something): it may use the head-room of the log that
    /// other batches must leave, so that deleting works on a full disk.
    pub reclaims: bool,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes `key`; removing what is not there changes nothing.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push((key.into(), None));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// An ordered, durable map. Readers never wait for a disk.
pub trait Store: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Visits keys `>= from` in ascending order until `visit` answers `false` or the keys end. The
    /// visitor must not call the store. Sees one consistent state.
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool);

    /// The same downwards, from the greatest key `<= from`.
    fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool);

    /// Applies a batch. On return it survives the death of this process, and every reader sees it.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Makes every batch committed before the call survive a power loss. Calls group.
    fn sync(&self) -> Result<(), StoreError>;
}
