//! Limits of branches.

use serde::{Deserialize, Serialize};

/// One limit, to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// No limit.
    None,
    /// At most so much.
    Max(u64),
}

impl Limit {
    /// The most, if there is one.
    pub fn max(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Max(max) => Some(max),
        }
    }
}

/// Limits to be set; what is not named stays, and for a new branch is what its source has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of content of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Limit>,
    /// Objects that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<Limit>,
}

impl Limits {
    /// Nothing is to be set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The limits of a branch, and what it uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaInfo {
    /// Most bytes of content of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Most objects that it may make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// Bytes used, if they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_used: Option<u64>,
    /// Objects made and not given back, if they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes_used: Option<u64>,
}
