//! Waiting awake for a peer that answers within microseconds, instead of sleeping and being woken.
//!
//! Waking a process on another, idle CPU costs more than all code of a request, above all on a virtual
//! machine. Whoever waits awake saves that where a CPU is to spare; where none is, it takes the CPU from
//! the very program that it waits for. So it sleeps at once
//! - while the peer runs on the same CPU, or other threads of this process spin on half of the CPUs,
//! - for a while after it was preempted while it spun: somebody wants the CPU; much longer, and longer each time,
//!   when that was a program that computes,
//! - mostly, while its spins keep ending in vain.
//!
//! A daemon's thread stays on its CPU as long as spinning pays ([`Spin::anchored`]). The scheduler, which
//! finds that CPU busy, then leaves program and frontend together on another one, where each wakes the other
//! cheaply. Without the anchor all three wander, and a program waits behind whoever spins.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Environment variable: longest spin in microseconds; 0 switches spinning off.
pub const WINDOW_ENV: &str = "AGENTFS_SPIN_US";
/// Longest spin unless the environment says another. A request between two processes that are awake
/// takes 5 to 20 µs; one that creates a file up to 50; a wake on an idle CPU 5 to 50 more.
const WINDOW: Duration = Duration::from_micros(100);
/// Longest window that may be asked for.
const WINDOW_MAX: Duration = Duration::from_millis(1);
/// Looks between two looks at the clock.
const LOOKS: usize = 32;
/// A pause between two looks that tells of preemption: looks themselves take about a microsecond.
const PREEMPTED: Duration = Duration::from_micros(100);
/// From pauses of this length on it was a program that computes: others sleep again before. Whoever spins beside
/// such programs spends the share of the CPU that it would need the next moment.
const CROWDED: Duration = Duration::from_millis(1);
/// How long nobody spins after a preemption by a program that sleeps again.
const BREATH: Duration = Duration::from_millis(1);
/// How long nobody spins after one by a program that computes: the first time, and at most.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(2);
/// Without such programs for so long, the next rest is a short one again.
const CALM: Duration = Duration::from_secs(4);
/// Credit of a spinner: one is lost by each spin in vain and won by each other.
const CREDIT_MAX: u8 = 8;
/// Without credit, one wait of so many is tried, for so many windows: while nobody spins, all three wake each other
/// across CPUs, which a request of usual length would not show to be curable.
const PROBE: u8 = 32;
const PROBE_WINDOWS: u32 = 3;

/// Threads of this process that spin now.
static SPINNING: AtomicUsize = AtomicUsize::new(0);

/// What became of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spun {
    /// It came.
    Won,
    /// It did not come while this thread spun.
    Lost,
    /// This thread did not spin.
    Slept,
}

/// One thread's way of waiting.
#[derive(Debug)]
pub struct Spin {
    window: Duration,
    /// Most threads of this process that may spin at once.
    limit: usize,
    credit: u8,
    skipped: u8,
    rest: Duration,
    rests_until: Option<Instant>,
    /// When a program that computes was met last.
    crowded_at: Option<Instant>,
    anchor: Option<Anchor>,
}

/// Where a thread may run, and whether it was told to stay where it is.
#[derive(Debug)]
struct Anchor {
    anywhere: CpuSet,
    down: bool,
}

impl Anchor {
    fn new() -> Option<Self> {
        let anywhere = sched_getaffinity(Pid::from_raw(0)).ok()?;
        Some(Self { anywhere, down: false })
    }

    /// Best effort: without it, spinning pays less.
    fn drop_down(&mut self) {
        let mut here = CpuSet::new();
        self.down = self.down
            || sched_getcpu().is_ok_and(|cpu| here.set(cpu).is_ok())
                && sched_setaffinity(Pid::from_raw(0), &here).is_ok();
    }

    fn weigh(&mut self) {
        self.down = self.down && sched_setaffinity(Pid::from_raw(0), &self.anywhere).is_err();
    }
}

/// Counts a thread as spinning.
struct Seat;

impl Seat {
    fn take(limit: usize) -> Option<Self> {
        if SPINNING.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(Self);
        }
        SPINNING.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        SPINNING.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spin {
    /// With the window of [`WINDOW_ENV`], or the usual one; never spinning where there is one CPU only.
    pub fn from_env() -> Self {
        let asked = std::env::var(WINDOW_ENV).ok().and_then(|us| us.parse().ok()).map(Duration::from_micros);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(asked.unwrap_or(WINDOW), cpus)
    }

    fn new(window: Duration, cpus: usize) -> Self {
        let window = window.min(WINDOW_MAX);
        Self {
            window,
            limit: if window.is_zero() { 0 } else { cpus / 2 },
            credit: CREDIT_MAX / 2,
            skipped: 0,
            rest: REST_MIN,
            rests_until: None,
            crowded_at: None,
            anchor: None,
        }
    }

    /// As this one, for a thread that stays on its CPU while it spins with success.
    #[must_use]
    pub fn anchored(mut self) -> Self {
        self.anchor = Anchor::new().filter(|_| self.limit > 0);
        self
    }

    /// Waits awake, for the window at most, until `ready`. `apart` tells whether the peer runs on another CPU.
    pub fn wait(&mut self, mut ready: impl FnMut() -> bool, apart: impl Fn() -> bool) -> Spun {
        if self.limit == 0 || !self.has_credit() {
            return Spun::Slept;
        }
        let start = Instant::now();
        if self.rests_until.is_some_and(|until| start < until) {
            return Spun::Slept;
        }
        if !apart() {
            // The next wake is to bring this thread to another CPU than the peer's.
            self.weigh_anchor();
            return Spun::Slept;
        }
        let Some(_seat) = Seat::take(self.limit) else {
            // Whoever has it may be anchored on this CPU.
            self.weigh_anchor();
            return Spun::Slept;
        };
        if let Some(anchor) = &mut self.anchor {
            anchor.drop_down();
        }
        let window = if self.credit == 0 { self.window * PROBE_WINDOWS } else { self.window };
        let mut last = start;
        loop {
            for _ in 0..LOOKS {
                if ready() {
                    self.credit = (self.credit + 1).min(CREDIT_MAX);
                    return Spun::Won;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now - last > PREEMPTED {
                self.preempted(now, now - last);
                return if ready() { Spun::Won } else { Spun::Lost };
            }
            if now - start > window || !apart() {
                self.credit = self.credit.saturating_sub(1);
                if self.credit == 0 {
                    self.weigh_anchor();
                }
                return Spun::Lost;
            }
            last = now;
        }
    }

    fn has_credit(&mut self) -> bool {
        if self.credit > 0 {
            return true;
        }
        self.skipped = (self.skipped + 1) % PROBE;
        self.skipped == 0
    }

    fn weigh_anchor(&mut self) {
        if let Some(anchor) = &mut self.anchor {
            anchor.weigh();
        }
    }

    fn preempted(&mut self, now: Instant, pause: Duration) {
        if pause < CROWDED {
            self.rests_until = Some(now + BREATH);
            return;
        }
        self.weigh_anchor();
        let again = self.crowded_at.is_some_and(|at| now - at < CALM);
        self.rest = if again { (self.rest * 2).min(REST_MAX) } else { REST_MIN };
        self.crowded_at = Some(now);
        self.rests_until = Some(now + self.rest);
    }
}

/// The CPU that this thread runs on, plus one; 0 when unknown. For the fields of the region.
pub(crate) fn here() -> u32 {
    sched_getcpu().map_or(0, |cpu| cpu as u32 + 1)
}

/// Tells the peer where this thread runs. Written when it changed only: the peer's spins read it.
pub(crate) fn note(field: &AtomicU32) {
    let here = here();
    if field.load(Ordering::Relaxed) != here {
        field.store(here, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
