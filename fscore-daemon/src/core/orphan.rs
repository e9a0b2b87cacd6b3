//! Objects without a name: kept while somebody may hold them, then given back.

use super::change::Change;
use super::error::{FsError, FsResult};
use super::ids::ObjectId;
use super::keys;
use super::quota::charge;
use super::record::{Body, ContentRecord, FileBody};
use super::session::Session;
use super::state::{Branch, Core, lock};
use super::view::View;
use shm_transport::wire::{NodeId, Reply};

impl Session {
    /// `FORGET`: the kernel holds these nodes no longer.
    pub(super) fn forget(&self, view: &View, nodes: impl Iterator<Item = NodeId>) -> FsResult<Reply> {
        let mut orphans = Vec::new();
        for node in nodes {
            let Ok(object) = self.object(view, node) else { continue };
            lock(&self.seen).remove(&object);
            lock(&self.doubtful).remove(&object);
            lock(&self.emptied).remove(&object);
            if self.core.store.get(&keys::orphan(self.branch.id, object)).is_some() {
                orphans.push(object);
            }
        }
        // Another mount of the branch, attached or on its way back, may hold them; then the last mount's end
        // gives them back.
        if !orphans.is_empty() && self.core.members_of(self.branch.id)?.len() <= 1 {
            reclaim_each(&self.core, &self.branch, view, orphans)?;
        }
        Ok(Reply::Ok)
    }
}

/// Gives back every orphan of a branch that nobody has mounted.
pub fn reclaim_all(core: &Core, branch: &Branch) -> FsResult<()> {
    let view = branch.view();
    let prefix = keys::prefix(b'U', &[branch.id.0]);
    let mut orphans = Vec::new();
    core.store.scan(&prefix, &mut |key, _| {
        let ours = key.starts_with(&prefix);
        if ours && let Some(object) = keys::number(key, 1) {
            orphans.push(ObjectId(object));
        }
        ours
    });
    reclaim_each(core, branch, &view, orphans)
}

/// Gives back all that it can; the first failure is told.
fn reclaim_each(core: &Core, branch: &Branch, view: &View, orphans: Vec<ObjectId>) -> FsResult<()> {
    let failed =
        orphans.into_iter().filter_map(|object| reclaim(core, branch, view, object).err()).reduce(|first, _| first);
    failed.map_or(Ok(()), Err)
}

fn reclaim(core: &Core, branch: &Branch, view: &View, object: ObjectId) -> FsResult<()> {
    let _content = branch.contents.exclusive(object);
    let _names = branch.names();
    let mut change = Change::new(view);
    change.batch.reclaims = true;
    change.unorphan(object);
    let (mut gone, mut freed) = (None, 0);
    let limited = branch.ledger.is_limited();
    let counted = limited && core.is_made_by(branch.id, object)?;
    if let Some(found) = view.object(object)?
        && found.value.nlink == 0
        && found.epoch == view.head()
    {
        if let Body::File(FileBody::Content(id)) = found.value.body {
            let bytes = core.store.get(&keys::content(id)).ok_or(FsError::Damaged("content record missing"))?;
            if ContentRecord::decode(&bytes)?.epoch == view.head() {
                change.drop_content(id);
                freed = core.contents.stat(id).map_or(0, |stat| charge(stat.st_size.max(0) as u64));
                gone = Some(id);
            }
        }
        if view.object_from(object, 1)?.is_some() {
            // What it inherits may be folded into this one day, and must be known to be nobody's then.
            change.object(object, &found.value.tombstone());
        } else {
            change.drop_object(object);
        }
        change.drop_xattrs(object);
    }
    change.commit(core.store.as_ref())?;
    // Another state of the branch may still have it.
    let given_back = counted && !core.is_made_by(branch.id, object)?;
    branch.ledger.release(freed, u64::from(given_back));
    if let Some(id) = gone {
        core.doom(id);
    }
    Ok(())
}
