//! The verdict as text.

use super::verdict::Verdict;
use std::fmt::Write as _;

/// Violations that are shown whole.
const SHOWN: usize = 10;

/// A short table, then the violations.
pub(super) fn text(verdict: &Verdict) -> String {
    let mut out = String::new();
    write(&mut out, verdict).ok();
    out
}

fn write(out: &mut String, v: &Verdict) -> std::fmt::Result {
    for violation in v.violations.iter().take(SHOWN) {
        writeln!(out, "VIOLATION {}: {}", violation.place, violation.what)?;
        for event in &violation.events {
            writeln!(out, "    {event}")?;
        }
        writeln!(out)?;
    }
    let more = v.violations.len().saturating_sub(SHOWN);
    if more > 0 {
        writeln!(out, "{more} more violations: see --json\n")?;
    }
    let kills: usize = v.kills.values().sum();
    let by: Vec<String> = v.kills.iter().map(|(victim, n)| format!("{victim} {n}")).collect();
    writeln!(out, "kills        {kills} ({}) in {:.0} s on {} mounts", by.join(", "), v.seconds, v.mounts)?;
    for (point, n) in &v.points {
        let never = if n.hit == 0 { "   NEVER HIT" } else { "" };
        writeln!(out, "  {:4} of {:4} at {point}{never}", n.hit, n.aimed)?;
    }
    let operations: u64 = v.operations.values().sum();
    writeln!(out, "operations   {operations}, {:.0} a second", operations as f64 / v.seconds.max(0.001))?;
    for (name, n) in &v.operations {
        writeln!(out, "  {name:10} {n}")?;
    }
    for (name, why) in &v.skipped {
        writeln!(out, "skipped: {name}: {why}")?;
    }
    writeln!(out, "pauses       from the kill to the next answer, in ms")?;
    for (victim, p) in &v.pauses {
        writeln!(
            out,
            "  {victim:10} median {:.1}   p99 {:.1}   max {:.1}   ({} kills)",
            p.median_ms, p.p99_ms, p.max_ms, p.count
        )?;
    }
    writeln!(out, "violations   {}", v.violations.len())?;
    writeln!(out, "again        {}", v.reproduce)
}
