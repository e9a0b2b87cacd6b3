//! How long programs waited: from a kill to the first answer on the mount that was the last to answer.

use super::control::Control;
use super::killer::Kill;
use serde::Serialize;
use std::collections::BTreeMap;

/// The distribution, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Pauses {
    /// How many kills.
    pub count: usize,
    /// Half were shorter.
    pub median_ms: f64,
    /// 99 of 100 were shorter.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The pauses after `kills`, by victim, as the pulses of all mounts saw them: the time from the kill to the
/// end of the first operation that began after it.
pub(super) fn measure(kills: &[Kill], pulses: &[Control]) -> BTreeMap<String, Pauses> {
    let pulses: Vec<Vec<(u64, u64)>> = pulses.iter().map(Control::pulses).collect();
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for kill in kills {
        let answers = pulses.iter().map(|of_mount| {
            let n = of_mount.partition_point(|(begun, _)| *begun < kill.at);
            of_mount.get(n).map(|(_, ended)| ended - kill.at)
        });
        // A mount that never answered again is a violation and told as such.
        if let Some(Some(longest)) = answers.max() {
            all.entry(kill.victim.name().to_owned()).or_default().push(longest);
        }
    }
    all.into_iter().map(|(victim, times)| (victim, distribution(times))).collect()
}

fn distribution(mut times: Vec<u64>) -> Pauses {
    times.sort_unstable();
    let at = |share: f64| {
        let n = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(n).map_or(0.0, |ns| *ns as f64 / 1e6)
    };
    Pauses { count: times.len(), median_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
}
