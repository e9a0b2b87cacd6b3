//! A control group for a process that is bound to a branch: all that come of it are in it, whoever they are left to.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the daemon knows such a group by.
const PREFIX: &str = "agentfs-";
/// How far down groups within groups are looked for.
const DEPTH_MAX: usize = 16;

/// Puts a process into a control group of its own, if that is possible here.
pub(crate) fn enter(pid: u32) -> bool {
    let Some(dir) = group_of(pid) else { return false };
    remove_deserted(&dir, DEPTH_MAX);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let group = dir.join(format!("{PREFIX}{pid}-{now}"));
    if fs::create_dir(&group).is_err() {
        return false;
    }
    let moved = fs::OpenOptions::new()
        .write(true)
        .open(group.join("cgroup.procs"))
        .and_then(|mut procs| procs.write_all(pid.to_string().as_bytes()));
    if moved.is_err() {
        fs::remove_dir(&group).ok();
    }
    moved.is_ok()
}

/// Removes groups that were made for bindings and that nobody is in any more, the inner ones first: the kernel keeps a group
/// with processes or groups in it.
fn remove_deserted(dir: &Path, depth: usize) {
    for left in fs::read_dir(dir).into_iter().flatten().flatten() {
        if left.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            if depth > 0 {
                remove_deserted(&left.path(), depth - 1);
            }
            fs::remove_dir(left.path()).ok();
        }
    }
}

/// The directory of a process's control group in the unified hierarchy.
fn group_of(pid: u32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    // One that lies outside of what we can see begins with `/..`.
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (root, mountpoint) = table.lines().find_map(mount)?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(Path::new(mountpoint).join(below))
}

/// What is mounted, and where, of a line about the unified hierarchy.
fn mount(line: &str) -> Option<(&str, &str)> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    (rest.split(' ').next() == Some("cgroup2")).then_some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Directories stand for groups: one that holds anything cannot be removed either.
    #[test]
    fn inner_groups_go_first_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["agentfs-1/agentfs-2/agentfs-3", "agentfs-4/agentfs-5/in-use", "other/agentfs-6"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        remove_deserted(dir.path(), DEPTH_MAX);
        assert!(!at("agentfs-1").exists());
        assert!(at("agentfs-4/agentfs-5/in-use").exists());
        assert!(at("other/agentfs-6").exists());
    }
}
