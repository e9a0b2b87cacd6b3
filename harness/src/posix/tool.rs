//! Programs from crates.io, each at one version, in a directory of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tool {
    /// Its crate, and the name of its executable.
    pub(super) name: &'static str,
    /// Its version.
    pub(super) version: &'static str,
}

/// Where tools are unless the caller says otherwise: `target/tools` of this workspace.
fn root() -> PathBuf {
    std::env::var_os("AGENTFS_TOOLS").map_or_else(
        || {
            let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
            target.join("tools")
        },
        PathBuf::from,
    )
}

impl Tool {
    /// Its executable; compiled first when it is not there.
    pub(super) fn find(self) -> Result<PathBuf, String> {
        let root = root();
        let path = root.join("bin").join(self.name);
        if self.is_there(&path) {
            return Ok(path);
        }
        eprintln!("compiling {} {}", self.name, self.version);
        let done = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["install", "--quiet", "--locked", "--force", "--root"])
            .arg(&root)
            .arg(format!("{}@{}", self.name, self.version))
            .env("CARGO_TARGET_DIR", root.join("build"))
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .status();
        match done {
            Ok(status) if status.success() && self.is_there(&path) => Ok(path),
            Ok(status) => Err(format!("{} {} does not compile: {status}", self.name, self.version)),
            Err(e) => Err(format!("cannot run cargo: {e}")),
        }
    }

    /// Whether that version is installed, as its `--version` says.
    fn is_there(self, path: &Path) -> bool {
        Command::new(path)
            .arg("--version")
            .output()
            .is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim().ends_with(self.version))
    }
}
