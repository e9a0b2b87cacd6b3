//! The mount table, and ending mounts whatever state they are in.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of a mount table.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Minor number of its device; for FUSE also the number of the connection.
    pub minor: u32,
    /// Where.
    pub mountpoint: PathBuf,
    /// File system type, with subtype.
    pub fstype: String,
    /// What `/proc/mounts` shows as the device.
    pub source: OsString,
    /// Mount options of this mount.
    pub options: String,
}

fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = (field[at] == b'\\').then(|| field.get(at + 1..at + 4)).flatten();
        let value = octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        out.push(value.unwrap_or(field[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(out)
}

/// The mounts that a process sees.
pub fn of_process(pid: &str) -> Vec<Mount> {
    let table = std::fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    table.split(|b| *b == b'\n').filter_map(parse).collect()
}

fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let (_, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    Some(Mount {
        minor: minor.parse().ok()?,
        mountpoint: unescape(fields.get(4)?).into(),
        options: String::from_utf8_lossy(fields.get(5)?).into_owned(),
        fstype: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
        source: unescape(fields.get(dash + 2)?),
    })
}

/// Mounts at or below `dir` in this process's namespace, the innermost first.
pub fn below(dir: &Path) -> Vec<Mount> {
    let mut found: Vec<Mount> = of_process("self").into_iter().filter(|m| m.mountpoint.starts_with(dir)).collect();
    found.reverse();
    found
}

/// Whether `path` is a mountpoint here, without touching the mount.
pub fn is_mounted(path: &Path) -> bool {
    of_process("self").iter().any(|m| m.mountpoint == path)
}

/// Aborts a FUSE connection: every request of every program on it ends with an error.
pub fn abort_connection(minor: u32) {
    let known = Path::new("/sys/fs/fuse/connections");
    if std::fs::write(known.join(format!("{minor}/abort")), "1").is_ok() {
        return;
    }
    // The control file system is not mounted on every machine: mount it for a moment.
    let Ok(dir) = tempfile::Builder::new().prefix("afs-fusectl-").tempdir() else { return };
    if mount(Some("fusectl"), dir.path(), Some("fusectl"), MsFlags::empty(), None::<&str>).is_ok() {
        if let Err(e) = std::fs::write(dir.path().join(format!("{minor}/abort")), "1") {
            eprintln!("cannot abort FUSE connection {minor}: {e}");
        }
        umount2(dir.path(), MntFlags::MNT_DETACH).ok();
    }
}

/// Aborts every FUSE connection mounted below `dir`, as this process or one of `pids` sees it.
pub fn abort_below(dir: &Path, pids: &[i32]) {
    let mut minors = Vec::new();
    let names = std::iter::once("self".to_owned()).chain(pids.iter().map(ToString::to_string));
    for pid in names {
        for m in of_process(&pid) {
            if m.fstype.starts_with("fuse") && m.mountpoint.starts_with(dir) && !minors.contains(&m.minor) {
                minors.push(m.minor);
            }
        }
    }
    for minor in minors {
        abort_connection(minor);
    }
}

/// Takes a mount away by force.
pub fn force_unmount(mountpoint: &Path) {
    umount2(mountpoint, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).ok();
}
