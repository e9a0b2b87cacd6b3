//! Freezing a head while the kernel writes some of its content files itself, see `core/backing.rs`. Those files stay with
//! the head; what is frozen gets copies.
//!
//! Nobody can keep the kernel from writing, so that a copy counts only if its file did not change since it was begun. In the
//! end that holds for all of them at one moment, and no request of the mount runs meanwhile: the frozen state is one that
//! was there. A file that never rests is in the way of that, and the caller is told so.

use super::Branches;
use super::info::{fail, fail_store, refuse};
use crate::core::ids::{ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, ContentRecord, FileBody, ObjectRecord};
use crate::core::state::{Branch, Core};
use crate::core::view::View;
use crate::store::Batch;
use nix::sys::stat::FileStat;
use shm_transport::control::{ErrorCode, Failure};
use std::os::fd::AsFd;
use std::time::Duration;

/// How often what changed meanwhile is copied again.
const TRIES: usize = 12;
/// A file's times tell two changes apart that lie further from each other than this: the longest tick of a kernel, twice.
const TICK: Duration = Duration::from_millis(20);

/// What tells that a file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(stat: &FileStat) -> Self {
        Self {
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Whether a change from now on gives other times.
    fn is_settled(&self, now: Duration) -> bool {
        let changed = Duration::new(self.ctime.0.unsigned_abs(), u32::try_from(self.ctime.1).unwrap_or_default());
        now.saturating_sub(changed) > TICK || changed > now
    }
}

/// A file that stays with the head.
#[derive(Debug)]
struct Copied {
    object: ObjectId,
    record: ObjectRecord,
    kept: ContentId,
    copy: ContentId,
    /// Of the file, from before the present copy was begun. None: it is still to be made.
    stamp: Option<Stamp>,
}

/// The copies for what is frozen.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<Copied>);

impl Branches {
    /// Syncs what will be copied.
    pub(super) fn sync_backed(&self, branch: &Branch) -> Result<(), Failure> {
        for (object, _) in self.core.backed(branch.id) {
            let Some(found) = branch.view().object(object).map_err(fail)? else { continue };
            if let Body::File(FileBody::Content(id)) = found.value.body {
                let content = self.core.content(id).map_err(fail)?;
                content.sync(true).map_err(|e| fail_store("sync a content file", &e))?;
            }
        }
        Ok(())
    }

    /// Makes them. The caller has the branch's view, so that no request runs.
    pub(super) fn copies_of_backed(&self, branch: &Branch, view: &View) -> Result<Copies, Failure> {
        let mut copies = Copies::default();
        for (object, _) in self.core.backed(branch.id) {
            let Some(found) = view.object(object).map_err(fail)? else { continue };
            let Body::File(FileBody::Content(kept)) = found.value.body else { continue };
            let owner = self.core.store.get(&keys::content(kept)).and_then(|bytes| ContentRecord::decode(&bytes).ok());
            if found.epoch == view.head() && owner.is_some_and(|owner| owner.epoch == view.head()) {
                let copy = self.core.new_content().map_err(fail)?;
                copies.0.push(Copied { object, record: found.value, kept, copy, stamp: None });
            }
        }
        match self.make(&mut copies) {
            Ok(None) => Ok(copies),
            Ok(Some(restless)) => {
                copies.settle(&self.core, false);
                let name = self.name_of(branch.id);
                Err(refuse(
                    ErrorCode::Busy,
                    format!("a file of branch {name:?}, inode {restless}, is written without a pause"),
                )
                .hint("let its writer pause, or mount the branch without passthrough")
                .done())
            }
            Err(failure) => {
                copies.settle(&self.core, false);
                Err(failure)
            }
        }
    }

    /// Copies until nothing changes meanwhile; else gives one that still does.
    fn make(&self, copies: &mut Copies) -> Result<Option<ObjectId>, Failure> {
        let mut restless = None;
        for _ in 0..TRIES {
            for file in copies.0.iter_mut().filter(|file| file.stamp.is_none()) {
                file.stamp = self.copy(file)?;
            }
            restless = None;
            for file in &mut copies.0 {
                let now =
                    Stamp::of(&self.core.contents.stat(file.kept).map_err(|e| fail_store("stat a content file", &e))?);
                if file.stamp != Some(now) {
                    file.stamp = None;
                    restless = Some(file.object);
                }
            }
            if restless.is_none() {
                break;
            }
            std::thread::sleep(TICK);
        }
        if !copies.0.is_empty() {
            tracing::info!(
                files = copies.0.len(),
                settled = restless.is_none(),
                "copied files that the kernel writes itself"
            );
        }
        Ok(restless)
    }

    /// One copy, durable. `None`: the file was changed a moment ago, and whether it is again could not be told.
    fn copy(&self, file: &Copied) -> Result<Option<Stamp>, Failure> {
        let kept = self.core.content(file.kept).map_err(fail)?;
        // Has the kernel notice the next store through a mapping, too, and set the times by it.
        kept.sync(true).map_err(|e| fail_store("sync a content file", &e))?;
        let stamp = Stamp::of(&self.core.contents.stat(file.kept).map_err(|e| fail_store("stat a content file", &e))?);
        let now = self.core.clock.now();
        let now = Duration::new(now.sec.unsigned_abs(), now.nsec);
        if !stamp.is_settled(now) {
            return Ok(None);
        }
        let copied = self.core.contents.copy_from(file.copy, kept.as_fd(), None);
        let (copy, _) = copied.map_err(|e| fail_store("copy a content file", &e))?;
        copy.sync(true).map_err(|e| fail_store("sync a copy", &e))?;
        Ok(Some(stamp))
    }
}

impl Copies {
    /// Gives the files to the new head, and the copies to the old one.
    pub(super) fn put(&self, batch: &mut Batch, old: EpochId, new: EpochId) {
        for Copied { object, record, kept, copy, .. } in &self.0 {
            let frozen = ObjectRecord { body: Body::File(FileBody::Content(*copy)), ..record.clone() };
            batch.put(keys::object(*object, old), frozen.encode());
            batch.put(keys::content(*copy), ContentRecord { object: *object, epoch: old }.encode());
            batch.put(keys::changed_object(new, *object), []);
            batch.put(keys::object(*object, new), record.encode());
            batch.put(keys::content(*kept), ContentRecord { object: *object, epoch: new }.encode());
        }
    }

    /// Removes the copies again unless they are `used`.
    pub(super) fn settle(&self, core: &Core, used: bool) {
        for file in self.0.iter().filter(|_| !used) {
            // After a write of the log that failed, its record may be there all the same: the next start decides.
            if core.store.get(&keys::content(file.copy)).is_none()
                && let Err(error) = core.contents.remove(file.copy)
            {
                tracing::warn!(content = %file.copy, %error, "an unused copy stays until the next start");
            }
        }
    }
}
