//! Arguments about both sides of a commit or a refresh, and of the way back.

use clap::Args;

/// Who wins where both sides changed something.
#[derive(Debug, Args)]
pub(crate) struct Sides {
    /// Where both changed something, the branch wins: everywhere, or at PATH and below (repeatable)
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = ".")]
    pub(crate) ours: Vec<String>,
    /// Where both changed something, the other side wins: everywhere, or at PATH and below (repeatable)
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = ".")]
    pub(crate) theirs: Vec<String>,
}

/// Take what a branch's parent or base changed meanwhile into the branch
///
/// For a branch made from another branch or snapshot, its parent. What both changed is a conflict, unless --ours or --theirs
/// decides; with any conflict nothing is done, they are listed, and the exit code is 10. The branch must not be
/// mounted; its parent may be. Afterwards the branch continues what the parent has now.
///
/// A branch of a base directory shows the base's changes by itself. What both changed is decided: with --theirs the
/// branch's change is dropped, so that the base shows through; with --ours it stays, and the next commit replaces
/// what the base has now. The state before stays as a snapshot, before-refresh-N, where changes are dropped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentfs refresh fix-2 --dry-run
  agentfs refresh fix-2
  agentfs refresh fix-2 --theirs --ours=src/parser
  agentfs undo fix-2 --to before-refresh-1       take it back")]
pub(crate) struct Refresh {
    /// The branch
    #[arg(value_name = "BRANCH")]
    pub(crate) branch: String,
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) sides: Sides,
}

/// Bring a branch, or some of its paths, back to an earlier state
///
/// The state before is kept as a snapshot, named before-undo-N, so that an undo can be undone. Without --to it is
/// the branch's latest snapshot that is gone back to. The branch must not be mounted.
///
/// With paths only these, and what is below them, become what they were; made since, they go, and deleted since, they
/// come back with the directories that they need.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentfs undo fix-1 --dry-run
  agentfs undo fix-1 --to tested
  agentfs undo fix-1 --to @base src/parser Cargo.toml
  agentfs undo fix-1 --to before-undo-1          undo the undo")]
pub(crate) struct Undo {
    /// The branch
    #[arg(value_name = "BRANCH")]
    pub(crate) branch: String,
    /// A snapshot of the branch, @base for its base without changes, or @fork for what it was made from or took over
    /// last
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "last")]
    pub(crate) to: Option<String>,
    /// The latest snapshot (the default)
    #[arg(long)]
    pub(crate) last: bool,
    /// Only say what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only these paths, as `agentfs diff` shows them
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}
