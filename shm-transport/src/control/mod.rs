//! The control protocol: one JSON object a line over the daemon's Unix socket.
//!
//! A client sends [`Call`] lines and gets one [`Answer`] line for each, in order. The first line of a
//! mount's frontend is [`Command::Attach`], with its file descriptors beside it (`SCM_RIGHTS`); that
//! connection then carries no more lines and its end means that one side died.
#![forbid(unsafe_code)]

mod bound;
mod checkpoint;
pub mod client;
mod diff;
pub mod door;
pub mod escape;
mod fsck;
mod gc;
pub mod holder;
mod info;
pub mod line;
mod merge;
pub mod paths;
mod plan;
mod quota;
pub mod seal;
pub mod service;
mod status;
pub mod versions;

pub use bound::{Bound, Shown};
pub use checkpoint::Checkpoint;
pub use diff::{Change, ChangeKind, Diff, Source};
pub use fsck::{FsckFinding, FsckReport, FsckSeverity};
pub use gc::{Collected, GcInfo};
pub use info::{BranchInfo, SnapshotInfo};
pub use merge::{Merged, Preference, Side, Undone};
pub use plan::{PlanBody, PlanMeta, PlanObject, PlanStep, PlanWas};
pub use quota::{Limit, Limits, QuotaInfo};
pub use seal::SealInfo;
pub use status::{Sandbox, SandboxState, Status};

use crate::wire::SessionId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of this protocol. A server refuses another one with [`ErrorCode::Version`].
pub const VERSION: u32 = 1;
/// Longest line either side accepts, in bytes.
pub const LINE_MAX: usize = 1 << 20;
/// How the name begins of what a commit puts into the root of a base for the time that it takes. No branch shows it.
pub const STAGING_PREFIX: &str = ".agentfs-commit-";

/// One request line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What a client may ask for. `op` names it on the wire, e.g. `{"v":1,"op":"branch-create",...}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Command {
    /// The daemon's state. Data: [`Status`].
    Status,
    /// Stop cleanly after running requests are done. Data: null.
    Shutdown,
    /// The same for a successor that waits: what is acknowledged is made durable before anything stops, and requests
    /// that run for long are left to the successor. Data: null.
    HandOver {
        /// The daemon that is meant: another one, its successor perhaps, refuses.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// Make a branch. Data: [`BranchInfo`].
    BranchCreate {
        /// Its name.
        name: String,
        /// A base directory, absolute; none for an empty root.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<PathBuf>,
        /// `BRANCH`, or `BRANCH@SNAPSHOT`, or a snapshot's name where it is unambiguous.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Nobody edits the base while branches of it live: attributes may be cached for long.
        #[serde(default)]
        frozen: bool,
        /// Answer with the existing branch when one of this name and the same base exists.
        #[serde(default)]
        reuse: bool,
        /// Its limits, where it does not exist yet.
        #[serde(default, skip_serializing_if = "Limits::is_empty")]
        limits: Limits,
    },
    /// Make a branch of a base that was copied into the store ([`seal`]). Without the copy: whether that can be done. Data:
    /// [`BranchInfo`]; none where there is no such branch yet, and no copy.
    BranchSeal {
        /// Its name.
        name: String,
        /// The original, absolute.
        base: PathBuf,
        /// The name of the copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copy: Option<String>,
        /// As of [`Command::BranchCreate`], for when the branch follows the base.
        #[serde(default)]
        frozen: bool,
        /// As of [`Command::BranchCreate`].
        #[serde(default)]
        reuse: bool,
        /// As of [`Command::BranchCreate`].
        #[serde(default, skip_serializing_if = "Limits::is_empty")]
        limits: Limits,
    },
    /// Set limits of a branch, if any are given. Data: [`BranchInfo`].
    BranchQuota {
        /// Its name.
        name: String,
        /// What to set.
        #[serde(default, skip_serializing_if = "Limits::is_empty")]
        limits: Limits,
    },
    /// Show a process and its descendants another branch through the mount whose control file is asked. Data: [`Bound`].
    BranchBind {
        /// The branch.
        branch: String,
        /// The process; none for the caller.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// It was put into a control group of its own, named `agentfs-…`: all processes in that are meant.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cgroup: bool,
    },
    /// Let a process see the mounted branch again. Data: null.
    BranchUnbind {
        /// The process; none for the caller.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    /// All branches. Data: list of [`BranchInfo`].
    BranchList {
        /// Count what each of them changed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        weigh: bool,
    },
    /// One branch. Data: [`BranchInfo`].
    BranchShow {
        /// Its name.
        name: String,
    },
    /// Delete a branch, its snapshots and its changes. Refused while mounted. Data: [`Removed`].
    BranchDelete {
        /// Its name.
        name: String,
        /// Only say what would go.
        #[serde(default)]
        dry_run: bool,
    },
    /// Freeze the branch's present state under a name. Data: [`SnapshotInfo`].
    SnapshotCreate {
        /// The branch.
        branch: String,
        /// Name of the snapshot.
        name: String,
    },
    /// Take an automatic snapshot, unless nothing changed, and delete the oldest automatic ones. Data: [`Checkpoint`].
    Checkpoint {
        /// The branch.
        branch: String,
        /// So many automatic ones stay.
        keep: u32,
    },
    /// Snapshots of one branch or of all. Data: list of [`SnapshotInfo`].
    SnapshotList {
        /// The branch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<String>,
    },
    /// Forget a snapshot; refused while a branch made from it lives. Data: null.
    SnapshotDelete {
        /// The branch.
        branch: String,
        /// The snapshot.
        name: String,
        /// Only say what would go.
        #[serde(default)]
        dry_run: bool,
    },
    /// What differs from one state to another. Data: [`Diff`].
    Diff {
        /// The new state: `BRANCH`, `BRANCH@SNAPSHOT`, a snapshot's name where it is unambiguous, or `@base` for the
        /// base of the other one.
        branch: String,
        /// The old state, named likewise; `@base` where it is not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        against: Option<String>,
        /// At most so many changes in the answer (the counts are always whole).
        limit: u32,
        /// Skip so many changes first.
        #[serde(default)]
        skip: u64,
        /// Tell where the bytes of both states are.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sources: bool,
    },
    /// Snapshot an unmounted branch and write the plan that takes its changes into its base. Data:
    /// [`CommitPlan`]. Nothing is written with `dry_run`.
    CommitPrepare {
        /// The branch.
        branch: String,
        /// Only say what would happen.
        #[serde(default)]
        dry_run: bool,
        /// Who wins where both changed something.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        prefer: Vec<Preference>,
    },
    /// The plan was applied whole: the branch starts afresh from its base. Data: null.
    CommitFinish {
        /// From [`CommitPlan`].
        id: u64,
    },
    /// The plan was not applied or was taken back: the branch stays as it is. Data: null.
    CommitAbort {
        /// From [`CommitPlan`].
        id: u64,
    },
    /// Take what a branch changed and what its parent has now together. Data: [`Merged`].
    Merge {
        /// The branch.
        branch: String,
        /// The parent gets the result too; else only the branch does.
        #[serde(default)]
        into_parent: bool,
        /// Only say what would happen.
        #[serde(default)]
        dry_run: bool,
        /// Who wins where both changed something.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        prefer: Vec<Preference>,
    },
    /// Bring a branch, or some of its paths, back to an earlier state, after a snapshot of the present one. Data:
    /// [`Undone`].
    Undo {
        /// The branch.
        branch: String,
        /// A snapshot of it, `@base` for its base without changes, `@fork` for what it was made from or took over
        /// last; its latest snapshot where none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// Only these paths and what is below them, escaped as in [`Change`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        paths: Vec<String>,
        /// Only say what would change.
        #[serde(default)]
        dry_run: bool,
    },
    /// Commits that were prepared and neither finished nor aborted. Data: list of [`CommitPlan`].
    CommitPending,
    /// Check the store while it is in use. Data: [`FsckReport`].
    Fsck,
    /// Remove what nothing reaches, and fold frozen states that nobody refers to into what continues them. Data:
    /// [`Collected`].
    Gc {
        /// Only of these branches; of all where none is named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        branches: Vec<String>,
        /// Only say what would go.
        #[serde(default)]
        dry_run: bool,
    },
    /// Mounted sessions. Data: list of [`MountInfo`].
    Mounts,
    /// A frontend takes up, or takes up again, its session. File descriptors beside the line, in this
    /// order: region memfd, table memfd, submission doorbell, completion doorbell. Data: [`Attached`].
    Attach {
        /// The session.
        session: SessionId,
        /// The branch.
        branch: String,
        /// Where it is mounted, as the mounting process saw it.
        mountpoint: PathBuf,
        /// Read-only.
        #[serde(default)]
        read_only: bool,
        /// Incarnation of this connection, as it stands in the region's header.
        epoch: u32,
    },
    /// The mount is gone: give back what the session held. Data: null. Only the mount's own frontend says so,
    /// which knows it.
    Detach {
        /// The session.
        session: SessionId,
    },
    /// The mount died with its holder and its frontend: give back what the session held. Refused as long as
    /// anybody might still serve it. Data: null.
    EndSession {
        /// The session.
        session: SessionId,
    },
}

/// One answer line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was done.
    Ok(serde_json::Value),
    /// It was not.
    Error(Failure),
}

/// Why something was not done.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// What happened, a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kinds of failure; each has a fixed exit code in the `agentfs` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The call is malformed or an argument is not acceptable.
    Usage,
    /// The peer speaks another version of the protocol or of the region.
    Version,
    /// No branch, snapshot, session or commit of that name.
    NotFound,
    /// The name is taken, perhaps by a branch of another base.
    Exists,
    /// Mounted, or used by something that must go first.
    Busy,
    /// The caller may not do that.
    Denied,
    /// The base directory is missing, unreadable, not a directory, or must not be a base.
    Base,
    /// The base lies outside the prefixes that this daemon may read.
    BaseNotAllowed,
    /// The base changed under the branch; nothing was applied.
    Conflict,
    /// No space or inodes left in the store.
    NoSpace,
    /// The store failed or is damaged.
    Store,
    /// Anything else: a defect.
    Internal,
}

/// What a deletion removed or would remove.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Removed {
    /// Snapshots.
    pub snapshots: Vec<String>,
    /// Content files of the store.
    pub contents: u64,
    /// Their allocated bytes.
    pub bytes: u64,
}

/// A prepared commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitPlan {
    /// Its number; 0 for a dry run.
    pub id: u64,
    /// The branch.
    pub branch: String,
    /// Where to apply it.
    pub base: PathBuf,
    /// Directory of the journal in the store; `plan.jsonl` in it lists the [`PlanStep`]s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<PathBuf>,
    /// What it changes.
    pub summary: Diff,
    /// Paths that changed in the base since the branch first changed them; nothing is applied then.
    pub conflicts: Vec<Conflict>,
}

/// A path that cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The path, escaped as in [`Change`].
    pub path: String,
    /// What happened, e.g. `both modified`, `modified here, deleted in the base`.
    pub reason: String,
}

/// A mounted session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountInfo {
    /// The session.
    pub session: SessionId,
    /// The branch.
    pub branch: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// Process id of the frontend.
    pub frontend_pid: i32,
    /// Read-only.
    pub read_only: bool,
    /// Since this incarnation attached, in seconds.
    pub attached_seconds: u64,
    /// Requests answered since then.
    pub requests: u64,
    /// Requests running now.
    pub in_flight: u64,
    /// `attached`; `reconnecting`: its frontend was here a moment ago; or `lost`: it has been away for long.
    pub state: String,
    /// Branches that it shows beside its own, and to whom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Shown>,
}

/// Answer to an attach.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attached {
    /// Process id of the daemon.
    pub daemon_pid: i32,
}
