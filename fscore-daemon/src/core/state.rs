//! The state that all sessions share: branches, bases, counters.
//!
//! Lock order: a branch's `gate` (shared for every operation, exclusive to move the head) → the lock
//! of one object's content → the branch's `names` → the store's own. No lock is taken twice by one
//! operation, and none is held while a reply is rung.

use super::base::{Base, Grounds};
use super::clock::Clock;
use super::doom::Doom;
use super::error::{FsError, FsResult};
use super::ids::{BaseId, BranchId, ContentId, EpochId, ObjectId};
use super::keys;
use super::merged::Merged;
use super::quota::Ledger;
use super::record::{BranchRecord, EpochRecord};
use super::view::View;
use crate::content::{Content, Contents};
use crate::store::{Batch, Store};
use shm_transport::wire::SessionId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// Takes a lock whose holder may have panicked: the data under our locks is only ever replaced whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counter that hands out numbers never used before, also across crashes: the store holds a
/// high-water mark, raised a block at a time.
#[derive(Debug)]
struct Counter {
    name: &'static str,
    block: u64,
    state: Mutex<(u64, u64)>,
}

impl Counter {
    fn open(store: &dyn Store, name: &'static str, first: u64, block: u64) -> FsResult<Self> {
        let mark = match store.get(&keys::meta(name)) {
            None => first,
            Some(bytes) => u64::from_le_bytes(bytes.try_into().map_err(|_| FsError::Damaged("counter"))?),
        };
        Ok(Self { name, block, state: Mutex::new((mark, mark)) })
    }

    /// The first of so many numbers in a row.
    fn row(&self, store: &dyn Store, numbers: u64) -> FsResult<u64> {
        let mut state = lock(&self.state);
        let (first, mark) = (state.1, state.1 + numbers);
        let mut batch = Batch::default();
        batch.put(keys::meta(self.name), mark.to_le_bytes());
        store.commit(&batch)?;
        *state = (mark, mark);
        Ok(first)
    }

    fn next(&self, store: &dyn Store) -> FsResult<u64> {
        let mut state = lock(&self.state);
        if state.0 == state.1 {
            let mark = state.1 + self.block;
            let mut batch = Batch::default();
            batch.put(keys::meta(self.name), mark.to_le_bytes());
            store.commit(&batch)?;
            state.1 = mark;
        }
        state.0 += 1;
        Ok(state.0 - 1)
    }
}

/// Locks for the contents of objects, shared by hash: exclusive to copy up or change a size, shared
/// to write.
#[derive(Debug)]
pub struct ContentLocks([RwLock<()>; 64]);

impl Default for ContentLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| RwLock::new(())))
    }
}

impl ContentLocks {
    fn of(&self, object: ObjectId) -> &RwLock<()> {
        let [first, ..] = &self.0;
        self.0.get((object.0 % 64) as usize).unwrap_or(first)
    }
    /// To write in place.
    pub fn shared(&self, object: ObjectId) -> RwLockReadGuard<'_, ()> {
        self.of(object).read().unwrap_or_else(PoisonError::into_inner)
    }
    /// To copy up or to change the size.
    pub fn exclusive(&self, object: ObjectId) -> RwLockWriteGuard<'_, ()> {
        self.of(object).write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A branch in use.
#[derive(Debug)]
pub struct Branch {
    /// Its number.
    pub id: BranchId,
    gate: RwLock<View>,
    /// Serializes changes of records: whoever reads a record to change it holds this.
    names: Mutex<()>,
    /// See [`ContentLocks`].
    pub contents: ContentLocks,
    /// Its limits and what it uses of them.
    pub ledger: Ledger,
    /// Sessions attached to it now.
    pub sessions: Mutex<Vec<SessionId>>,
}

impl Branch {
    /// The view, for the length of one operation; the head stays where it is meanwhile.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }
    /// The view, to move the head: no operation is running.
    pub fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }
    /// The view, unless somebody moves the head or waits for it.
    pub fn try_view(&self) -> Option<RwLockReadGuard<'_, View>> {
        match self.gate.try_read() {
            Ok(view) => Some(view),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
    /// The view, to change its chain, unless an operation is running.
    pub fn try_view_mut(&self) -> Option<RwLockWriteGuard<'_, View>> {
        match self.gate.try_write() {
            Ok(view) => Some(view),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
    /// The lock for changing records.
    pub fn names(&self) -> MutexGuard<'_, ()> {
        lock(&self.names)
    }
}

/// What the core did since it was opened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Mutations answered from the record of an earlier run.
    pub replays: AtomicU64,
    /// Files copied before their first change.
    pub copy_ups: AtomicU64,
    /// Syncs of the store.
    pub syncs: AtomicU64,
}

/// Everything that sessions share.
pub struct Core {
    /// See [`Counts`].
    pub counts: Counts,
    /// Metadata.
    pub store: Arc<dyn Store>,
    /// File contents.
    pub contents: Arc<Contents>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Keys the order of directory listings; made once per store.
    pub cookie_key: (u64, u64),
    young: ContentId,
    doom: Arc<Doom>,
    revival: Mutex<()>,
    branches: Mutex<HashMap<BranchId, Arc<Branch>>>,
    pub(super) grounds: Grounds,
    pub(super) bases: Mutex<HashMap<BaseId, Arc<Base>>>,
    merged: Arc<Merged>,
    objects: Counter,
    epochs: Counter,
    branch_ids: Counter,
    content_ids: Counter,
    base_ids: Counter,
    commits: Counter,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// How many content numbers one raise of the high-water mark hands out. After a crash only numbers of
/// the last block can name files without records.
pub const CONTENT_BLOCK: u64 = 1024;

impl Core {
    /// Opens the core over an opened store; bases lie anywhere.
    pub fn open(store: Arc<dyn Store>, contents: Arc<Contents>, clock: Arc<dyn Clock>) -> FsResult<Arc<Self>> {
        Self::open_on(Grounds::anywhere(), store, contents, clock)
    }

    /// As [`Self::open`], with bases where `grounds` has them.
    pub fn open_on(
        grounds: Grounds,
        store: Arc<dyn Store>,
        contents: Arc<Contents>,
        clock: Arc<dyn Clock>,
    ) -> FsResult<Arc<Self>> {
        let counter = |name, first, block| Counter::open(store.as_ref(), name, first, block);
        let content_ids = counter("next-content", 1, CONTENT_BLOCK)?;
        let (young, _) = *lock(&content_ids.state);
        let core = Self {
            young: ContentId(young),
            objects: counter("next-object", ObjectId::FIRST_NEW, 4096)?,
            epochs: counter("next-epoch", 1, 64)?,
            branch_ids: counter("next-branch", 1, 16)?,
            content_ids,
            base_ids: counter("next-base", 1, 16)?,
            commits: counter("next-commit", 1, 16)?,
            cookie_key: cookie_key(store.as_ref())?,
            doom: Arc::default(),
            revival: Mutex::default(),
            branches: Mutex::default(),
            grounds,
            bases: Mutex::default(),
            merged: Arc::default(),
            counts: Counts::default(),
            store,
            contents,
            clock,
        };
        core.drop_unrecorded_contents()?;
        let (mark, _) = *lock(&core.content_ids.state);
        let core = Arc::new(core);
        let (weak, doom) = (Arc::downgrade(&core), Arc::clone(&core.doom));
        std::thread::Builder::new()
            .name("reaper".into())
            .stack_size(256 << 10)
            .spawn(move || super::doom::reap(&weak, &doom, mark))
            .map_err(super::error::io("start the reaper"))?;
        core.settle();
        Ok(core)
    }

    /// Makes every committed batch durable, and then removes the content files that no durable record
    /// refers to any more.
    pub fn sync(&self) -> FsResult<()> {
        let doomed = std::mem::take(&mut lock(&self.doom.state).ids);
        if let Err(e) = self.store.sync() {
            lock(&self.doom.state).ids.extend(doomed);
            return Err(e.into());
        }
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        for id in doomed {
            // Who waits for the sync has it; the file stays in line.
            if let Err(error) = self.contents.remove(id) {
                tracing::warn!(content = %id, %error, "a content file that nothing refers to cannot be removed yet");
                lock(&self.doom.state).ids.push(id);
            }
        }
        Ok(())
    }

    /// Has a content file removed, whose last record a batch just dropped, once that batch is durable:
    /// a power loss before would bring the record back.
    pub fn doom(&self, id: ContentId) {
        lock(&self.doom.state).ids.push(id);
        self.doom.bell.notify_one();
    }

    /// Whether a content file waits for its removal.
    pub fn is_doomed(&self, id: ContentId) -> bool {
        lock(&self.doom.state).ids.contains(&id)
    }

    /// Whether this run of the core gave the number out: a copy that is being made has no record yet.
    pub fn is_young(&self, id: ContentId) -> bool {
        id >= self.young
    }

    /// A content file, made empty when a power loss took it before it was ever synced.
    pub fn content(&self, id: ContentId) -> FsResult<Arc<Content>> {
        let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        let found = match self.contents.get(id) {
            Err(e) if missing(&e) => {
                // One at a time: making it twice would take the file from under a writer.
                let _turn = lock(&self.revival);
                match self.contents.get(id) {
                    Err(e) if missing(&e) => {
                        tracing::error!(content = %id, "a content file is missing since a power loss; it is empty now");
                        self.contents.create(id)
                    }
                    other => other,
                }
            }
            other => other,
        };
        found.map_err(super::error::io("open content"))
    }

    /// A crash between making a content file and recording it leaves a file that nothing names.
    fn drop_unrecorded_contents(&self) -> FsResult<()> {
        let (mark, _) = *lock(&self.content_ids.state);
        for id in mark.saturating_sub(CONTENT_BLOCK).max(1)..mark {
            let id = ContentId(id);
            if self.store.get(&keys::content(id)).is_none() {
                self.contents.remove(id).map_err(super::error::io("remove unrecorded content"))?;
            }
        }
        Ok(())
    }

    /// A new object number.
    pub fn new_object(&self) -> FsResult<ObjectId> {
        self.objects.next(self.store.as_ref()).map(ObjectId)
    }
    /// A new epoch number.
    pub fn new_epoch(&self) -> FsResult<EpochId> {
        self.epochs.next(self.store.as_ref()).map(EpochId)
    }
    /// The first of many epoch numbers in a row.
    pub fn new_epochs(&self, numbers: u64) -> FsResult<EpochId> {
        self.epochs.row(self.store.as_ref(), numbers).map(EpochId)
    }
    /// A new branch number.
    pub fn new_branch(&self) -> FsResult<BranchId> {
        self.branch_ids.next(self.store.as_ref()).map(BranchId)
    }
    /// A new content number.
    pub fn new_content(&self) -> FsResult<ContentId> {
        self.content_ids.next(self.store.as_ref()).map(ContentId)
    }
    /// A new base number.
    pub fn new_base(&self) -> FsResult<BaseId> {
        self.base_ids.next(self.store.as_ref()).map(BaseId)
    }
    /// A new commit number.
    pub fn new_commit(&self) -> FsResult<u64> {
        self.commits.next(self.store.as_ref())
    }

    /// The record of a branch.
    pub fn branch_record(&self, id: BranchId) -> FsResult<BranchRecord> {
        let bytes = self.store.get(&keys::branch(id)).ok_or(FsError::NotFound)?;
        BranchRecord::decode(&bytes).map_err(|_| FsError::Damaged("branch"))
    }

    /// Epochs from `head` to the root of its tree.
    pub fn chain(&self, head: EpochId) -> FsResult<Arc<[EpochId]>> {
        let mut chain = vec![head];
        let mut at = head;
        loop {
            let bytes = self.store.get(&keys::epoch(at)).ok_or(FsError::Damaged("epoch missing"))?;
            let record = EpochRecord::decode(&bytes).map_err(|_| FsError::Damaged("epoch"))?;
            match record.parent {
                // Numbers rise from parent to child, so a damaged chain cannot make a loop.
                Some(parent) if parent < at => {
                    chain.push(parent);
                    at = parent;
                }
                Some(_) => return Err(FsError::Damaged("epoch order")),
                None => return Ok(chain.into()),
            }
        }
    }

    /// What `branch` saw when its head was `epoch` (its present head, or a snapshot's).
    pub fn view_at(&self, branch: BranchId, epoch: EpochId) -> FsResult<View> {
        let record = self.branch_record(branch)?;
        let chain = self.chain(epoch)?;
        let sealed = self.sealed_base(&chain)?;
        Ok(View {
            branch,
            chain,
            base: sealed.or(record.base).map(|b| self.base(b)).transpose()?,
            frozen_base: record.frozen_base || sealed.is_some(),
            root: record.root,
            store: Arc::clone(&self.store),
            merged: Arc::clone(&self.merged),
        })
    }

    /// The records that an epoch and its ancestors have, without a base.
    pub fn records_from(&self, epoch: Option<EpochId>) -> FsResult<View> {
        Ok(View {
            branch: BranchId(0),
            chain: epoch.map_or_else(|| Ok([].into()), |epoch| self.chain(epoch))?,
            base: None,
            frozen_base: false,
            root: ObjectId(0),
            store: Arc::clone(&self.store),
            merged: Arc::clone(&self.merged),
        })
    }

    /// Keeps nothing in memory of what any frozen epoch shows: ground that all stand on is about to change, or has changed.
    pub fn bar_all(&self) {
        self.merged.clear();
    }

    /// Keeps nothing in memory of what a frozen epoch shows: it is about to change, for all that nobody can tell.
    pub fn bar(&self, epoch: EpochId) {
        self.merged.bar(epoch);
    }

    /// The branches whose views are in memory; one that is just being loaded is waited for.
    pub fn loaded_branches(&self) -> Vec<Arc<Branch>> {
        lock(&self.branches).values().cloned().collect()
    }

    /// The branch, loaded at first use.
    pub fn branch(&self, id: BranchId) -> FsResult<Arc<Branch>> {
        let mut branches = lock(&self.branches);
        if let Some(branch) = branches.get(&id) {
            return Ok(Arc::clone(branch));
        }
        let record = self.branch_record(id)?;
        let view = self.view_at(id, record.head)?;
        let branch = Arc::new(Branch {
            id,
            gate: RwLock::new(view),
            names: Mutex::new(()),
            contents: ContentLocks::default(),
            ledger: Ledger::new(record.quota),
            sessions: Mutex::default(),
        });
        branches.insert(id, Arc::clone(&branch));
        Ok(branch)
    }

    /// The branch, if it was loaded.
    pub fn loaded_branch(&self, id: BranchId) -> Option<Arc<Branch>> {
        lock(&self.branches).get(&id).map(Arc::clone)
    }

    /// Forgets a deleted branch.
    pub fn forget_branch(&self, id: BranchId) {
        lock(&self.branches).remove(&id);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        lock(&self.doom.state).over = true;
        self.doom.bell.notify_one();
    }
}

fn cookie_key(store: &dyn Store) -> FsResult<(u64, u64)> {
    let key = keys::meta("cookie-key");
    let bytes = match store.get(&key) {
        Some(bytes) => bytes,
        None => {
            let mut fresh = [0u8; 16];
            rustix::rand::getrandom(&mut fresh, rustix::rand::GetRandomFlags::empty())
                .map_err(|e| super::error::io("make a random number")(e.into()))?;
            let mut batch = Batch::default();
            batch.put(key, fresh);
            store.commit(&batch)?;
            fresh.to_vec()
        }
    };
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(a), Some(b)) if bytes.len() == 16 => Ok((u64::from_le_bytes(*a), u64::from_le_bytes(*b))),
        _ => Err(FsError::Damaged("cookie key")),
    }
}
