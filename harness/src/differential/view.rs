//! What a program can see of one path, as text that two file systems must agree on.

use super::SET_TIMES_BEFORE;
use crate::sys::{self, errno_name};
use rustix::fs::{FileType, Stat};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Path to what is there.
pub type Listing = BTreeMap<PathBuf, String>;

/// The attributes that must agree: not numbers of inodes and devices, sizes and link counts of
/// directories, nor times of the clock.
pub(super) fn attributes(stat: &Stat) -> String {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mtime = if kind == FileType::Fifo {
        // The kernel serves a pipe's data itself and tells a FUSE server nothing of it, nor moves its times.
        "any".to_owned()
    } else if stat.st_mtime < SET_TIMES_BEFORE {
        format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec)
    } else {
        "now".to_owned()
    };
    let sizes = if kind == FileType::Directory {
        String::new()
    } else {
        format!(" size {} nlink {}", stat.st_size, stat.st_nlink)
    };
    format!("{kind:?} {:04o} {}:{}{sizes} mtime {mtime}", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
}

/// A path's attributes or errno, and for a directory its names.
pub fn look(path: &Path) -> String {
    let stat = match sys::lstat(path) {
        Ok(stat) => stat,
        Err(e) => return errno_name(e).to_owned(),
    };
    let mut text = attributes(&stat);
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        text.push(' ');
        text.push_str(&list(path));
    }
    text
}

pub(super) fn list(path: &Path) -> String {
    match sys::readdir(path) {
        Ok(entries) => {
            let names = entries.iter().map(|(name, _, kind)| {
                format!("{}/{:?}", String::from_utf8_lossy(name), FileType::from_raw_mode(*kind))
            });
            format!("[{}]", names.collect::<Vec<_>>().join(" "))
        }
        Err(e) => errno_name(e).to_owned(),
    }
}

/// Everything below a root: attributes, contents, link targets, extended attributes.
pub fn walk(root: &Path) -> Listing {
    let mut found = Listing::new();
    let mut todo = vec![PathBuf::from(".")];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let mut text = look(&full);
        if let Ok(stat) = sys::lstat(&full) {
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => match sys::sha256_file(&full) {
                    Ok(sha) => text.push_str(&format!(" sha {}", &sha[..16])),
                    Err(e) => text.push_str(&format!(" read: {}", errno_name(e))),
                },
                FileType::Symlink => text.push_str(&format!(" -> {:?}", sys::readlink(&full))),
                FileType::Directory => {
                    for (name, _, _) in sys::readdir(&full).unwrap_or_default() {
                        todo.push(path.join(OsString::from_vec(name)));
                    }
                }
                _ => {}
            }
            for name in sys::listxattr(&full).unwrap_or_default() {
                let name = String::from_utf8_lossy(&name).into_owned();
                if !name.starts_with("security.") {
                    let value = sys::getxattr(&full, &name).map(|v| sys::sha256(&v)[..8].to_owned());
                    text.push_str(&format!(" {name}={value:?}"));
                }
            }
        }
        found.insert(path, text);
    }
    found
}
