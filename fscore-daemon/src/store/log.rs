//! The log: frames appended to preallocated segments. One caller at a time; the owner locks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use super::disk::{Disk, DiskFile};
use super::format::{Frame, HEADER_LEN};
use super::spare::{Spare, Spares};

/// Name of the segment whose first frame has this sequence number.
pub(super) fn segment_name(first: u64) -> String {
    format!("meta/log-{first:016x}")
}

/// The segment that frames are appended to.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    /// Sequence number of its first frame, whether it has one yet or not.
    pub(super) first: u64,
    pub(super) salt: u64,
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Where the preallocated space ends.
    pub(super) capacity: u64,
}

impl Segment {
    fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.end)
    }
}

/// What a sync has to make durable.
#[derive(Debug)]
pub(super) struct Unsynced {
    /// Segments that take no more frames.
    full: Vec<Arc<dyn DiskFile>>,
    current: Arc<dyn DiskFile>,
    renames: u64,
    names: bool,
    /// The last frame that is covered.
    until: u64,
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) spares: Arc<Spares>,
    /// Size of a new segment.
    pub(super) segment_bytes: u64,
    /// What batches that free nothing must leave.
    pub(super) headroom_bytes: u64,
    pub(super) current: Segment,
    /// First sequence numbers of the segments before the current one, ascending.
    pub(super) older: Vec<u64>,
    pub(super) spare: Option<Spare>,
    /// Sequence number of the next frame.
    pub(super) next: u64,
    /// Every frame up to this one survives a power loss. Changed only by `synced`.
    pub(super) durable: Arc<AtomicU64>,
    /// Segments before the current one with frames that are not known to be durable.
    pub(super) unsynced: Vec<Arc<dyn DiskFile>>,
    /// Segments that got their name so far, and how many of these names are durable.
    pub(super) renames: u64,
    pub(super) renames_durable: u64,
    /// Why no more writes are taken.
    pub(super) refusing: Option<String>,
    /// Bytes of frames that a start must replay.
    pub(super) bytes: u64,
    /// The size of `bytes` at which a checkpoint is due.
    pub(super) checkpoint_at: u64,
    /// The spare was used up since [`Log::take_spare_due`] was asked last.
    pub(super) spare_due: bool,
}

impl Log {
    /// Appends a frame. After `Full` the log is as before; after any other failure it takes no more.
    pub(super) fn append(&mut self, frame: &mut Frame, reclaims: bool) -> Result<(), StoreError> {
        self.check()?;
        if let Err(e) = self.make_room(frame.len(), reclaims) {
            return Err(self.failed(e));
        }
        let bytes = frame.seal(self.current.salt, self.next, self.durable.load(Ordering::Acquire));
        if let Err(e) = self.current.file.pwrite(bytes, self.current.end) {
            // A part of the frame may be written: the next one goes over it, and recovery takes neither
            // for a frame.
            let what = format!("cannot append to {}", segment_name(self.current.first));
            return Err(self.failed(StoreError::io(what, e)));
        }
        self.current.end += frame.len();
        self.bytes += frame.len();
        self.next += 1;
        Ok(())
    }

    /// Whether writes are taken.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.refusing.as_ref().map_or(Ok(()), |why| Err(StoreError::Poisoned(why.clone())))
    }

    /// Refuses writes from now on, unless the failure is only a lack of space.
    pub(super) fn failed(&mut self, error: StoreError) -> StoreError {
        if !matches!(error, StoreError::Full) && self.refusing.is_none() {
            tracing::error!("the store refuses writes from now on: {error}");
            self.refusing = Some(error.to_string());
        }
        error
    }

    /// What a batch has to leave.
    fn reserve(&self, reclaims: bool) -> u64 {
        if reclaims { 0 } else { self.headroom_bytes }
    }

    /// Whether `need` bytes may be appended as things are. If they do not fit into the current segment,
    /// they go to the spare, or, when that is too small for them, to a segment of their own.
    fn may_append(&self, need: u64, reclaims: bool) -> bool {
        let spare = self.spare.as_ref().map_or(0, Spare::room);
        let left = self.current.room().checked_sub(need).map_or(spare, |room| room + spare);
        left >= self.reserve(reclaims)
    }

    fn make_room(&mut self, need: u64, reclaims: bool) -> Result<(), StoreError> {
        let fits = self.current.room() >= need;
        if fits && self.may_append(need, reclaims) {
            return Ok(());
        }
        // A spare made on a full disk may be small: it will not do for a batch that frees nothing.
        let small = |spare: &Spare| spare.capacity < self.segment_bytes && (!reclaims || spare.room() < need);
        if self.spare.as_ref().is_none_or(small)
            && let Some(better) = self.make_spare(need, reclaims)?
            && let Some(small) = self.spare.replace(better)
        {
            self.spares.discard(&small.name);
        }
        if !self.may_append(need, reclaims) {
            return Err(StoreError::Full);
        }
        if fits {
            return Ok(());
        }
        let spare = match self.spare.take() {
            Some(spare) if spare.room() >= need.saturating_add(self.reserve(reclaims)) => spare,
            small => {
                self.spare = small;
                self.spares.make(HEADER_LEN + need)?
            }
        };
        self.rotate_to(spare)
    }

    /// A spare, or none if there is no space for one. For a batch that frees space a small one will do.
    fn make_spare(&self, need: u64, reclaims: bool) -> Result<Option<Spare>, StoreError> {
        let least = HEADER_LEN + need;
        let small = [self.segment_bytes / 8, least].map(|capacity| capacity.max(least));
        let sizes = [self.segment_bytes].into_iter().chain(small.into_iter().filter(|_| reclaims));
        for capacity in sizes {
            match self.spares.make(capacity) {
                Ok(spare) => return Ok(Some(spare)),
                Err(StoreError::Full) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Goes on in a new segment, so that every frame before it can be dropped by a checkpoint.
    pub(super) fn rotate(&mut self) -> Result<(), StoreError> {
        self.check()?;
        if self.current.first == self.next {
            return Ok(());
        }
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.spares.make(self.segment_bytes)?,
        };
        self.rotate_to(spare)
    }

    fn rotate_to(&mut self, spare: Spare) -> Result<(), StoreError> {
        let name = segment_name(self.next);
        if let Err(e) = self.disk.rename(&spare.name, &name) {
            let error = StoreError::io(format!("cannot rename {} to {name}", spare.name), e);
            self.spare = Some(spare);
            return Err(self.failed(error));
        }
        // A segment without frames has the same name and was just replaced.
        if self.current.first != self.next {
            self.older.push(self.current.first);
            if self.durable.load(Ordering::Acquire) + 1 < self.next {
                self.unsynced.push(Arc::clone(&self.current.file));
            }
        }
        let Spare { file, salt, capacity, .. } = spare;
        self.current = Segment { file, first: self.next, salt, end: HEADER_LEN, capacity };
        self.renames += 1;
        self.spare_due = self.spare.is_none();
        Ok(())
    }

    /// Whether a spare has to be made; true once each time.
    pub(super) fn take_spare_due(&mut self) -> bool {
        std::mem::take(&mut self.spare_due)
    }

    /// Whether a checkpoint has to be written; true once until [`Log::checkpoint_at`] is set again.
    pub(super) fn take_checkpoint_due(&mut self) -> bool {
        let due = self.bytes >= self.checkpoint_at;
        if due {
            self.checkpoint_at = u64::MAX;
        }
        due
    }

    /// What is to be made durable now.
    pub(super) fn unsynced(&self) -> Unsynced {
        Unsynced {
            full: self.unsynced.clone(),
            current: Arc::clone(&self.current.file),
            renames: self.renames,
            names: self.renames > self.renames_durable,
            until: self.next - 1,
        }
    }

    /// All of `what` is durable.
    pub(super) fn synced(&mut self, what: &Unsynced) {
        self.unsynced.retain(|file| !what.full.iter().any(|done| Arc::ptr_eq(done, file)));
        self.renames_durable = self.renames_durable.max(what.renames);
        // Publishes to callers of `sync` that only look at the number; pairs with their Acquire loads.
        self.durable.fetch_max(what.until, Ordering::Release);
    }

    /// Forgets the segments whose frames are all below `sequence` and gives their names.
    pub(super) fn drop_before(&mut self, sequence: u64) -> Vec<String> {
        let ends = self.older.iter().skip(1).copied().chain([self.current.first]);
        let obsolete = ends.take_while(|end| *end <= sequence).count();
        self.older.drain(..obsolete).map(segment_name).collect()
    }
}

impl Unsynced {
    /// Writes it out; the log is not locked meanwhile.
    pub(super) fn write_out(&self, disk: &dyn Disk) -> std::io::Result<()> {
        for file in self.full.iter().chain([&self.current]) {
            if let Err(e) = file.fdatasync() {
                for file in self.full.iter().chain([&self.current]) {
                    file.forget_cached();
                }
                return Err(e);
            }
        }
        if self.names { disk.fsync_dir("meta") } else { Ok(()) }
    }
}
