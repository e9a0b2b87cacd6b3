//! What the base had when a view's epochs first changed something of it. As of other records, the nearest counts.

use super::paths::{Changed, Name, scan};
use crate::core::error::{FsError, FsResult};
use crate::core::ids::{EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::BaseIdentity;
use crate::core::view::View;
use crate::store::Batch;
use std::collections::{BTreeMap, BTreeSet};

/// By object (nothing where it is known that the base lost it) and by name, as recorded.
#[derive(Debug, Default)]
pub(super) struct Preimages {
    pub(super) objects: BTreeMap<ObjectId, Vec<u8>>,
    pub(super) names: BTreeMap<Name, Vec<u8>>,
}

/// What the base had at a name when the branch first changed the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    /// The branch did not change it.
    Unknown,
    Nothing,
    Object(ObjectId),
}

impl Preimages {
    /// Everything that the epochs of a view know.
    pub(super) fn of(view: &View) -> FsResult<Self> {
        let mut it = Self::default();
        let store = view.store.as_ref();
        // The nearest come last, and stay.
        for epoch in view.chain.iter().rev() {
            let objects = scan(store, &keys::prefix(b'p', &[epoch.0]), |key, value| {
                Some((ObjectId(keys::number(key, 1)?), value.to_vec()))
            })?;
            it.objects.extend(objects);
            let names = scan(store, &keys::prefix(b'q', &[epoch.0]), |key, value| {
                Some(((ObjectId(keys::number(key, 1)?), keys::tail(key, 2)?.to_vec()), value.to_vec()))
            })?;
            it.names.extend(names);
        }
        Ok(it)
    }

    /// What its own epochs know, and what its ground knows of the things that these changed.
    pub(super) fn of_changes(view: &View, changed: &Changed) -> FsResult<Self> {
        let own = Self::of(&View { chain: view.own()?.into(), ..view.clone() })?;
        let mut all = Self::of(view)?;
        all.names.retain(|name, _| own.names.contains_key(name) || changed.names.contains(name));
        let named: BTreeSet<_> = all.names.values().map(Vec::as_slice).collect();
        all.objects.retain(|object, _| {
            own.objects.contains_key(object)
                || changed.objects.contains(object)
                || named.contains(object.0.to_le_bytes().as_slice())
        });
        Ok(all)
    }

    pub(super) fn put(&self, epoch: EpochId, batch: &mut Batch) {
        for (object, bytes) in &self.objects {
            batch.put(keys::preimage(epoch, *object), bytes.as_slice());
        }
        for ((dir, name), bytes) in &self.names {
            batch.put(keys::prename(epoch, *dir, name), bytes.as_slice());
        }
    }

    pub(super) fn object(&self, object: ObjectId) -> FsResult<Option<BaseIdentity>> {
        let found = self.objects.get(&object).filter(|bytes| !bytes.is_empty());
        Ok(found.map(|bytes| BaseIdentity::decode(bytes)).transpose()?)
    }

    /// Whether the branch knows that the base has lost an object.
    pub(super) fn is_known_gone(&self, object: ObjectId) -> bool {
        self.objects.get(&object).is_some_and(Vec::is_empty)
    }

    pub(super) fn name(&self, dir: ObjectId, name: &[u8]) -> FsResult<Was> {
        let Some(bytes) = self.names.get(&(dir, name.to_vec())) else { return Ok(Was::Unknown) };
        let number = u64::from_le_bytes(bytes.as_slice().try_into().map_err(|_| FsError::Damaged("prename"))?);
        Ok(if number == 0 { Was::Nothing } else { Was::Object(ObjectId(number)) })
    }
}
