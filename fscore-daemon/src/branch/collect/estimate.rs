//! What a collection would do.

use super::super::Branches;
use super::super::delete::Fate;
use super::super::epochs::{Epochs, Run};
use super::super::paths::parse;
use crate::core::error::FsResult;
use crate::core::ids::{BranchId, ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, ContentRecord, DirentRecord, FileBody, ObjectRecord};
use crate::store::Store;
use shm_transport::control::Collected;
use std::collections::{BTreeSet, HashMap, HashSet};

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
        for run in epochs.runs() {
            if only.is_none_or(|only| epochs.branch(run.top).is_some_and(|id| only.contains(&id))) {
                folded += run.below.len() as u64;
                self.hidden(&run, &mut left, &mut freed)?;
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

    /// Contents that the states of a run have and its top does not show. The youngest state comes first, so that what
    /// is above a record is known from the records before: each is read once. Of the top, which may be large, only
    /// what the others ask for is read.
    fn hidden(&self, run: &Run, left: &mut usize, freed: &mut BTreeSet<ContentId>) -> FsResult<()> {
        let store = self.core.store.as_ref();
        let mut above = Above { store, top: run.top, objects: HashMap::new(), names: HashSet::new() };
        let mut epochs = HashSet::from([run.top]);
        for &epoch in &run.below {
            if *left == 0 {
                break;
            }
            epochs.insert(epoch);
            let mut lost = HashSet::new();
            // In this order: names, then objects.
            self.each_change(epoch, left, |_, letter, number, name| {
                if letter == b'D' {
                    let Some(bytes) = store.get(&keys::dirent(number, epoch, name)) else { return Ok(()) };
                    if above.decides(number, name)
                        && let DirentRecord::Entry { object, .. } = DirentRecord::decode(&bytes)?
                    {
                        lost.insert(object);
                    }
                    return Ok(());
                }
                if letter != b'O' {
                    return Ok(());
                }
                let Some(record) = object_of(store, number, epoch)? else { return Ok(()) };
                let newest = above.object(number, &record)?;
                let Body::File(FileBody::Content(id)) = record.body else { return Ok(()) };
                let goes = match newest {
                    Some(newest) => newest.content != Some(id) || newest.nameless,
                    None => lost.contains(&number) && !number.is_base() || record.nlink == 0,
                };
                if goes
                    && let Some(bytes) = store.get(&keys::content(id))
                    && epochs.contains(&ContentRecord::decode(&bytes)?.epoch)
                {
                    freed.insert(id);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// What the states of a run above the one that is looked at decide.
struct Above<'a> {
    store: &'a dyn Store,
    top: EpochId,
    /// The youngest record of each object.
    objects: HashMap<ObjectId, Newest>,
    names: HashSet<(ObjectId, Vec<u8>)>,
}

/// Of an object's youngest record, what says whether an older content is still shown.
#[derive(Debug, Clone, Copy)]
struct Newest {
    content: Option<ContentId>,
    nameless: bool,
}

impl Newest {
    fn of(record: &ObjectRecord) -> Self {
        Self { content: super::fold::content(record), nameless: record.nlink == 0 }
    }
}

impl Above<'_> {
    /// Whether a name is decided above; from now on it is.
    fn decides(&mut self, dir: ObjectId, name: &[u8]) -> bool {
        let first = self.names.insert((dir, name.to_vec()));
        !first || self.store.get(&keys::dirent(dir, self.top, name)).is_some()
    }

    /// The youngest record of an object above, if there is any; from now on `record` is one.
    fn object(&mut self, object: ObjectId, record: &ObjectRecord) -> FsResult<Option<Newest>> {
        if let Some(known) = self.objects.get(&object) {
            return Ok(Some(*known));
        }
        let newest = object_of(self.store, object, self.top)?.map(|above| Newest::of(&above));
        self.objects.insert(object, newest.unwrap_or_else(|| Newest::of(record)));
        Ok(newest)
    }
}

fn object_of(store: &dyn Store, object: ObjectId, epoch: EpochId) -> FsResult<Option<ObjectRecord>> {
    let bytes = store.get(&keys::object(object, epoch));
    Ok(bytes.map(|bytes| ObjectRecord::decode(&bytes)).transpose()?)
}
