//! Syncs that failed. The kernel calls the next attempt a success, for it has dropped what it could not write:
//! so what failed once fails until the store is opened again.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::core::ids::ContentId;

/// What failed, with the error numbers.
#[derive(Debug, Default)]
struct State {
    /// Files that had no space: others are not concerned. An entry outlives the descriptor.
    full: HashMap<ContentId, i32>,
    /// The disk itself: what else is lost is not known.
    disk: Option<(i32, String)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Failed(Mutex<State>);

impl Failed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a file can be made durable.
    pub(super) fn check(&self, id: ContentId) -> io::Result<()> {
        let state = self.state();
        let errno = state.disk.as_ref().map(|(errno, _)| *errno).or_else(|| state.full.get(&id).copied());
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Whether all of them can.
    pub(super) fn check_all(&self) -> io::Result<()> {
        let state = self.state();
        let errno = state.disk.as_ref().map(|(errno, _)| *errno).or_else(|| state.full.values().next().copied());
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// A sync of one file failed.
    pub(super) fn file(&self, id: ContentId, error: &io::Error) {
        if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            tracing::error!("content file {id} cannot be made durable: {error}");
            self.state().full.insert(id, number(error));
        } else {
            self.disk(&format!("content file {id} cannot be made durable: {error}"), error);
        }
    }

    /// A sync of something else failed.
    pub(super) fn disk(&self, what: &str, error: &io::Error) {
        let mut state = self.state();
        if state.disk.is_none() {
            tracing::error!("{what}; syncs fail from now on until the daemon is started again");
            state.disk = Some((number(error), what.to_owned()));
        }
    }

    /// The file is gone.
    pub(super) fn forget(&self, id: ContentId) {
        self.state().full.remove(&id);
    }

    /// For the user.
    pub(super) fn told(&self) -> Option<String> {
        let state = self.state();
        state.disk.as_ref().map(|(_, what)| what.clone()).or_else(|| {
            let (id, errno) = state.full.iter().next()?;
            let (error, more) = (io::Error::from_raw_os_error(*errno), state.full.len() - 1);
            let others = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            Some(format!("content file {id}{others} cannot be made durable: {error}"))
        })
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}
