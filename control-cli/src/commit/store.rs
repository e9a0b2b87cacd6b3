//! Content files of the store, read by the commit.

use crate::error::{CliError, Doing, Kind, Result};
use rustix::ffi::CString;
use rustix::fs::{Mode, OFlags};
use shm_transport::mem::sys;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The store, opened: a plan can name files in it and nowhere else.
#[derive(Debug)]
pub(super) struct Contents {
    path: PathBuf,
    dir: OwnedFd,
}

impl Contents {
    /// Opens the store. It must belong to the caller: a plan is carried out with the caller's rights, so
    /// it must not be another user's.
    pub(super) fn open_store(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open the store {}", path.display()))?;
        let stat = rustix::fs::fstat(&dir).doing(|| format!("look at the store {}", path.display()))?;
        let me = rustix::process::geteuid().as_raw();
        if stat.st_uid != me {
            return Err(CliError::new(
                Kind::Denied,
                format!("the store {} belongs to user {}, you are user {me}", path.display(), stat.st_uid),
            )
            .hint("commit as the user whose daemon it is"));
        }
        Ok(Self { path: path.to_owned(), dir })
    }

    /// Whether a path lies in the store.
    pub(super) fn holds(&self, path: &Path) -> bool {
        path.strip_prefix(&self.path).is_ok_and(|rest| rest.components().all(is_name))
    }

    /// Opens a content file for reading.
    pub(super) fn open(&self, content: &Path) -> io::Result<OwnedFd> {
        let outside = || {
            let message = format!("the commit plan names {}, which is not in the store", content.display());
            io::Error::new(io::ErrorKind::PermissionDenied, message)
        };
        let rest = content.strip_prefix(&self.path).map_err(|_| outside())?;
        if !rest.components().all(is_name) {
            return Err(outside());
        }
        let rest = CString::new(rest.as_os_str().as_bytes())?;
        let flags = (OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        sys::open_beneath(self.dir.as_fd(), &rest, flags, 0)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot open its content {}: {e}", content.display())))
    }
}

fn is_name(component: std::path::Component<'_>) -> bool {
    matches!(component, std::path::Component::Normal(_))
}
