//! What was wrong, and the whole result of a run.

use super::killer::Kill;
use super::pauses::Pauses;
use serde::Serialize;
use std::collections::BTreeMap;

/// One broken promise.
#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    /// Where: a workload with its mount, or the part of the run.
    pub place: String,
    /// What.
    pub what: String,
    /// The last events before it, the oldest first: nanoseconds of the monotonic clock, then the event.
    pub events: Vec<String>,
}

impl Violation {
    /// One without events.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into(), events: Vec::new() }
    }

    /// The same with events, into which the kills are sorted.
    pub fn with_events(mut self, events: Vec<String>, kills: &[Kill]) -> Self {
        let time = |line: &str| line.split(' ').next().and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        let first = events.first().map_or(u64::MAX, |line| time(line));
        self.events = events;
        self.events.extend(kills.iter().filter(|k| k.at >= first).map(Kill::event));
        self.events.sort_by_key(|line| time(line));
        self
    }
}

/// How often a point was aimed at and hit.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Hits {
    /// Kills that aimed at it.
    pub aimed: usize,
    /// Victims that stood there when they died.
    pub hit: usize,
}

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Seed of the run.
    pub seed: u64,
    /// A command that runs the same again.
    pub reproduce: String,
    /// It was ended by a signal before its time.
    pub interrupted: bool,
    /// Seconds that the workloads ran.
    pub seconds: f64,
    /// Mounts.
    pub mounts: usize,
    /// Kills by victim.
    pub kills: BTreeMap<String, usize>,
    /// Kills that aimed at a named point, all points that could be aimed at.
    pub points: BTreeMap<String, Hits>,
    /// Operations that were answered, by workload.
    pub operations: BTreeMap<String, u64>,
    /// Workloads that could not run, with the reason.
    pub skipped: BTreeMap<String, String>,
    /// From a kill to the next answer, by victim.
    pub pauses: BTreeMap<String, Pauses>,
    /// What was wrong.
    pub violations: Vec<Violation>,
}
