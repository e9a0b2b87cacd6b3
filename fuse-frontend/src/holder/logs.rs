//! Keeps the logs from filling the disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest log, in bytes. One former part as long is kept beside it.
pub(super) const LOG_MAX: u64 = 8 << 20;
/// How often the logs are looked at.
pub(super) const LOG_CHECK: Duration = Duration::from_mins(1);

/// Moves what stands in a log that has grown past `max` bytes to `LOG.1`. It is emptied in place: several
/// processes have it open for appending, and their next line begins at its new end. A line written in
/// between may be lost.
pub(super) fn bound(log: &Path, max: u64) {
    // Not through a link: what it names is nobody's log.
    let Ok(found) = fs::symlink_metadata(log) else { return };
    if !found.is_file() || found.len() <= max {
        return;
    }
    let mut kept = log.as_os_str().to_owned();
    kept.push(".1");
    if let Err(error) = fs::copy(log, PathBuf::from(kept)) {
        // Most likely the disk is full: then above all it must not grow.
        tracing::warn!(%error, log = %log.display(), "the former part of the log is not kept");
    }
    if let Err(error) = empty(log) {
        tracing::warn!(%error, log = %log.display(), "the log cannot be shortened");
    }
}

fn empty(log: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(log)?.set_len(0)
}
