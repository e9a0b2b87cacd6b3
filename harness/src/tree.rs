//! Fingerprint of a directory tree: everything a program can see of it.

use crate::sys;
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What a fingerprint contains beside kind, permission bits, content, link target and device number.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is one independent column")]
pub struct Columns {
    /// uid and gid.
    pub owner: bool,
    /// Modification times of everything but directories.
    pub mtime: bool,
    /// Modification times of directories.
    pub dir_mtime: bool,
    /// Change times.
    pub ctime: bool,
    /// Extended attributes `user.*`, `trusted.*` and `security.capability`.
    pub xattrs: bool,
    /// Inode numbers.
    pub ino: bool,
    /// Link counts of everything but directories.
    pub nlink: bool,
}

impl Columns {
    /// What a faithful copy has in common with its original.
    pub const COPY: Self =
        Self { owner: true, mtime: true, dir_mtime: false, ctime: false, xattrs: true, ino: false, nlink: true };
    /// What stays when nothing was touched.
    pub const UNTOUCHED: Self =
        Self { owner: true, mtime: true, dir_mtime: true, ctime: true, xattrs: true, ino: true, nlink: true };
    /// Names and contents only.
    pub const CONTENT: Self =
        Self { owner: false, mtime: false, dir_mtime: false, ctime: false, xattrs: false, ino: false, nlink: false };
}

/// One path: a line of text per property.
pub type Entry = String;

/// A fingerprint: paths relative to its root (`.` is the root) and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The entries.
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// Walks everything below `root`, without following links.
    #[track_caller]
    pub fn of(root: &Path, columns: Columns) -> Self {
        Self::without(root, columns, &[])
    }

    /// The same, leaving out some names at any level.
    #[track_caller]
    pub fn without(root: &Path, columns: Columns, names: &[&str]) -> Self {
        let mut entries = BTreeMap::new();
        let mut todo = vec![PathBuf::from(".")];
        while let Some(path) = todo.pop() {
            let full = root.join(&path);
            let (entry, is_dir) =
                describe(&full, columns).unwrap_or_else(|e| panic!("cannot look at {}: {e}", full.display()));
            entries.insert(path.clone(), entry);
            if is_dir {
                let listing = sys::readdir(&full).unwrap_or_else(|e| panic!("cannot list {}: {e}", full.display()));
                for (name, _, _) in listing {
                    if !names.iter().any(|n| n.as_bytes() == name) {
                        todo.push(path.join(OsString::from_vec(name)));
                    }
                }
            }
        }
        Self { entries }
    }

    /// Panics with the differing paths unless both are the same.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, what: &str) {
        let differences = self.differences(other);
        assert!(differences.is_empty(), "{what}: trees differ\n{differences}");
    }

    /// The differing paths, at most 40 of them, as text; empty when both are the same.
    pub fn differences(&self, other: &Self) -> String {
        let mut out = String::new();
        let mut count = 0;
        let mut line = |path: &Path, left: &str, right: &str| {
            count += 1;
            if count <= 40 {
                writeln!(out, "  {}:\n    left  {left}\n    right {right}", path.display()).ok();
            }
        };
        for (path, left) in &self.entries {
            match other.entries.get(path) {
                None => line(path, left, "(missing)"),
                Some(right) if right != left => line(path, left, right),
                Some(_) => {}
            }
        }
        for (path, right) in &other.entries {
            if !self.entries.contains_key(path) {
                line(path, "(missing)", right);
            }
        }
        if count > 40 {
            writeln!(out, "  and {} more", count - 40).ok();
        }
        out
    }
}

fn describe(path: &Path, columns: Columns) -> sys::Res<(Entry, bool)> {
    let stat = sys::lstat(path)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_dir = kind == FileType::Directory;
    let mut line = format!("{kind:?} {:04o}", stat.st_mode & 0o7777);
    let mut add = |text: String| {
        line.push(' ');
        line.push_str(&text);
    };
    if kind == FileType::RegularFile {
        add(format!("{} bytes sha256 {}", stat.st_size, &sys::sha256_file(path)?[..16]));
    }
    if kind == FileType::Symlink {
        add(format!("-> {:?}", String::from_utf8_lossy(&sys::readlink(path)?)));
    }
    if matches!(kind, FileType::BlockDevice | FileType::CharacterDevice) {
        add(format!("rdev {:#x}", stat.st_rdev));
    }
    if columns.owner {
        add(format!("{}:{}", stat.st_uid, stat.st_gid));
    }
    if if is_dir { columns.dir_mtime } else { columns.mtime } {
        add(format!("mtime {}.{:09}", stat.st_mtime, stat.st_mtime_nsec));
    }
    if columns.ctime {
        add(format!("ctime {}.{:09}", stat.st_ctime, stat.st_ctime_nsec));
    }
    if columns.ino {
        add(format!("ino {}", stat.st_ino));
    }
    if columns.nlink && !is_dir {
        add(format!("nlink {}", stat.st_nlink));
    }
    if columns.xattrs {
        for name in sys::listxattr(path)? {
            let name = String::from_utf8_lossy(&name).into_owned();
            if ["user.", "trusted.", "security.capability"].iter().any(|p| name.starts_with(p)) {
                add(format!("{name}={}", &sys::sha256(&sys::getxattr(path, &name)?)[..8]));
            }
        }
    }
    Ok((line, is_dir))
}
