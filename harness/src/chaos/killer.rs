//! Kills processes of a world at random moments.

use super::clock;
use super::point::{self, Held};
use super::random::Random;
use crate::procs;
use crate::world::World;
use clap::ValueEnum;
use serde::Serialize;
use std::time::Duration;

/// Chance in percent that the next kill follows at once, while the victim is being restarted.
const AGAIN_PERCENT: usize = 15;
/// Such a kill follows within one of these, in microseconds: while the victim starts, or while it recovers.
const AGAIN_US_MAX: [usize; 2] = [60_000, 600_000];

/// A process is held up at a named point for at most so many microseconds before it is killed.
const HELD_US_MAX: usize = 300_000;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Victim {
    /// The daemon.
    Daemon,
    /// The frontend of one mount, or of all.
    Frontend,
    /// The daemon and one frontend, or all of them.
    Both,
}

impl Victim {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Frontend => "frontend",
            Self::Both => "both",
        }
    }
}

/// A kill that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// When, by the monotonic clock, in nanoseconds.
    pub at: u64,
    /// Who.
    pub victim: Victim,
    /// The processes, in the order of their deaths.
    pub pids: Vec<i32>,
    /// The point of a request's life at which one of them was held up.
    pub point: Option<&'static str>,
}

impl Kill {
    /// As an event.
    pub fn event(&self) -> String {
        format!("{} KILL {} {:?} {}", self.at, self.victim.name(), self.pids, self.point.unwrap_or_default())
    }
}

/// Moments of the daemon's work, by the command that it does then (of the workload `branches`); none for its start.
const MOMENTS: [(&str, Option<&str>); 4] = [
    ("daemon: during a snapshot", Some("snapshot")),
    ("daemon: during a commit", Some("commit")),
    ("daemon: while a branch or snapshot is deleted", Some("delete")),
    ("daemon: during a recovery", None),
];
/// How long such a command is waited for.
const MOMENT_MAX: Duration = Duration::from_millis(1500);
/// A command is let run for so long at most, in microseconds.
const COMMAND_US_MAX: usize = 15_000;
/// And a daemon that starts.
const RECOVERY_US_MAX: usize = 60_000;

/// What to do next.
#[derive(Debug)]
pub(super) struct Next {
    /// After this long.
    pub(super) after: Duration,
    /// Who.
    pub(super) victim: Victim,
    /// Without waiting for the answers to the kill before.
    pub(super) at_once: bool,
}

/// Chooses victims and moments.
#[derive(Debug)]
pub(super) struct Killer {
    random: Random,
    victims: Vec<Victim>,
    every: Duration,
    points: bool,
}

impl Killer {
    /// Kills one of `victims` about `every` so often, half of the time at a named point if `points`.
    pub(super) fn new(seed: u64, victims: Vec<Victim>, every: Duration, points: bool) -> Self {
        Self { random: Random::new(seed), victims, every, points }
    }

    /// The next kill.
    pub(super) fn next_kill(&mut self, first: bool) -> Next {
        let victim = self.victims[self.random.below(self.victims.len())];
        let at_once = !first && self.random.below(100) < AGAIN_PERCENT;
        let us = if at_once {
            let limit = AGAIN_US_MAX[self.random.below(AGAIN_US_MAX.len())];
            self.random.below(limit)
        } else {
            self.random.below(2 * self.every.as_micros() as usize)
        };
        Next { after: Duration::from_micros(us as u64), victim, at_once }
    }

    /// Kills. `None` when a victim does not run within the limit.
    pub(super) fn kill(&mut self, world: &World, victim: Victim) -> Option<Kill> {
        let mut pids = self.choose(world, victim);
        let moment = self.await_moment(world, victim, &mut pids);
        let held = if moment.is_none() { self.hold_up(world, victim, &pids) } else { None };
        if held.is_some() {
            std::thread::sleep(Duration::from_micros(self.random.below(HELD_US_MAX) as u64));
        }
        if self.random.below(2) == 0 {
            pids.reverse();
        }
        let at = clock::now();
        procs::kill_all(&pids);
        let point = moment.or(held.map(|(name, _)| name));
        (!pids.is_empty()).then_some(Kill { at, victim, pids, point })
    }

    /// Now and then, a moment of the daemon's work that is longer than one system call.
    fn await_moment(&mut self, world: &World, victim: Victim, pids: &mut Vec<i32>) -> Option<&'static str> {
        if !self.points || victim == Victim::Frontend || self.random.below(4) != 0 {
            return None;
        }
        let (name, command) = MOMENTS[self.random.below(MOMENTS.len())];
        let Some(command) = command else {
            // The one that is killed now is not counted: its successor is, while it reads the store.
            let daemons: Vec<i32> = world.processes("agentfsd", None).iter().map(|p| p.pid).collect();
            procs::kill_all(&daemons);
            pids.retain(|pid| !daemons.contains(pid));
            let mut next = Vec::new();
            procs::wait_for(Duration::from_secs(30), || {
                next = world.processes("agentfsd", None).iter().map(|p| p.pid).collect();
                next.retain(|pid| !daemons.contains(pid));
                !next.is_empty()
            });
            pids.extend(next);
            std::thread::sleep(Duration::from_micros(self.random.below(RECOVERY_US_MAX) as u64));
            return Some(name);
        };
        let runs = || !world.processes("agentfs", Some(command)).is_empty();
        if !procs::wait_for(MOMENT_MAX, runs) {
            return None;
        }
        std::thread::sleep(Duration::from_micros(self.random.below(COMMAND_US_MAX) as u64));
        runs().then_some(name)
    }

    /// Half of the time, one of the victims at a point of its life.
    fn hold_up(&mut self, world: &World, victim: Victim, pids: &[i32]) -> Option<(&'static str, Held)> {
        if !self.points || self.random.below(2) == 0 {
            return None;
        }
        let point = point::choose(&mut self.random, victim);
        let daemons: Vec<i32> = world.processes("agentfsd", None).iter().map(|p| p.pid).collect();
        let pid = *pids.iter().find(|pid| daemons.contains(pid) == point.is_daemons())?;
        Some((point.name, point.hold(pid)?))
    }

    fn choose(&mut self, world: &World, victim: Victim) -> Vec<i32> {
        let mut pids = Vec::new();
        if victim != Victim::Daemon {
            let mut frontends = Vec::new();
            procs::wait_for(Duration::from_secs(30), || {
                frontends = world.frontend_pids();
                !frontends.is_empty()
            });
            if self.random.below(3) != 0 && !frontends.is_empty() {
                frontends = vec![frontends[self.random.below(frontends.len())]];
            }
            pids.extend(frontends);
        }
        if victim != Victim::Frontend {
            let mut daemons = Vec::new();
            procs::wait_for(Duration::from_secs(30), || {
                daemons = world.processes("agentfsd", None);
                !daemons.is_empty()
            });
            pids.extend(daemons.iter().map(|p| p.pid));
        }
        pids
    }
}
