//! The directories beneath which a process opens bases once it has given up its rights: taken before, held
//! open from then on.
//!
//! ```text
//! cloned     a private clone of the mount that a ground lies on, which nobody can write through; without
//!            the mounts below it, so that none is kept from being unmounted
//! in place   where the system does not let us clone mounts: the directory as it is
//! ```

use super::open_root_in_place;
use crate::core::error::{FsError, FsResult, io};
use nix::sys::stat::fstat;
use shm_transport::control::seal;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How often a resolution that a rename disturbed is tried.
const RESOLVE_TRIES: usize = 64;

/// A directory that was there when the grounds were taken.
#[derive(Debug)]
struct Ground {
    path: PathBuf,
    dir: OwnedFd,
    cloned: bool,
}

/// Where this process may open bases.
#[derive(Debug, Default)]
pub struct Grounds {
    /// None: wherever the host lets it.
    taken: Option<Vec<Ground>>,
    /// The directory of copies.
    copies: Option<PathBuf>,
}

impl Grounds {
    /// Wherever the host lets it.
    pub fn anywhere() -> Self {
        Self::default()
    }

    /// With the copies that a store has.
    #[must_use]
    pub fn with_copies(self, store: &Path) -> Self {
        Self { copies: Some(seal::home(store)), ..self }
    }

    /// The directory of a copy.
    pub(super) fn copy(&self, name: &str) -> FsResult<PathBuf> {
        self.copies.as_ref().map(|home| home.join(name)).ok_or(FsError::NotFound)
    }

    /// Beneath `prefixes`, and at the `bases` that do not lie on the mount of one of them. All paths are canonical; what
    /// does not exist, or is no directory, is left out.
    pub fn take(prefixes: &[PathBuf], bases: &[PathBuf]) -> Self {
        let mut taken = Self { taken: Some(Vec::new()), copies: None };
        for path in prefixes {
            taken.add(path);
        }
        for path in bases {
            if taken.open(path).is_err() {
                taken.add(path);
            }
        }
        taken
    }

    fn add(&mut self, path: &Path) {
        let found = match shm_transport::mem::sys::read_only_clone(path) {
            Ok(dir) => Ok((dir, true)),
            Err(e) if super::is_no_clone(&e) => open_root_in_place(path).map(|dir| (dir, false)),
            Err(e) => Err(io("open base")(e)),
        };
        match found {
            Ok((dir, cloned)) if fstat(&dir).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR) => {
                self.taken.get_or_insert_default().push(Ground { path: path.to_owned(), dir, cloned });
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(path = %path.display(), %error, "no bases can be opened there"),
        }
    }

    /// The directories that were taken; none for [`Self::anywhere`].
    pub fn dirs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.taken.iter().flatten().map(|ground| ground.dir.as_fd())
    }

    /// Those that are used as they are, because their mounts could not be cloned.
    pub fn in_place(&self) -> impl Iterator<Item = &Path> {
        self.taken.iter().flatten().filter(|ground| !ground.cloned).map(|ground| ground.path.as_path())
    }

    /// Opens a base's directory (`O_PATH`); `OutOfReach` when it exists and lies beneath no ground, or is one of
    /// a mount that was made after the grounds were taken.
    pub fn open(&self, path: &Path) -> FsResult<OwnedFd> {
        let Some(grounds) = &self.taken else { return super::open_root(path) };
        let wanted = open_root_in_place(path)?;
        for ground in grounds {
            let Ok(below) = path.strip_prefix(&ground.path) else { continue };
            if !ground.cloned {
                return Ok(wanted);
            }
            // The mount may cover, or be covered by, another one: then this is another directory.
            if let Ok(found) = ground.beneath(below)
                && is_same(&found, &wanted)
            {
                return Ok(found);
            }
        }
        Err(FsError::OutOfReach(path.to_owned()))
    }
}

impl Ground {
    fn beneath(&self, below: &Path) -> std::io::Result<OwnedFd> {
        if below.as_os_str().is_empty() {
            return self.dir.try_clone();
        }
        let below = CString::new(below.as_os_str().as_bytes())?;
        let mut tries = RESOLVE_TRIES;
        loop {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            match shm_transport::mem::sys::open_beneath(self.dir.as_fd(), &below, flags, 0) {
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && tries > 0 => tries -= 1,
                other => return other,
            }
        }
    }
}

fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    let identity = |fd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}
