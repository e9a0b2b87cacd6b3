//! What a check of a store tells.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How bad a finding is. The worse one comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsckSeverity {
    /// Something is lost, or will be served wrongly.
    Error,
    /// Nothing needs it; it takes space only.
    Leftover,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckFinding {
    /// Its kind, for programs.
    pub kind: String,
    /// How bad it is.
    pub severity: FsckSeverity,
    /// The record: its letter, its numbers, its name.
    pub key: String,
    /// `BRANCH:/PATH`, as far as the records tell, escaped as in [`super::Change`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong, a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// It was mended by this check.
    #[serde(default)]
    pub repaired: bool,
}

/// What a check of a store found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    /// The store directory.
    pub store: PathBuf,
    /// The daemon checked its own store while it was in use.
    pub online: bool,
    /// Records that were read.
    pub records: u64,
    /// Content files that were seen.
    pub contents: u64,
    /// Errors that are left.
    pub errors: u64,
    /// Leftovers that are left.
    pub leftovers: u64,
    /// Findings that were mended.
    pub repaired: u64,
    /// The findings, errors first; not all of them when there are very many.
    pub findings: Vec<FsckFinding>,
    /// What else the user should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
