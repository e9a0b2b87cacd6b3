//! The ground that a branch of a base stands on: what the base had at the paths that were committed into it since.
//!
//! Each branch of a base inherits from its epochs of ground, and these go on to those of later commits. A commit puts what it
//! is about to replace into the last one, so that all others go on to see that. These records are no changes of a branch.
//!
//! Epochs are younger than what they inherit from. Those of ground come the other way: what was replaced first is asked for
//! first. So their numbers are kept free for a base, and descend.

use super::codec::{Malformed, Reader, Writer};
use super::error::{FsError, FsResult};
use super::ids::{BranchId, EpochId};
use super::keys;
use super::record::EpochRecord;
use super::view::View;

/// Whom epochs of ground belong to.
pub const NOBODY: BranchId = BranchId(0);

/// Layout of the record.
const V: u8 = 1;

/// Where new branches of a base stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroundRecord {
    /// The last of the base's epochs of ground, which is empty.
    pub last: EpochId,
    /// The lowest number that is kept free for the next ones.
    pub lowest: EpochId,
}

impl GroundRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u64(self.last.0).u64(self.lowest.0);
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let it = Self { last: EpochId(r.u64()?), lowest: EpochId(r.u64()?) };
        r.end().map(|()| it)
    }
}

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
