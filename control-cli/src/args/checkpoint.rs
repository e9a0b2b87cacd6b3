//! Automatic snapshots.

use clap::Args;
use std::time::Duration;

/// So many automatic snapshots stay where nobody says otherwise.
const KEEP: u32 = 50;

/// When `run` takes automatic snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// After each command.
    EachCommand,
    /// Again and again after so long.
    Every(Duration),
}

/// Options of `run`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Checkpoints {
    /// Take automatic snapshots: after each-command (the one that is run, and each one of a bash), or every N-minutes (or
    /// Nm, Ns, Nh) while the command runs
    #[arg(long = "checkpoint", value_name = "each-command|N-minutes", value_parser = when)]
    pub(crate) when: Option<When>,
    /// So many automatic snapshots of the branch stay; named ones always do
    #[arg(long, value_name = "N", default_value_t = KEEP, requires = "when", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) checkpoint_keep: u32,
}

/// Take an automatic snapshot of a branch, unless nothing changed since the last one
///
/// For the hooks of shells and agents: it takes a few milliseconds. Automatic snapshots are named by the time (auto-...),
/// `agentfs snapshot list` tells them from others, and the oldest of them go when there are more than are to stay. Snapshots
/// that somebody named, or made a branch from, always stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentfs checkpoint fix-1
  agentfs checkpoint --keep 20       the branch that `agentfs run` set up for this program")]
pub(crate) struct Checkpoint {
    /// The branch [env: AGENTFS_BRANCH]
    #[arg(value_name = "BRANCH")]
    pub(crate) branch: Option<String>,
    /// So many automatic snapshots of the branch stay [env: AGENTFS_CHECKPOINT_KEEP] [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep: Option<u32>,
    /// Say nothing when it worked
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl Checkpoint {
    /// How many stay.
    pub(crate) fn keep(&self) -> u32 {
        let told = || std::env::var("AGENTFS_CHECKPOINT_KEEP").ok()?.parse().ok().filter(|keep| *keep > 0);
        self.keep.or_else(told).unwrap_or(KEEP)
    }
}

fn when(text: &str) -> Result<When, String> {
    let wrong = || "give each-command, or a time like 5-minutes, 5m, 30s or 1h".to_owned();
    if text == "each-command" {
        return Ok(When::EachCommand);
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "s" | "-seconds" | "-second" => 1,
        "m" | "-minutes" | "-minute" => 60,
        "h" | "-hours" | "-hour" => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| (1..=u64::from(u32::MAX)).contains(seconds));
    seconds.map(|seconds| When::Every(Duration::from_secs(seconds))).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
