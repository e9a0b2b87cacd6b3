//! Live counters of the daemon and its mounts in a named shared-memory segment, which anybody of the
//! same user (or root) reads at any time: while the daemon is busy, hangs, or was killed. A daemon that ends
//! as it should removes it.
//!
//! The segment belongs to a store: its name follows from the store's owner and canonical path. It is an
//! array of 64-bit words; a mount's names are guarded by a sequence lock, counters stand alone. A
//! reader trusts nothing in it. Loss of the segment loses nothing but figures.

mod counter;

pub use counter::Counter;

use crate::mem::segment::Segment;
use crate::wire::SessionId;
use serde::Serialize;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, Mutex, PoisonError};

/// First word: `AGFSTAT1` in memory order.
const MAGIC: u64 = u64::from_le_bytes(*b"AGFSTAT1");
/// Most mounts that are counted each for itself.
pub const MOUNTS_MAX: usize = 256;
/// Longest branch name kept, in bytes; a longer one is cut.
const BRANCH_MAX: usize = 64;
/// Longest mountpoint kept, in bytes; a longer one is cut.
const MOUNTPOINT_MAX: usize = 256;

/// Words of the head: magic, pid, start time, clean end, and the daemon's counters.
const HEAD_WORDS: usize = 64;
/// First of the daemon's counters.
const COUNTERS_AT: usize = 8;
/// Words of one mount.
const ROW_WORDS: usize = 64;
const WORDS: usize = HEAD_WORDS + MOUNTS_MAX * ROW_WORDS;

/// Words of a row.
mod row {
    pub(super) const SEQUENCE: usize = 0;
    pub(super) const IN_USE: usize = 1;
    pub(super) const SESSION: usize = 2;
    pub(super) const READ_ONLY: usize = 3;
    pub(super) const ATTACHED_AT: usize = 4;
    pub(super) const BRANCH_LEN: usize = 5;
    pub(super) const MOUNTPOINT_LEN: usize = 6;
    pub(super) const BRANCH: usize = 8;
    pub(super) const MOUNTPOINT: usize = BRANCH + super::BRANCH_MAX / 8;
    pub(super) const REQUESTS: usize = MOUNTPOINT + super::MOUNTPOINT_MAX / 8;
    pub(super) const ERRORS: usize = REQUESTS + 1;
    pub(super) const BYTES_READ: usize = REQUESTS + 2;
    pub(super) const BYTES_WRITTEN: usize = REQUESTS + 3;
    pub(super) const IN_FLIGHT: usize = REQUESTS + 4;
    pub(super) const END: usize = REQUESTS + 5;
}

const _: () = {
    assert!(row::END <= ROW_WORDS);
    assert!(COUNTERS_AT + Counter::ALL.len() <= HEAD_WORDS);
};

/// Name of a store's segment, and the user who owns both.
fn name_of(store: &Path) -> io::Result<(String, u32)> {
    let path = std::fs::canonicalize(store)?;
    let owner = std::fs::metadata(&path)?.uid();
    // FNV-1a: stable between releases, which the standard hasher is not; a collision shows wrong
    // figures and nothing else.
    let hash = path
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    Ok((format!("agentfs-{owner}-{hash:016x}"), owner))
}

/// The daemon's end: the only writer.
#[derive(Debug, Clone)]
pub struct StatsWriter {
    segment: Arc<Segment>,
    /// Which rows are taken.
    rows: Arc<Mutex<Vec<bool>>>,
}

impl StatsWriter {
    /// Takes the segment of `store` over from a daemon that died, or makes it. `started` is the
    /// daemon's start in seconds since 1970. Only the holder of the store's lock may call this.
    ///
    /// `PermissionDenied` when the name is taken by another user's: it is neither used nor removed.
    pub fn create(store: &Path, started: i64) -> io::Result<Self> {
        let (name, owner) = name_of(store)?;
        Segment::take_over(&name, WORDS, owner).map(|segment| Self::over(segment, started))
    }

    /// Counters that nobody outside sees, where no segment can be had: figures are not worth a refusal.
    pub fn unseen(started: i64) -> Self {
        Self::over(Segment::private(WORDS), started)
    }

    fn over(segment: Segment, started: i64) -> Self {
        let writer = Self { segment: Arc::new(segment), rows: Arc::new(Mutex::new(vec![false; MOUNTS_MAX])) };
        writer.reset(started);
        writer
    }

    fn reset(&self, started: i64) {
        for word in self.segment.iter().take(HEAD_WORDS) {
            word.store(0, Relaxed);
        }
        for row in self.segment.get(HEAD_WORDS..).unwrap_or_default().chunks_exact(ROW_WORDS) {
            locked(row, |row| {
                for word in row.iter().skip(1) {
                    word.store(0, Relaxed);
                }
            });
        }
        self.set(1, u64::from(std::process::id()));
        self.set(2, started.cast_unsigned());
        self.set(0, MAGIC);
    }

    fn set(&self, at: usize, value: u64) {
        if let Some(word) = self.segment.get(at) {
            word.store(value, Release);
        }
    }

    /// Counts.
    pub fn add(&self, counter: Counter, n: u64) {
        if let Some(word) = self.segment.get(COUNTERS_AT + counter as usize) {
            word.fetch_add(n, Relaxed);
        }
    }

    /// Raises a counter that somebody else keeps to what it is now.
    pub fn raise(&self, counter: Counter, now: u64) {
        if let Some(word) = self.segment.get(COUNTERS_AT + counter as usize)
            && word.load(Relaxed) < now
        {
            word.fetch_max(now, Relaxed);
        }
    }

    /// The daemon ends as it should: the segment goes, and who still reads it is told. Called while the
    /// store is still locked: a later daemon's segment has the same name.
    pub fn ended(&self) -> io::Result<()> {
        self.set(3, 1);
        self.segment.remove()
    }

    /// Begins to count a mount for itself; `None` when [`MOUNTS_MAX`] are counted already.
    pub fn mount(
        &self,
        session: SessionId,
        branch: &str,
        mountpoint: &Path,
        read_only: bool,
        now: i64,
    ) -> Option<MountStats> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let index = rows.iter().position(|taken| !taken)?;
        let stats = MountStats { writer: self.clone(), index };
        locked(stats.words()?, |row| {
            for word in row.iter().skip(1) {
                word.store(0, Relaxed);
            }
            put(row, row::SESSION, session.0);
            put(row, row::READ_ONLY, u64::from(read_only));
            put(row, row::ATTACHED_AT, now.cast_unsigned());
            put_bytes(row, row::BRANCH_LEN, row::BRANCH, BRANCH_MAX, branch.as_bytes());
            put_bytes(row, row::MOUNTPOINT_LEN, row::MOUNTPOINT, MOUNTPOINT_MAX, mountpoint.as_os_str().as_bytes());
            put(row, row::IN_USE, 1);
        });
        *rows.get_mut(index)? = true;
        Some(stats)
    }
}

/// Changes the names in a row under its sequence lock. One writer at a time, by `StatsWriter::rows`.
fn locked(row: &[AtomicU64], change: impl FnOnce(&[AtomicU64])) {
    let Some(sequence) = row.first() else { return };
    let even = sequence.load(Relaxed) & !1;
    sequence.store(even | 1, Relaxed);
    // Release fence: whoever sees a word of the change sees the odd sequence, too. Pairs with the
    // Acquire fence in `StatsReader::row`.
    fence(Release);
    change(row);
    // Release: whoever sees this sequence sees the whole change.
    sequence.store(even.wrapping_add(2), Release);
}

fn put(row: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = row.get(at) {
        word.store(value, Relaxed);
    }
}

fn put_bytes(row: &[AtomicU64], len_at: usize, at: usize, max: usize, bytes: &[u8]) {
    let kept = bytes.get(..bytes.len().min(max)).unwrap_or_default();
    put(row, len_at, kept.len() as u64);
    for (n, chunk) in kept.chunks(8).enumerate() {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        put(row, at + n, u64::from_le_bytes(word));
    }
}

/// One mount's counters; dropped, the row is free again.
#[derive(Debug)]
pub struct MountStats {
    writer: StatsWriter,
    index: usize,
}

impl MountStats {
    fn words(&self) -> Option<&[AtomicU64]> {
        let at = HEAD_WORDS + self.index * ROW_WORDS;
        self.writer.segment.get(at..at + ROW_WORDS)
    }

    fn update(&self, at: usize, change: impl FnOnce(&AtomicU64)) {
        if let Some(word) = self.words().and_then(|row| row.get(at)) {
            change(word);
        }
    }

    /// A request runs, until what this gives is dropped.
    pub fn begin(&self) -> Running<'_> {
        self.update(row::IN_FLIGHT, |w| {
            w.fetch_add(1, Relaxed);
        });
        Running(self)
    }

    /// A request was answered: also counts it for the daemon as a whole.
    pub fn count(&self, error: bool, bytes_read: u64, bytes_written: u64) {
        for (at, counter, n) in [
            (row::REQUESTS, Counter::Requests, 1),
            (row::ERRORS, Counter::Errors, u64::from(error)),
            (row::BYTES_READ, Counter::BytesRead, bytes_read),
            (row::BYTES_WRITTEN, Counter::BytesWritten, bytes_written),
        ] {
            if n > 0 {
                self.update(at, |w| {
                    w.fetch_add(n, Relaxed);
                });
                self.writer.add(counter, n);
            }
        }
    }

    /// Requests answered since this mount attached.
    pub fn requests(&self) -> u64 {
        self.words().and_then(|row| row.get(row::REQUESTS)).map_or(0, |w| w.load(Relaxed))
    }
}

/// A request that runs.
#[derive(Debug)]
pub struct Running<'a>(&'a MountStats);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.update(row::IN_FLIGHT, |w| {
            w.fetch_sub(1, Relaxed);
        });
    }
}

impl Drop for MountStats {
    fn drop(&mut self) {
        let mut rows = self.writer.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = self.words() {
            locked(row, |row| put(row, row::IN_USE, 0));
        }
        if let Some(taken) = rows.get_mut(self.index) {
            *taken = false;
        }
    }
}

/// What the segment told at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Process id of the daemon that wrote it last.
    pub pid: i32,
    /// Whether a process of that id exists now.
    pub alive: bool,
    /// Whether that daemon ended as it should.
    pub ended: bool,
    /// Its start, in seconds since 1970.
    pub started: i64,
    /// Its counters by name, in a fixed order.
    pub counters: Vec<(&'static str, u64)>,
    /// Mounts that it served when it last wrote.
    pub mounts: Vec<MountSample>,
}

/// One mount in a [`Sample`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountSample {
    /// The session.
    pub session: SessionId,
    /// The branch, perhaps cut.
    pub branch: String,
    /// Where, perhaps cut; bytes that are not UTF-8 are shown as U+FFFD.
    pub mountpoint: String,
    /// Read-only.
    pub read_only: bool,
    /// When it attached, in seconds since 1970.
    pub attached_at: i64,
    /// Requests answered.
    pub requests: u64,
    /// Of these, with an error number.
    pub errors: u64,
    /// Bytes read by programs.
    pub bytes_read: u64,
    /// Bytes written by programs.
    pub bytes_written: u64,
    /// Requests running.
    pub in_flight: u64,
}

/// A reader's end.
#[derive(Debug)]
pub struct StatsReader {
    segment: Segment,
}

impl StatsReader {
    /// Opens the segment of `store`. `NotFound` when no daemon ran on it since
    /// the last one ended as it should.
    pub fn open(store: &Path) -> io::Result<Self> {
        let (name, owner) = name_of(store)?;
        Ok(Self { segment: Segment::open(&name, WORDS, owner)? })
    }

    /// What it says now; `None` while a daemon has not yet written its head.
    pub fn sample(&self) -> Option<Sample> {
        let word = |at: usize| self.segment.get(at).map_or(0, |w| w.load(Acquire));
        if word(0) != MAGIC {
            return None;
        }
        let pid = i32::try_from(word(1)).unwrap_or(0);
        Some(Sample {
            pid,
            alive: is_alive(pid),
            ended: word(3) == 1,
            started: word(2).cast_signed(),
            counters: Counter::ALL.iter().map(|c| (c.name(), word(COUNTERS_AT + *c as usize))).collect(),
            mounts: (0..MOUNTS_MAX).filter_map(|index| self.row(index)).collect(),
        })
    }

    /// One mount; `None` when the row is free or a dead daemon left it half written.
    fn row(&self, index: usize) -> Option<MountSample> {
        let at = HEAD_WORDS + index * ROW_WORDS;
        let row = self.segment.get(at..at + ROW_WORDS)?;
        let sequence = row.get(row::SEQUENCE)?;
        for _ in 0..16 {
            let before = sequence.load(Acquire);
            let words: Vec<u64> = row.iter().map(|w| w.load(Relaxed)).collect();
            // Acquire fence: pairs with the Release fence in `locked`.
            fence(Acquire);
            if before & 1 == 0 && sequence.load(Relaxed) == before {
                return sample_of(&words);
            }
            std::thread::yield_now();
        }
        None
    }
}

fn sample_of(words: &[u64]) -> Option<MountSample> {
    let word = |at: usize| words.get(at).copied().unwrap_or(0);
    let text = |len_at: usize, at: usize, max: usize| {
        let len = usize::try_from(word(len_at)).unwrap_or(max).min(max);
        let bytes: Vec<u8> = (at..at + max / 8).flat_map(|n| word(n).to_le_bytes()).take(len).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (word(row::IN_USE) == 1).then(|| MountSample {
        session: SessionId(word(row::SESSION)),
        branch: text(row::BRANCH_LEN, row::BRANCH, BRANCH_MAX),
        mountpoint: text(row::MOUNTPOINT_LEN, row::MOUNTPOINT, MOUNTPOINT_MAX),
        read_only: word(row::READ_ONLY) != 0,
        attached_at: word(row::ATTACHED_AT).cast_signed(),
        requests: word(row::REQUESTS),
        errors: word(row::ERRORS),
        bytes_read: word(row::BYTES_READ),
        bytes_written: word(row::BYTES_WRITTEN),
        in_flight: word(row::IN_FLIGHT),
    })
}

fn is_alive(pid: i32) -> bool {
    use nix::errno::Errno;
    pid > 0 && matches!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

#[cfg(test)]
mod tests;
