//! A branch and its parent, taken together.

use super::{Conflict, Diff};
use serde::{Deserialize, Serialize};

/// Whose state wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The branch's.
    Ours,
    /// The parent's or the base's.
    Theirs,
}

/// Who wins at a path and below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preference {
    /// The path, escaped as in [`Change`](super::Change); `.` for all.
    pub path: String,
    /// The side.
    pub side: Side,
}

/// What came of a merge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Merged {
    /// The branch.
    pub branch: String,
    /// Its parent, or its base directory, escaped as paths are.
    pub with: String,
    /// Whether anything was done.
    pub applied: bool,
    /// What the receiving side gets: as counts, and as many changes as fit.
    pub changes: Diff,
    /// Paths that both changed; nothing is done then.
    pub conflicts: Vec<Conflict>,
    /// Paths at which both had come to the same.
    #[serde(default)]
    pub settled: u64,
    /// Paths at which the branch's was kept over what its base directory has now.
    #[serde(default)]
    pub kept: u64,
    /// The snapshot of the branch's state before, where changes of it were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// What was taken back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Undone {
    /// The branch.
    pub branch: String,
    /// The state that it, or its paths, went back to.
    pub to: String,
    /// The snapshot of the state before; none where nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What changes by it: as counts, and as many changes as fit.
    pub changes: Diff,
}
