#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A ring in private memory.
#[derive(Debug, Clone)]
struct Heap(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    tail: AtomicU64,
    head: AtomicU64,
    armed: AtomicU32,
    entries: Vec<AtomicU32>,
}

impl Heap {
    fn new(capacity: u32, epoch: u32) -> Self {
        let entries = (0..capacity).map(|_| AtomicU32::new(u32::MAX)).collect();
        let zero = || AtomicU64::new(0);
        let ring = Self(Arc::new(Cells { tail: zero(), head: zero(), armed: AtomicU32::new(0), entries }));
        reset(&ring, epoch);
        ring
    }
}

impl RingCells for Heap {
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

fn rule<T: std::fmt::Debug>(result: Result<T, TransportError>) -> &'static str {
    match result {
        Err(TransportError::Protocol { rule }) => rule,
        other => panic!("not a broken rule: {other:?}"),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push(u32),
    Pop,
}

proptest! {
    #[test]
    fn behaves_as_a_bounded_queue_at_any_position(
        power in 0u32..5,
        start in prop_oneof![Just(0u32), (u32::MAX - 20)..=u32::MAX],
        steps in prop::collection::vec(prop_oneof![any::<u32>().prop_map(Step::Push), Just(Step::Pop)], 0..200),
    ) {
        let ring = Heap::new(1 << power, 9);
        ring.0.tail.store(pack(9, start), Ordering::Relaxed);
        ring.0.head.store(pack(9, start), Ordering::Relaxed);
        let mut producer = Producer { cells: ring.clone(), epoch: 9, tail: start, head: start };
        let mut consumer = Consumer { cells: ring, epoch: 9, head: start };
        let mut model = VecDeque::new();
        for step in steps {
            match step {
                Step::Push(value) => {
                    let room = model.len() < 1 << power;
                    prop_assert_eq!(producer.push(value).unwrap(), room);
                    if room { model.push_back(value); }
                }
                Step::Pop => prop_assert_eq!(consumer.pop().unwrap(), model.pop_front()),
            }
            prop_assert_eq!(consumer.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn whatever_a_peer_writes_ends_in_a_value_or_a_rule(
        tail in any::<u64>(), head in any::<u64>(), entries in prop::collection::vec(any::<u32>(), 4),
    ) {
        let ring = Heap::new(4, 1);
        let mut producer = Producer::new(ring.clone(), 1);
        let mut consumer = Consumer::new(ring.clone(), 1);
        for (cell, value) in ring.0.entries.iter().zip(&entries) { cell.store(*value, Ordering::Relaxed); }
        ring.0.tail.store(tail, Ordering::Relaxed);
        ring.0.head.store(head, Ordering::Relaxed);
        // At most the capacity is taken before the consumer stops or complains.
        let taken = (0..10).take_while(|_| matches!(consumer.pop(), Ok(Some(_)))).count();
        prop_assert!(taken <= 4);
        let pushed = (0..10).take_while(|_| matches!(producer.push(0), Ok(true))).count();
        prop_assert!(pushed <= 8);
    }
}

#[test]
fn a_producer_of_an_older_epoch_cannot_publish() {
    let ring = Heap::new(4, 1);
    let mut old = Producer::new(ring.clone(), 1);
    assert!(old.push(5).unwrap());
    reset(&ring, 2);
    let mut consumer = Consumer::new(ring.clone(), 2);
    assert_eq!(rule(old.push(6)), SUPERSEDED);
    assert_eq!(consumer.pop().unwrap(), None);
    let mut new = Producer::new(ring, 2);
    assert!(new.push(7).unwrap());
    assert_eq!(consumer.pop().unwrap(), Some(7));
}

#[test]
fn a_consumer_of_an_older_epoch_learns_it() {
    let ring = Heap::new(4, 1);
    let mut old = Consumer::new(ring.clone(), 1);
    reset(&ring, 2);
    assert!(!old.is_empty(), "it must look, and not sleep");
    assert_eq!(rule(old.pop()), SUPERSEDED);
}

#[test]
fn a_leaping_tail_and_a_foreign_hand_on_the_tail_are_broken_rules() {
    let ring = Heap::new(4, 1);
    let mut consumer = Consumer::new(ring.clone(), 1);
    ring.0.tail.store(pack(1, 5), Ordering::Relaxed);
    assert_eq!(rule(consumer.pop()), TAIL_LEAP);
    let mut producer = Producer::new(ring, 1);
    assert_eq!(rule(producer.push(1)), TAIL_WRITTEN);
}

#[test]
fn an_impossible_head_frees_no_entry() {
    let ring = Heap::new(2, 1);
    let mut producer = Producer::new(ring.clone(), 1);
    assert!(producer.push(1).unwrap() && producer.push(2).unwrap());
    for head in [pack(1, 3), pack(1, u32::MAX), pack(0, 1), pack(2, 2)] {
        ring.0.head.store(head, Ordering::Relaxed);
        assert!(!producer.push(3).unwrap());
    }
    ring.0.head.store(pack(1, 1), Ordering::Relaxed);
    assert!(producer.push(3).unwrap());
}
