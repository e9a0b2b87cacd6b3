//! One mutation's batch, with the change index kept beside the records.

use super::error::FsResult;
use super::ids::{BranchId, ContentId, EpochId, ObjectId};
use super::keys;
use super::record::{BaseIdentity, ContentRecord, DirentRecord, ObjectRecord, XattrSet};
use super::view::View;
use crate::store::{Batch, Store};

/// Collects what one mutation changes at the head of a view.
#[derive(Debug)]
pub struct Change {
    /// The batch so far.
    pub batch: Batch,
    /// An object lost its last name.
    pub removes: bool,
    epoch: EpochId,
    branch: BranchId,
}

impl Change {
    /// An empty change at the view's head.
    pub fn new(view: &View) -> Self {
        Self { batch: Batch::default(), removes: false, epoch: view.head(), branch: view.branch }
    }

    /// Sets the object's record.
    pub fn object(&mut self, object: ObjectId, record: &ObjectRecord) {
        self.batch.put(keys::changed_object(self.epoch, object), []);
        self.batch.put(keys::object(object, self.epoch), record.encode());
    }

    /// Removes the head's record of an object that no other epoch knows.
    pub fn drop_object(&mut self, object: ObjectId) {
        self.batch.delete(keys::changed_object(self.epoch, object));
        self.batch.delete(keys::object(object, self.epoch));
    }

    /// Sets what a name leads to. `inherited` says whether the name leads somewhere without the head's
    /// record (in an ancestor or in the base): only then does a removal need a whiteout.
    pub fn dirent(&mut self, dir: ObjectId, name: &[u8], record: DirentRecord, inherited: bool) {
        let (index, key) = (keys::changed_dirent(self.epoch, dir, name), keys::dirent(dir, self.epoch, name));
        if record == DirentRecord::Whiteout && !inherited {
            self.batch.delete(index);
            self.batch.delete(key);
        } else {
            self.batch.put(index, []);
            self.batch.put(key, record.encode());
        }
    }

    /// Sets the object's extended attributes.
    pub fn xattrs(&mut self, object: ObjectId, set: &XattrSet) {
        self.batch.put(keys::changed_xattrs(self.epoch, object), []);
        self.batch.put(keys::xattrs(object, self.epoch), set.encode());
    }

    /// Those that a new object begins with, if any.
    pub fn first_xattrs(&mut self, object: ObjectId, set: &XattrSet) {
        if !set.0.is_empty() {
            self.xattrs(object, set);
        }
    }

    /// Removes the head's extended attributes of an object that no other epoch knows.
    pub fn drop_xattrs(&mut self, object: ObjectId) {
        self.batch.delete(keys::changed_xattrs(self.epoch, object));
        self.batch.delete(keys::xattrs(object, self.epoch));
    }

    /// Records a content file as owned by the head.
    pub fn content(&mut self, id: ContentId, object: ObjectId) {
        self.batch.put(keys::content(id), ContentRecord { object, epoch: self.epoch }.encode());
    }

    /// Forgets a content file; the caller removes it after the commit.
    pub fn drop_content(&mut self, id: ContentId) {
        self.batch.delete(keys::content(id));
    }

    /// Marks an object without names that may still be open.
    pub fn orphan(&mut self, object: ObjectId) {
        self.removes = true;
        self.batch.put(keys::orphan(self.branch, object), []);
    }

    /// It has a name again, or is gone.
    pub fn unorphan(&mut self, object: ObjectId) {
        self.batch.delete(keys::orphan(self.branch, object));
    }

    /// Records what a base object is that the view does not change yet. An epoch that inherits a change of it has what
    /// the base had then from there.
    pub fn preimage(&mut self, object: ObjectId, identity: &BaseIdentity) {
        self.batch.put(keys::preimage(self.epoch, object), identity.encode());
    }

    /// Records which base object a name leads to that the view does not change yet.
    pub fn prename(&mut self, dir: ObjectId, name: &[u8], object: Option<ObjectId>) {
        self.batch.put(keys::prename(self.epoch, dir, name), object.map_or(0, |o| o.0).to_le_bytes());
    }

    /// Applies it.
    pub fn commit(self, store: &dyn Store) -> FsResult<()> {
        if !self.batch.is_empty() {
            store.commit(&self.batch)?;
        }
        Ok(())
    }
}
