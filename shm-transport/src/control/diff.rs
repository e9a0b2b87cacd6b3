//! Differences of two states, as answers have them.

use serde::{Deserialize, Serialize};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Only in the new state.
    Added,
    /// In both, with other content or attributes.
    Modified,
    /// Only in the old state.
    Deleted,
    /// In both, as another kind of object.
    Retyped,
    /// The same object under another path.
    Renamed,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Path below the root; bytes that are not UTF-8 are escaped as `\xNN` (and `\` as `\\`).
    pub path: String,
    /// How it differs.
    pub kind: ChangeKind,
    /// Kind of object: `file`, `dir`, `symlink`, `fifo`, `socket`, `char`, `block`.
    pub object: String,
    /// For `Modified`: only mode, owner, times or extended attributes differ, not content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metadata_only: bool,
    /// Size in the new state, in bytes (in the old one for `Deleted`).
    pub size: u64,
    /// For `Renamed`: its path in the old state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// For `Renamed`: content or attributes differ as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub edited: bool,
    /// Where the old state's bytes are, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Source>,
    /// Where the new state's bytes are, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Source>,
}

/// One side of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Kind and permission bits.
    pub mode: u32,
    /// Of a regular file: its size, in bytes.
    #[serde(default)]
    pub size: u64,
    /// Of a regular file: where its bytes are on the host, absolute, escaped as paths are; `None` where all of them are
    /// zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of a symbolic link: its target, escaped likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Differences of one state from another.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Diff {
    /// Paths only in the new state.
    pub added: u64,
    /// Paths with other content or attributes.
    pub modified: u64,
    /// Paths only in the old state.
    pub deleted: u64,
    /// Paths that became another kind of object.
    pub retyped: u64,
    /// Objects that have another path.
    #[serde(default)]
    pub renamed: u64,
    /// The changes, ordered by path, from `skip`, at most `limit` and at most a line's worth.
    pub changes: Vec<Change>,
}
