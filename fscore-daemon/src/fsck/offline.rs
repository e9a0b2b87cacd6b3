//! The check of a store that no process has open.

use super::finding::Repair;
use super::{Found, check, report};
use crate::content::Contents;
use crate::store::{self, Batch, LogStore, MemStore, Options, Store, StoreError};
use shm_transport::control::{FsckFinding, FsckReport, FsckSeverity};
use std::io;
use std::path::Path;

/// Most changes in one batch of a repair.
const CHUNK: usize = 10_000;

/// Why a store could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The metadata.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content files.
    #[error("cannot read the content files: {0}")]
    Contents(io::Error),
}

/// Checks the store in `dir`. Changes nothing without `repair`; with it, only what loses nothing.
pub fn offline(dir: &Path, repair: bool) -> Result<FsckReport, FsckError> {
    let (base, map) = match store::read(dir) {
        Ok(read) => read,
        Err(StoreError::Damaged(what)) => return Ok(damaged(dir, &what)),
        Err(e) => return Err(e.into()),
    };
    let contents = dir.join("contents");
    let mut found = look(&map, &contents)?;
    drop(map);
    if repair && found.findings.iter().any(|finding| !finding.repair.is_empty()) {
        found = mend(dir, &contents)?;
    }
    let mut report = report(dir, false, found);
    if base.torn {
        report.notes.push("the log ends with changes that were never synced; the next start drops them".into());
    }
    if base.unclean {
        report.notes.push("the last daemon did not end in order; the next one goes on from its last change".into());
    }
    Ok(report)
}

fn look(map: &dyn Store, contents: &Path) -> Result<Found, FsckError> {
    check(map, contents).map_err(FsckError::Contents)
}

/// Looks again with the store open, so that nobody else changes it, and does what can be done.
fn mend(dir: &Path, contents: &Path) -> Result<Found, FsckError> {
    let store = LogStore::open(dir, Options { threads: false, ..Options::default() })?;
    let map: MemStore = store.snapshot();
    let mut found = look(&map, contents)?;
    let (mut batch, mut files) = (Batch { reclaims: true, ..Batch::default() }, Vec::new());
    for finding in &mut found.findings {
        for step in &finding.repair {
            match step {
                Repair::Put(key, value) => batch.put(key.as_slice(), value.as_slice()),
                Repair::Delete(key) => batch.delete(key.as_slice()),
                Repair::Remove(id) => files.push(*id),
            }
        }
        if batch.changes.len() >= CHUNK {
            store.commit(&batch)?;
            batch.changes.clear();
        }
        finding.told.repaired = !finding.repair.is_empty();
    }
    store.commit(&batch)?;
    // A power loss must not bring back a record whose file is gone.
    store.sync()?;
    let removed =
        Contents::open(contents, 1).and_then(|contents| files.into_iter().try_for_each(|id| contents.remove(id)));
    store.close()?;
    removed.map_err(FsckError::Contents)?;
    Ok(found)
}

/// A store whose log or checkpoint cannot be read: nothing in it can be looked at further.
fn damaged(dir: &Path, what: &str) -> FsckReport {
    let finding = FsckFinding {
        kind: "damaged".into(),
        severity: FsckSeverity::Error,
        key: "meta".into(),
        path: None,
        message: format!("the log or its checkpoint is damaged: {what}"),
        hint: "copy the whole store, and work on the copy: specs/on-disk-format.md §11 says how".into(),
        repaired: false,
    };
    let mut report = report(dir, false, Found::default());
    report.errors = 1;
    report.findings.push(finding);
    report
}
