//! A view: what one branch (or snapshot) sees. Resolution of versioned records along its epochs.

use super::base::{Base, BaseStat};
use super::error::{FsError, FsResult};
use super::ids::{BranchId, EpochId, ObjectId};
use super::keys;
use super::merged::Merged;
use super::record::{Body, DirentRecord, FileBody, ObjectRecord, XattrSet};
use crate::store::Store;
use shm_transport::wire::FileKind;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A path through the version tree and the base at its end.
#[derive(Clone)]
pub struct View {
    /// The branch.
    pub branch: BranchId,
    /// Epochs, nearest first. The first takes the changes unless the view is a snapshot's.
    pub chain: Arc<[EpochId]>,
    /// The base, if any.
    pub base: Option<Arc<Base>>,
    /// The base is declared frozen: what it says may be kept for long.
    pub frozen_base: bool,
    /// The root directory.
    pub root: ObjectId,
    /// The records.
    pub store: Arc<dyn Store>,
    /// What frozen epochs show of directories that many of them changed.
    pub merged: Arc<Merged>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("branch", &self.branch).field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Where a name leads.
#[derive(Debug, Clone, Copy)]
pub struct Child {
    /// The object.
    pub object: ObjectId,
    /// Its kind.
    pub kind: FileKind,
    /// What the base says of it, when the name was found there.
    pub found: Option<BaseStat>,
}

/// A record and the epoch that it was found in.
#[derive(Debug, Clone)]
pub struct Versioned<T> {
    /// The epoch.
    pub epoch: EpochId,
    /// The record.
    pub value: T,
}

impl View {
    /// The epoch that takes changes.
    pub fn head(&self) -> EpochId {
        self.chain.first().copied().unwrap_or(EpochId(0))
    }

    /// The base for an object that comes from it; `None` for an object made on a branch.
    pub fn base_of(&self, object: ObjectId) -> Option<&Arc<Base>> {
        self.base.as_ref().filter(|_| object.is_base())
    }

    /// The object's nearest record; `None` for a base object that was never changed.
    pub fn object(&self, object: ObjectId) -> FsResult<Option<Versioned<ObjectRecord>>> {
        self.object_from(object, 0)
    }

    /// The same from the `from`-th epoch of the chain on.
    pub(super) fn object_from(&self, object: ObjectId, from: usize) -> FsResult<Option<Versioned<ObjectRecord>>> {
        let prefix = keys::prefix(b'O', &[object.0]);
        let found = self.nearest(&prefix, from, |b| ObjectRecord::decode(b).map_err(|_| FsError::Damaged("object")))?;
        let Some(mut found) = found else { return Ok(None) };
        if found.value.body == Body::File(FileBody::Base)
            && let Some(kept) = self.kept_bytes(object)?
        {
            found.value.body = kept;
        }
        Ok(Some(found))
    }

    /// The bytes of a base file that a commit has replaced since.
    fn kept_bytes(&self, object: ObjectId) -> FsResult<Option<Body>> {
        for epoch in self.ground()? {
            if let Some(bytes) = self.store.get(&keys::object(object, *epoch)) {
                let body = ObjectRecord::decode(&bytes).map_err(|_| FsError::Damaged("object"))?.body;
                if body != Body::File(FileBody::Base) {
                    return Ok(Some(body));
                }
            }
        }
        Ok(None)
    }

    /// The object's nearest set of extended attributes; `None` when the base's count.
    pub fn xattrs(&self, object: ObjectId) -> FsResult<Option<Versioned<XattrSet>>> {
        let prefix = keys::prefix(b'X', &[object.0]);
        self.nearest(&prefix, 0, |b| XattrSet::decode(b).map_err(|_| FsError::Damaged("xattrs")))
    }

    /// The nearest record of a name; `None` when the base decides.
    pub fn dirent(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<Versioned<DirentRecord>>> {
        self.dirent_from(dir, name, 0)
    }

    /// Where `name` leads in `dir`.
    pub fn child(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<Child>> {
        match self.dirent(dir, name)?.map(|v| v.value) {
            Some(DirentRecord::Whiteout) => Ok(None),
            Some(DirentRecord::Entry { object, kind }) => Ok(Some(Child { object, kind, found: None })),
            None => match self.base_of(dir) {
                None => Ok(None),
                Some(base) => Ok(base.lookup(dir, name)?.map(|found| Child {
                    object: found.object,
                    kind: found.kind,
                    found: Some(found),
                })),
            },
        }
    }

    /// Visits every name in `dir` until `visit` answers `false`: recorded names in byte order, and the base's
    /// that no record decides in the host's.
    pub fn each_name(&self, dir: ObjectId, mut visit: impl FnMut(&[u8], ObjectId, FileKind) -> bool) -> FsResult<()> {
        let recorded = self.recorded_names(dir)?;
        for (name, record) in &recorded {
            if let DirentRecord::Entry { object, kind } = record
                && !visit(name, *object, *kind)
            {
                return Ok(());
            }
        }
        match self.base_of(dir) {
            // A removed directory inherits nothing any more.
            Some(base) if self.object(dir)?.is_none_or(|v| v.value.nlink > 0) => {
                base.each(dir, &mut |name, object, kind| recorded.contains_key(name) || visit(name, object, kind))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Every name in `dir`, in byte order.
    pub fn names(&self, dir: ObjectId) -> FsResult<BTreeMap<Vec<u8>, (ObjectId, FileKind)>> {
        let mut names = BTreeMap::new();
        self.each_name(dir, |name, object, kind| {
            names.insert(name.to_vec(), (object, kind));
            true
        })?;
        Ok(names)
    }

    /// Whether `dir` has no names.
    pub fn is_empty(&self, dir: ObjectId) -> FsResult<bool> {
        let mut empty = true;
        self.each_name(dir, |_, _, _| {
            empty = false;
            false
        })?;
        Ok(empty)
    }
}
