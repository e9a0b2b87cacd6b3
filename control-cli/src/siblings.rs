//! The other programs of AgentFS: next to this one first, then in `PATH`.

use crate::error::{Doing, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// This executable.
pub(crate) fn own() -> Result<PathBuf> {
    std::env::current_exe().doing(|| "find the running executable".into())
}

/// Another program of the same installation.
pub(crate) fn find(name: &str) -> Result<OsString> {
    let beside = own()?.with_file_name(name);
    Ok(if beside.is_file() { beside.into_os_string() } else { name.into() })
}
