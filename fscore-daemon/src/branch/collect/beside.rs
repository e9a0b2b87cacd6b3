//! What epochs have beside names and objects, when two of them become one: extended attributes, and what the base had.

use super::fold::{Fold, Piece, Way};
use crate::core::ids::{EpochId, ObjectId};
use crate::core::keys;

impl Piece<'_> {
    pub(super) fn xattrs(&mut self, object: ObjectId) {
        let Fold { older, younger, way, .. } = *self.fold;
        let gone = way != Way::Prune && self.pending.get(&object) == Some(&None);
        if gone || self.fold.dead.contains(&object) {
            return;
        }
        let get = |epoch| self.core.store.get(&keys::xattrs(object, epoch));
        let (above, below) = (get(younger), get(older));
        match (way, above, below) {
            (Way::Sink, Some(set), _) => {
                self.drop_xattrs(object, younger);
                self.put_xattrs(object, older, set);
            }
            (Way::Lift, None, Some(set)) => {
                self.drop_xattrs(object, older);
                self.put_xattrs(object, younger, set);
            }
            (Way::Rise, None, Some(set)) => self.put_xattrs(object, younger, set),
            (Way::Lift | Way::Prune, Some(_), Some(_)) => self.drop_xattrs(object, older),
            _ => {}
        }
    }

    /// What the base had, which moves as other records do: the younger one counts.
    pub(super) fn preimage(&mut self, key: &[u8]) {
        let Fold { older, younger, way, .. } = *self.fold;
        let (Some(&letter), Some(tail)) = (key.first(), keys::tail(key, 1)) else { return };
        let of = |epoch: EpochId| [&keys::prefix(letter, &[epoch.0]), tail].concat();
        let (above, below) = (of(younger), of(older));
        let known = |key: &[u8]| self.core.store.get(key);
        match (way, known(&above), known(&below)) {
            (Way::Sink, Some(value), _) => {
                self.batch.delete(above);
                self.batch.put(below, value);
            }
            (Way::Lift, None, Some(value)) => {
                self.batch.delete(below);
                self.batch.put(above, value);
            }
            (Way::Rise, None, Some(value)) => self.batch.put(above, value),
            (Way::Lift | Way::Prune, Some(_), Some(_)) => self.batch.delete(below),
            _ => {}
        }
    }

    fn put_xattrs(&mut self, object: ObjectId, epoch: EpochId, set: Vec<u8>) {
        self.done.moved += 1;
        self.batch.put(keys::changed_xattrs(epoch, object), []);
        self.batch.put(keys::xattrs(object, epoch), set);
    }

    pub(super) fn drop_xattrs(&mut self, object: ObjectId, epoch: EpochId) {
        self.done.dropped += 1;
        self.batch.delete(keys::changed_xattrs(epoch, object));
        self.batch.delete(keys::xattrs(object, epoch));
    }
}
