//! The bases that views are of.
//!
//! A branch reads its base directory as it is; the first epoch of a tree may name a *sealed* base in its place, a copy of the
//! directory in the store ([`EpochRecord::base`]). Both have numbers of their own, so that what is known of objects of the
//! one says nothing of the other.

use super::base::Base;
use super::error::{FsError, FsResult};
use super::ids::{BaseId, EpochId};
use super::keys;
use super::record::{BaseRecord, EpochRecord};
use super::state::{Core, lock};
use super::view::View;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Core {
    /// Whether a base in this directory could be opened.
    pub fn reaches(&self, base: &Path) -> FsResult<()> {
        self.grounds.open(base).map(drop)
    }

    /// The directories of all bases.
    pub fn base_paths(&self) -> Vec<PathBuf> {
        let prefix = keys::prefix(b'A', &[]);
        let mut paths = Vec::new();
        self.store.scan(&prefix, &mut |key, value| {
            let inside = key.starts_with(&prefix);
            if inside && let Ok(record) = BaseRecord::decode(value) {
                paths.push(PathBuf::from(OsString::from_vec(record.path)));
            }
            inside
        });
        // A copy has the path of its original.
        paths.sort();
        paths.dedup();
        paths
    }

    /// The record of a base.
    pub fn base_record(&self, id: BaseId) -> FsResult<BaseRecord> {
        let bytes = self.store.get(&keys::base(id)).ok_or(FsError::NotFound)?;
        BaseRecord::decode(&bytes).map_err(|_| FsError::Damaged("base"))
    }

    /// The base, opened at first use.
    pub fn base(&self, id: BaseId) -> FsResult<Arc<Base>> {
        let mut bases = lock(&self.bases);
        if let Some(base) = bases.get(&id) {
            return Ok(Arc::clone(base));
        }
        let base = Arc::new(Base::open(&self.grounds, id, self.base_record(id)?, Arc::clone(&self.store))?);
        bases.insert(id, Arc::clone(&base));
        Ok(base)
    }

    /// Opens a base that has no record yet.
    pub fn adopt_base(&self, id: BaseId, record: BaseRecord) -> FsResult<()> {
        let base = Base::open(&self.grounds, id, record, Arc::clone(&self.store))?;
        lock(&self.bases).insert(id, Arc::new(base));
        Ok(())
    }

    /// Forgets a base that was removed.
    pub fn forget_base(&self, id: BaseId) {
        lock(&self.bases).remove(&id);
    }

    /// The sealed base at the end of a chain, if there is one.
    pub fn sealed_base(&self, chain: &[EpochId]) -> FsResult<Option<BaseId>> {
        let Some(first) = chain.last() else { return Ok(None) };
        let bytes = self.store.get(&keys::epoch(*first)).ok_or(FsError::Damaged("epoch missing"))?;
        Ok(EpochRecord::decode(&bytes)?.base)
    }

    /// A view of the branch's own base, with no copy in between.
    pub fn view_of_directory(&self, view: &View) -> FsResult<View> {
        let record = self.branch_record(view.branch)?;
        let base = record.base.map(|base| self.base(base)).transpose()?;
        Ok(View { base, frozen_base: record.frozen_base, ..view.clone() })
    }

    /// The same view over the directory as it is now. Of a sealed base that is the original: what a branch changed is found
    /// there by where it was when it was copied.
    pub fn over_original(&self, view: &View) -> FsResult<View> {
        let Some(sealed) = view.base.as_ref().filter(|base| base.is_sealed()) else { return Ok(view.clone()) };
        let record = BaseRecord { seal: None, ..sealed.record.clone() };
        let original = Base::open(&self.grounds, sealed.id, record, Arc::clone(&self.store))?;
        Ok(View { base: Some(Arc::new(original)), frozen_base: false, ..view.clone() })
    }
}
