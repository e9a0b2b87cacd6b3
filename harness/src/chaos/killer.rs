//! Kills processes of a world at random moments.

use super::clock;
use super::control::Control;
use super::point::{Aims, Held, Point};
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
    /// The points at which it kills half of the time.
    aims: Option<Aims>,
    commands: Vec<Control>,
}

impl Killer {
    /// Kills one of `victims` about `every` so often.
    pub(super) fn new(seed: u64, victims: Vec<Victim>, every: Duration) -> Self {
        Self { random: Random::new(seed), victims, every, aims: None, commands: Vec::new() }
    }

    /// From now on half of the kills aim at a named point; `commands` are the control directories of workloads that
    /// give commands.
    pub(super) fn aim(&mut self, commands: Vec<Control>) {
        self.aims = Some(Aims::new(&self.victims, !commands.is_empty()));
        self.commands = commands;
    }

    /// What was aimed at and hit.
    pub(super) fn aims(&self) -> Aims {
        self.aims.clone().unwrap_or_default()
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
        let (held, point) = self.await_point(world, victim, &mut pids).unwrap_or_default();
        if self.random.below(2) == 0 {
            pids.reverse();
        }
        let at = clock::now();
        procs::kill_all(&pids);
        drop(held);
        if let (Some(aims), Some(point)) = (&mut self.aims, point) {
            aims.hit(point);
        }
        (!pids.is_empty()).then_some(Kill { at, victim, pids, point })
    }

    /// Half of the time, until one of the victims is at a point.
    fn await_point(
        &mut self,
        world: &World,
        victim: Victim,
        pids: &mut Vec<i32>,
    ) -> Option<(Option<Held>, Option<&'static str>)> {
        if self.aims.is_none() || self.random.below(2) == 0 {
            return None;
        }
        let point: &Point = self.aims.as_mut()?.choose(&mut self.random, victim)?;
        let daemons: Vec<i32> = world.processes("agentfsd", None).iter().map(|p| p.pid).collect();
        let pid = if point.is_start() {
            // The one that is killed now is not counted: its successor is, while it reads the store.
            procs::kill_all(&daemons);
            pids.retain(|pid| !daemons.contains(pid));
            let mut next = Vec::new();
            procs::wait_for(Duration::from_secs(30), || {
                next = world.processes("agentfsd", None).iter().map(|p| p.pid).collect();
                next.retain(|pid| !daemons.contains(pid));
                !next.is_empty()
            });
            pids.extend(&next);
            *next.first()?
        } else {
            *pids.iter().find(|pid| daemons.contains(pid) == point.is_daemons())?
        };
        let (held, there) = point.await_there(world, pid, &self.commands, &mut self.random);
        Some((held, there.then_some(point.name)))
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
