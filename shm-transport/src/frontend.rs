//! The submitting end over shared memory.

use crate::doorbell::{self, Doorbell};
use crate::layout::Side;
use crate::mem::Payload;
use crate::ring::{self, Consumer, Producer};
use crate::session::{SessionFds, SessionHeader, SessionMap, ShmRing, Slot, write_header};
use crate::slot::{self, Event, Reclaimed, State};
use crate::spin::{self, Spin, Spun};
use crate::transport::{Completion, FsTransport, Lease, TransportError};
use crate::wire::limits::{IOCTL_MAX, IOCTL_NAMES_MAX, IOCTL_SETTLE_MAX, PAYLOAD_MAX, REPLY_MAX, REQUEST_MAX};
use crate::wire::{self, Errno, Reply, Request, RequestId, SessionId, SlotIndex};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// What this end knows of one of its slots; shared memory is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mine {
    /// In the free list.
    Free,
    /// Out on a lease: not yet submitted, or completed and not yet released.
    Leased,
    /// With the daemon.
    InFlight(RequestId),
    /// Given up; kept until no daemon can have anything to do with it any more.
    Cancelled(RequestId),
}

/// The record of one slot.
#[derive(Debug)]
struct Record {
    shared: Slot,
    mine: Mine,
    generation: u32,
    /// Lengths of the request and of its payload, in bytes.
    request_len: u32,
    payload_len: u32,
}

/// The submitting end of one queue pair.
///
/// [`ShmTransport::attach`] serves the first start and the take-over after a frontend's death alike:
/// it rebuilds what is under way from the slots. [`ShmTransport::reset_for_new_daemon`] must be called
/// before each attach to a daemon, the first included; between a daemon's death and that call requests
/// may be submitted, they wait in their slots.
#[derive(Debug)]
pub struct ShmTransport {
    map: Arc<SessionMap>,
    session: SessionId,
    /// Index of the first slot of this queue pair.
    first: u32,
    records: Vec<Record>,
    /// Free slots, the one used last on top: few payload pages are ever touched.
    free: Vec<SlotIndex>,
    /// Slots whose reply lay there when an epoch began.
    ready: VecDeque<SlotIndex>,
    in_flight: usize,
    cancelled: usize,
    /// Requests were given up in this epoch: what its daemon still completes is not looked at.
    fenced: bool,
    epoch: u32,
    sq: Producer<ShmRing>,
    cq: Consumer<ShmRing>,
    sq_bell: Doorbell,
    cq_bell: Doorbell,
    spin: Spin,
}

const BAD_INDEX: &str = "a completion names a slot that is not under way (rule C1)";
const BAD_STATE: &str = "a completed slot is not in the state and generation it must be in (rule C2)";

fn bell(fd: &std::os::fd::OwnedFd) -> Result<Doorbell, TransportError> {
    fd.try_clone()
        .and_then(Doorbell::adopt)
        .map_err(|source| TransportError::Io { what: "cannot use a doorbell", source })
}

impl ShmTransport {
    /// The submitting ends of a session, one per queue pair, in order.
    pub fn attach(fds: &SessionFds) -> Result<Vec<Self>, TransportError> {
        let map = Arc::new(SessionMap::attach(fds.region.as_fd())?);
        let queues = map.layout.geometry.queues;
        if fds.cq.len() != queues as usize {
            return Err(TransportError::Protocol {
                rule: "one completion doorbell per queue pair is needed (rule A8)",
            });
        }
        map.header.frontend_pid.store(std::process::id(), Relaxed);
        let epoch = map.header.epoch.load(Acquire);
        (0..).zip(&fds.cq).map(|(queue, cq)| Self::adopt(&map, queue, epoch, bell(&fds.sq)?, bell(cq)?)).collect()
    }

    fn adopt(
        map: &Arc<SessionMap>,
        queue: u32,
        epoch: u32,
        sq_bell: Doorbell,
        cq_bell: Doorbell,
    ) -> Result<Self, TransportError> {
        let count = map.layout.geometry.slots_per_queue();
        let first = queue * count;
        let records = (first..first + count).map(|i| map.slot(i).map(Record::adopt)).collect::<Result<Vec<_>, _>>()?;
        let index = |at: usize| SlotIndex(first + at as u32);
        let free = (0..records.len())
            .rev()
            .filter(|at| records.get(*at).is_some_and(|r| r.mine == Mine::Free))
            .map(index)
            .collect::<Vec<_>>();
        Ok(Self {
            map: Arc::clone(map),
            session: SessionId(map.header.session.load(Relaxed)),
            first,
            in_flight: records.iter().filter(|r| matches!(r.mine, Mine::InFlight(_))).count(),
            cancelled: records.iter().filter(|r| matches!(r.mine, Mine::Cancelled(_))).count(),
            records,
            free,
            ready: VecDeque::new(),
            fenced: false,
            epoch,
            sq: Producer::new(map.ring(queue, Side::Submission)?, epoch),
            cq: Consumer::new(map.ring(queue, Side::Completion)?, epoch),
            sq_bell,
            cq_bell,
            spin: Spin::from_env(),
        })
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The present incarnation, to be named in the attach message.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Begins the next epoch, whose number it returns: empties the rings, takes every slot under way
    /// back from the former daemon, queues the completed ones for [`FsTransport::complete`], and
    /// submits the rest again. With several queue pairs, each end does this before one of them sends
    /// the attach message.
    pub fn reset_for_new_daemon(&mut self) -> Result<u32, TransportError> {
        self.epoch = self.epoch.wrapping_add(1);
        self.sq = self.restarted_producer()?;
        self.cq = self.restarted_consumer()?;
        self.fenced = false;
        self.ready.clear();
        for at in 0..self.records.len() {
            let Some(record) = self.records.get_mut(at) else { continue };
            let Mine::InFlight(id) = record.mine else { continue };
            let index = SlotIndex(self.first + at as u32);
            match slot::reclaim(&record.shared.header.state, record.generation) {
                Reclaimed::Completed => self.ready.push_back(index),
                Reclaimed::Resubmitted(generation) => {
                    record.generation = generation;
                    // What a daemon may have scribbled would make its successor end the session.
                    record.write_fields(id, self.epoch);
                    self.enqueue(index)?;
                }
            }
        }
        // The next daemon checks the header: what the former one may have scribbled there is undone.
        write_header(&self.map.header, &self.map.layout, self.session);
        self.map.header.epoch.store(self.epoch, Release);
        Ok(self.epoch)
    }

    /// Gives up what is under way and `unwanted`: no daemon runs it from now on, and it may be answered
    /// otherwise. Returns those; the others that were completed meanwhile are queued for
    /// [`FsTransport::complete`]. Only between the end of a daemon's connection and
    /// [`Self::reset_for_new_daemon`].
    pub fn give_up(&mut self, unwanted: impl Fn(RequestId) -> bool) -> Vec<(RequestId, SlotIndex)> {
        if !self.fenced {
            self.fenced = true;
            self.ready.clear();
        }
        let mut cancelled = Vec::new();
        for (index, record) in (self.first..).map(SlotIndex).zip(&mut self.records) {
            let Mine::InFlight(id) = record.mine else { continue };
            if record.shared.header.state.load(Acquire) != slot::pack(State::Completed, record.generation)
                && !unwanted(id)
            {
                continue;
            }
            if slot::cancel(&record.shared.header.state, record.generation) {
                record.mine = Mine::Cancelled(id);
                self.in_flight -= 1;
                self.cancelled += 1;
                cancelled.push((id, index));
            } else if !self.ready.contains(&index) {
                self.ready.push_back(index);
            }
        }
        cancelled
    }

    /// Requests that were given up, perhaps by a former frontend that did not live to say so.
    pub fn given_up(&self) -> Vec<RequestId> {
        let given_up = |record: &Record| match record.mine {
            Mine::Cancelled(id) => Some(id),
            Mine::Free | Mine::Leased | Mine::InFlight(_) => None,
        };
        self.records.iter().filter_map(given_up).collect()
    }

    /// A daemon attached in this epoch: every former one is done with all slots, and those that were given
    /// up are free again.
    pub fn attached(&mut self) {
        for at in 0..self.records.len() {
            if let Some(record) = self.records.get_mut(at)
                && let Mine::Cancelled(_) = record.mine
            {
                record.mine = Mine::Free;
                slot::place(&record.shared.header.state, State::Cancelled, record.generation, Event::Release);
                self.free.push(SlotIndex(self.first + at as u32));
            }
        }
        self.cancelled = 0;
    }

    /// The region's header.
    pub fn header(&self) -> SessionHeader {
        SessionHeader { map: Arc::clone(&self.map) }
    }

    fn queue(&self) -> u32 {
        self.first / self.map.layout.geometry.slots_per_queue().max(1)
    }

    fn restarted_producer(&self) -> Result<Producer<ShmRing>, TransportError> {
        let cells = self.map.ring(self.queue(), Side::Submission)?;
        ring::reset(&cells, self.epoch);
        Ok(Producer::new(cells, self.epoch))
    }

    fn restarted_consumer(&self) -> Result<Consumer<ShmRing>, TransportError> {
        let cells = self.map.ring(self.queue(), Side::Completion)?;
        ring::reset(&cells, self.epoch);
        Ok(Consumer::new(cells, self.epoch))
    }

    /// Requests under way: submitted, and no completion delivered yet. After an adoption these are what
    /// the former frontend left behind; the kernel resends those that it still wants answered.
    pub fn in_flight_ids(&self) -> Vec<(RequestId, SlotIndex)> {
        (self.first..)
            .zip(&self.records)
            .filter_map(|(index, r)| match r.mine {
                Mine::InFlight(id) => Some((id, SlotIndex(index))),
                Mine::Free | Mine::Leased | Mine::Cancelled(_) => None,
            })
            .collect()
    }

    /// The slot in which the request `id` is under way: a resent request must not be submitted again.
    pub fn slot_of(&self, id: RequestId) -> Option<SlotIndex> {
        self.in_flight_ids().into_iter().find(|(found, _)| *found == id).map(|(_, slot)| slot)
    }

    /// The highest of the kernel's numbers that any slot holds or held last: a former frontend had read
    /// up to there, for kernels that cannot resend. The kernel's numbers are even.
    pub fn last_id(&self) -> RequestId {
        let ids = self.records.iter().map(|r| r.shared.header.request_id.load(Relaxed));
        RequestId(ids.filter(|id| id & 1 == 0).max().unwrap_or(0))
    }

    /// The request that lies in a slot under way, as a former frontend wrote it: for kernels that cannot
    /// resend. `None` when the slot is not under way or its bytes are not a request.
    pub fn request_in(&self, slot: SlotIndex) -> Option<Request> {
        let record = self.records.get(slot.0.checked_sub(self.first)? as usize)?;
        let Mine::InFlight(_) = record.mine else { return None };
        let mut bytes = [0; REQUEST_MAX];
        let private = bytes.get_mut(..record.shared.header.request_len.load(Relaxed) as usize)?;
        if !record.shared.request.copy_out(0, private) {
            return None;
        }
        wire::decode_request(private).ok()
    }

    /// Slots that no lease can have: under way, or given up and not free before a daemon attached.
    pub fn occupied(&self) -> usize {
        self.in_flight + self.cancelled
    }

    /// Slots of this queue pair.
    pub fn slots(&self) -> usize {
        self.records.len()
    }

    fn record_mut(&mut self, index: SlotIndex) -> Option<&mut Record> {
        self.records.get_mut(index.0.checked_sub(self.first)? as usize)
    }

    fn enqueue(&mut self, index: SlotIndex) -> Result<(), TransportError> {
        if self.sq.push(index.0)? {
            return doorbell::wake(self.sq.cells(), &self.sq_bell);
        }
        Err(TransportError::Protocol { rule: "the submission ring is full though every slot fits (rule R6)" })
    }

    /// The reply in a slot that the ring or the slot says is completed.
    fn collect(&mut self, index: SlotIndex) -> Result<Completion, TransportError> {
        let Some(record) = self.record_mut(index) else {
            return Err(TransportError::Protocol { rule: BAD_INDEX });
        };
        let Mine::InFlight(id) = record.mine else {
            return Err(TransportError::Protocol { rule: BAD_INDEX });
        };
        // P4 Acquire: pairs with the daemon's Release in `advance`: the reply's bytes are there.
        if record.shared.header.state.load(Acquire) != slot::pack(State::Completed, record.generation) {
            return Err(TransportError::Protocol { rule: BAD_STATE });
        }
        let reply = record.read_reply();
        record.mine = Mine::Leased;
        self.in_flight -= 1;
        Ok(Completion { lease: Lease { slot: index }, id, reply })
    }
}

impl Record {
    /// A slot as a former frontend left it. Nonsense in it is a free slot: the kernel resends whatever
    /// was in there.
    fn adopt(shared: Slot) -> Self {
        let word = shared.header.state.load(Acquire);
        let id = RequestId(shared.header.request_id.load(Relaxed));
        let (mine, generation) = match slot::unpack(word) {
            Some((State::Free, generation)) => (Mine::Free, generation),
            Some((State::Submitted | State::Running | State::Completed, generation)) => {
                (Mine::InFlight(id), generation)
            }
            Some((State::Cancelled, generation)) => (Mine::Cancelled(id), generation),
            None => (Mine::Free, (word >> 32) as u32),
        };
        // A length that cannot be becomes 0: no request has none, so that it fails alone, by EINVAL.
        let length =
            |field: &AtomicU32, max: usize| Some(field.load(Relaxed)).filter(|n| *n as usize <= max).unwrap_or(0);
        let request_len = length(&shared.header.request_len, REQUEST_MAX);
        let payload_len = length(&shared.header.payload_len, PAYLOAD_MAX);
        Self { shared, mine, generation, request_len, payload_len }
    }

    fn write_request(&mut self, id: RequestId, epoch: u32, bytes: &[u8], payload_len: u32) -> bool {
        self.request_len = bytes.len() as u32;
        self.payload_len = payload_len;
        self.write_fields(id, epoch);
        self.shared.request.copy_in(0, bytes)
    }

    fn write_fields(&self, id: RequestId, epoch: u32) {
        let header = &self.shared.header;
        header.request_id.store(id.0, Relaxed);
        header.owner_epoch.store(epoch, Relaxed);
        header.request_len.store(self.request_len, Relaxed);
        header.payload_len.store(self.payload_len, Relaxed);
        header.reply_len.store(0, Relaxed);
    }

    /// The reply; one that cannot be read fails this request alone.
    fn read_reply(&self) -> Reply {
        let len = self.shared.header.reply_len.load(Relaxed) as usize;
        let mut bytes = [0; REPLY_MAX];
        let decoded = bytes.get_mut(..len).and_then(|private| {
            let copied = self.shared.reply.copy_out(0, private);
            if copied { wire::decode_reply(private).ok() } else { None }
        });
        decoded.filter(within_payload).unwrap_or_else(|| {
            tracing::error!("the daemon wrote a reply that cannot be read; the request fails with EIO");
            Reply::Error(Errno::EIO)
        })
    }
}

/// Whether the payload that a reply speaks of can be.
fn within_payload(reply: &Reply) -> bool {
    match reply {
        Reply::Data { len } => *len as usize <= PAYLOAD_MAX,
        Reply::Ioctl { len, expire, settle, .. } => {
            *len as usize <= IOCTL_MAX && *expire as usize <= IOCTL_NAMES_MAX && *settle <= IOCTL_SETTLE_MAX
        }
        Reply::Ok
        | Reply::Error(_)
        | Reply::Entry(_)
        | Reply::Attr { .. }
        | Reply::Opened(_)
        | Reply::Created(..)
        | Reply::Written { .. }
        | Reply::XattrSize { .. }
        | Reply::Offset(_)
        | Reply::StatFs(_) => true,
    }
}

impl FsTransport for ShmTransport {
    fn lease(&mut self) -> Option<Lease> {
        let slot = self.free.pop()?;
        self.record_mut(slot)?.mine = Mine::Leased;
        Some(Lease { slot })
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
        if payload_len as usize > PAYLOAD_MAX {
            return Err((Some(lease), wire::CodecError::OverLimit.into()));
        }
        let bytes = match wire::encode_request(request) {
            Ok(bytes) => bytes,
            Err(e) => return Err((Some(lease), e.into())),
        };
        let epoch = self.epoch;
        let index = lease.slot;
        let Some(record) = self.record_mut(index).filter(|r| r.mine == Mine::Leased) else {
            return Err((None, TransportError::Protocol { rule: "a lease of another transport was submitted" }));
        };
        if !record.write_request(id, epoch, &bytes, payload_len) {
            return Err((Some(lease), wire::CodecError::OverLimit.into()));
        }
        record.mine = Mine::InFlight(id);
        record.generation = slot::place(&record.shared.header.state, State::Free, record.generation, Event::Submit);
        self.in_flight += 1;
        spin::note(&self.map.header.frontend_cpu);
        self.enqueue(index).map_err(|e| (None, e))
    }

    fn complete(&mut self) -> Result<Option<Completion>, TransportError> {
        let next = match self.ready.pop_front() {
            Some(index) => Some(index),
            None if self.fenced => None,
            None => self.cq.pop()?.map(SlotIndex),
        };
        next.map(|index| self.collect(index)).transpose()
    }

    fn linger(&mut self) -> bool {
        let (cq, header) = (&self.cq, &self.map.header);
        let cpu = spin::here();
        let apart = || header.daemon_cpu.load(Relaxed) != cpu;
        !self.ready.is_empty() || self.spin.wait(|| !cq.is_empty(), apart) == Spun::Won
    }

    fn arm(&mut self) -> bool {
        self.ready.is_empty() && (self.fenced || doorbell::arm(&self.cq))
    }

    fn disarm(&mut self) {
        doorbell::disarm(self.cq.cells());
        if let Err(e) = self.cq_bell.take() {
            tracing::error!(error = %e, "cannot read the completion doorbell");
        }
    }

    fn doorbell(&self) -> BorrowedFd<'_> {
        self.cq_bell.as_fd()
    }

    fn release(&mut self, lease: Lease) {
        let index = lease.slot;
        if let Some(record) = self.record_mut(index).filter(|r| r.mine == Mine::Leased) {
            record.mine = Mine::Free;
            // A frontend that takes over must not find the old request in here.
            slot::place(&record.shared.header.state, State::Completed, record.generation, Event::Release);
            self.free.push(index);
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl AsFd for ShmTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cq_bell.as_fd()
    }
}

/// Waits until the doorbell rings or `timeout_ms` passed (negative: for ever); `false` when it did not.
pub fn wait(doorbell: BorrowedFd<'_>, timeout_ms: i32) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::NONE);
    match poll(&mut [PollFd::new(doorbell, PollFlags::POLLIN)], timeout) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}
