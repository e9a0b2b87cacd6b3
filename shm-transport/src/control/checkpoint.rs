//! Automatic snapshots.

use super::SnapshotInfo;
use serde::{Deserialize, Serialize};

/// What came of asking for an automatic snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The new one; none where nothing changed since the last snapshot.
    pub snapshot: Option<SnapshotInfo>,
    /// Older automatic ones that went for it.
    pub deleted: Vec<String>,
}
