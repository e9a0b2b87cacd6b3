//! One session's shared memory and descriptors: made once per mount, mapped by every process that
//! takes part, for as long as the kernel connection lives.

use crate::doorbell::Doorbell;
use crate::layout::{FEATURES, Geometry, Layout, MAGIC, Side, VERSION};
use crate::mem::bytes::SharedBytes;
use crate::mem::cells::{RegionHeader, RingHeader, SlotHeader};
use crate::mem::region::{Cell, Cells, Region};
use crate::mem::{Payload, fds};
use crate::ring::RingCells;
use crate::table::LookupTable;
use crate::transport::TransportError;
use crate::wire::limits::{PAYLOAD_MAX, REPLY_MAX, REQUEST_MAX};
use crate::wire::{SessionId, SlotIndex};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// What the kernel and the mounting process settled in INIT: an adopting frontend cannot ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FuseState {
    /// Minor version of the FUSE protocol (the major is 7).
    pub minor: u32,
    /// `flags`, and `flags2` in the upper half.
    pub flags: u64,
    /// `max_write`, in bytes.
    pub max_write: u32,
    /// `max_readahead`, in bytes.
    pub max_readahead: u32,
    /// `max_background`.
    pub max_background: u32,
    /// Mounted read-only.
    pub read_only: bool,
    /// What the kernel may keep.
    pub caching: Caching,
}

/// What whoever mounted lets the kernel keep, at most: for as long as it is true where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caching {
    /// Names, in milliseconds.
    pub names_ms: Option<u32>,
    /// Attributes, in milliseconds.
    pub attributes_ms: Option<u32>,
    /// That a name is missing, in milliseconds.
    pub missing_ms: Option<u32>,
    /// No file data: every read and write is a request.
    pub direct_io: bool,
}

/// What a frontend without a daemon says of itself, for whoever has the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Waiting {
    /// Since when, by [`monotonic_ms`].
    pub since_ms: u64,
    /// Requests that it holds; more may wait in the kernel.
    pub requests: u32,
}

impl Waiting {
    /// For how long until now, in whole seconds.
    pub fn seconds(&self) -> u64 {
        monotonic_ms().saturating_sub(self.since_ms) / 1000
    }
}

/// Milliseconds of the clock that all processes of the host share, that never jumps, and that stands still
/// while the host is suspended.
pub fn monotonic_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// The descriptors of a session, without the `/dev/fuse` one. Wherever they travel in a row, their
/// order is: region, table, submission doorbell, then one completion doorbell per queue pair.
#[derive(Debug)]
pub struct SessionFds {
    /// The sealed region.
    pub region: OwnedFd,
    /// The growable table of lookup counts ([`LookupTable`]).
    pub table: OwnedFd,
    /// Doorbell from the frontend to the daemon, for all queue pairs.
    pub sq: OwnedFd,
    /// Doorbells from the daemon to the frontend's threads, one per queue pair.
    pub cq: Vec<OwnedFd>,
}

impl SessionFds {
    /// Makes the shared memory and doorbells of a new session, in epoch 0.
    pub fn create(geometry: Geometry, session: SessionId) -> io::Result<Self> {
        let layout = Layout::new(geometry)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "queue pairs or slots out of bounds"))?;
        let (region_fd, region) = Region::create("agentfs-region", layout.len)?;
        let header: Cell<RegionHeader> = region.cell(0).ok_or(io::ErrorKind::InvalidData)?;
        write_header(&header, &layout, session);
        header.frontend_pid.store(std::process::id(), Relaxed);
        let cq = (0..geometry.queues).map(|_| Doorbell::create().map(Doorbell::into_fd)).collect::<io::Result<_>>()?;
        Ok(Self { region: region_fd, table: LookupTable::create()?.into_fd(), sq: Doorbell::create()?.into_fd(), cq })
    }

    /// From descriptors in a row, as they come beside a message. `None` when there are too few or too
    /// many to be a session's.
    pub fn from_row(row: Vec<OwnedFd>) -> Option<Self> {
        let mut row = row.into_iter();
        let (region, table, sq) = (row.next()?, row.next()?, row.next()?);
        let cq: Vec<OwnedFd> = row.collect();
        let count = u32::try_from(cq.len()).ok()?;
        (1..=crate::wire::limits::QUEUES_MAX).contains(&count).then_some(Self { region, table, sq, cq })
    }

    /// Takes over the numbers that a parent process left open, in a row ([`fds::adopt_inherited`]).
    pub fn adopt_inherited(numbers: &[RawFd]) -> io::Result<Self> {
        let row = numbers.iter().map(|n| fds::adopt_inherited(*n)).collect::<io::Result<Vec<_>>>()?;
        Self::from_row(row).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a session needs region, table, and at least two doorbells")
        })
    }

    /// All of them in a row, to send.
    pub fn row(&self) -> Vec<BorrowedFd<'_>> {
        [&self.region, &self.table, &self.sq].into_iter().chain(&self.cq).map(AsFd::as_fd).collect()
    }

    /// Other descriptors of the same session.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            region: self.region.try_clone()?,
            table: self.table.try_clone()?,
            sq: self.sq.try_clone()?,
            cq: self.cq.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?,
        })
    }

    /// Checks the region and maps its header.
    pub fn header(&self) -> Result<SessionHeader, TransportError> {
        Ok(SessionHeader { map: Arc::new(SessionMap::attach(self.region.as_fd())?) })
    }
}

/// Writes the fields that `check` reads, from what this process knows.
pub(crate) fn write_header(header: &RegionHeader, layout: &Layout, session: SessionId) {
    header.version.store(VERSION, Relaxed);
    header.header_len.store(size_of::<RegionHeader>() as u32, Relaxed);
    header.features.store(FEATURES, Relaxed);
    header.region_len.store(layout.len as u64, Relaxed);
    header.queues.store(layout.geometry.queues, Relaxed);
    header.slots.store(layout.geometry.slots, Relaxed);
    header.request_max.store(REQUEST_MAX as u32, Relaxed);
    header.reply_max.store(REPLY_MAX as u32, Relaxed);
    header.payload_max.store(PAYLOAD_MAX as u32, Relaxed);
    header.session.store(session.0, Relaxed);
    header.magic.store(MAGIC, Release);
}

/// The header of a session's region.
#[derive(Debug)]
pub struct SessionHeader {
    pub(crate) map: Arc<SessionMap>,
}

impl SessionHeader {
    /// The session.
    pub fn session(&self) -> SessionId {
        SessionId(self.map.header.session.load(Relaxed))
    }

    /// Queue pairs and slots.
    pub fn geometry(&self) -> Geometry {
        self.map.layout.geometry
    }

    /// Incarnation of the frontend-daemon connection.
    pub fn epoch(&self) -> u32 {
        self.map.header.epoch.load(Acquire)
    }

    /// What INIT settled; `None` before [`Self::set_fuse_state`].
    pub fn fuse_state(&self) -> Option<FuseState> {
        let h = &self.map.header;
        let limit = |cell: &AtomicU32| Some(cell.load(Relaxed)).filter(|ms| *ms != u32::MAX);
        (h.fuse_ready.load(Acquire) == 1).then(|| FuseState {
            minor: h.fuse_minor.load(Relaxed),
            flags: h.fuse_flags.load(Relaxed),
            max_write: h.fuse_max_write.load(Relaxed),
            max_readahead: h.fuse_max_readahead.load(Relaxed),
            max_background: h.fuse_max_background.load(Relaxed),
            read_only: h.read_only.load(Relaxed) != 0,
            caching: Caching {
                names_ms: limit(&h.names_ms),
                attributes_ms: limit(&h.attributes_ms),
                missing_ms: limit(&h.missing_ms),
                direct_io: h.direct_io.load(Relaxed) != 0,
            },
        })
    }

    /// Keeps what INIT settled for the frontends to come. Called once, by the mounting process.
    pub fn set_fuse_state(&self, state: &FuseState) {
        let h = &self.map.header;
        h.fuse_minor.store(state.minor, Relaxed);
        h.fuse_flags.store(state.flags, Relaxed);
        h.fuse_max_write.store(state.max_write, Relaxed);
        h.fuse_max_readahead.store(state.max_readahead, Relaxed);
        h.fuse_max_background.store(state.max_background, Relaxed);
        h.read_only.store(u32::from(state.read_only), Relaxed);
        let Caching { names_ms, attributes_ms, missing_ms, direct_io } = state.caching;
        for (cell, limit) in [(&h.names_ms, names_ms), (&h.attributes_ms, attributes_ms), (&h.missing_ms, missing_ms)] {
            cell.store(limit.unwrap_or(u32::MAX), Relaxed);
        }
        h.direct_io.store(u32::from(direct_io), Relaxed);
        // Pairs with the Acquire in `fuse_state`: the fields above are whole.
        h.fuse_ready.store(1, Release);
    }

    /// Process id of the frontend, for people.
    pub fn frontend_pid(&self) -> u32 {
        self.map.header.frontend_pid.load(Relaxed)
    }

    /// Process id of the daemon that attached last, for people.
    pub fn daemon_pid(&self) -> u32 {
        self.map.header.daemon_pid.load(Relaxed)
    }

    /// Whether the frontend waits for a daemon, as it says itself.
    pub fn waiting(&self) -> Option<Waiting> {
        let since_ms = self.map.header.away_since.load(Relaxed);
        (since_ms != 0).then(|| Waiting { since_ms, requests: self.map.header.held.load(Relaxed) })
    }

    /// Says that the frontend waits for a daemon, or (`None`) that it has one.
    pub fn set_waiting(&self, waiting: Option<Waiting>) {
        let h = &self.map.header;
        h.held.store(waiting.map_or(0, |w| w.requests), Relaxed);
        h.away_since.store(waiting.map_or(0, |w| w.since_ms.max(1)), Relaxed);
    }

    /// After how long without a daemon requests fail; `None` for never.
    pub fn give_up_after(&self) -> Option<Duration> {
        let seconds = self.map.header.give_up_after.load(Relaxed);
        (seconds != 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Sets the limit, in whole seconds.
    pub fn set_give_up_after(&self, limit: Option<Duration>) {
        let seconds = limit.map_or(0, |limit| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).max(1));
        self.map.header.give_up_after.store(seconds, Relaxed);
    }
}

/// One slot's shared parts.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) header: Cell<SlotHeader>,
    pub(crate) request: SharedBytes,
    pub(crate) reply: SharedBytes,
}

/// One ring's shared parts.
#[derive(Debug)]
pub(crate) struct ShmRing {
    header: Cell<RingHeader>,
    entries: Cells<AtomicU32>,
}

impl RingCells for ShmRing {
    type Cursor = AtomicU64;
    type Cell = AtomicU32;

    fn tail(&self) -> &AtomicU64 {
        &self.header.tail
    }
    fn head(&self) -> &AtomicU64 {
        &self.header.head
    }
    fn armed(&self) -> &AtomicU32 {
        &self.header.armed
    }
    fn entry(&self, at: u32) -> Option<&AtomicU32> {
        self.entries.get((at & (self.capacity() - 1)) as usize)
    }
    fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }
}

/// A mapped and checked region.
#[derive(Debug)]
pub(crate) struct SessionMap {
    pub(crate) layout: Layout,
    pub(crate) header: Cell<RegionHeader>,
    region: Arc<Region>,
}

const OUT_OF_REGION: TransportError = TransportError::Protocol { rule: "a part of the region lies outside it" };

impl SessionMap {
    /// Maps a region and checks everything in its header that this build relies on. wire-protocol §5.
    pub(crate) fn attach(fd: BorrowedFd<'_>) -> Result<Self, TransportError> {
        let region = Region::attach(fd, Layout::len_max())
            .map_err(|source| TransportError::Io { what: "cannot map the region", source })?;
        let header: Cell<RegionHeader> = region.cell(0).ok_or(OUT_OF_REGION)?;
        let layout = check(&header, region.len()).map_err(|rule| TransportError::Protocol { rule })?;
        Ok(Self { layout, header, region })
    }

    pub(crate) fn ring(&self, queue: u32, side: Side) -> Result<ShmRing, TransportError> {
        let capacity = self.layout.geometry.ring_capacity() as usize;
        let header = self.region.cell(self.layout.ring_offset(queue, side)).ok_or(OUT_OF_REGION)?;
        let entries = self.region.cells(self.layout.entries_offset(queue, side), capacity).ok_or(OUT_OF_REGION)?;
        Ok(ShmRing { header, entries })
    }

    pub(crate) fn slot(&self, slot: u32) -> Result<Slot, TransportError> {
        let layout = &self.layout;
        Ok(Slot {
            header: self.region.cell(layout.slot_offset(slot)).ok_or(OUT_OF_REGION)?,
            request: self.region.bytes(layout.request_offset(slot), REQUEST_MAX).ok_or(OUT_OF_REGION)?,
            reply: self.region.bytes(layout.reply_offset(slot), REPLY_MAX).ok_or(OUT_OF_REGION)?,
        })
    }

    /// The payload buffer of a slot; `None` for a slot that the region does not have.
    pub(crate) fn payload(&self, slot: SlotIndex) -> Option<Payload<'_>> {
        if slot.0 >= self.layout.geometry.slots {
            return None;
        }
        self.region.payload(self.layout.payload_offset(slot.0), PAYLOAD_MAX)
    }
}

/// The layout that a header describes, each field read once.
fn check(header: &RegionHeader, len: usize) -> Result<Layout, &'static str> {
    if header.magic.load(Acquire) != MAGIC {
        return Err("the region has no AgentFS header (rule A2)");
    }
    if header.version.load(Relaxed) != VERSION {
        return Err("the region has another version: frontend and daemon must be of one release (rule A3)");
    }
    if header.header_len.load(Relaxed) as usize != size_of::<RegionHeader>() {
        return Err("the region's header has another length (rule A3)");
    }
    if header.features.load(Relaxed) & !FEATURES != 0 {
        return Err("the region uses features that this build does not know (rule A4)");
    }
    let sizes = [&header.request_max, &header.reply_max, &header.payload_max].map(|field| field.load(Relaxed) as usize);
    if sizes != [REQUEST_MAX, REPLY_MAX, PAYLOAD_MAX] {
        return Err("the region has other message limits (rule A5)");
    }
    let geometry = Geometry { queues: header.queues.load(Relaxed), slots: header.slots.load(Relaxed) };
    let layout = Layout::new(geometry).ok_or("the region's geometry is out of bounds (rule A6)")?;
    if layout.len != len || header.region_len.load(Relaxed) != len as u64 {
        return Err("the region's length does not follow from its geometry (rule A7)");
    }
    Ok(layout)
}
