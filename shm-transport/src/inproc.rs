//! The transport without a second process: the handler is called in `submit`. For tests, and to
//! measure what the split costs: messages pass the codec and payloads lie in a region as they do there.

use crate::doorbell::Doorbell;
use crate::layout::Geometry;
use crate::mem::Payload;
use crate::session::{SessionFds, SessionMap};
use crate::transport::{Completion, Context, FsTransport, Handler, Lease, TransportError};
use crate::wire::limits::PAYLOAD_MAX;
use crate::wire::{self, CodecError, Errno, Reply, Request, RequestId, SessionId, SlotIndex};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// An [`FsTransport`] that calls a [`Handler`] directly.
pub struct InProcess {
    handler: Arc<dyn Handler>,
    session: SessionId,
    map: SessionMap,
    free: Vec<SlotIndex>,
    done: VecDeque<Completion>,
    bell: Doorbell,
    /// A handler panicked: the session is over.
    ended: bool,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("session", &self.session).finish_non_exhaustive()
    }
}

impl InProcess {
    /// A session of its own over `handler`. Only one queue pair is of use.
    pub fn new(handler: Arc<dyn Handler>, geometry: Geometry, session: SessionId) -> Result<Self, TransportError> {
        let io = |source: io::Error| TransportError::Io { what: "cannot make a session", source };
        let fds = SessionFds::create(geometry, session).map_err(io)?;
        Ok(Self {
            handler,
            session,
            map: SessionMap::attach(fds.region.as_fd())?,
            free: (0..geometry.slots).rev().map(SlotIndex).collect(),
            done: VecDeque::new(),
            bell: Doorbell::create().map_err(io)?,
            ended: false,
        })
    }

    fn run(&mut self, ctx: &Context, request: &Request, payload_len: u32) -> Reply {
        let Some(mut payload) = self.map.payload(ctx.slot) else { return Reply::Error(Errno::EIO) };
        let handler = &self.handler;
        let run = AssertUnwindSafe(|| handler.handle(ctx, request, &mut payload, payload_len));
        catch_unwind(run).unwrap_or_else(|_| {
            self.ended = true;
            Reply::Error(Errno::EIO)
        })
    }
}

/// What the other end would get.
fn carried(request: &Request, payload_len: u32) -> Result<Result<Request, CodecError>, CodecError> {
    if payload_len as usize > PAYLOAD_MAX {
        return Err(CodecError::OverLimit);
    }
    Ok(wire::decode_request(&wire::encode_request(request)?))
}

impl FsTransport for InProcess {
    fn lease(&mut self) -> Option<Lease> {
        self.free.pop().map(|slot| Lease { slot })
    }

    #[expect(clippy::expect_used, reason = "leases are made by this end alone, for slots of its region")]
    fn payload(&self, lease: &Lease) -> Payload<'_> {
        self.map.payload(lease.slot).expect("a leased slot lies in the region")
    }

    fn submit(
        &mut self,
        lease: Lease,
        id: RequestId,
        request: &Request,
        payload_len: u32,
    ) -> Result<(), (Option<Lease>, TransportError)> {
        if self.ended {
            return Err((Some(lease), TransportError::Defect { what: "a handler panicked" }));
        }
        let ctx = Context { session: self.session, slot: lease.slot, id };
        let reply = match carried(request, payload_len) {
            Ok(Ok(request)) => self.run(&ctx, &request, payload_len),
            Ok(Err(_)) => Reply::Error(Errno::EINVAL),
            Err(e) => return Err((Some(lease), e.into())),
        };
        let impossible = matches!(reply, Reply::Data { len } if len as usize > PAYLOAD_MAX);
        let reply = if impossible { Reply::Error(Errno::EIO) } else { reply };
        self.done.push_back(Completion { lease, id, reply });
        Ok(())
    }

    fn complete(&mut self) -> Result<Option<Completion>, TransportError> {
        Ok(self.done.pop_front())
    }

    fn linger(&mut self) -> bool {
        !self.done.is_empty()
    }

    fn arm(&mut self) -> bool {
        self.done.is_empty()
    }

    fn disarm(&mut self) {}

    fn doorbell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn release(&mut self, lease: Lease) {
        self.free.push(lease.slot);
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }
}
