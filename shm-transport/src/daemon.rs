//! The serving end over shared memory.

use crate::doorbell::{self, Doorbell};
use crate::layout::Side;
use crate::mem::Payload;
use crate::ring::{Consumer, Producer, SUPERSEDED};
use crate::session::{SessionFds, SessionMap, ShmRing, Slot};
use crate::slot::{self, Event, State};
use crate::spin::{self, Spin, Spun};
use crate::transport::{Context, Handler, TransportError};
use crate::wire::limits::{PAYLOAD_MAX, REQUEST_MAX};
use crate::wire::{self, CodecError, Errno, Reply, Request, RequestId, SessionId, SlotIndex};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The serving end of one session in one epoch. Cheap to clone; all clones are the same end.
///
/// One thread at a time pops; requests may be completed by any thread in any order. Keep the session's
/// connection open until every [`Running`] of this end is gone, and attach no later epoch of the
/// session before: the frontend takes the end of the connection for the end of all writing.
#[derive(Debug, Clone)]
pub struct DaemonEnd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    map: SessionMap,
    session: SessionId,
    epoch: u32,
    slots: Vec<DaemonSlot>,
    intake: Mutex<Intake>,
    completions: Vec<Mutex<Producer<ShmRing>>>,
    sq_bell: Doorbell,
    cq_bells: Vec<CompletionBell>,
    in_flight: AtomicUsize,
    /// Set when the peer broke a rule: nothing is taken any more.
    broken: AtomicBool,
}

#[derive(Debug)]
struct DaemonSlot {
    shared: Slot,
    /// Private truth about who uses the slot's bytes: a slot that is named twice is refused.
    busy: AtomicBool,
}

#[derive(Debug)]
struct Intake {
    queues: Vec<Consumer<ShmRing>>,
    /// The queue to look at first next time, so that none starves.
    next: usize,
    /// Wakes in a row for which there was nothing.
    in_vain: u32,
}

/// A completion doorbell, which the peer may have filled so that ringing it waits.
#[derive(Debug)]
struct CompletionBell {
    bell: Doorbell,
    /// Somebody is at it. The queue's lock lets in one at a time.
    ringing: AtomicBool,
}

/// What a slot held when it was taken.
enum Taken {
    Request(Request, u32),
    /// The bytes are not a request: the slot was answered already.
    Refused,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const BAD_INDEX: &str = "a submission names a slot of another queue or none (rule S1)";
const BAD_STATE: &str = "a submitted slot is not in the state it must be in (rule S2)";
const BAD_EPOCH: &str = "a submitted slot belongs to another epoch (rule S3)";
/// What [`DaemonEnd::unblock`] found.
pub const FULL_BELL: &str = "a completion doorbell is full, so that ringing it waits (rule S6)";
const ENDLESS_BELL: &str = "the submission doorbell is never quiet (rule S7)";
/// After so many wakes in a row for which there was nothing, the doorbell must become quiet when it is taken as often:
/// a frontend rings once for each time that it was asked to.
const IN_VAIN_MAX: u32 = 256;
const TWICE: &str = "a slot was submitted while its request runs (rule S4)";
const BAD_LENGTH: &str = "a submission's length exceeds its area (rule S5)";

fn broken<T>(rule: &'static str) -> Result<T, TransportError> {
    Err(TransportError::Protocol { rule })
}

impl DaemonEnd {
    /// Maps and checks the shared memory of `session` as it stands in `epoch`.
    pub fn attach(fds: &SessionFds, session: SessionId, epoch: u32) -> Result<Self, TransportError> {
        let map = SessionMap::attach(fds.region.as_fd())?;
        if map.header.session.load(Relaxed) != session.0 {
            return broken("the region belongs to another session (rule A9)");
        }
        if map.header.epoch.load(Acquire) != epoch {
            return broken("the region is in another epoch than the attach message (rule A10)");
        }
        let geometry = map.layout.geometry;
        if fds.cq.len() != geometry.queues as usize {
            return broken("one completion doorbell per queue pair is needed (rule A8)");
        }
        let bell = |fd: &std::os::fd::OwnedFd| {
            fd.try_clone()
                .and_then(Doorbell::adopt)
                .map_err(|source| TransportError::Io { what: "cannot use a doorbell", source })
        };
        let slots = (0..geometry.slots)
            .map(|i| Ok(DaemonSlot { shared: map.slot(i)?, busy: AtomicBool::new(false) }))
            .collect::<Result<_, TransportError>>()?;
        let queues = (0..geometry.queues)
            .map(|q| Ok(Consumer::new(map.ring(q, Side::Submission)?, epoch)))
            .collect::<Result<_, TransportError>>()?;
        let completions = (0..geometry.queues)
            .map(|q| Ok(Mutex::new(Producer::new(map.ring(q, Side::Completion)?, epoch))))
            .collect::<Result<_, TransportError>>()?;
        map.header.daemon_pid.store(std::process::id(), Relaxed);
        Ok(Self {
            shared: Arc::new(Shared {
                session,
                epoch,
                slots,
                intake: Mutex::new(Intake { queues, next: 0, in_vain: 0 }),
                completions,
                sq_bell: bell(&fds.sq)?,
                cq_bells: fds
                    .cq
                    .iter()
                    .map(|fd| Ok(CompletionBell { bell: bell(fd)?, ringing: AtomicBool::new(false) }))
                    .collect::<Result<_, TransportError>>()?,
                in_flight: AtomicUsize::new(0),
                broken: AtomicBool::new(false),
                map,
            }),
        })
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.shared.session
    }

    /// The epoch that this end serves.
    pub fn epoch(&self) -> u32 {
        self.shared.epoch
    }

    /// Requests taken and not completed.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Acquire)
    }

    /// The next request, without waiting. A request that cannot be decoded is answered with `EINVAL`
    /// and skipped. After an error the session must end; every later call repeats one.
    pub fn pop(&self) -> Result<Option<Running>, TransportError> {
        if self.shared.broken.load(Relaxed) {
            return broken("the session ended after a broken rule");
        }
        let popped = self.pop_any();
        if popped.is_err() {
            self.shared.broken.store(true, Relaxed);
        }
        popped
    }

    fn pop_any(&self) -> Result<Option<Running>, TransportError> {
        // Bounded: a peer that refills its ring with nonsense as fast as it is refused does not hold
        // this thread for ever.
        for _ in 0..self.shared.slots.len() {
            let Some((queue, index)) = self.next_index()? else { return Ok(None) };
            if let Some(running) = self.take(queue, index)? {
                return Ok(Some(running));
            }
        }
        Ok(None)
    }

    fn next_index(&self) -> Result<Option<(usize, u32)>, TransportError> {
        let mut intake = locked(&self.shared.intake);
        let count = intake.queues.len();
        for step in 0..count {
            let queue = (intake.next + step) % count;
            if let Some(consumer) = intake.queues.get_mut(queue)
                && let Some(index) = consumer.pop()?
            {
                intake.next = queue + 1;
                intake.in_vain = 0;
                return Ok(Some((queue, index)));
            }
        }
        Ok(None)
    }

    /// Takes the slot that a submission names; `None` when its bytes were refused with an answer.
    fn take(&self, queue: usize, index: u32) -> Result<Option<Running>, TransportError> {
        let per_queue = self.shared.map.layout.geometry.slots_per_queue();
        let Some(slot) = self.shared.slots.get(index as usize) else { return broken(BAD_INDEX) };
        if (index / per_queue.max(1)) as usize != queue {
            return broken(BAD_INDEX);
        }
        if slot.busy.swap(true, AcqRel) {
            return broken(TWICE);
        }
        let header = &slot.shared.header;
        let Some((State::Submitted, generation)) = slot::unpack(header.state.load(Acquire)) else {
            return broken(BAD_STATE);
        };
        if header.owner_epoch.load(Relaxed) != self.shared.epoch {
            return broken(BAD_EPOCH);
        }
        let id = RequestId(header.request_id.load(Relaxed));
        if slot::advance(&header.state, generation, Event::Start).is_none() {
            return broken(BAD_STATE);
        }
        self.shared.in_flight.fetch_add(1, AcqRel);
        spin::note(&self.shared.map.header.daemon_cpu);
        let ctx = Context { session: self.shared.session, slot: SlotIndex(index), id };
        let open = Open { shared: Arc::clone(&self.shared), ctx, generation, answered: false };
        match slot.read_request()? {
            Taken::Request(request, payload_len) => Ok(Some(Running { open, request, payload_len })),
            Taken::Refused => open.finish(&Reply::Error(Errno::EINVAL)).map(|()| None),
        }
    }

    /// Waits for a request without sleeping, for some microseconds at most and only where that may pay; `stop`
    /// ends it. Before [`Self::arm`].
    pub fn linger(&self, spin: &mut Spin, stop: impl Fn() -> bool) -> Spun {
        let header = &self.shared.map.header;
        let cpu = spin::here();
        let intake = locked(&self.shared.intake);
        let ready = || intake.queues.iter().any(|queue| !queue.is_empty()) || stop();
        spin.wait(ready, || header.frontend_cpu.load(Relaxed) != cpu)
    }

    /// About to sleep on [`Self::doorbell`]: the frontend rings from now on. `false` when something
    /// waits already; then it is disarmed again.
    pub fn arm(&self) -> bool {
        let intake = locked(&self.shared.intake);
        let quiet = intake.queues.iter().all(doorbell::arm);
        if !quiet {
            intake.queues.iter().for_each(|q| doorbell::disarm(q.cells()));
        }
        quiet
    }

    /// Awake again: takes the doorbell's count and tells the frontend not to ring.
    pub fn disarm(&self) -> Result<(), TransportError> {
        let failed = |source| TransportError::Io { what: "cannot read a doorbell", source };
        let mut intake = locked(&self.shared.intake);
        intake.queues.iter().for_each(|q| doorbell::disarm(q.cells()));
        self.shared.sq_bell.take().map_err(failed)?;
        intake.in_vain = intake.in_vain.saturating_add(1);
        if intake.in_vain.is_multiple_of(IN_VAIN_MAX) && !self.shared.sq_bell.take_all(IN_VAIN_MAX).map_err(failed)? {
            self.shared.broken.store(true, Relaxed);
            return broken(ENDLESS_BELL);
        }
        Ok(())
    }

    /// For a thread that nobody holds up, now and then: lets go those who cannot ring because the frontend filled
    /// a doorbell, and ends the session then. `true` when there was one.
    pub fn unblock(&self) -> Result<bool, TransportError> {
        let mut any = false;
        for CompletionBell { bell, ringing } in &self.shared.cq_bells {
            let full = ringing.load(Acquire)
                && bell.unblock().map_err(|source| TransportError::Io { what: "cannot look at a doorbell", source })?;
            any |= full;
            if full {
                self.shared.broken.store(true, Relaxed);
            }
        }
        Ok(any)
    }

    /// Readable when requests may have arrived since [`Self::arm`].
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.shared.sq_bell.as_fd()
    }
}

impl DaemonSlot {
    /// Copies the request out of shared memory and decodes the copy.
    fn read_request(&self) -> Result<Taken, TransportError> {
        let header = &self.shared.header;
        let len = header.request_len.load(Relaxed) as usize;
        let payload_len = header.payload_len.load(Relaxed);
        let mut bytes = [0; REQUEST_MAX];
        let Some(private) = bytes.get_mut(..len) else { return broken(BAD_LENGTH) };
        if payload_len as usize > PAYLOAD_MAX || !self.shared.request.copy_out(0, private) {
            return broken(BAD_LENGTH);
        }
        match wire::decode_request(private) {
            Ok(request) => Ok(Taken::Request(request, payload_len)),
            Err(e) => {
                tracing::warn!(error = %e, "a request cannot be decoded; it fails with EINVAL");
                Ok(Taken::Refused)
            }
        }
    }
}

/// A slot that was taken and must be answered. Dropping it answers `EIO`.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    ctx: Context,
    generation: u32,
    answered: bool,
}

/// The bytes of a reply; one that does not fit is a defect of the handler, told as `EIO`.
fn encoded(reply: &Reply) -> Result<rkyv::util::AlignedVec, CodecError> {
    let fits = !matches!(reply, Reply::Data { len } if *len as usize > PAYLOAD_MAX);
    match if fits { wire::encode_reply(reply) } else { Err(CodecError::OverLimit) } {
        Ok(bytes) => Ok(bytes),
        Err(e) => {
            tracing::error!(error = %e, "a reply cannot be encoded; the request fails with EIO");
            wire::encode_reply(&Reply::Error(Errno::EIO))
        }
    }
}

impl Open {
    fn finish(mut self, reply: &Reply) -> Result<(), TransportError> {
        self.answer(reply)
    }

    fn answer(&mut self, reply: &Reply) -> Result<(), TransportError> {
        self.answered = true;
        let written = self.write(reply);
        self.shared.in_flight.fetch_sub(1, AcqRel);
        if written.is_err() {
            self.shared.broken.store(true, Relaxed);
        }
        written
    }

    fn write(&self, reply: &Reply) -> Result<(), TransportError> {
        let index = self.ctx.slot.0;
        let queue = (index / self.shared.map.layout.geometry.slots_per_queue().max(1)) as usize;
        let (Some(slot), Some(completions), Some(bell)) = (
            self.shared.slots.get(index as usize),
            self.shared.completions.get(queue),
            self.shared.cq_bells.get(queue),
        ) else {
            return Err(TransportError::Defect { what: "a slot was taken that does not exist" });
        };
        let bytes = encoded(reply)?;
        if !slot.shared.reply.copy_in(0, &bytes) {
            return Err(TransportError::Defect { what: "a reply is longer than its area" });
        }
        slot.shared.header.reply_len.store(bytes.len() as u32, Relaxed);
        // This end is done with the slot's bytes. It must say so before the frontend can see the
        // reply, because the frontend may submit the slot again the next moment.
        slot.busy.store(false, Release);
        if slot::advance(&slot.shared.header.state, self.generation, Event::Finish).is_none() {
            return broken(SUPERSEDED);
        }
        let mut producer = locked(completions);
        if !producer.push(index)? {
            return broken("the completion ring is full though every slot fits (rule R6)");
        }
        if self.shared.broken.load(Relaxed) {
            // The end of the connection tells it.
            return Ok(());
        }
        bell.ringing.store(true, Release);
        let rung = doorbell::wake(producer.cells(), &bell.bell);
        bell.ringing.store(false, Release);
        rung
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.answered
            && let Err(e) = self.answer(&Reply::Error(Errno::EIO))
        {
            tracing::warn!(error = %e, id = self.ctx.id.0, "a dropped request could not be answered");
        }
    }
}

/// A request under way in the daemon: the only access to its slot. Dropped without a reply, it answers
/// `EIO`, so that no program waits for ever.
#[derive(Debug)]
pub struct Running {
    open: Open,
    request: Request,
    payload_len: u32,
}

impl Running {
    /// Where the request came from.
    pub fn context(&self) -> Context {
        self.open.ctx
    }

    /// The request, a private and checked copy.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Bytes of the payload that came with the request, at most `limits::PAYLOAD_MAX`.
    pub fn payload_len(&self) -> u32 {
        self.payload_len
    }

    /// The generation of the slot's present use.
    pub fn generation(&self) -> u32 {
        self.open.generation
    }

    /// The payload buffer of the slot.
    #[expect(clippy::expect_used, reason = "a running request's slot index was checked when it was taken")]
    pub fn payload(&mut self) -> Payload<'_> {
        self.open.shared.map.payload(self.open.ctx.slot).expect("a taken slot lies in the region")
    }

    /// Answers the request. An error means that the session cannot go on.
    pub fn complete(self, reply: &Reply) -> Result<(), TransportError> {
        self.open.finish(reply)
    }

    /// Runs the request by `handler` and answers it. A panic of the handler answers `EIO` and is the
    /// error [`TransportError::Defect`].
    pub fn run(self, handler: &dyn Handler) -> Result<(), TransportError> {
        let reply = |ctx: &Context, request: &Request, payload: &mut Payload<'_>, len| {
            Some(handler.handle(ctx, request, payload, len))
        };
        self.run_by(reply).map(drop)
    }

    /// As [`Self::run`], by [`Handler::attempt`]: the request comes back when it would have to wait.
    pub fn attempt(self, handler: &dyn Handler) -> Result<Option<Self>, TransportError> {
        self.run_by(|ctx, request, payload, len| handler.attempt(ctx, request, payload, len))
    }

    fn run_by(
        mut self,
        reply: impl FnOnce(&Context, &Request, &mut Payload<'_>, u32) -> Option<Reply>,
    ) -> Result<Option<Self>, TransportError> {
        let (ctx, len) = (self.open.ctx, self.payload_len);
        let run = catch_unwind(AssertUnwindSafe(|| {
            let Self { open, request, .. } = &mut self;
            match open.shared.map.payload(ctx.slot) {
                Some(mut payload) => reply(&ctx, request, &mut payload, len),
                None => Some(Reply::Error(Errno::EIO)),
            }
        }));
        match run {
            Ok(Some(reply)) => self.complete(&reply).map(|()| None),
            Ok(None) => Ok(Some(self)),
            Err(_) => {
                self.complete(&Reply::Error(Errno::EIO))?;
                Err(TransportError::Defect { what: "a handler panicked" })
            }
        }
    }
}

/// Serves one session on the calling thread until `stop` is readable or an error ends it: the simplest
/// loop that obeys every rule, for tests and small servers. Blocking requests run in place.
pub fn serve(end: &DaemonEnd, handler: &dyn Handler, stop: BorrowedFd<'_>) -> Result<(), TransportError> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        while let Some(running) = end.pop()? {
            running.run(handler)?;
        }
        if !end.arm() {
            continue;
        }
        let mut fds = [PollFd::new(end.doorbell(), PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(TransportError::Io { what: "cannot wait for requests", source: e.into() }),
        }
        let [_, stopped] = fds;
        end.disarm()?;
        if stopped.any().unwrap_or(true) {
            return Ok(());
        }
    }
}
