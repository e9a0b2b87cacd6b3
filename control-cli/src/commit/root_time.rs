//! The modification time of the base's own directory, which the staging directory in it moves. Where the
//! commit changes no name in the base's root, it gets the time back that it had.

use super::path::RelPath;
use super::plan::{Plan, Step};
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Seconds and nanoseconds.
type Time = (i64, i64);

/// What a commit remembers of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootTime {
    /// Before the staging directory was made.
    before: Time,
    /// After it was made. Another time means that somebody changed something there since.
    staged: Time,
    /// The commit itself changes something there, or the root's own attributes.
    changes: bool,
}

impl RootTime {
    /// To be called before and after the staging directory is made.
    pub(super) fn around(
        base: impl AsFd,
        plan: &Plan,
        make: impl FnOnce() -> crate::error::Result<()>,
    ) -> crate::error::Result<Option<Self>> {
        let before = now(base.as_fd());
        make()?;
        let changes = plan.steps.iter().any(changes_root);
        Ok(before.ok().zip(now(base.as_fd()).ok()).map(|(before, staged)| Self { before, staged, changes }))
    }

    /// Whether the time may be given back, asked before the staging directory is removed. `begun`: steps were done.
    pub(super) fn is_ours(&self, base: BorrowedFd<'_>, begun: bool) -> bool {
        !(begun && self.changes) && now(base).is_ok_and(|now| now == self.staged)
    }

    /// Gives it back. Who may write in the base and does not own it cannot; nothing else depends on it.
    pub(super) fn give_back(&self, base: BorrowedFd<'_>) {
        let (tv_sec, tv_nsec) = self.before;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec, tv_nsec },
        };
        rustix::fs::utimensat(base, c".", &times, AtFlags::empty()).ok();
    }
}

fn now(base: BorrowedFd<'_>) -> io::Result<Time> {
    let stat = rustix::fs::fstat(base)?;
    Ok((stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default()))
}

fn changes_root(step: &Step) -> bool {
    let in_root = |path: &RelPath| path.depth() <= 1;
    match step {
        Step::Move { from, path, .. } => in_root(from) || in_root(path),
        Step::Remove { path } | Step::Make { path, .. } | Step::Link { path, .. } => in_root(path),
        Step::Attributes { path, .. } => path.is_root(),
    }
}
