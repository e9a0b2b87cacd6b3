//! The store: a log, the map that it makes, and checkpoints.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::checkpoint;
use super::disk::{Disk, RealDisk};
use super::format::{Frame, Unencodable};
use super::lock::{Claim, StoreLock};
use super::log::{Log, Segment};
use super::map::{Map, prepare};
use super::recovery::{self, Recovered};
use super::spare::Spares;
use super::worker::Worker;
use super::{Batch, MemStore, Store, StoreError};

/// Sizes, and whether threads may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Size in bytes to which log segments are preallocated. There are always two: the one in use and a
    /// spare.
    pub segment_bytes: u64,
    /// Log space in bytes that only batches that free space may use.
    pub headroom_bytes: u64,
    /// A checkpoint is written once the log has grown by this many bytes and by as many as the last
    /// checkpoint had.
    pub checkpoint_bytes: u64,
    /// Prepare segments and write checkpoints in threads; otherwise `commit` does it.
    pub threads: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, headroom_bytes: 4 << 20, checkpoint_bytes: 64 << 20, threads: true }
    }
}

/// What was found when the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The last run did not end with [`LogStore::close`].
    pub unclean: bool,
    /// A part of a batch, or batches after it, were at the end of the log; nothing of them was synced,
    /// and they were dropped.
    pub torn: bool,
    /// Keys.
    pub records: u64,
    /// Log frames replayed on top of the checkpoint.
    pub replayed: u64,
}

/// A store in a directory.
#[derive(Debug)]
pub struct LogStore {
    // Workers are dropped, and so stopped, before the lock on the directory.
    spare_maker: Option<Worker>,
    checkpointer: Option<Worker>,
    inner: Arc<Inner>,
    lock: Mutex<Option<StoreLock>>,
    copying: Mutex<()>,
    opened: Opened,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    options: Options,
    map: Map,
    /// Held while a sync writes out: whoever waits here is usually covered by the next one.
    syncing: Mutex<()>,
    log: Mutex<Log>,
    spares: Arc<Spares>,
    /// The same number as in the log, to be read without its lock.
    durable: Arc<AtomicU64>,
    /// The last frame appended.
    appended: AtomicU64,
}

/// More bytes of log than this and than the last checkpoint had make a checkpoint due at the next start: replay
/// is what programs on the mounts wait for.
const LOG_LONG: u64 = 1 << 20;
/// More segments than this, however short (each start begins one), make a checkpoint due at the next start.
const SEGMENTS_MAX: usize = 64;

impl LogStore {
    /// Opens the store in `dir`, makes it if there is none, and locks it for this process.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        Self::open_claimed(Claim::take(dir)?, options)
    }

    /// Opens the store in a claimed directory; makes it if there is none.
    pub fn open_claimed(claim: Claim, options: Options) -> Result<Self, StoreError> {
        let Claim { dir, mut lock } = claim;
        let disk = Arc::new(RealDisk::new(&dir));
        // A store of another format is left as it is.
        recovery::exists(&*disk)?;
        lock.tell_owner();
        let store = Self::open_on(disk, options)?;
        *store.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        Ok(store)
    }

    /// Opens the store on a disk that nobody else uses.
    pub fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<Self, StoreError> {
        if !recovery::exists(&*disk)? {
            recovery::initialise(&*disk)?;
        }
        let found = recovery::load(&*disk)?;
        clear_obsolete(&*disk, &found)?;
        let opened = Opened {
            unclean: found.unclean && found.next > 1,
            torn: found.torn,
            records: found.tree.len() as u64,
            replayed: found.replayed,
        };
        let inner = Arc::new(Inner::new(disk, options, found)?);
        let due = inner.begin()?;
        let mut store = Self {
            spare_maker: None,
            checkpointer: None,
            inner,
            lock: Mutex::new(None),
            copying: Mutex::new(()),
            opened,
        };
        if options.threads {
            let start = |name, work: fn(&Inner)| {
                let inner = Arc::clone(&store.inner);
                Worker::start(name, move || work(&inner))
                    .map_err(|e| StoreError::io("cannot start a thread of the store", e))
            };
            let (spare_maker, checkpointer) =
                (start("store-spare", Inner::make_spare)?, start("store-checkpoint", Inner::write_checkpoint)?);
            (store.spare_maker, store.checkpointer) = (Some(spare_maker), Some(checkpointer));
        }
        store.maintain(due);
        Ok(store)
    }

    /// What was found when it was opened.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// Number of keys.
    pub fn records(&self) -> u64 {
        self.inner.map.len() as u64
    }

    /// Everything as it is at one moment; batches go on meanwhile. One at a time.
    pub fn snapshot(&self) -> MemStore {
        let _turn = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        MemStore::of(self.inner.map.copy())
    }

    /// Why the store takes no more writes until it is opened again; `None` while it takes them.
    pub fn refusing_writes(&self) -> Option<String> {
        self.inner.log().refusing.clone()
    }

    /// Ends in order: everything durable, marked as such, later writes refused, and the directory free
    /// for another process. Reads still answer.
    pub fn close(&self) -> Result<(), StoreError> {
        for worker in [&self.spare_maker, &self.checkpointer].into_iter().flatten() {
            worker.stop();
        }
        // First, so that the mark vouches for every batch: one that cannot be read later is found missing.
        let synced = self.sync();
        let ended = self.inner.append(&mut Frame::closed(), true, Vec::new());
        let synced = synced.and_then(|()| self.sync());
        self.inner.log().refusing.get_or_insert_with(|| "it is closed".into());
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        synced?;
        match ended {
            // Without space for the mark the next start takes the end for an unclean one.
            Ok(_) | Err(StoreError::Full) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn maintain(&self, (spare_due, checkpoint_due): (bool, bool)) {
        if spare_due {
            self.spare_maker.as_ref().map_or_else(|| self.inner.make_spare(), Worker::ask);
        }
        if checkpoint_due {
            self.checkpointer.as_ref().map_or_else(|| self.inner.write_checkpoint(), Worker::ask);
        }
    }
}

impl Store for LogStore {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.map.get(key)
    }
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.inner.map.scan(from, visit);
    }
    fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.inner.map.scan_back(from, visit);
    }
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut frame = Frame::batch(&batch.changes)?;
        let due = self.inner.append(&mut frame, batch.reclaims, prepare(batch))?;
        self.maintain(due);
        Ok(())
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync_until(self.inner.appended.load(Ordering::Acquire))
    }
}

impl From<Unencodable> for StoreError {
    fn from(e: Unencodable) -> Self {
        Self::Io {
            what: "cannot encode a batch".into(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, e),
        }
    }
}

/// Removes what is not needed. The unsynced tail must be gone for good before its numbers are used again.
fn clear_obsolete(disk: &dyn Disk, found: &Recovered) -> Result<(), StoreError> {
    for name in &found.obsolete {
        disk.unlink(name).map_err(|e| StoreError::io(format!("cannot remove {name}"), e))?;
    }
    if found.obsolete.is_empty() {
        return Ok(());
    }
    disk.fsync_dir("meta").map_err(|e| StoreError::io("cannot sync meta", e))
}

impl Inner {
    fn new(disk: Arc<dyn Disk>, options: Options, found: Recovered) -> Result<Self, StoreError> {
        let Recovered { tree, checkpoint, mut segments, next, durable, replayed_bytes, spares: left, .. } = found;
        // What was replayed now is replayed at each start until a checkpoint covers it.
        let checkpoint_len = checkpoint.map_or(0, |(_, len)| len);
        let long = replayed_bytes > LOG_LONG.max(checkpoint_len) || segments.len() > SEGMENTS_MAX;
        let unsynced =
            segments.iter().filter(|s| s.last >= s.first && s.last > durable).map(|s| Arc::clone(&s.file)).collect();
        let last = segments.pop().ok_or_else(|| StoreError::Damaged("the log has no segment".into()))?;
        // Frames go to a new segment. What this one has reserved goes back; on a full disk the new one
        // may need it.
        if last.file.len().is_ok_and(|len| len > last.end)
            && let Err(e) = last.file.truncate(last.end)
        {
            tracing::warn!("cannot cut the last log segment to its length: {e}");
        }
        let spares = Arc::new(Spares::new(Arc::clone(&disk)));
        let mut spare = None;
        for name in &left {
            match &spare {
                None => spare = spares.adopt(name),
                Some(_) => spares.discard(&format!("meta/{name}")),
            }
        }
        let durable = Arc::new(AtomicU64::new(durable));
        let log = Log {
            disk: Arc::clone(&disk),
            spares: Arc::clone(&spares),
            segment_bytes: options.segment_bytes,
            // A fresh spare must always be enough for it.
            headroom_bytes: options.headroom_bytes.min(options.segment_bytes / 2),
            current: Segment { file: last.file, first: last.first, salt: last.salt, end: last.end, capacity: last.end },
            older: segments.iter().map(|s| s.first).collect(),
            spare,
            next,
            durable: Arc::clone(&durable),
            unsynced,
            // The names that are there may not be durable yet.
            renames: 1,
            renames_durable: 0,
            refusing: None,
            bytes: replayed_bytes,
            checkpoint_at: if long { 0 } else { options.checkpoint_bytes.max(checkpoint_len) },
            spare_due: false,
        };
        Ok(Self {
            disk,
            options,
            map: Map::new(tree),
            syncing: Mutex::new(()),
            log: Mutex::new(log),
            spares,
            durable,
            appended: AtomicU64::new(next - 1),
        })
    }

    /// Marks the run in the log; gives what maintenance is due. Without space that stays undone, and
    /// batches are refused as well.
    fn begin(&self) -> Result<(bool, bool), StoreError> {
        match self.append(&mut Frame::opened(), true, Vec::new()) {
            Err(StoreError::Full) => Ok((false, false)),
            other => other,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a frame and applies its changes, in one order for both. Gives what maintenance is due.
    fn append(
        &self,
        frame: &mut Frame,
        reclaims: bool,
        changes: super::map::Prepared,
    ) -> Result<(bool, bool), StoreError> {
        let mut log = self.log();
        log.append(frame, reclaims)?;
        self.map.apply(changes);
        // Pairs with the Acquire load in `sync`: who sees the number finds its frame in the log.
        self.appended.store(log.next - 1, Ordering::Release);
        Ok((log.take_spare_due(), log.take_checkpoint_due()))
    }

    /// Makes the log durable up to a frame at least.
    fn sync_until(&self, frame: u64) -> Result<(), StoreError> {
        let covered = || self.durable.load(Ordering::Acquire) >= frame;
        if covered() {
            return Ok(());
        }
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if covered() {
            return Ok(());
        }
        let log = self.log();
        log.check()?;
        let unsynced = log.unsynced();
        drop(log);
        let result = unsynced.write_out(&*self.disk);
        let mut log = self.log();
        match result {
            Ok(()) => {
                log.synced(&unsynced);
                Ok(())
            }
            Err(source) => {
                // Also "no space" ends it here: pages that were not written are gone.
                Err(log.failed(StoreError::Io { what: "cannot make the log durable".into(), source }))
            }
        }
    }

    fn make_spare(&self) {
        let log = self.log();
        if log.spare.is_some() || log.refusing.is_some() {
            return;
        }
        drop(log);
        match self.spares.make(self.options.segment_bytes) {
            Ok(spare) => {
                let mut log = self.log();
                if log.spare.is_none() {
                    log.spare = Some(spare);
                } else {
                    drop(log);
                    self.spares.discard(&spare.name);
                }
            }
            // The batch that needs it tries again, and reports.
            Err(e) => tracing::warn!("cannot reserve space for the metadata log: {e}"),
        }
    }

    fn write_checkpoint(&self) {
        let result = self.try_checkpoint();
        let mut log = self.log();
        match result {
            Ok((len, covered_bytes)) => {
                log.bytes = log.bytes.saturating_sub(covered_bytes);
                log.checkpoint_at = self.options.checkpoint_bytes.max(len);
            }
            Err(e) => {
                tracing::warn!("cannot write a checkpoint, the log goes on growing: {e}");
                log.checkpoint_at = log.bytes + self.options.checkpoint_bytes / 4;
            }
        }
    }

    /// Gives the length of the checkpoint and the bytes of log that it covers.
    fn try_checkpoint(&self) -> Result<(u64, u64), StoreError> {
        let mut log = self.log();
        log.rotate()?;
        let (replay_from, covered_bytes, spare_due) = (log.next, log.bytes, log.take_spare_due());
        drop(log);
        if spare_due {
            self.make_spare();
        }
        let len = checkpoint::write(&*self.disk, &self.map, replay_from, || {
            let last = self.appended.load(Ordering::Acquire);
            self.sync_until(last).map(|()| last)
        })?;
        let mut log = self.log();
        let mut obsolete = log.drop_before(replay_from);
        drop(log);
        obsolete.extend(self.old_checkpoints(replay_from)?);
        for name in obsolete {
            if let Err(e) = self.disk.unlink(&name) {
                // The next open tries again.
                tracing::warn!("cannot remove {name}: {e}");
            }
        }
        Ok((len, covered_bytes))
    }

    fn old_checkpoints(&self, newest: u64) -> Result<Vec<String>, StoreError> {
        let names = self.disk.list("meta").map_err(|e| StoreError::io("cannot list meta", e))?;
        let newest = checkpoint::name(newest);
        let names = names.into_iter().map(|name| format!("meta/{name}"));
        Ok(names.filter(|name| name.starts_with("meta/checkpoint-") && *name < newest).collect())
    }
}
