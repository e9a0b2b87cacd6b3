//! Names that many frozen epochs decided, merged once and kept in memory.
//!
//! What a frozen epoch shows of a directory never changes, so an entry is right for ever. It is made when a directory
//! was changed in so many epochs of a chain that asking each would show. The exception is an epoch that another one is
//! folded into: nothing is kept of it from then on.

use super::ids::{EpochId, ObjectId};
use super::record::DirentRecord;
use super::state::lock;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

/// Most names kept in all; about 100 bytes each.
const NAMES_MAX: usize = 1 << 20;

/// Most directories for which it is counted how many epochs were asked.
const DEBTS_MAX: usize = 1 << 12;

/// The names that records decide in a directory, as an epoch and its ancestors have them, each with its epoch.
pub type Names = BTreeMap<Box<[u8]>, (EpochId, DirentRecord)>;

/// The names of many directories.
#[derive(Debug, Default)]
pub struct Merged(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    names: HashMap<(ObjectId, EpochId), Arc<Names>>,
    /// Oldest first.
    order: VecDeque<(ObjectId, EpochId)>,
    total: usize,
    barred: HashSet<EpochId>,
    /// How many epochs were asked instead, for directories of which nothing is kept at this one.
    debts: HashMap<(ObjectId, EpochId), usize>,
    /// How often all was dropped.
    turn: u64,
}

impl Merged {
    /// What a frozen epoch shows of a directory, if it is kept.
    pub(super) fn get(&self, dir: ObjectId, epoch: EpochId) -> Option<Arc<Names>> {
        lock(&self.0).names.get(&(dir, epoch)).cloned()
    }

    /// What [`Self::put`] is to be told of the time before the names were looked at.
    pub(super) fn turn(&self) -> u64 {
        lock(&self.0).turn
    }

    /// Keeps it, unless all was dropped since. The oldest make room; what is larger than all the room is not kept.
    pub(super) fn put(&self, dir: ObjectId, epoch: EpochId, names: &Arc<Names>, turn: u64) {
        let size = |names: &Names| names.len() + 1;
        if size(names) > NAMES_MAX {
            return;
        }
        let mut kept = lock(&self.0);
        if kept.barred.contains(&epoch) || kept.turn != turn {
            return;
        }
        if kept.names.insert((dir, epoch), Arc::clone(names)).is_some() {
            return;
        }
        kept.order.push_back((dir, epoch));
        kept.total += size(names);
        while kept.total > NAMES_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            let gone = kept.names.remove(&oldest).map_or(0, |names| size(&names));
            kept.total -= gone;
        }
    }

    /// Whether so many epochs were asked by now, from this one on, that merging them with `names` costs no more; the
    /// count begins anew then.
    pub(super) fn owes(&self, dir: ObjectId, epoch: EpochId, asked: usize, names: usize) -> bool {
        let mut kept = lock(&self.0);
        if kept.debts.len() >= DEBTS_MAX {
            kept.debts.clear();
        }
        let debt = kept.debts.entry((dir, epoch)).or_default();
        *debt += asked;
        let due = *debt > names;
        if due {
            kept.debts.remove(&(dir, epoch));
        }
        due
    }

    /// Drops all.
    pub(super) fn clear(&self) {
        let mut kept = lock(&self.0);
        kept.names.clear();
        kept.order.clear();
        (kept.total, kept.turn) = (0, kept.turn + 1);
    }

    /// Keeps nothing of an epoch any more: it is about to change.
    pub(super) fn bar(&self, epoch: EpochId) {
        let mut kept = lock(&self.0);
        kept.barred.insert(epoch);
        let gone: Vec<_> = kept.order.iter().filter(|(_, of)| *of == epoch).copied().collect();
        for key in &gone {
            let size = kept.names.remove(key).map_or(0, |names| names.len() + 1);
            kept.total -= size;
        }
        kept.order.retain(|(_, of)| *of != epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, EpochId, Merged, NAMES_MAX, Names, ObjectId};
    use crate::core::record::DirentRecord;

    #[test]
    fn the_oldest_make_room() {
        let merged = Merged::default();
        let half: Names =
            (0..NAMES_MAX as u64 / 2).map(|n| (n.to_be_bytes().into(), (EpochId(1), DirentRecord::Whiteout))).collect();
        let half = Arc::new(half);
        for epoch in 1..=3 {
            merged.put(ObjectId(1), EpochId(epoch), &half, 0);
        }
        assert!(merged.get(ObjectId(1), EpochId(3)).is_some());
        merged.bar(EpochId(3));
        merged.put(ObjectId(1), EpochId(3), &half, 0);
        assert!(merged.get(ObjectId(1), EpochId(3)).is_none(), "it changes");
        assert!(merged.get(ObjectId(1), EpochId(1)).is_none());
        merged.clear();
        merged.put(ObjectId(1), EpochId(4), &half, 0);
        assert!(merged.get(ObjectId(1), EpochId(4)).is_none(), "looked at before");
        merged.put(ObjectId(1), EpochId(4), &half, merged.turn());
        assert!(merged.get(ObjectId(1), EpochId(4)).is_some());
    }
}
