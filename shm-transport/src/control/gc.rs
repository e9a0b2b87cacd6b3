//! Garbage collection: what was done, what there is to do.

use serde::{Deserialize, Serialize};

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Nothing was done.
    pub dry_run: bool,
    /// States that nothing reached.
    pub removed: u64,
    /// States that became one with another.
    pub folded: u64,
    /// Records that moved from one state to another.
    pub moved: u64,
    /// Records that went, or left their place.
    pub dropped: u64,
    /// Content files that went.
    pub contents: u64,
    /// Their allocated bytes.
    pub bytes: u64,
    /// Something is left: it was in use, or a dry run was cut short.
    pub left: bool,
}

/// Garbage collection in the background.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcInfo {
    /// Whether it runs now.
    pub running: bool,
    /// Branches that wait for it.
    pub waiting: u64,
    /// States in the store.
    pub epochs: u64,
    /// Of these, what nothing reaches; counted while there is something to do.
    pub unreachable: u64,
    /// Of these, what may become one with another; likewise.
    pub foldable: u64,
    /// Bytes that would be free then, as far as the first records tell.
    pub bytes: u64,
    /// States removed since the daemon started.
    pub removed: u64,
    /// States folded since then.
    pub folded: u64,
    /// Content files removed since then by collections.
    pub contents_freed: u64,
    /// Their allocated bytes.
    pub bytes_freed: u64,
}
