//! What is told of branches and snapshots.

use super::{QuotaInfo, SealInfo};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A branch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BranchInfo {
    /// Its name.
    pub name: String,
    /// Its number, never used again.
    pub id: u64,
    /// Its base directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Whether the base is declared frozen.
    #[serde(default)]
    pub frozen: bool,
    /// The snapshot that it was made from, as `BRANCH@SNAPSHOT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Owner's user id.
    pub uid: u32,
    /// Seconds since 1970.
    pub created: i64,
    /// Names of its snapshots.
    pub snapshots: Vec<String>,
    /// Where it is mounted now.
    pub mounts: Vec<PathBuf>,
    /// Mounts of other branches that show it to bound processes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound_at: Vec<PathBuf>,
    /// Whether this call made it.
    #[serde(default)]
    pub made: bool,
    /// What the user should know, e.g. that the base is a live checkout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How long the daemon took to make it, in microseconds (only from a create).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
    /// Names and objects that it changed since it was made from its parent or base, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<u64>,
    /// Allocated bytes of the content files that it does not share with its parent, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_bytes: Option<u64>,
    /// Its limits, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaInfo>,
    /// The copy of its base, if it shows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealInfo>,
}

/// A snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The branch.
    pub branch: String,
    /// Its name.
    pub name: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Branches made from it.
    pub branches: Vec<String>,
    /// It was taken automatically, and goes when there are enough younger ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
    /// How long the daemon took to make it, in microseconds (only from a create).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
}
