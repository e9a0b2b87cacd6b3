//! Arguments of `agentfs snapshot`.

use clap::Subcommand;

/// Commands about snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Keep the present state of a branch under a name
    ///
    /// It holds what every system call did that had returned, in all files at one point in time. What programs have changed in
    /// shared mappings (mmap) and not written back is in it with --freeze: the programs that map files of the branch
    /// are stopped for that long, as a debugger does, so that a snapshot never shows a later store without an earlier one.
    #[command(after_help = "\
Examples:
  agentfs snapshot create --branch fix-1 --name tested
  agentfs snapshot create --branch fix-1 --name live --freeze")]
    Create {
        /// The branch
        #[arg(long, value_name = "NAME")]
        branch: String,
        /// Name of the snapshot
        #[arg(long, value_name = "NAME")]
        name: String,
        /// With what programs changed in mapped files, at one moment: they are held still for it
        #[arg(long)]
        freeze: bool,
    },
    /// List the snapshots
    #[command(after_help = "Examples:\n  agentfs snapshot list\n  agentfs snapshot list fix-1")]
    List {
        /// Of this branch only
        #[arg(value_name = "BRANCH")]
        of: Option<String>,
        /// The same
        #[arg(long, value_name = "NAME", conflicts_with = "of")]
        branch: Option<String>,
    },
    /// Forget a snapshot; refused while a branch made from it lives
    Delete {
        /// The branch
        #[arg(long, value_name = "NAME")]
        branch: String,
        /// Name of the snapshot
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
}
