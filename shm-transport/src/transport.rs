//! The two ends of a transport, as traits: what a frontend does (`FsTransport`) and what a daemon
//! does (`Handler`). One conformance suite holds for every implementation.

use crate::mem::Payload;
use crate::wire::{Reply, Request, RequestId, SessionId, SlotIndex};
use std::os::fd::BorrowedFd;

/// Why a transport cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer broke a rule of `specs/wire-protocol.md`; this session cannot go on with it.
    #[error("the peer broke the protocol: {rule}")]
    Protocol {
        /// The rule.
        rule: &'static str,
    },
    /// This side failed in a way that it must not, e.g. a handler panicked; the session ends.
    #[error("defect: {what}")]
    Defect {
        /// What happened.
        what: &'static str,
    },
    /// A message does not fit or is malformed; only this request fails.
    #[error(transparent)]
    Codec(#[from] crate::wire::CodecError),
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A slot in the hands of the submitting end, with its payload buffer. Given back by
/// [`FsTransport::release`]; not `Clone`, so that a slot cannot be submitted twice.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which slot.
    pub slot: SlotIndex,
}

/// A finished request. The slot stays leased, payload and all, until it is released, which the
/// frontend does only after the kernel has taken the reply.
#[derive(Debug)]
pub struct Completion {
    /// The slot.
    pub lease: Lease,
    /// The request that it answers.
    pub id: RequestId,
    /// The answer.
    pub reply: Reply,
}

/// The submitting end: one per frontend thread, used by that thread alone.
///
/// Every submitted request is completed exactly once, in any order, as long as a daemon comes back.
pub trait FsTransport: Send {
    /// A free slot, or `None` while all are under way.
    fn lease(&mut self) -> Option<Lease>;

    /// The payload buffer of a leased slot.
    fn payload(&self, lease: &Lease) -> Payload<'_>;

    /// Hands a request to the daemon; the first `payload_len` bytes of the slot's payload belong to it.
    /// On `Codec` errors the lease comes back; other errors mean that the connection to this daemon
    /// cannot go on. The request is then still under way: it runs when the next daemon has come.
    fn submit(
        &mut self,
        lease: Lease,
        id: RequestId,
        request: &Request,
        payload_len: u32,
    ) -> Result<(), (Option<Lease>, TransportError)>;

    /// The next finished request, without waiting.
    fn complete(&mut self) -> Result<Option<Completion>, TransportError>;

    /// Waits for a completion without sleeping, for some microseconds at most and only where that may pay.
    /// `true` when one is there.
    fn linger(&mut self) -> bool;

    /// Says that this end is about to sleep on [`Self::doorbell`]: from now on the other end rings.
    /// `false` when a completion arrived meanwhile and sleeping would miss it.
    fn arm(&mut self) -> bool;

    /// Awake again: takes the doorbell's count and tells the other end not to ring.
    fn disarm(&mut self);

    /// Readable when completions may have arrived since [`Self::arm`].
    fn doorbell(&self) -> BorrowedFd<'_>;

    /// Gives the slot back.
    fn release(&mut self, lease: Lease);

    /// Requests submitted and not yet completed.
    fn in_flight(&self) -> usize;
}

/// One request as a daemon gets it.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The mount it came from.
    pub session: SessionId,
    /// The slot that it occupies; `(session, slot)` names the record of its reply.
    pub slot: SlotIndex,
    /// The kernel's number for it; the same when it is submitted again after a crash.
    pub id: RequestId,
}

/// The serving end's logic. Called from several threads at once.
pub trait Handler: Send + Sync {
    /// Whether the request may wait for a disk: such requests run on the blocking pool, so that they
    /// never hold up a queue.
    fn may_block(&self, ctx: &Context, request: &Request) -> bool;

    /// Runs the request if that waits for no disk. `None`, with nothing changed, when it would: then
    /// [`Self::handle`] runs it, on a thread whose waiting holds up nobody.
    fn attempt(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Option<Reply> {
        if self.may_block(ctx, request) { None } else { Some(self.handle(ctx, request, payload, payload_len)) }
    }

    /// Runs one request to its reply. `payload_len` bytes of `payload` came with it. Must not panic;
    /// a panic is answered with `EIO` and ends the session.
    fn handle(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Reply;
}
