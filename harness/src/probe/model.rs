//! What a churned directory must look like.

use crate::sys;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// One expected name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// A regular file.
    File {
        /// SHA-256 of its bytes.
        sha: String,
        /// Size in bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
        /// Link count.
        nlink: u64,
        /// Value of `user.churn`.
        xattr: Option<Vec<u8>>,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: String,
    },
}

/// All expected names below one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Path below the directory to what it is.
    pub names: BTreeMap<String, Expected>,
    /// How many operations led to it.
    pub operations: u64,
}

impl Model {
    /// The differences between a directory and this model, a line each.
    pub fn check(&self, dir: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut listed = Vec::new();
        if let Err(e) = list(dir, "", &mut listed) {
            return vec![e];
        }
        listed.sort();
        for pair in listed.windows(2) {
            if pair[0] == pair[1] {
                wrong.push(format!("{} is listed twice", pair[0]));
            }
        }
        for name in &listed {
            if !self.names.contains_key(name) {
                wrong.push(format!("{name} should not be there"));
            }
        }
        for (name, expected) in &self.names {
            if !listed.contains(name) {
                wrong.push(format!("{name} is not listed"));
            }
            match look(&dir.join(name)) {
                Ok(found) if found == *expected => {}
                Ok(found) => wrong.push(format!("{name} is {found:?}, should be {expected:?}")),
                Err(e) => wrong.push(format!("{name}: {e}, should be {expected:?}")),
            }
        }
        wrong
    }

    /// Panics unless the directory is as the model says.
    #[track_caller]
    pub fn assert_holds(&self, dir: &Path, when: &str) {
        let wrong = self.check(dir);
        assert!(wrong.is_empty(), "{when}: {} of {} names wrong: {wrong:#?}", wrong.len(), self.names.len());
    }
}

/// Adds every path below `dir` to `names`, each after `prefix`.
fn list(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), String> {
    let entries = sys::readdir(dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))?;
    for (name, _, kind) in entries {
        let name = String::from_utf8_lossy(&name).into_owned();
        if FileType::from_raw_mode(kind) == FileType::Directory {
            list(&dir.join(&name), &format!("{prefix}{name}/"), names)?;
        }
        names.push(format!("{prefix}{name}"));
    }
    Ok(())
}

/// What stands at a path; a file's bytes come from the file system, not from the page cache.
pub fn look(path: &Path) -> sys::Res<Expected> {
    let stat = sys::lstat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        let file = sys::open(path, rustix::fs::OFlags::RDONLY, 0)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Expected::Dir,
        FileType::Symlink => Expected::Symlink { target: String::from_utf8_lossy(&sys::readlink(path)?).into_owned() },
        _ => Expected::File {
            sha: sys::sha256_file(path)?,
            size: stat.st_size as u64,
            mode: stat.st_mode & 0o7777,
            nlink: stat.st_nlink,
            xattr: match sys::getxattr(path, "user.churn") {
                Ok(value) => Some(value),
                Err(sys::Errno::NODATA) => None,
                Err(e) => return Err(e),
            },
        },
    })
}
