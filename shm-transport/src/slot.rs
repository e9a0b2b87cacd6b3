//! The state of a slot: one word of `generation << 32 | state`, changed by compare-and-swap, so that
//! whoever acts on an older use of the slot fails instead of disturbing the present one.
//!
//! ```text
//!            submit (g+1)          start            finish
//!    Free ───────────────▶ Submitted ─────▶ Running ───────▶ Completed
//!     ▲                      ▲    ▲            │                 │
//!     │                      └────┴────────────┘                 │
//!     │                         resubmit (g+1)                   │
//!     ├──────────────────────────────────────────────────────────┘
//!     │                          release
//!     └────────────── Cancelled ◀───── cancel ──── (Submitted, Running)
//! ```
//! Start and finish are the daemon's, all others the frontend's. wire-protocol §4.

use crate::mem::atomics::Word;
use std::sync::atomic::Ordering;

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The frontend's, without a request.
    Free,
    /// A request is in it, the daemon has not taken it.
    Submitted,
    /// The daemon took it.
    Running,
    /// The reply is in it.
    Completed,
    /// The frontend gave the request up: no daemon runs it or finishes it.
    Cancelled,
}

/// What can happen to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Frontend: a new request.
    Submit,
    /// Daemon: takes it.
    Start,
    /// Daemon: replied.
    Finish,
    /// Frontend, in a new epoch: the request again.
    Resubmit,
    /// Frontend: nobody waits for it any more.
    Cancel,
    /// Frontend: the reply was used, or no daemon can have anything to do with a cancelled use any more.
    Release,
}

impl State {
    fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            0 => Self::Free,
            1 => Self::Submitted,
            2 => Self::Running,
            3 => Self::Completed,
            4 => Self::Cancelled,
            _ => return None,
        })
    }

    fn bits(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Submitted => 1,
            Self::Running => 2,
            Self::Completed => 3,
            Self::Cancelled => 4,
        }
    }

    /// The legal transitions.
    pub(crate) fn after(self, event: Event) -> Option<Self> {
        match (self, event) {
            (Self::Free, Event::Submit) | (Self::Submitted | Self::Running, Event::Resubmit) => Some(Self::Submitted),
            (Self::Submitted, Event::Start) => Some(Self::Running),
            (Self::Running, Event::Finish) => Some(Self::Completed),
            (Self::Submitted | Self::Running, Event::Cancel) => Some(Self::Cancelled),
            (Self::Completed | Self::Cancelled, Event::Release) => Some(Self::Free),
            _ => None,
        }
    }
}

/// State and generation as one word.
pub(crate) fn pack(state: State, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(state.bits())
}

/// State and generation of a word; `None` for a state that does not exist.
pub(crate) fn unpack(word: u64) -> Option<(State, u32)> {
    Some((State::from_bits(word as u32)?, (word >> 32) as u32))
}

fn generation_after(event: Event, generation: u32) -> u32 {
    match event {
        Event::Submit | Event::Resubmit => generation.wrapping_add(1),
        Event::Start | Event::Finish | Event::Cancel | Event::Release => generation,
    }
}

/// Applies the frontend's `event` to a slot that is its own by its private record, in state `from`,
/// whatever a peer may have scribbled into the word. The new generation.
pub(crate) fn place<W: Word<u64>>(word: &W, from: State, generation: u32, event: Event) -> u32 {
    let next = generation_after(event, generation);
    let state = from.after(event);
    debug_assert!(state.is_some(), "{event:?} of a slot that is {from:?}");
    // P4 Release: publishes what the frontend wrote into the slot before.
    word.store(pack(state.unwrap_or(from), next), Ordering::Release);
    next
}

/// Applies `event` to the use `generation` of a slot; the new generation, or `None` (and nothing
/// changed) when the slot is in another use or the event is not legal there.
pub(crate) fn advance<W: Word<u64>>(word: &W, generation: u32, event: Event) -> Option<u32> {
    // P4 Acquire: what the other side wrote into the slot before its own transition is visible.
    let found = word.load(Ordering::Acquire);
    let (state, present) = unpack(found)?;
    if present != generation {
        return None;
    }
    let next = generation_after(event, generation);
    let new = pack(state.after(event)?, next);
    // P4 Release: publishes what this side wrote into the slot before this transition.
    word.compare_exchange(found, new, Ordering::AcqRel, Ordering::Relaxed).ok().map(|_| next)
}

/// What became of a request when its daemon went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaimed {
    /// Its reply had been written: it is not run again.
    Completed,
    /// It is submitted again, as this generation.
    Resubmitted(u32),
}

/// Takes the use `generation` of a slot back from a daemon that is gone or about to be: it is
/// completed, or submitted anew with a generation that the old daemon cannot finish. A word that makes
/// no sense is overwritten: the frontend's private record is the truth.
pub(crate) fn reclaim<W: Word<u64>>(word: &W, generation: u32) -> Reclaimed {
    take_back(word, generation, Event::Resubmit).map_or(Reclaimed::Completed, Reclaimed::Resubmitted)
}

/// Fences the use `generation` of a slot: from here on no daemon starts or finishes it, and the request may
/// be answered otherwise. `false` when its reply had been written: that one counts.
pub(crate) fn cancel<W: Word<u64>>(word: &W, generation: u32) -> bool {
    take_back(word, generation, Event::Cancel).is_some()
}

/// Applies the frontend's `event` to a use that is under way, and gives the generation; `None` when it is
/// completed.
fn take_back<W: Word<u64>>(word: &W, generation: u32, event: Event) -> Option<u32> {
    let next = generation_after(event, generation);
    let new = pack(State::Running.after(event)?, next);
    let mut found = word.load(Ordering::Acquire);
    // An honest daemon changes the word at most twice more (it starts, it finishes).
    for _ in 0..4 {
        if found == pack(State::Completed, generation) {
            return None;
        }
        // The old daemon may finish at this very moment: then the swap fails and its reply counts.
        match word.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(next),
            Err(now) => found = now,
        }
    }
    word.store(new, Ordering::Release);
    Some(next)
}

#[cfg(test)]
mod tests;
