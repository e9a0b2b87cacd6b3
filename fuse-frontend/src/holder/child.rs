//! A child process that is started again when it dies.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// A child that lived so long died of something new.
const SETTLED: Duration = Duration::from_secs(1);
/// Early deaths in a row after which starts begin to keep away from each other.
const EARLY_DEATHS_FREE: u32 = 5;

/// Early deaths in a row after which people are told that the child does not start.
pub(super) const EARLY_DEATHS_MAX: u32 = 5;

/// How far a start keeps from the one before, after so many early deaths in a row: one that cannot live must not
/// keep the host busy, and a few that were killed one soon after the other must not make programs wait.
fn spacing(early_deaths: u32) -> Duration {
    let doublings = early_deaths.saturating_sub(EARLY_DEATHS_FREE).min(16);
    (BACK_OFF_MIN * (1 << doublings)).min(BACK_OFF_MAX)
}

/// The child and when to start the next one.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Option<Child>,
    started: Instant,
    /// When the next one is due; `None` for never.
    due: Option<Instant>,
    /// Deaths in a row before the child had settled.
    pub(super) early_deaths: u32,
    /// Starts after an unclean end.
    pub(super) restarts: u64,
}

impl Keeper {
    /// Due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { child: None, started: now, due: Some(now), early_deaths: 0, restarts: 0 }
    }

    /// Process id while it runs.
    pub(super) fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// Whether to start one now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.child.is_none() && self.due.is_some_and(|due| due <= now)
    }

    /// How long until one must be started.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        if self.child.is_some() { None } else { self.due.map(|due| due.saturating_duration_since(now)) }
    }

    /// One was started.
    pub(super) fn runs(&mut self, child: Child, now: Instant) {
        self.child = Some(child);
        self.started = now;
        self.due = None;
    }

    /// Its end, if it ended since the last look.
    pub(super) fn reap(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// It died, or could not be started: another one comes, at once if it had settled.
    pub(super) fn again(&mut self, now: Instant) {
        self.restarts += 1;
        if now.duration_since(self.started) >= SETTLED {
            self.early_deaths = 0;
            self.due = Some(now);
        } else {
            self.early_deaths = self.early_deaths.saturating_add(1);
            // From start to start: one that served for a while has waited already.
            self.due = Some(now.max(self.started + spacing(self.early_deaths)));
        }
    }

    /// Deaths in a row; none any more once the present child has settled.
    pub(super) fn early_deaths_at(&self, now: Instant) -> u32 {
        let settled = self.child.is_some() && now.duration_since(self.started) >= SETTLED;
        if settled { 0 } else { self.early_deaths }
    }

    /// Another one is wanted now, whatever happened before.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.early_deaths = 0;
        self.due = Some(now);
    }

    /// None is wanted any more.
    pub(super) fn never(&mut self) {
        self.due = None;
    }

    /// Sends a signal to the child while it runs. It is not reaped yet, so the id is its own.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }
}

#[cfg(test)]
mod tests;
