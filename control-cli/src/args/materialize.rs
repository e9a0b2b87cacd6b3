//! How a new branch gets its base.

use crate::error::{CliError, Kind, Result};
use clap::{Args, ValueEnum};
use std::path::Path;

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// The base as it is at any time; takes no time and no space
    Lazy,
    /// A copy in the store: the branch shows the base as it was, whatever happens to it
    Eager,
    /// The same with shared blocks where the file system can (btrfs, xfs), else copied
    CloneEager,
}

/// Of a branch that is made.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Materialize {
    /// What a new branch shows of its base
    #[arg(long, value_name = "HOW", value_enum, default_value_t = How::Lazy)]
    materialize: How,
    /// With clone-eager: make no branch where blocks cannot be shared
    #[arg(long)]
    require_clone: bool,
}

/// A copy to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Of this directory.
    pub(crate) base: &'a Path,
    /// Blocks are to be shared.
    pub(crate) clone: bool,
    /// Or nothing is to be made.
    pub(crate) required: bool,
}

impl Materialize {
    /// The copy that is asked for, if one is.
    pub(crate) fn wanted(self, base: Option<&Path>) -> Result<Option<Wanted<'_>>> {
        let clone = self.materialize == How::CloneEager;
        if self.require_clone && !clone {
            return Err(CliError::new(Kind::Usage, "--require-clone says how to do --materialize clone-eager")
                .hint("add --materialize clone-eager, or leave --require-clone out"));
        }
        match (self.materialize, base) {
            (How::Lazy, _) => Ok(None),
            (How::Eager | How::CloneEager, Some(base)) => {
                Ok(Some(Wanted { base, clone, required: self.require_clone }))
            }
            (How::Eager | How::CloneEager, None) => Err(CliError::new(Kind::Usage, "there is no base to copy")
                .hint("name it with --base; a branch made with --from shows what its source shows")),
        }
    }
}
