//! Samples, medians, and how they are printed.

mod growth;

pub(super) use growth::Amount;

use super::meter::Cost;
use super::side::Side;
use growth::Growth;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Samples of one measurement.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            n if n % 2 == 1 => sorted.get(middle).copied(),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// Half the distance from the smallest to the largest, in per cent of the median.
    pub(super) fn spread(&self) -> f64 {
        let (low, high) = self.0.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        self.median().filter(|m| *m > 0.0).map_or(0.0, |m| (high - low) / 2.0 / m * 100.0)
    }

    fn json(&self) -> Value {
        json!({"median": self.median(), "spread_percent": self.spread(), "samples": self})
    }
}

/// What a workload on the mount costs beside its time.
#[derive(Debug, Default)]
struct Costs {
    requests: Samples,
    client_ms: Samples,
    frontend_ms: Samples,
    daemon_ms: Samples,
}

/// A workload on all sides.
#[derive(Debug, Default)]
struct Workload {
    name: String,
    unit: &'static str,
    sides: BTreeMap<Side, Samples>,
    costs: Costs,
}

impl Workload {
    fn median(&self, side: Side) -> Option<f64> {
        self.sides.get(&side)?.median()
    }

    /// Times the host's.
    fn ratio(&self, side: Side) -> Option<f64> {
        Some(self.median(side)? / self.median(Side::Host).filter(|host| *host > 0.0)?)
    }
}

/// All results, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Report {
    workloads: Vec<Workload>,
    singles: Vec<(String, &'static str, Samples)>,
    growth: Vec<Growth>,
}

impl Report {
    fn workload(&mut self, name: &str, unit: &'static str) -> &mut Workload {
        let at = self.workloads.iter().position(|w| w.name == name).unwrap_or_else(|| {
            self.workloads.push(Workload { name: name.to_owned(), unit, ..Workload::default() });
            self.workloads.len() - 1
        });
        &mut self.workloads[at]
    }

    /// A sample of a workload on one side.
    pub(super) fn sample(&mut self, name: &str, unit: &'static str, side: Side, value: f64) {
        self.workload(name, unit).sides.entry(side).or_default().add(value);
    }

    /// What the same workload cost on the mount.
    pub(super) fn cost(&mut self, name: &str, unit: &'static str, cost: &Cost) {
        let costs = &mut self.workload(name, unit).costs;
        costs.requests.add(cost.requests as f64);
        costs.client_ms.add(cost.client.as_secs_f64() * 1e3);
        costs.frontend_ms.add(cost.frontend.as_secs_f64() * 1e3);
        costs.daemon_ms.add(cost.daemon.as_secs_f64() * 1e3);
    }

    /// A sample of a measurement without a counterpart on the host.
    pub(super) fn single(&mut self, name: &str, unit: &'static str, value: f64) {
        if let Some((_, _, samples)) = self.singles.iter_mut().find(|(n, _, _)| n == name) {
            samples.add(value);
        } else {
            let mut samples = Samples::default();
            samples.add(value);
            self.singles.push((name.to_owned(), unit, samples));
        }
    }

    /// A sample of a measurement that should be the same beside much as beside little.
    pub(super) fn grown(&mut self, name: &str, unit: &'static str, amount: Amount, value: f64) {
        let at = self.growth.iter().position(|g| g.name == name).unwrap_or_else(|| {
            self.growth.push(Growth::new(name, unit));
            self.growth.len() - 1
        });
        self.growth[at].add(amount, value);
    }

    /// As text.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        self.ratios(&mut out);
        self.costs(&mut out);
        growth::text(&self.growth, &mut out);
        if !self.singles.is_empty() {
            writeln!(out, "\n{:48} {:>14} {:>7}", "measurement", "median", "±%").ok();
        }
        for (name, unit, samples) in &self.singles {
            let median = samples.median().map_or_else(|| "-".to_owned(), |v| format!("{v:.1} {unit}"));
            writeln!(out, "{name:48} {median:>14} {:>7.0}", samples.spread()).ok();
        }
        out
    }

    fn ratios(&self, out: &mut String) {
        let shown: Vec<Side> = Side::ALL
            .into_iter()
            .filter(|side| *side != Side::Host && self.workloads.iter().any(|w| w.sides.contains_key(side)))
            .collect();
        if self.workloads.is_empty() {
            return;
        }
        write!(out, "{:44} {:>12} {:>5}", "workload (sides: times the host)", "host", "±%").ok();
        for side in &shown {
            write!(out, " {:>14} {:>5}", side.name(), "±%").ok();
        }
        out.push('\n');
        for w in &self.workloads {
            let host = w.median(Side::Host).map_or_else(|| "-".to_owned(), |v| format!("{v:.1} {}", w.unit));
            write!(out, "{:44} {host:>12} {:>5.0}", w.name, w.sides.get(&Side::Host).map_or(0.0, Samples::spread)).ok();
            for side in &shown {
                let ratio = w.ratio(*side).map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
                write!(out, " {ratio:>14} {:>5.0}", w.sides.get(side).map_or(0.0, Samples::spread)).ok();
            }
            out.push('\n');
        }
    }

    fn costs(&self, out: &mut String) {
        let counted: Vec<_> = self.workloads.iter().filter(|w| w.costs.requests.median().is_some()).collect();
        if counted.is_empty() {
            return;
        }
        writeln!(
            out,
            "\n{:44} {:>10} {:>12} {:>12} {:>12}",
            "on the mount, CPU time", "requests", "client", "frontend", "daemon"
        )
        .ok();
        for w in counted {
            let ms = |s: &Samples| s.median().map_or_else(|| "-".to_owned(), |v| format!("{v:.0} ms"));
            writeln!(
                out,
                "{:32} {:>10.0} {:>12} {:>12} {:>12}",
                w.name,
                w.costs.requests.median().unwrap_or_default(),
                ms(&w.costs.client_ms),
                ms(&w.costs.frontend_ms),
                ms(&w.costs.daemon_ms)
            )
            .ok();
        }
    }

    /// As JSON.
    pub(super) fn json(&self) -> Value {
        let workloads: Vec<_> = self
            .workloads
            .iter()
            .map(|w| {
                let mut of = Map::new();
                for (side, samples) in &w.sides {
                    let mut value = samples.json();
                    value["ratio"] = json!(w.ratio(*side));
                    of.insert(side.name().to_owned(), value);
                }
                let costs = w.costs.requests.median().map(|requests| {
                    json!({
                        "requests": requests,
                        "client_ms": w.costs.client_ms.median(),
                        "frontend_ms": w.costs.frontend_ms.median(),
                        "daemon_ms": w.costs.daemon_ms.median(),
                    })
                });
                json!({
                    "name": w.name, "unit": w.unit, "ratio": w.ratio(Side::Mount), "sides": of, "costs": costs,
                })
            })
            .collect();
        let singles: Vec<_> = self
            .singles
            .iter()
            .map(|(name, unit, s)| {
                let mut value = s.json();
                value["name"] = json!(name);
                value["unit"] = json!(unit);
                value
            })
            .collect();
        let growth: Vec<_> = self.growth.iter().map(Growth::json).collect();
        json!({"workloads": workloads, "growth": growth, "measurements": singles})
    }

    /// The workloads whose ratio of mount to host is worse than `tolerance` times that of an earlier run, as [`json`]
    /// (Self::json) wrote it. Workloads that only one of the runs has do not count.
    pub(super) fn worse_than(&self, earlier: &Value, tolerance: f64) -> Result<Vec<String>, String> {
        let earlier = earlier["workloads"].as_array().ok_or("the baseline has no list `workloads`")?;
        let mut worse = Vec::new();
        let mut compared = 0;
        for w in &self.workloads {
            let before = earlier.iter().find(|e| e["name"] == w.name.as_str()).and_then(|e| e["ratio"].as_f64());
            if let (Some(before), Some(now)) = (before, w.ratio(Side::Mount)) {
                compared += 1;
                if now > before * tolerance {
                    worse.push(format!("{}: {now:.2} times the host, {before:.2} before", w.name));
                }
            }
        }
        if compared == 0 { Err("the baseline and this run have no workload in common".into()) } else { Ok(worse) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Side};

    fn report(host: f64, mount: f64) -> Report {
        let mut report = Report::default();
        for value in [host * 0.9, host, host * 1.5] {
            report.sample("untar", "ms", Side::Host, value);
        }
        report.sample("untar", "ms", Side::Mount, mount);
        report
    }

    #[test]
    fn a_ratio_is_of_medians_and_stands_in_both_forms() {
        let report = report(10.0, 35.0);
        assert_eq!(report.json()["workloads"][0]["sides"]["mount"]["ratio"], 3.5);
        assert!(report.text().contains("3.50"), "{}", report.text());
    }

    #[test]
    fn only_what_got_worse_beyond_the_tolerance_fails_the_gate() {
        let before = report(10.0, 20.0).json();
        assert_eq!(report(1.0, 2.5).worse_than(&before, 1.3), Ok(Vec::new()));
        let worse = report(1.0, 2.7).worse_than(&before, 1.3).expect("comparable");
        assert_eq!(worse, ["untar: 2.70 times the host, 2.00 before"]);
    }

    #[test]
    fn a_baseline_of_something_else_is_no_success() {
        let other = serde_json::json!({"workloads": [{"name": "nap", "ratio": 1.0}]});
        assert!(report(1.0, 2.0).worse_than(&other, 1.3).is_err());
        assert!(report(1.0, 2.0).worse_than(&serde_json::json!([]), 1.3).is_err());
    }
}
