//! What a branch may hold of its own, and what it holds: counted from the records when its first mount comes, and
//! kept in memory from then on. Nothing of it is written with an operation.
//!
//! Bytes are those of the content files that the branch owns, each in whole blocks of [`BLOCK`] and with its holes;
//! inodes are the objects that it made. Its snapshots count. A branch without a limit counts nothing.

use super::error::{FsError, FsResult, sys};
use super::ids::{BranchId, EpochId, ObjectId};
use super::keys;
use super::record::{Body, ContentRecord, EpochRecord, FileBody, ObjectRecord, Quota};
use super::state::{Branch, Core, lock};
use super::view::View;
use crate::store::Batch;
use nix::sys::stat::fstat;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sizes count in blocks of so many bytes.
pub const BLOCK: u64 = 4096;
/// Stands for no limit.
const NONE: u64 = u64::MAX;
/// So long after a removal the kernel has told of it, unless the object is open.
const RELEASE_MAX: Duration = Duration::from_millis(100);

/// What a branch holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of its content files.
    pub bytes: u64,
    /// Objects that it made.
    pub inodes: u64,
}

/// What a content file of this size counts.
pub fn charge(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK).unwrap_or(NONE)
}

/// What an open content file counts.
pub(super) fn charge_of(fd: &impl AsFd) -> FsResult<u64> {
    let stat = fstat(fd.as_fd()).map_err(sys("stat content"))?;
    Ok(charge(stat.st_size.max(0) as u64))
}

/// Limits and use of one branch. They change while an operation holds the branch's gate, the limits only while none
/// does.
#[derive(Debug)]
pub struct Ledger {
    bytes_max: AtomicU64,
    inodes_max: AtomicU64,
    bytes: AtomicU64,
    inodes: AtomicU64,
    /// The use is known.
    counted: AtomicBool,
    /// How often removed objects gave back what they held.
    releases: AtomicU64,
    /// When an object lost its last name.
    removed: Mutex<Option<Instant>>,
    bell: Condvar,
}

impl Ledger {
    /// Not counted yet.
    pub fn new(quota: Quota) -> Self {
        let it = Self {
            bytes_max: AtomicU64::new(NONE),
            inodes_max: AtomicU64::new(NONE),
            bytes: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            counted: AtomicBool::new(false),
            releases: AtomicU64::new(0),
            removed: Mutex::new(None),
            bell: Condvar::new(),
        };
        it.limit(quota);
        it
    }

    fn limit(&self, quota: Quota) {
        self.bytes_max.store(quota.bytes.unwrap_or(NONE), Ordering::SeqCst);
        self.inodes_max.store(quota.inodes.unwrap_or(NONE), Ordering::SeqCst);
    }

    /// The limits.
    pub fn quota(&self) -> Quota {
        let limit = |max: &AtomicU64| Some(max.load(Ordering::SeqCst)).filter(|max| *max != NONE);
        Quota { bytes: limit(&self.bytes_max), inodes: limit(&self.inodes_max) }
    }

    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        self.bytes_max.load(Ordering::Relaxed) != NONE || self.inodes_max.load(Ordering::Relaxed) != NONE
    }

    /// What is used, if it is counted.
    pub fn usage(&self) -> Option<Usage> {
        (self.is_limited() && self.counted.load(Ordering::SeqCst))
            .then(|| Usage { bytes: self.bytes.load(Ordering::SeqCst), inodes: self.inodes.load(Ordering::SeqCst) })
    }

    /// Takes room before it is used; what is not kept goes back.
    pub(super) fn take(&self, bytes: u64, inodes: u64) -> FsResult<Taken<'_>> {
        let mut taken = Taken { ledger: self, bytes: 0, inodes: 0 };
        if self.is_limited() {
            take(&self.bytes, &self.bytes_max, bytes)?;
            taken.bytes = bytes;
            take(&self.inodes, &self.inodes_max, inodes)?;
            taken.inodes = inodes;
        }
        Ok(taken)
    }

    /// An object lost its last name: what it holds comes back when the kernel says that nobody has it open.
    pub(super) fn expect(&self) {
        if self.is_limited() {
            *lock(&self.removed) = Some(Instant::now());
        }
    }

    /// Gives back what a removed object held.
    pub(super) fn release(&self, bytes: u64, inodes: u64) {
        self.give_back(bytes, inodes);
        let _removed = lock(&self.removed);
        self.releases.fetch_add(1, Ordering::SeqCst);
        self.bell.notify_all();
    }

    /// So many were there so far.
    pub(super) fn releases(&self) -> u64 {
        self.releases.load(Ordering::SeqCst)
    }

    /// For who was refused, at the time `since`: waits until there were more releases than `seen`. False where none is
    /// to be expected, since nothing was removed just before.
    pub(super) fn await_release(&self, seen: u64, since: Instant) -> bool {
        let removed = lock(&self.removed);
        let Some(last) = *removed else { return false };
        let left = RELEASE_MAX.saturating_sub(last.elapsed()).min(RELEASE_MAX.saturating_sub(since.elapsed()));
        if left.is_zero() {
            return false;
        }
        let waited = self.bell.wait_timeout_while(removed, left, |_| self.releases() == seen);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.releases() != seen
    }

    /// Gives room back.
    pub(super) fn give_back(&self, bytes: u64, inodes: u64) {
        if self.is_limited() {
            give(&self.bytes, bytes);
            give(&self.inodes, inodes);
        }
    }
}

fn take(used: &AtomicU64, max: &AtomicU64, more: u64) -> FsResult<()> {
    let max = max.load(Ordering::Relaxed);
    let within = |used: u64| used.checked_add(more).filter(|sum| *sum <= max || more == 0);
    used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, within).map(drop).map_err(|_| FsError::Quota)
}

fn give(used: &AtomicU64, less: u64) {
    // Always answered with a number.
    used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| Some(used.saturating_sub(less))).ok();
}

/// Room that was taken; goes back unless it is kept.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    ledger: &'a Ledger,
    bytes: u64,
    inodes: u64,
}

impl Taken<'_> {
    /// It is used.
    pub(super) fn keep(mut self) {
        (self.bytes, self.inodes) = (0, 0);
    }

    /// So many of the bytes are used; takes the rest, or gives it back.
    pub(super) fn keep_bytes(mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// As many bytes as it turned out to be.
    pub(super) fn set_bytes(&mut self, bytes: u64) -> FsResult<()> {
        if self.ledger.is_limited() {
            take(&self.ledger.bytes, &self.ledger.bytes_max, bytes.saturating_sub(self.bytes))?;
            give(&self.ledger.bytes, self.bytes.saturating_sub(bytes));
            self.bytes = bytes;
        }
        Ok(())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.ledger.give_back(self.bytes, self.inodes);
    }
}

impl Core {
    /// Counts what a branch with limits uses, unless that is known.
    pub fn count_usage(&self, branch: &Branch) -> FsResult<()> {
        if branch.ledger.is_limited() && !branch.ledger.counted.load(Ordering::SeqCst) {
            let view = branch.view_mut();
            self.count_into(branch, &view)?;
        }
        Ok(())
    }

    /// Sets the limits; `record` makes them those of the record too. No operation runs meanwhile.
    pub fn set_quota<E: From<FsError>>(
        &self,
        branch: &Branch,
        quota: Quota,
        record: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let view = branch.view_mut();
        record()?;
        branch.ledger.limit(quota);
        branch.ledger.counted.store(false, Ordering::SeqCst);
        Ok(self.count_into(branch, &view)?)
    }

    /// Something else than an operation changed what branches own: it is counted afresh where that
    /// was done before.
    pub fn recount(&self, ids: impl IntoIterator<Item = BranchId>) -> FsResult<()> {
        for id in ids {
            let Some(branch) = self.loaded_branch(id).filter(|branch| branch.ledger.is_limited()) else { continue };
            let view = branch.view_mut();
            if branch.ledger.counted.swap(false, Ordering::SeqCst) {
                self.count_into(&branch, &view)?;
            }
        }
        Ok(())
    }

    /// Branches that a batch, which was done, gave contents of others. What they use is to be counted afresh.
    pub fn heirs(&self, batch: &Batch) -> FsResult<BTreeSet<BranchId>> {
        self.owners_in(batch, |_, record| Ok(Some(ContentRecord::decode(record)?)))
    }

    /// Branches whose contents a batch, which is yet to be done, gives to others. So is what these use.
    pub fn givers(&self, batch: &Batch) -> FsResult<BTreeSet<BranchId>> {
        let known = |key: &[u8]| self.store.get(key).map(|record| ContentRecord::decode(&record)).transpose();
        self.owners_in(batch, |key, _| Ok(known(key)?))
    }

    fn owners_in(
        &self,
        batch: &Batch,
        record: impl Fn(&[u8], &[u8]) -> FsResult<Option<ContentRecord>>,
    ) -> FsResult<BTreeSet<BranchId>> {
        let mut owners = BTreeSet::new();
        if !self.loaded_branches().iter().any(|branch| branch.ledger.is_limited()) {
            return Ok(owners);
        }
        for (key, value) in &batch.changes {
            if let (Some(b'K'), Some(value)) = (key.first(), value)
                && let Some(content) = record(key, value)?
            {
                owners.insert(self.epoch_record(content.epoch)?.branch);
            }
        }
        Ok(owners)
    }

    fn count_into(&self, branch: &Branch, view: &View) -> FsResult<()> {
        let ledger = &branch.ledger;
        if ledger.is_limited() && !ledger.counted.load(Ordering::SeqCst) {
            let usage = self.usage_of(branch.id, view.root)?;
            ledger.bytes.store(usage.bytes, Ordering::SeqCst);
            ledger.inodes.store(usage.inodes, Ordering::SeqCst);
            ledger.counted.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// What a branch uses, by its records and content files.
    pub fn usage_of(&self, id: BranchId, root: ObjectId) -> FsResult<Usage> {
        let own = self.epochs_of(id)?;
        let (mut usage, mut contents, mut made) = (Usage::default(), BTreeSet::new(), BTreeSet::new());
        for &epoch in &own {
            for object in self.changed_objects(epoch) {
                let bytes = self.store.get(&keys::object(object, epoch)).ok_or(FsError::Damaged("object missing"))?;
                let record = ObjectRecord::decode(&bytes)?;
                if let Body::File(FileBody::Content(content)) = record.body
                    && let Some(owner) = self.store.get(&keys::content(content))
                    && own.contains(&ContentRecord::decode(&owner)?.epoch)
                    && contents.insert(content)
                {
                    let size = self.contents.stat(content).map_or(0, |stat| stat.st_size.max(0) as u64);
                    usage.bytes = usage.bytes.saturating_add(charge(size));
                }
                if object != root && !made.contains(&object) && self.is_made_by(id, object)? {
                    made.insert(object);
                }
            }
        }
        usage.inodes = made.len() as u64;
        Ok(usage)
    }

    fn epochs_of(&self, id: BranchId) -> FsResult<BTreeSet<EpochId>> {
        let prefix = keys::prefix(b'E', &[]);
        let (mut own, mut damaged) = (BTreeSet::new(), false);
        self.store.scan(&prefix, &mut |key, value| {
            let inside = key.starts_with(&prefix);
            if inside {
                match (keys::number(key, 0), EpochRecord::decode(value)) {
                    (Some(epoch), Ok(record)) if record.branch == id => {
                        own.insert(EpochId(epoch));
                    }
                    (Some(_), Ok(_)) => {}
                    _ => damaged = true,
                }
            }
            inside
        });
        if damaged { Err(FsError::Damaged("epoch")) } else { Ok(own) }
    }

    fn changed_objects(&self, epoch: EpochId) -> Vec<ObjectId> {
        let prefix = [keys::changes(epoch).as_slice(), b"O"].concat();
        let mut objects = Vec::new();
        self.store.scan(&prefix, &mut |key, _| {
            let object = key.strip_prefix(prefix.as_slice()).and_then(|rest| rest.first_chunk());
            objects.extend(object.map(|number| ObjectId(u64::from_be_bytes(*number))));
            object.is_some()
        });
        objects
    }

    /// Whether an object counts for a branch: one of its epochs has the object, and does not inherit it from another
    /// branch. What is only said to be gone is nobody's.
    pub(super) fn is_made_by(&self, id: BranchId, object: ObjectId) -> FsResult<bool> {
        if object.is_base() {
            return Ok(false);
        }
        let open = self.store.get(&keys::orphan(id, object)).is_some();
        let prefix = keys::prefix(b'O', &[object.0]);
        let (mut versions, mut damaged) = (BTreeMap::new(), false);
        self.store.scan(&prefix, &mut |key, value| {
            let inside = key.starts_with(&prefix);
            if inside {
                match (keys::number(key, 1), ObjectRecord::decode(value)) {
                    (Some(epoch), Ok(record)) => drop(versions.insert(EpochId(epoch), record.nlink > 0)),
                    _ => damaged = true,
                }
            }
            inside
        });
        if damaged {
            return Err(FsError::Damaged("object"));
        }
        for (&epoch, &named) in &versions {
            let record = self.epoch_record(epoch)?;
            if record.branch != id || !(named || open) {
                continue;
            }
            let mut above = record.parent.filter(|_| versions.len() > 1);
            let mut inherited = false;
            while let Some(at) = above {
                let record = self.epoch_record(at)?;
                if let Some(named) = versions.get(&at).filter(|_| record.branch != id) {
                    inherited = *named;
                    break;
                }
                above = record.parent;
            }
            if !inherited {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn epoch_record(&self, epoch: EpochId) -> FsResult<EpochRecord> {
        let bytes = self.store.get(&keys::epoch(epoch)).ok_or(FsError::Damaged("epoch missing"))?;
        Ok(EpochRecord::decode(&bytes)?)
    }
}
