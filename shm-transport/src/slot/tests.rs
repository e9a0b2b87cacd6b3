#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::sync::atomic::AtomicU64;

const EVENTS: [Event; 6] = [Event::Submit, Event::Start, Event::Finish, Event::Resubmit, Event::Cancel, Event::Release];
const STATES: [State; 5] = [State::Free, State::Submitted, State::Running, State::Completed, State::Cancelled];

#[test]
fn only_the_drawn_transitions_are_legal() {
    let legal: Vec<_> = STATES
        .into_iter()
        .flat_map(|s| EVENTS.into_iter().filter_map(move |e| s.after(e).map(|to| (s, e, to))))
        .collect();
    assert_eq!(
        legal,
        [
            (State::Free, Event::Submit, State::Submitted),
            (State::Submitted, Event::Start, State::Running),
            (State::Submitted, Event::Resubmit, State::Submitted),
            (State::Submitted, Event::Cancel, State::Cancelled),
            (State::Running, Event::Finish, State::Completed),
            (State::Running, Event::Resubmit, State::Submitted),
            (State::Running, Event::Cancel, State::Cancelled),
            (State::Completed, Event::Release, State::Free),
            (State::Cancelled, Event::Release, State::Free),
        ]
    );
}

#[test]
fn words_round_trip_and_nonsense_is_no_state() {
    for state in STATES {
        assert_eq!(unpack(pack(state, 0xffff_fffe)), Some((state, 0xffff_fffe)));
    }
    assert_eq!(unpack(5), None);
    assert_eq!(unpack(u64::MAX), None);
}

#[test]
fn an_older_generation_changes_nothing() {
    let word = AtomicU64::new(0);
    let one = place(&word, State::Free, 0, Event::Submit);
    assert_eq!(advance(&word, one, Event::Start), Some(one));
    let Reclaimed::Resubmitted(two) = reclaim(&word, one) else { panic!("it was running") };
    assert_eq!(advance(&word, one, Event::Finish), None);
    assert_eq!(unpack(word.load(Ordering::Relaxed)), Some((State::Submitted, two)));
    assert_eq!(advance(&word, two, Event::Finish), None, "it does not run yet");
    assert_eq!(advance(&word, two, Event::Start), Some(two));
    assert_eq!(advance(&word, two, Event::Finish), Some(two));
    assert_eq!(reclaim(&word, two), Reclaimed::Completed);
    assert_eq!(place(&word, State::Completed, two, Event::Release), two);
}

#[test]
fn scribbles_are_overwritten_when_a_slot_is_reclaimed() {
    for scribble in [u64::MAX, 5, pack(State::Completed, 8), pack(State::Free, 7)] {
        let word = AtomicU64::new(scribble);
        assert_eq!(reclaim(&word, 7), Reclaimed::Resubmitted(8));
        assert_eq!(unpack(word.load(Ordering::Relaxed)), Some((State::Submitted, 8)));
    }
}

/// A daemon's every step against a cancellation at every moment between.
#[test]
fn a_cancelled_use_is_neither_started_nor_finished() {
    for steps in 0..=2 {
        let word = AtomicU64::new(0);
        let generation = place(&word, State::Free, 6, Event::Submit);
        for event in [Event::Start, Event::Finish].into_iter().take(steps) {
            assert!(advance(&word, generation, event).is_some());
        }
        let cancelled = cancel(&word, generation);
        assert_eq!(cancelled, steps < 2, "what is completed counts");
        for event in [Event::Start, Event::Finish] {
            assert_eq!(advance(&word, generation, event), None, "{event:?} after {steps} steps");
        }
        let end = if cancelled { State::Cancelled } else { State::Completed };
        assert_eq!(unpack(word.load(Ordering::Relaxed)), Some((end, generation)));
        assert_eq!(cancel(&word, generation), cancelled, "twice is once");
        assert_eq!(place(&word, end, generation, Event::Release), generation);
        assert_eq!(advance(&word, generation, Event::Start), None);
    }
}

#[test]
fn generations_wrap() {
    let word = AtomicU64::new(0);
    assert_eq!(place(&word, State::Free, u32::MAX, Event::Submit), 0);
    assert_eq!(unpack(word.load(Ordering::Relaxed)), Some((State::Submitted, 0)));
}
