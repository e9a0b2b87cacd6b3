//! The offline check: reads everything that an open would read, and changes nothing.

use std::path::Path;

use super::disk::{Disk, RealDisk};
use super::lock::StoreLock;
use super::{MemStore, StoreError, recovery};

/// What a check found in a store that can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Keys.
    pub records: u64,
    /// File name and length in bytes of the checkpoint that was read, if there is one.
    pub checkpoint: Option<(String, u64)>,
    /// Segments of the log.
    pub segments: u64,
    /// Log frames on top of the checkpoint.
    pub replayed: u64,
    /// Sequence number of the last frame.
    pub last_frame: u64,
    /// The last frame that is known to survive a power loss.
    pub durable_frame: u64,
    /// The last run did not end in order.
    pub unclean: bool,
    /// There is an unsynced tail that the next open will drop.
    pub torn: bool,
    /// Files that the next open will remove.
    pub obsolete: Vec<String>,
}

/// Checks the store in `dir`, which no process may have open.
pub fn check(dir: &Path) -> Result<Report, StoreError> {
    read(dir).map(|(report, _)| report)
}

/// The same, and what the store holds.
pub fn read(dir: &Path) -> Result<(Report, MemStore), StoreError> {
    // The lock must not be the first file of a directory that is no store.
    if !dir.join("FORMAT").exists() && !dir.join("meta").exists() {
        return Err(StoreError::io(
            format!("there is no store in {}", dir.display()),
            std::io::ErrorKind::NotFound.into(),
        ));
    }
    let mut lock = StoreLock::take(dir)?;
    let disk = RealDisk::new(dir);
    recovery::exists(&disk)?;
    lock.tell_owner();
    read_from(&disk)
}

/// Checks the store on a disk that nobody else uses.
#[cfg(test)]
pub(super) fn check_on(disk: &dyn Disk) -> Result<Report, StoreError> {
    read_from(disk).map(|(report, _)| report)
}

/// Reads the store on a disk that nobody else uses.
pub(crate) fn read_from(disk: &dyn Disk) -> Result<(Report, MemStore), StoreError> {
    if !recovery::exists(disk)? {
        return Err(StoreError::io("there is no store here", std::io::ErrorKind::NotFound.into()));
    }
    let found = recovery::load(disk)?;
    let report = Report {
        records: found.tree.len() as u64,
        checkpoint: found.checkpoint,
        segments: found.segments.len() as u64,
        replayed: found.replayed,
        last_frame: found.next - 1,
        durable_frame: found.durable,
        unclean: found.unclean,
        torn: found.torn,
        obsolete: found.obsolete,
    };
    Ok((report, MemStore::of(found.tree)))
}
