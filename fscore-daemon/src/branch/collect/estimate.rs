//! What a collection would do.

use super::super::Branches;
use super::super::delete::Fate;
use super::super::epochs::Epochs;
use super::super::paths::parse;
use crate::core::error::FsResult;
use crate::core::ids::{BranchId, ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, ContentRecord, DirentRecord, FileBody, ObjectRecord};
use shm_transport::control::Collected;
use std::collections::BTreeSet;

impl Branches {
    /// Counts what would go. Of the bytes only those in the first `most` records that have to be looked at.
    pub(super) fn estimate(&self, only: Option<&BTreeSet<BranchId>>, most: usize) -> FsResult<Collected> {
        let epochs = Epochs::read(self.core.store.as_ref())?;
        let gone = self.garbage_in(&epochs, only);
        let mut left = most;
        let mut freed = BTreeSet::new();
        for &epoch in &gone {
            self.each_change(epoch, &mut left, |_, letter, object, _| {
                let record = (letter == b'O').then(|| self.core.store.get(&keys::object(object, epoch))).flatten();
                if let Some((content, Fate::Removed)) = record.and_then(|bytes| self.content_of(&bytes, &gone)) {
                    freed.insert(content);
                }
                Ok(())
            })?;
        }
        let mut folded = 0;
        for (older, _) in epochs.pairs() {
            if only.is_none_or(|only| epochs.branch(older).is_some_and(|id| only.contains(&id))) {
                folded += 1;
                self.hidden(&epochs, older, &mut left, &mut freed)?;
            }
        }
        let bytes = freed.iter().map(|id| self.bytes_of(*id)).sum();
        Ok(Collected {
            dry_run: true,
            removed: gone.len() as u64,
            folded,
            contents: freed.len() as u64,
            bytes,
            left: left == 0,
            ..Collected::default()
        })
    }

    fn each_change(
        &self,
        epoch: EpochId,
        left: &mut usize,
        mut visit: impl FnMut(&Self, u8, ObjectId, &[u8]) -> FsResult<()>,
    ) -> FsResult<()> {
        let prefix = keys::changes(epoch);
        let mut index: Vec<Vec<u8>> = Vec::new();
        self.core.store.scan(&prefix, &mut |key, _| {
            let inside = key.starts_with(&prefix) && index.len() < *left;
            if inside {
                index.push(key.to_vec());
            }
            inside
        });
        *left -= index.len();
        for key in index {
            if let Some((letter, number, tail)) = parse(&key) {
                visit(self, letter, ObjectId(number), tail)?;
            }
        }
        Ok(())
    }

    /// Contents of an epoch that the states above it, up to the first that somebody can look at, do not show.
    fn hidden(
        &self,
        epochs: &Epochs,
        older: EpochId,
        left: &mut usize,
        freed: &mut BTreeSet<ContentId>,
    ) -> FsResult<()> {
        let above: Vec<EpochId> =
            std::iter::successors(epochs.only_child(older), |at| epochs.only_child(*at)).collect();
        let store = &self.core.store;
        let object = |object, epoch| {
            store.get(&keys::object(object, epoch)).map(|bytes| ObjectRecord::decode(&bytes)).transpose()
        };
        let newer = |of: ObjectId| -> FsResult<Option<ObjectRecord>> {
            for &epoch in above.iter().rev() {
                if let Some(record) = object(of, epoch)? {
                    return Ok(Some(record));
                }
            }
            Ok(None)
        };
        let mut lost = BTreeSet::new();
        self.each_change(older, left, |_, letter, number, name| {
            if letter == b'D' {
                let bytes = store.get(&keys::dirent(number, older, name));
                let hidden = above.iter().any(|epoch| store.get(&keys::dirent(number, *epoch, name)).is_some());
                if let (true, Some(bytes)) = (hidden, bytes)
                    && let DirentRecord::Entry { object, .. } = DirentRecord::decode(&bytes)?
                {
                    lost.insert(object);
                }
                return Ok(());
            }
            if letter != b'O' {
                return Ok(());
            }
            let Some(record) = object(number, older)? else { return Ok(()) };
            let Body::File(FileBody::Content(id)) = record.body else { return Ok(()) };
            let goes = match newer(number)? {
                Some(newer) => newer.body != record.body || newer.nlink == 0,
                None => lost.contains(&number) && !number.is_base() || record.nlink == 0,
            };
            let owner = store.get(&keys::content(id)).map(|bytes| ContentRecord::decode(&bytes)).transpose()?;
            if goes && owner.is_some_and(|owner| owner.epoch == older || above.contains(&owner.epoch)) {
                freed.insert(id);
            }
            Ok(())
        })
    }
}
