//! Where the built binaries of the product are.

use std::path::{Path, PathBuf};

/// The binaries that every test needs.
pub const NEEDED: [&str; 3] = ["agentfs", "agentfsd", "agentfs-fuse"];

/// A directory that holds all of [`NEEDED`].
#[derive(Debug, Clone)]
pub struct Bins {
    dir: PathBuf,
}

impl Bins {
    /// Looks in `AGENTFS_BIN_DIR`, then beside the running executable, then in the directories above it
    /// (test executables lie in `target/PROFILE/deps`). The error says how to build what is missing.
    pub fn find() -> Result<Self, String> {
        if let Some(dir) = std::env::var_os("AGENTFS_BIN_DIR") {
            let dir = PathBuf::from(dir);
            return if complete(&dir) {
                Ok(Self { dir })
            } else {
                Err(format!("AGENTFS_BIN_DIR={} does not hold {}", dir.display(), NEEDED.join(", ")))
            };
        }
        let exe = std::env::current_exe().map_err(|e| format!("cannot find the running executable: {e}"))?;
        exe.ancestors().skip(1).take(2).find(|dir| complete(dir)).map(|dir| Self { dir: dir.to_path_buf() }).ok_or_else(
            || {
                format!(
                    "{} not found near {}: run `cargo build --workspace` first, or set AGENTFS_BIN_DIR",
                    NEEDED.join(", "),
                    exe.display()
                )
            },
        )
    }

    /// Those in a directory that has them all.
    pub fn in_dir(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of one binary.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn complete(dir: &Path) -> bool {
    NEEDED.iter().all(|name| dir.join(name).is_file())
}
