//! Models of everything lock-free, explored exhaustively by `loom`. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p shm-transport --release --lib loom`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use crate::doorbell;
use crate::mem::atomics::Word;
use crate::ring::{Consumer, Producer, RingCells, reset};
use crate::slot::{self, Event, Reclaimed, State};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::sync::atomic::Ordering;

/// A ring in the model's memory.
#[derive(Clone)]
struct Ring(Arc<Cells>);

struct Cells {
    tail: AtomicU64,
    head: AtomicU64,
    armed: AtomicU32,
    entries: Vec<AtomicU32>,
}

impl Ring {
    fn new(capacity: usize, epoch: u32) -> Self {
        let entries = (0..capacity).map(|_| AtomicU32::new(u32::MAX)).collect();
        let ring = Self(Arc::new(Cells {
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            armed: AtomicU32::new(0),
            entries,
        }));
        reset(&ring, epoch);
        ring
    }
}

impl RingCells for Ring {
    type Cursor = AtomicU64;
    type Cell = AtomicU32;
    fn tail(&self) -> &AtomicU64 {
        &self.0.tail
    }
    fn head(&self) -> &AtomicU64 {
        &self.0.head
    }
    fn armed(&self) -> &AtomicU32 {
        &self.0.armed
    }
    fn entry(&self, at: u32) -> Option<&AtomicU32> {
        self.0.entries.get((at & (self.capacity() - 1)) as usize)
    }
    fn capacity(&self) -> u32 {
        self.0.entries.len() as u32
    }
}

/// Plain bytes of a slot: the model fails when two threads touch them without an ordering between.
struct Plain(UnsafeCell<u32>);

// SAFETY: loom checks each access.
#[allow(unsafe_code, reason = "the model checker's cell, which finds every misuse")]
unsafe impl Sync for Plain {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "the model checker's cell, which finds every misuse")]
unsafe impl Send for Plain {}

impl Plain {
    fn new(value: u32) -> Self {
        Self(UnsafeCell::new(value))
    }
    #[allow(unsafe_code, reason = "the model checker's cell, which finds every misuse")]
    fn set(&self, value: u32) {
        // SAFETY: loom checks the access.
        self.0.with_mut(|at| unsafe { *at = value });
    }
    #[allow(unsafe_code, reason = "the model checker's cell, which finds every misuse")]
    fn get(&self) -> u32 {
        // SAFETY: loom checks the access.
        self.0.with(|at| unsafe { *at })
    }
}

/// An eventfd: a count that can be waited for.
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self { rung: Mutex::new(false), changed: Condvar::new() }
    }
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }
    /// Sleeps until rung and takes the count. Loom reports a deadlock if nobody ever rings.
    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Entries arrive once, in order, with the bytes written before them, over a ring that wraps.
#[test]
fn loom_ring_delivers_in_order_with_its_bytes() {
    loom::model(|| {
        let ring = Ring::new(2, 1);
        let bytes = Arc::new([Plain::new(0), Plain::new(0), Plain::new(0)]);
        let written = Arc::clone(&bytes);
        let mut producer = Producer::new(ring.clone(), 1);
        let thread = thread::spawn(move || {
            for n in 0..3u32 {
                written[n as usize].set(n + 10);
                while !producer.push(n).unwrap() {
                    thread::yield_now();
                }
            }
        });
        let mut consumer = Consumer::new(ring, 1);
        for expected in 0..3u32 {
            let got = loop {
                match consumer.pop().unwrap() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(got, expected);
            assert_eq!(bytes[got as usize].get(), got + 10);
        }
        thread.join().unwrap();
        assert!(consumer.pop().unwrap().is_none());
    });
}

/// A consumer that sleeps whenever it may is always woken: otherwise loom reports a deadlock.
#[test]
fn loom_doorbell_loses_no_wake_up() {
    loom::model(|| {
        let ring = Ring::new(2, 1);
        let bell = Arc::new(Bell::new());
        let ringer = Arc::clone(&bell);
        let mut producer = Producer::new(ring.clone(), 1);
        let thread = thread::spawn(move || {
            for n in 0..2 {
                assert!(producer.push(n).unwrap());
                if doorbell::must_ring(producer.cells()) {
                    ringer.ring();
                }
            }
        });
        let mut consumer = Consumer::new(ring, 1);
        let mut next = 0;
        while next < 2 {
            match consumer.pop().unwrap() {
                Some(value) => {
                    assert_eq!(value, next);
                    next += 1;
                }
                None if doorbell::arm(&consumer) => {
                    bell.sleep();
                    doorbell::disarm(consumer.cells());
                }
                None => {}
            }
        }
        thread.join().unwrap();
    });
}

/// A request and its reply pass through one slot; the bytes of both are ordered by the state alone.
#[test]
fn loom_slot_orders_request_and_reply() {
    loom::model(|| {
        let slot = Arc::new((AtomicU64::new(0), Plain::new(0), Plain::new(0)));
        let daemon_slot = Arc::clone(&slot);
        let daemon = thread::spawn(move || {
            let (state, request, reply) = &*daemon_slot;
            while slot::advance(state, 1, Event::Start).is_none() {
                thread::yield_now();
            }
            reply.set(request.get() + 1);
            assert_eq!(slot::advance(state, 1, Event::Finish), Some(1));
        });
        let (state, request, reply) = &*slot;
        request.set(41);
        assert_eq!(slot::place(state, State::Free, 0, Event::Submit), 1);
        while Word::load(state, Ordering::Acquire) != slot::pack(State::Completed, 1) {
            thread::yield_now();
        }
        assert_eq!(reply.get(), 42);
        daemon.join().unwrap();
    });
}

/// Two daemon threads that were told of the same slot: one runs it.
#[test]
fn loom_slot_is_started_once() {
    loom::model(|| {
        let state = Arc::new(AtomicU64::new(slot::pack(State::Submitted, 5)));
        let other = Arc::clone(&state);
        let thread = thread::spawn(move || slot::advance(&*other, 5, Event::Start).is_some());
        let here = slot::advance(&*state, 5, Event::Start).is_some();
        assert!(here != thread.join().unwrap());
    });
}

/// A daemon finishes while the frontend takes the slot back: either the reply counts, and is whole, or
/// the request runs again, and the late reply does not count. Never both, never neither.
#[test]
fn loom_reclaim_completes_exactly_once() {
    loom::model(|| {
        let slot = Arc::new((AtomicU64::new(slot::pack(State::Submitted, 5)), Plain::new(0)));
        let daemon_slot = Arc::clone(&slot);
        let daemon = thread::spawn(move || {
            let (state, reply) = &*daemon_slot;
            if slot::advance(state, 5, Event::Start).is_none() {
                return false;
            }
            reply.set(42);
            slot::advance(state, 5, Event::Finish).is_some()
        });
        let (state, reply) = &*slot;
        let outcome = slot::reclaim(state, 5);
        if outcome == Reclaimed::Completed {
            assert_eq!(reply.get(), 42);
        }
        let finished = daemon.join().unwrap();
        assert_eq!(finished, outcome == Reclaimed::Completed);
        if let Reclaimed::Resubmitted(generation) = outcome {
            assert_eq!(generation, 6);
            assert_eq!(slot::advance(state, 6, Event::Start), Some(6));
        }
    });
}

/// A daemon runs and finishes while the frontend gives the request up: either the reply counts, and is
/// whole, or the request is fenced: it is never finished, and a daemon that comes later does not start it.
#[test]
fn loom_a_request_is_completed_or_cancelled() {
    loom::model(|| {
        let slot = Arc::new((AtomicU64::new(slot::pack(State::Submitted, 5)), Plain::new(0)));
        let daemon_slot = Arc::clone(&slot);
        let daemon = thread::spawn(move || {
            let (state, reply) = &*daemon_slot;
            if slot::advance(state, 5, Event::Start).is_none() {
                return false;
            }
            reply.set(42);
            slot::advance(state, 5, Event::Finish).is_some()
        });
        let (state, reply) = &*slot;
        let cancelled = slot::cancel(state, 5);
        if !cancelled {
            assert_eq!(reply.get(), 42);
        }
        assert!(daemon.join().unwrap() != cancelled, "told to the program once");
        assert_eq!(slot::advance(state, 5, Event::Start), None, "a later daemon");
        assert_eq!(slot::advance(state, 5, Event::Finish), None, "a later daemon");
    });
}

/// The whole take-over: an old daemon finishes and publishes while the frontend resets the completion
/// ring, reclaims the slot, and a new daemon serves it. One completion is delivered, and the ring of
/// the new epoch holds nothing of the old.
#[test]
fn loom_reclaim_with_ring_reset_delivers_once() {
    loom::model(|| {
        let ring = Ring::new(1, 1);
        let state = Arc::new(AtomicU64::new(slot::pack(State::Running, 5)));
        let mut old = Producer::new(ring.clone(), 1);
        let old_state = Arc::clone(&state);
        let daemon = thread::spawn(move || {
            // Publishing may fail: the slot's own state has told the frontend already.
            slot::advance(&*old_state, 5, Event::Finish).is_some() && old.push(0).is_ok()
        });

        reset(&ring, 2);
        let mut delivered = 0;
        let outcome = slot::reclaim(&*state, 5);
        if outcome == Reclaimed::Completed {
            delivered += 1;
        }
        daemon.join().unwrap();
        // The new daemon begins only now: the old one's connection has ended.
        let mut consumer = Consumer::new(ring.clone(), 2);
        assert!(consumer.pop().unwrap().is_none(), "nothing of the old epoch is in the new ring");
        if let Reclaimed::Resubmitted(generation) = outcome {
            let mut new = Producer::new(ring, 2);
            assert!(slot::advance(&*state, generation, Event::Start).is_some());
            assert!(slot::advance(&*state, generation, Event::Finish).is_some());
            assert!(new.push(0).unwrap());
            while let Some(index) = consumer.pop().unwrap() {
                assert_eq!(index, 0);
                delivered += 1;
            }
        }
        assert_eq!(delivered, 1);
    });
}
