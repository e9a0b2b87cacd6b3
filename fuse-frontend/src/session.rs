//! One mount's life: requests from the kernel to the daemon, replies back. One thread.
//!
//! Order of a reply that teaches the kernel of a node: its lookup count is raised in the table, then
//! the reply is written, then the slot is released. Whoever takes over in between finds counts that
//! are too high rather than too low, and the kernel resends what was not answered.

mod adopt;
mod forget;
mod give_up;
mod leave;
mod reply;
mod wait;

use crate::abi::HEAD;
use crate::abi::input::InHeader;
use crate::abi::opcode::Opcode;
use crate::channel::{Channel, Received};
use crate::convert::{self, PayloadIn, Plan};
use crate::decode::{self, DecodeError, Header, Operation};
use crate::encode::{self, Expect};
use crate::pending::{Claimed, Pending, Under};
use forget::Forgetting;
use leave::Leaving;
use shm_transport::wire::{Errno, Request, RequestId, SlotIndex};
use shm_transport::{FsTransport, Lease, LookupTable, TransportError};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wait::Waiter;

pub(crate) use adopt::is_own;

#[cfg(test)]
mod tests;

/// Requests read in a row before replies get their turn.
const READS_MAX: usize = 16;
/// Replies written in a row before requests get their turn.
const REPLIES_MAX: usize = 64;

/// The daemon as the session sees it: a transport whose other end may go away and come back.
pub(crate) trait Daemon {
    /// The submitting end.
    type Transport: FsTransport;
    /// The submitting end.
    fn transport(&mut self) -> &mut Self::Transport;
    /// The submitting end, to look at.
    fn transport_ref(&self) -> &Self::Transport;
    /// How many slots there are.
    fn slots(&self) -> usize;
    /// How many of them hold requests, those that were given up included.
    fn occupied(&self) -> usize;
    /// What a former frontend left under way.
    fn left_behind(&self) -> Vec<LeftBehind>;
    /// The highest number of the kernel's that was ever submitted, as far as is known.
    fn last_id(&self) -> RequestId;
    /// Readable when the daemon has died; `None` while there is none.
    fn connection(&self) -> Option<BorrowedFd<'_>>;
    /// The daemon died or broke the protocol.
    fn lose(&mut self, why: &str);
    /// How long to wait before [`Self::retry`]; `None` while the daemon is there.
    fn retry_in(&self) -> Option<Duration>;
    /// Whether the daemon is there.
    fn connected(&self) -> bool {
        self.retry_in().is_none()
    }
    /// Looks whether the daemon is back. `true` when it is attached again.
    fn retry(&mut self) -> bool;
    /// Tells the daemon that the mount is gone; `false` when it could not be told.
    fn detach(&mut self) -> bool;
    /// How long until requests are given up; `None` while the daemon is there, or without a limit. Zero from the
    /// limit on until a daemon is there.
    fn gives_up_in(&self) -> Option<Duration>;
    /// Fences the kernel's requests that are under way and gives the slots of those that no daemon completed.
    fn give_up(&mut self) -> Vec<SlotIndex>;
    /// Requests that were given up, perhaps by a former frontend.
    fn given_up(&self) -> Vec<RequestId>;
    /// Shows who looks at the mount how many requests wait.
    fn show_waiting(&mut self);
}

/// A request that a former frontend left under way.
#[derive(Debug)]
pub(crate) struct LeftBehind {
    /// Its number.
    pub(crate) id: RequestId,
    /// Where it lies.
    pub(crate) slot: SlotIndex,
    /// What it asks for, if that can be read.
    pub(crate) request: Option<Request>,
}

/// Whether the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Goes,
    Ended,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The file system is unmounted.
    Unmounted {
        /// The daemon knows of it.
        told: bool,
    },
    /// Another frontend is to take over.
    Left,
}

/// One mount.
pub(crate) struct Session<D: Daemon> {
    kernel: Channel,
    daemon: D,
    counts: LookupTable,
    pending: Pending,
    forgetting: Forgetting,
    waiter: Waiter,
    leaving: Leaving,
    /// One more holds it for each answer that waits for notifications.
    notifying: Arc<()>,
    /// A lease ready for the next request.
    spare: Option<Lease>,
    /// Bytes after a request's header, private.
    scratch: Vec<u8>,
    /// The kernel sends what was read and not answered again when asked (since Linux 6.9).
    resends: bool,
    /// Resent requests may still come.
    adopting: bool,
    /// A request was read for which there was no slot: it is asked for again when there is one.
    dropped: bool,
    /// The kernel may have a request for us.
    readable: bool,
    /// Replies were left for the next turn.
    more_replies: bool,
    /// A request was submitted since the last wait.
    submitted: bool,
    /// Of our own requests: odd, so that none is ever the kernel's.
    own_id: u64,
}

impl<D: Daemon> Session<D> {
    /// Takes a mount over, whether it is new (incarnation 1) or another frontend died. The number must
    /// differ from that of any former incarnation. With `resends`, the kernel may be asked to resend.
    pub(crate) fn adopt(
        kernel: Channel,
        daemon: D,
        counts: LookupTable,
        incarnation: u32,
        resends: bool,
    ) -> io::Result<Self> {
        let waiter = Waiter::new(&kernel, daemon.transport_ref().doorbell())?;
        let mut session = Self {
            kernel,
            daemon,
            counts,
            pending: Pending::default(),
            forgetting: Forgetting::default(),
            waiter,
            leaving: Leaving::default(),
            notifying: Arc::default(),
            spare: None,
            scratch: Vec::new(),
            resends,
            adopting: false,
            dropped: false,
            readable: true,
            more_replies: false,
            submitted: false,
            own_id: u64::from(incarnation & 0x3fff_ffff) << 33 | 1,
        };
        session.take_over(incarnation > 1)?;
        Ok(session)
    }

    /// Serves until the file system is unmounted, or another frontend is to take over.
    pub(crate) fn run(&mut self) -> io::Result<Over> {
        self.look_for_the_daemon()?;
        loop {
            let ended = self.deliver_replies()? == Life::Ended
                || self.give_up()? == Life::Ended
                || self.take_requests()? == Life::Ended
                || {
                    self.send_forgets(Instant::now());
                    !self.may_leave(Instant::now()) && self.wait()? == Life::Ended
                };
            if ended {
                tracing::info!("the file system is unmounted");
                return Ok(Over::Unmounted { told: self.daemon.detach() });
            }
            if self.may_leave(Instant::now()) {
                return Ok(Over::Left);
            }
        }
    }

    fn deliver_replies(&mut self) -> io::Result<Life> {
        for _ in 0..REPLIES_MAX {
            match self.daemon.transport().complete() {
                Ok(Some(completion)) => {
                    if self.completed(completion)? == Life::Ended {
                        return Ok(Life::Ended);
                    }
                }
                Ok(None) => {
                    self.more_replies = false;
                    return Ok(Life::Goes);
                }
                Err(e) => {
                    self.more_replies = false;
                    self.lose(&e);
                    return Ok(Life::Goes);
                }
            }
        }
        self.more_replies = true;
        Ok(Life::Goes)
    }

    /// The daemon cannot be gone on with. What is under way is submitted to the next one.
    fn lose(&mut self, why: &TransportError) {
        self.daemon.lose(&why.to_string());
    }

    /// Whether a request may be submitted. One slot always stays free: with it a frontend that takes over
    /// from us reads what is resent, while the replies in all others wait for that.
    fn may_submit(&self) -> bool {
        self.daemon.occupied() + 1 < self.daemon.slots()
    }

    /// Whether a request may be read, and a lease to read it into.
    fn has_room(&mut self) -> bool {
        if self.spare.is_none() {
            self.spare = self.daemon.transport().lease();
        }
        self.spare.is_some() && (self.adopting || self.gives_up() || self.may_submit())
    }

    /// Whether a request may be taken from the kernel.
    fn may_take(&mut self) -> bool {
        !self.leaving.is_begun() && self.has_room()
    }

    fn take_requests(&mut self) -> io::Result<Life> {
        if self.must_ask_again() {
            self.ask_again()?;
        }
        for _ in 0..READS_MAX {
            if !self.readable || !self.may_take() {
                break;
            }
            let Some(lease) = self.spare.take() else { break };
            let mut head = [0; HEAD];
            let received = self.kernel.receive(&mut head, &mut self.daemon.transport_ref().payload(&lease));
            match received? {
                Received::Request(len) => {
                    if self.request(&head, len, lease)? == Life::Ended {
                        return Ok(Life::Ended);
                    }
                    // With one program waiting for one reply, another read would only find nothing.
                    self.readable = self.adopting || self.daemon.transport_ref().in_flight() != 1;
                }
                Received::Nothing => {
                    self.spare = Some(lease);
                    self.readable = false;
                    self.nothing_resent_any_more();
                }
                Received::Unmounted => return Ok(Life::Ended),
            }
        }
        Ok(Life::Goes)
    }

    /// One packet of the kernel, in `head` and the lease's payload.
    fn request(&mut self, head: &[u8; HEAD], len: usize, lease: Lease) -> io::Result<Life> {
        let Some((header, length)) = Header::parse(head, len) else {
            tracing::warn!(len, "the kernel sent a packet without a header");
            self.spare = Some(lease);
            return Ok(Life::Goes);
        };
        if !header.is_resent() && !matches!(header.opcode, Opcode::FORGET | Opcode::BATCH_FORGET | Opcode::INTERRUPT) {
            self.nothing_resent_any_more();
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let decoded = length.and_then(|()| self.decode(&header, head, len, &lease, &mut scratch));
        let life = match decoded {
            Ok(operation) => self.carry_out(&header, &operation, lease),
            Err(e) => {
                tracing::error!(error = %e, "the kernel sent a request that cannot be read");
                self.spare = Some(lease);
                self.answer_error(&header, Errno::EIO)
            }
        };
        self.scratch = scratch;
        life
    }

    fn decode<'a>(
        &self,
        header: &Header,
        head: &[u8; HEAD],
        len: usize,
        lease: &Lease,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Operation<'a>, DecodeError> {
        if header.opcode == Opcode::WRITE {
            return decode::write(head, len);
        }
        scratch.clear();
        scratch.extend_from_slice(head.get(size_of::<InHeader>()..len.min(HEAD)).unwrap_or_default());
        if let Some(more) = len.checked_sub(HEAD) {
            let private = scratch.len();
            scratch.resize(private + more, 0);
            let short = DecodeError::Short { opcode: header.opcode, len };
            let rest = scratch.get_mut(private..).ok_or(short)?;
            if !self.daemon.transport_ref().payload(lease).copy_out(0, rest) {
                return Err(short);
            }
        }
        decode::arguments(header.opcode, scratch)
    }

    fn carry_out(&mut self, header: &Header, operation: &Operation<'_>, lease: Lease) -> io::Result<Life> {
        match convert::plan(header, operation) {
            Plan::Ask { request, payload, expect } => self.ask(header, &request, payload, expect, lease),
            Plan::Forget(forgotten) => {
                self.spare = Some(lease);
                self.forget(forgotten);
                Ok(Life::Goes)
            }
            Plan::Refuse(errno) => {
                self.spare = Some(lease);
                self.answer_error(header, errno)
            }
            Plan::Nothing => {
                self.spare = Some(lease);
                Ok(Life::Goes)
            }
            Plan::End => {
                self.kernel.send(encode::ok(header.unique).as_bytes())?;
                Ok(Life::Ended)
            }
        }
    }

    fn ask(
        &mut self,
        header: &Header,
        request: &Request,
        payload: PayloadIn<'_>,
        expect: Expect,
        lease: Lease,
    ) -> io::Result<Life> {
        match self.pending.claim(header.id(), header.unique, expect) {
            Some(Claimed::Running) => {
                self.spare = Some(lease);
                return Ok(Life::Goes);
            }
            Some(Claimed::Done(completion)) => {
                self.spare = Some(lease);
                return self.answer(header.unique, expect, completion);
            }
            None if self.gives_up() => {
                self.spare = Some(lease);
                return self.answer_error(header, give_up::ERRNO);
            }
            // Read into the last free slot, while adopting.
            None if !self.may_submit() => {
                self.spare = Some(lease);
                self.dropped = true;
                return Ok(Life::Goes);
            }
            None => {}
        }
        let len = match payload {
            PayloadIn::Empty => 0,
            PayloadIn::InPlace(len) => len,
            PayloadIn::Bytes(bytes) => {
                if !self.daemon.transport_ref().payload(&lease).copy_in(0, bytes) {
                    self.spare = Some(lease);
                    return self.answer_error(header, Errno::E2BIG);
                }
                bytes.len() as u32
            }
        };
        let slot = lease.slot;
        self.pending.put(slot, Under::Kernel { unique: header.unique, expect });
        match self.daemon.transport().submit(lease, header.id(), request, len) {
            Ok(()) => {
                self.submitted = true;
                Ok(Life::Goes)
            }
            Err((Some(lease), error)) => {
                tracing::error!(%error, opcode = ?header.opcode, "a request cannot be sent; it fails");
                self.pending.put(slot, Under::Idle);
                self.spare = Some(lease);
                self.answer_error(header, Errno::EIO)
            }
            Err((None, error)) => {
                // It stays in its slot and is submitted to the next daemon.
                self.lose(&error);
                Ok(Life::Goes)
            }
        }
    }
}
