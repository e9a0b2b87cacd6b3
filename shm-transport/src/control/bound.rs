//! Processes that see another branch than the one that is mounted.

use serde::{Deserialize, Serialize};

/// A process that sees another branch than the one that is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The branch.
    pub branch: String,
    /// The process, as the daemon numbers it.
    pub pid: u32,
    /// Its control group, if the binding is by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// A branch that a mount shows beside its own. It counts as mounted there until the mount ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The branch.
    pub branch: String,
    /// Living processes that were bound to it, without those that have it from them.
    pub bound: Vec<Bound>,
}
