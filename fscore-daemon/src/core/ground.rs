//! The ground that a branch of a base stands on: what the base had at the paths that were committed into it since.
//!
//! Each branch of a base inherits from its epochs of ground, and these go on to those of later commits. A commit puts what it
//! is about to replace into the last one, so that all others go on to see that. These records are no changes of a branch.
//!
//! Epochs are younger than what they inherit from. Those of ground come the other way: what was replaced first is asked for
//! first. So their numbers are kept free for a base, and descend.

use super::error::{FsError, FsResult};
use super::ids::{BranchId, EpochId};
use super::keys;
use super::record::EpochRecord;
use super::view::View;

/// Whom epochs of ground belong to.
pub const NOBODY: BranchId = BranchId(0);

impl View {
    /// The epochs that say what the view changed, nearest first; what they stand on comes behind.
    pub fn own(&self) -> FsResult<&[EpochId]> {
        let mut end = self.chain.len();
        while let Some(epoch) = end.checked_sub(1).and_then(|at| self.chain.get(at)) {
            let bytes = self.store.get(&keys::epoch(*epoch)).ok_or(FsError::Damaged("epoch missing"))?;
            if EpochRecord::decode(&bytes)?.branch != NOBODY {
                break;
            }
            end -= 1;
        }
        Ok(self.chain.get(..end).unwrap_or_default())
    }

    /// The epochs of ground.
    pub fn ground(&self) -> FsResult<&[EpochId]> {
        let own = self.own()?.len();
        Ok(self.chain.get(own..).unwrap_or_default())
    }
}
