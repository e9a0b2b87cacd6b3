//! The command line of `agentfs-control-cli`.

use clap::{Args, Parser, Subcommand, ValueHint};
use std::path::PathBuf;

/// Branches and snapshots by way of a mount's control file.
///
/// For programs that reach a mount of AgentFS and not its daemon's socket, as in a container. Root may, and the
/// owner of the mounted branch. `agentfs` does the same and more over the socket.
#[derive(Debug, Parser)]
#[command(
    name = "agentfs-control-cli",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  agentfs-control-cli --mount /mnt/a snapshot-create --name tested
  agentfs-control-cli --mount /mnt/a snapshot-list --json
  agentfs-control-cli --mount /mnt/a branch-create --snapshot tested --name fix-2

`agentfs help exit-codes` lists the exit codes."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Where the branch is mounted [env: AGENTFS_ROOT]
    #[arg(long, global = true, value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub(super) mount: Option<PathBuf>,
    /// Answer with JSON on standard output, errors with JSON on standard error
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Keep the present state of the mounted branch under a name
    SnapshotCreate {
        /// Name of the snapshot
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// List the snapshots of the mounted branch
    SnapshotList {
        /// Those of all branches
        #[arg(long)]
        all: bool,
    },
    /// Forget a snapshot; refused while a branch made from it lives
    SnapshotDelete {
        /// The snapshot, or BRANCH@SNAPSHOT
        #[arg(long, value_name = "ID")]
        snapshot: String,
    },
    /// Make a branch of a snapshot, or of the mounted branch's present state
    BranchCreate {
        /// A snapshot of the mounted branch, or BRANCH@SNAPSHOT
        #[arg(long, value_name = "ID")]
        snapshot: Option<String>,
        /// Name of the branch
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// List the branches
    BranchList,
    /// Delete a branch with its changes and snapshots; refused while it is mounted
    BranchDelete {
        /// The branch
        #[arg(long, value_name = "ID")]
        branch: String,
    },
    /// Show a process and its descendants another branch through this mount
    BranchBind {
        /// The branch
        #[arg(long, value_name = "ID")]
        branch: String,
        /// The process, as the daemon numbers it
        #[arg(long, value_name = "PID")]
        pid: u32,
        /// Make no control group: let the process's descent decide
        #[arg(long)]
        by_descent: bool,
    },
    /// Let a process see the mounted branch again
    BranchUnbind {
        /// The process, as the daemon numbers it
        #[arg(long, value_name = "PID")]
        pid: u32,
    },
    /// List what the mounted branch changed against its base
    Diff {
        /// Only the counts
        #[arg(long)]
        stat: bool,
        /// At most so many paths (the counts are always whole)
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}
