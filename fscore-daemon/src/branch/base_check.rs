//! Which directories may be a base.

use super::git_check;
use super::info::{fail, refuse};
use crate::core::base::of_root;
use crate::core::error::FsError;
use crate::core::ids::ObjectId;
use crate::core::record::BaseRecord;
use crate::core::state::Core;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use shm_transport::control::{ErrorCode, Failure};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory that may be a base.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    /// Canonical.
    pub(super) path: PathBuf,
    /// `st_dev`.
    pub(super) dev: u64,
    /// The number of its root.
    pub(super) root: ObjectId,
    /// On overlayfs, where the inode number of a directory may change: the path alone tells which base it is.
    pub(super) by_path: bool,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

impl Checked {
    /// Whether a record is of this base. The device number does not count: it changes at a reboot.
    pub(super) fn is(&self, record: &BaseRecord) -> bool {
        record.path == self.path.as_os_str().as_bytes() && (self.by_path || record.root == self.root)
    }
}

/// Checks a directory; `allowed` are canonical prefixes, `core` is to open it.
pub(super) fn check(
    path: &Path,
    frozen: bool,
    store: &Path,
    allowed: &[PathBuf],
    core: &Core,
) -> Result<Checked, Failure> {
    let bad = |why: String| refuse(ErrorCode::Base, format!("{} cannot be a base: {why}", path.display()));
    if !path.is_absolute() {
        return Err(refuse(ErrorCode::Usage, format!("the base {} is not an absolute path", path.display())).done());
    }
    let host = |e: std::io::Error| bad(e.to_string()).hint("name a directory that exists and that you can read").done();
    let base = std::fs::canonicalize(path).map_err(host)?;
    let meta = std::fs::metadata(&base).map_err(host)?;
    if !meta.is_dir() {
        return Err(bad("it is not a directory".into()).hint("name a directory").done());
    }
    // First what no permission can change: the holder takes what is not allowed into its list.
    let store = std::fs::canonicalize(store).unwrap_or_else(|_| store.to_owned());
    if store.starts_with(&base) || base.starts_with(&store) {
        let message = format!("it and the store {} lie inside one another", store.display());
        return Err(bad(message)
            .hint("name a smaller base, or keep the store elsewhere: --store DIR or AGENTFS_STORE")
            .done());
    }
    check_allowed(&base, allowed)?;
    if let Err(unreachable @ FsError::OutOfReach(_)) = core.reaches(&base) {
        return Err(fail(unreachable));
    }
    std::fs::read_dir(&base).map_err(host)?;
    let warnings = git_check::check(&base, frozen)?;
    let kind = statfs(&base).map_err(|e| host(e.into()))?.filesystem_type();
    let by_path = kind == OVERLAYFS_SUPER_MAGIC;
    Ok(Checked { path: base, dev: meta.dev(), root: of_root(meta.ino()), by_path, warnings })
}

fn check_allowed(base: &Path, allowed: &[PathBuf]) -> Result<(), Failure> {
    if allowed.iter().any(|prefix| base.starts_with(prefix)) {
        return Ok(());
    }
    let dir = base.display();
    let list: Vec<_> = allowed.iter().map(|p| p.display().to_string()).collect();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    Err(refuse(ErrorCode::BaseNotAllowed, format!("{dir} lies outside the directories that may hold bases ({list})"))
        .hint(format!("run `agentfs daemon start --allow-base {dir}`, or set AGENTFS_ALLOW_BASE={dir} for the daemon"))
        .done())
}
