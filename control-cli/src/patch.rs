//! Changes as a patch that `git apply` and `patch` read.
//!
//! What no patch can say (directories, special files, owners, attributes) stands between the patches as a line that
//! both leave alone.

mod hunks;
mod name;

use hunks::hunks;
use name::{Side, quoted};
use shm_transport::control::escape::unescape;
use shm_transport::control::{Change, ChangeKind, Source};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

/// Larger files are only said to differ.
const SIZE_MAX: u64 = 32 << 20;
/// A zero byte among so many first ones makes a file binary, as in git.
const LOOKED_AT: usize = 8000;

const KIND: u32 = 0o170000;
const FILE: u32 = 0o100000;
const LINK: u32 = 0o120000;

/// What a file holds.
enum Held {
    Bytes(Vec<u8>),
    TooLarge,
    /// Why it cannot be read.
    Unreadable(io::Error),
}

/// One change. `line` is how the change looks in a list.
pub(crate) fn patch(change: &Change, line: &str) -> Vec<u8> {
    let sides = |source: &Option<Source>| source.clone().filter(|s| matches!(s.mode & KIND, FILE | LINK));
    let (old, new) = (sides(&change.old), sides(&change.new));
    let Ok(path) = unescape(&change.path) else { return line.into() };
    let from = change.from.as_deref().map_or(Ok(path.clone()), unescape);
    let Ok(from) = from else { return line.into() };
    match (change.kind, &old, &new) {
        (ChangeKind::Added, _, Some(new)) => one(&path, &path, None, Some(new)),
        (ChangeKind::Deleted, Some(old), _) => one(&path, &path, Some(old), None),
        (ChangeKind::Retyped, old, new) if old.is_some() || new.is_some() => {
            let mut text = Vec::new();
            if old.is_some() {
                text.extend(one(&path, &path, old.as_ref(), None));
            }
            if new.is_some() {
                text.extend(one(&path, &path, None, new.as_ref()));
            }
            if old.is_none() || new.is_none() {
                text.extend(line.bytes());
            }
            text
        }
        (ChangeKind::Modified | ChangeKind::Renamed, Some(old), Some(new)) => {
            let text = one(&from, &path, Some(old), Some(new));
            if text.is_empty() { line.into() } else { text }
        }
        _ => line.into(),
    }
}

/// The mode as git has it.
fn mode(source: &Source) -> &'static str {
    match source.mode & KIND {
        LINK => "120000",
        _ if source.mode & 0o100 != 0 => "100755",
        _ => "100644",
    }
}

/// One file; empty where nothing differs that a patch can say.
fn one(from: &[u8], to: &[u8], old: Option<&Source>, new: Option<&Source>) -> Vec<u8> {
    let mut text = format!("diff --git {} {}\n", quoted(Side::Old, from), quoted(Side::New, to));
    let header = text.len();
    match (old, new) {
        (None, Some(new)) => text.push_str(&format!("new file mode {}\n", mode(new))),
        (Some(old), None) => text.push_str(&format!("deleted file mode {}\n", mode(old))),
        (Some(old), Some(new)) if mode(old) != mode(new) => {
            text.push_str(&format!("old mode {}\nnew mode {}\n", mode(old), mode(new)));
        }
        _ => {}
    }
    if from != to {
        text.push_str(&format!("rename from {}\nrename to {}\n", quoted(Side::Bare, from), quoted(Side::Bare, to)));
    }
    let names = (
        old.map_or_else(|| "/dev/null".into(), |_| quoted(Side::Old, from)),
        new.map_or_else(|| "/dev/null".into(), |_| quoted(Side::New, to)),
    );
    let same_file = old.is_some() && old.map(|s| &s.path) == new.map(|s| &s.path);
    let is_link = |side: Option<&Source>| side.is_some_and(|s| s.mode & KIND == LINK);
    let body = if same_file && !is_link(old) { Vec::new() } else { body(&names, held(old), held(new)) };
    if body.is_empty() && text.len() == header {
        return Vec::new();
    }
    let mut bytes = text.into_bytes();
    bytes.extend(body);
    bytes
}

fn body(names: &(String, String), old: Held, new: Held) -> Vec<u8> {
    let (old, new) = match (old, new) {
        (Held::Bytes(old), Held::Bytes(new)) => (old, new),
        (Held::Unreadable(error), _) | (_, Held::Unreadable(error)) => {
            return format!("Files {} and {} cannot be compared: {error}\n", names.0, names.1).into();
        }
        (Held::TooLarge, _) | (_, Held::TooLarge) => {
            return format!("Files {} and {} differ, and are too large to show\n", names.0, names.1).into();
        }
    };
    if old == new {
        return Vec::new();
    }
    let is_binary = |bytes: &[u8]| bytes.iter().take(LOOKED_AT).any(|byte| *byte == 0);
    if is_binary(&old) || is_binary(&new) {
        return format!("Binary files {} and {} differ\n", names.0, names.1).into();
    }
    // Programs that read patches take a name with blanks up to the tab.
    let end = |name: &str| if name.contains(' ') && !name.starts_with('"') { "\t" } else { "" };
    let mut text = format!("--- {}{}\n+++ {}{}\n", names.0, end(&names.0), names.1, end(&names.1)).into_bytes();
    text.extend(hunks(&old, &new));
    text
}

fn held(source: Option<&Source>) -> Held {
    let Some(source) = source else { return Held::Bytes(Vec::new()) };
    if let Some(target) = &source.target {
        return Held::Bytes(unescape(target).unwrap_or_else(|_| target.clone().into()));
    }
    if source.size > SIZE_MAX {
        return Held::TooLarge;
    }
    let Some(path) = &source.path else { return Held::Bytes(vec![0; usize::try_from(source.size).unwrap_or(0)]) };
    let read = || {
        let path = unescape(path).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        File::open(OsStr::from_bytes(&path))?.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > SIZE_MAX => Held::TooLarge,
        Ok(bytes) => Held::Bytes(bytes),
        Err(error) => Held::Unreadable(error),
    }
}

#[cfg(test)]
mod tests;
