//! What becomes of the content files of two epochs that become one. A merge lets several states share them.

use super::fold::{Piece, content};
use crate::core::error::FsResult;
use crate::core::ids::{ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{ContentRecord, ObjectRecord};

impl Piece<'_> {
    /// Who else uses a content: epochs with a record of the object that has it.
    fn users(&self, object: ObjectId, id: ContentId, without: &[EpochId]) -> Vec<EpochId> {
        let prefix = keys::prefix(b'O', &[object.0]);
        let mut users = Vec::new();
        self.core.store.scan(&prefix, &mut |key, value| {
            let inside = key.starts_with(&prefix);
            if inside
                && let Some(epoch) = keys::number(key, 1).map(EpochId).filter(|epoch| !without.contains(epoch))
                && let Ok(record) = ObjectRecord::decode(value)
                && content(&record) == Some(id)
            {
                users.push(epoch);
            }
            inside
        });
        users
    }

    fn owner(&self, id: ContentId) -> FsResult<Option<ContentRecord>> {
        let bytes = self.core.store.get(&keys::content(id));
        Ok(bytes.map(|bytes| ContentRecord::decode(&bytes)).transpose()?)
    }

    /// A record moves from one epoch to another, and with it the right to its content. A head writes to what it owns:
    /// it gets none that others use.
    pub(super) fn own(&mut self, record: &ObjectRecord, from: EpochId, to: EpochId) -> FsResult<()> {
        let Some(id) = content(record) else { return Ok(()) };
        let Some(owner) = self.owner(id)?.filter(|owner| owner.epoch == from) else { return Ok(()) };
        let mut epoch = to;
        if self.epochs.is_head(to) {
            let users = self.users(owner.object, id, &[self.fold.older, self.fold.younger]);
            match users.iter().find(|user| !self.epochs.is_head(**user)) {
                Some(frozen) => epoch = *frozen,
                None if users.is_empty() => {}
                None => self.done.pinned = true,
            }
        }
        self.batch.put(keys::content(id), ContentRecord { epoch, ..owner }.encode());
        Ok(())
    }

    /// A record goes, with its content unless somebody else needs it. `leaving` are the epochs that no longer do.
    pub(super) fn release(&mut self, record: &ObjectRecord, leaving: &[EpochId]) -> FsResult<()> {
        let (older, younger) = (self.fold.older, self.fold.younger);
        let Some(id) = content(record) else { return Ok(()) };
        let Some(owner) = self.owner(id)?.filter(|owner| owner.epoch == older || owner.epoch == younger) else {
            return Ok(());
        };
        let users = self.users(owner.object, id, leaving);
        let frozen = users.iter().find(|user| !self.epochs.is_head(**user));
        match (frozen, users.as_slice()) {
            (_, []) => {
                self.batch.delete(keys::content(id));
                self.done.gone.push(id);
            }
            (Some(epoch), _) => {
                self.batch.put(keys::content(id), ContentRecord { epoch: *epoch, ..owner }.encode());
            }
            (None, _) => self.done.pinned = true,
        }
        Ok(())
    }
}
