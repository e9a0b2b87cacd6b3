//! The kernel's list of mounts. Reading it touches no mount, so that a stuck one cannot hold us up.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The file system type of our mounts.
const TYPE: &[u8] = b"fuse.agentfs";

/// One of our mounts in this mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The branch.
    pub(crate) branch: String,
    /// Where.
    pub(crate) mountpoint: PathBuf,
    /// Read-only.
    pub(crate) read_only: bool,
    /// Its device number as the list spells it: one for each mount, in whatever namespaces that appears.
    pub(crate) device: String,
}

/// A process in another mount namespace, in which a mount of ours appears.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Elsewhere {
    /// Its number.
    pub(crate) pid: i32,
    /// Its name.
    pub(crate) command: String,
}

/// One process of each other mount namespace that has the mount of this device; as far as we may look.
pub(crate) fn elsewhere(device: &str) -> Vec<Elsewhere> {
    let mut seen: Vec<PathBuf> = std::fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(namespace) = std::fs::read_link(entry.path().join("ns/mnt")) else { continue };
        if seen.contains(&namespace) {
            continue;
        }
        // One that ended meanwhile shows nothing.
        let Ok(table) = std::fs::read(entry.path().join("mountinfo")) else { continue };
        seen.push(namespace);
        if parse(&table).iter().any(|mount| mount.device == device) {
            let command = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(Elsewhere { pid, command: command.trim_end().to_owned() });
        }
    }
    found
}

/// Our mounts, in the order in which they were made.
pub(crate) fn ours() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Our mounts as a process sees them.
pub(crate) fn of(process: i32) -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(format!("/proc/{process}/mountinfo"))?))
}

/// The innermost of our mounts that a path lies on.
pub(crate) fn around(path: &Path) -> io::Result<Option<Mount>> {
    let mut mounts = ours()?;
    mounts.retain(|m| path.starts_with(&m.mountpoint));
    Ok(mounts.into_iter().max_by_key(|m| m.mountpoint.as_os_str().len()))
}

/// A path as the list spells it, found without touching what lies at it, since that may be stuck.
pub(crate) fn locate(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => {
            Ok(std::fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name))
        }
        _ => std::fs::canonicalize(path),
    }
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `ID PARENT DEV ROOT MOUNTPOINT OPTIONS [OPTIONAL…] - TYPE SOURCE SUPEROPTIONS`
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    let options = fields.next()?;
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let (kind, source) = (rest.next()?, rest.next()?);
    (kind == TYPE).then(|| Mount {
        branch: OsString::from_vec(unescape(source)).to_string_lossy().into_owned(),
        mountpoint: PathBuf::from(OsString::from_vec(unescape(mountpoint))),
        read_only: options.split(|b| *b == b',').any(|o| o == b"ro"),
        device: String::from_utf8_lossy(device).into_owned(),
    })
}

/// Blank, tab, newline and backslash stand as `\OOO`.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = text {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            text = after;
        } else {
            out.push(first);
            text = rest;
        }
    }
    out
}

/// Whether two spellings are one path.
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    a.as_os_str().as_bytes() == b.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests;
