//! The structures of atomic cells that lie in the region. They stand here, and not in `layout`,
//! because promising that a structure may be shared with another process is an unsafe promise.

use crossbeam_utils::CachePadded;
use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A type of which a reference into shared memory may exist.
///
/// # Safety
/// It is `repr(C)` (or one atomic), consists of atomics and padding only, and is valid for any bits.
pub(crate) unsafe trait Shared: Sync {}

// SAFETY: an atomic, valid for any bits.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic, valid for any bits.
unsafe impl Shared for AtomicU64 {}
// SAFETY: `repr(C)`, every field is an atomic.
unsafe impl Shared for RegionHeader {}
// SAFETY: `repr(C)`, every field is an atomic in a cache line of its own.
unsafe impl Shared for RingHeader {}
// SAFETY: `repr(C)`, every field is an atomic.
unsafe impl Shared for SlotHeader {}

/// The first bytes of a region. What geometry and names say is written once, by the mounting process,
/// before anybody else maps the region; the rest has one writer each. wire-protocol §2.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RegionHeader {
    /// `layout::MAGIC`.
    pub(crate) magic: AtomicU64,
    /// `layout::VERSION`.
    pub(crate) version: AtomicU32,
    /// Length of this structure, in bytes.
    pub(crate) header_len: AtomicU32,
    /// Bits of optional features in use; a reader refuses bits that it does not know.
    pub(crate) features: AtomicU64,
    /// Length of the region, in bytes.
    pub(crate) region_len: AtomicU64,
    /// Queue pairs.
    pub(crate) queues: AtomicU32,
    /// Slots, of all queue pairs together.
    pub(crate) slots: AtomicU32,
    /// `limits::REQUEST_MAX` of the writer.
    pub(crate) request_max: AtomicU32,
    /// `limits::REPLY_MAX` of the writer.
    pub(crate) reply_max: AtomicU32,
    /// `limits::PAYLOAD_MAX` of the writer.
    pub(crate) payload_max: AtomicU32,
    /// Incarnation of the frontend-daemon connection, raised by the frontend.
    pub(crate) epoch: AtomicU32,
    /// The session.
    pub(crate) session: AtomicU64,
    /// Process id of the frontend, for people.
    pub(crate) frontend_pid: AtomicU32,
    /// Process id of the daemon, for people.
    pub(crate) daemon_pid: AtomicU32,
    /// Minor version of the FUSE protocol that INIT settled.
    pub(crate) fuse_minor: AtomicU32,
    /// `max_write` that INIT settled, in bytes.
    pub(crate) fuse_max_write: AtomicU32,
    /// `flags` and `flags2` (upper half) that INIT settled.
    pub(crate) fuse_flags: AtomicU64,
    /// `max_readahead` that INIT settled, in bytes.
    pub(crate) fuse_max_readahead: AtomicU32,
    /// `max_background` that INIT settled.
    pub(crate) fuse_max_background: AtomicU32,
    /// 1 once the FUSE fields are whole.
    pub(crate) fuse_ready: AtomicU32,
    /// 1 for a read-only mount.
    pub(crate) read_only: AtomicU32,
    /// Since when the frontend has no daemon, in milliseconds of the monotonic clock; 0 while it has one.
    pub(crate) away_since: AtomicU64,
    /// Requests that wait for the daemon, for people.
    pub(crate) held: AtomicU32,
    /// Seconds without a daemon after which requests fail; 0 for never.
    pub(crate) give_up_after: AtomicU32,
    /// CPU that the frontend ran on when it submitted last, plus one; 0 when unknown.
    pub(crate) frontend_cpu: AtomicU32,
    /// CPU that the daemon ran on when it took a request last, plus one; 0 when unknown.
    pub(crate) daemon_cpu: AtomicU32,
    /// Longest time that the kernel keeps a name, in milliseconds; `u32::MAX` for as long as it is true.
    pub(crate) names_ms: AtomicU32,
    /// The same of attributes.
    pub(crate) attributes_ms: AtomicU32,
    /// The same of missing names.
    pub(crate) missing_ms: AtomicU32,
    /// 1 where every read and write is a request.
    pub(crate) direct_io: AtomicU32,
}

/// Cursors of one ring, each alone on its cache line. A cursor is `epoch << 32 | position`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RingHeader {
    /// Written by the producer: entries before it are published.
    pub(crate) tail: CachePadded<AtomicU64>,
    /// Written by the consumer: entries before it are taken.
    pub(crate) head: CachePadded<AtomicU64>,
    /// 1 while the consumer sleeps or is about to: the producer rings.
    pub(crate) armed: CachePadded<AtomicU32>,
}

/// One slot's fixed fields. wire-protocol §4.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct SlotHeader {
    /// `generation << 32 | state`.
    pub(crate) state: AtomicU64,
    /// The kernel's unique of the request.
    pub(crate) request_id: AtomicU64,
    /// Epoch in which it was last submitted.
    pub(crate) owner_epoch: AtomicU32,
    /// Length of the encoded request, in bytes.
    pub(crate) request_len: AtomicU32,
    /// Bytes of the payload that came with the request.
    pub(crate) payload_len: AtomicU32,
    /// Length of the encoded reply, in bytes.
    pub(crate) reply_len: AtomicU32,
}

// The layout is a promise between processes of different builds: a change here is a new VERSION.
const _: () = {
    assert!(size_of::<RegionHeader>() == 144);
    assert!(align_of::<RegionHeader>() == 8);
    assert!(offset_of!(RegionHeader, session) == 56);
    assert!(offset_of!(RegionHeader, fuse_flags) == 80);
    assert!(offset_of!(RegionHeader, read_only) == 100);
    assert!(offset_of!(RegionHeader, away_since) == 104);
    assert!(offset_of!(RegionHeader, names_ms) == 128);
    assert!(size_of::<RingHeader>() == 384);
    assert!(align_of::<RingHeader>() == 128);
    assert!(size_of::<SlotHeader>() == 64);
    assert!(offset_of!(SlotHeader, owner_epoch) == 16);
};
