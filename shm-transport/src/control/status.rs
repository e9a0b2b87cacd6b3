//! What a daemon says of itself.

use super::GcInfo;
use super::versions::Versions;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The daemon's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Process id of the daemon.
    pub pid: i32,
    /// Release of the daemon.
    pub version: String,
    /// The store directory.
    pub store: PathBuf,
    /// The socket.
    pub socket: PathBuf,
    /// Since this process was ready, in seconds.
    pub uptime_seconds: u64,
    /// How often the store was opened after an unclean end.
    pub recoveries: u64,
    /// Branches in the store.
    pub branches: u64,
    /// Snapshots in the store.
    pub snapshots: u64,
    /// Sessions attached now.
    pub mounts: u64,
    /// Directories below which bases may lie.
    pub allow_base: Vec<PathBuf>,
    /// The store refuses writes, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusing_writes: Option<String>,
    /// File data could not be made durable, and why: syncs fail until the daemon is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_sync: Option<String>,
    /// A service manager started it, and starts it again: no holder does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub managed: bool,
    /// What the daemon confined itself to.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// What this build speaks and stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
    /// Garbage collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc: Option<GcInfo>,
}

/// Whether a daemon has given up what it does not need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// How far.
    pub state: SandboxState,
    /// What the system could not take from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// See [`Sandbox`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxState {
    /// Everything.
    On,
    /// All but what is missing.
    Partial,
    /// Nothing: it was told so.
    #[default]
    Off,
}
