//! Which mount a unit has, beside the daemon's socket: for the frontend that adopts it, for whoever stops it,
//! and for the daemon, which must not take a mount for dead while its unit may start a frontend.

use shm_transport::control::Failure;
use shm_transport::control::holder::{HeldMount, MountName};
use shm_transport::control::paths::Paths;
use shm_transport::control::service::unit_record;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// The record of a unit.
#[derive(Debug)]
pub(super) struct Record(PathBuf);

impl Record {
    pub(super) fn of(name: &str, paths: &Paths) -> Self {
        Self(unit_record(&paths.socket, name))
    }

    /// The mount, if it has one.
    pub(super) fn read(&self) -> Option<MountName> {
        serde_json::from_slice(&fs::read(&self.0).ok()?).ok()
    }

    /// The unit has this mount, served by this process. Whole or not at all.
    pub(super) fn write(&self, mount: &HeldMount) -> Result<(), Failure> {
        let written = || -> io::Result<()> {
            if let Some(dir) = self.0.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            let new = self.0.with_extension("new");
            fs::write(&new, serde_json::to_vec(mount)?)?;
            fs::rename(new, &self.0)
        };
        written().map_err(|e| super::internal(&format!("cannot write {}", self.0.display()), &e))
    }

    /// It has none any more.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, record = %self.0.display(), "cannot remove the unit's record");
        }
    }
}
