//! One process per store: an exclusive lock on `<store>/lock`, which goes with the process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StoreError;

/// A store's directory, locked for this process and not opened yet.
#[derive(Debug)]
pub struct Claim {
    pub(super) dir: PathBuf,
    pub(super) lock: StoreLock,
}

impl Claim {
    /// Locks the store in `dir`; makes the directory if there is none.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let new = !dir.exists();
        // Private: names, salts and contents are nobody else's to read.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| StoreError::io(format!("cannot make the store directory {}", dir.display()), e))?;
        if new && let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|e| StoreError::io(format!("cannot sync {}", parent.display()), e))?;
        }
        Ok(Self { dir: dir.to_owned(), lock: StoreLock::take(dir)? })
    }
}

/// Holds the store for this process while it lives.
#[derive(Debug)]
pub(super) struct StoreLock {
    path: PathBuf,
    held: Flock<File>,
}

impl StoreLock {
    /// Takes the lock. An existing file stays as it is: the store may prove to be one to be left alone.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let failed = |what: &str, e| StoreError::io(format!("cannot {what} {}", path.display()), e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed("open", e))?;
        let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                // The number is only told to the user: an unreadable one is shown as 0.
                let pid = match Read::by_ref(&mut file).take(32).read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().unwrap_or(0),
                    Err(_) => 0,
                };
                return Err(StoreError::InUse { pid });
            }
            Err((_, e)) => return Err(failed("lock", e.into())),
        };
        Ok(Self { path, held })
    }

    /// Writes the own process number into the file, for whoever finds it taken.
    pub(super) fn tell_owner(&mut self) {
        let held = &mut self.held;
        let noted = held
            .set_len(0)
            .and_then(|()| held.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(held, "{}", std::process::id()));
        if let Err(e) = noted {
            // Also on a full disk the lock itself holds.
            tracing::warn!("cannot write the process number into {}: {e}", self.path.display());
        }
    }
}
