//! Paths of a plan: relative, made of plain names only.

use crate::error::{CliError, Kind, Result};
use rustix::ffi::CString;
use shm_transport::control::escape::{escape, unescape};

/// Longest name the kernel takes, in bytes.
const NAME_MAX: usize = 255;

/// A path below the base; empty for the base itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelPath(Vec<u8>);

impl RelPath {
    /// The base itself.
    pub(super) fn root() -> Self {
        Self(Vec::new())
    }

    /// From a plan's text. Refuses everything that could lead elsewhere: `..`, empty names, NUL.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| CliError::new(Kind::Store, format!("the commit plan has the path {text:?}: {why}"));
        let bytes = unescape(text).map_err(|e| bad(&e.to_string()))?;
        let bytes = bytes.strip_prefix(b"/").unwrap_or(&bytes);
        if bytes.is_empty() || bytes == b"." {
            return Ok(Self::root());
        }
        why_not(bytes).map_or_else(|| Ok(Self(bytes.to_vec())), |why| Err(bad(why)))
    }

    /// From a note of our own, in bytes; not the base itself.
    pub(super) fn noted(bytes: &[u8]) -> Option<Self> {
        why_not(bytes).is_none().then(|| Self(bytes.to_vec()))
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the base itself.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of names in it.
    pub(super) fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.0.split(|b| *b == b'/').count() }
    }

    /// Directory and name; none for the base itself.
    pub(super) fn split(&self) -> Option<(RelPath, CString)> {
        if self.is_root() {
            return None;
        }
        let (dir, name) = match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (self.0.get(..at)?, self.0.get(at + 1..)?),
            None => (&[][..], self.0.as_slice()),
        };
        Some((Self(dir.to_vec()), CString::new(name).ok()?))
    }

    /// What is at a name in this directory.
    pub(super) fn child(&self, name: &rustix::ffi::CStr) -> RelPath {
        let mut path = self.0.clone();
        if !self.is_root() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        Self(path)
    }

    /// The directories around it, nearest first, without the base itself; each with what follows it.
    pub(super) fn above(&self) -> impl Iterator<Item = (RelPath, RelPath)> + '_ {
        let cuts = self.0.iter().enumerate().rev().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        cuts.filter_map(|at| Some((Self(self.0.get(..at)?.to_vec()), Self(self.0.get(at + 1..)?.to_vec()))))
    }

    /// The first name in it.
    pub(super) fn first(&self) -> &[u8] {
        self.0.split(|b| *b == b'/').next().unwrap_or_default()
    }
}

/// What is wrong with a path, if anything.
fn why_not(path: &[u8]) -> Option<&'static str> {
    path.split(|b| *b == b'/').find_map(|name| match name {
        b"" | b"." | b".." => Some("not a plain relative path"),
        name if name.len() > NAME_MAX => Some("a name in it is too long"),
        name if name.contains(&0) => Some("it contains a NUL byte"),
        _ => None,
    })
}

impl std::fmt::Display for RelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&if self.is_root() { ".".into() } else { escape(&self.0) })
    }
}
