//! Samples, medians, and how they are printed.

use serde::Serialize;
use std::collections::BTreeMap;

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
}

/// A workload on both sides.
#[derive(Debug, Default, Serialize)]
struct Pair {
    unit: &'static str,
    host: Samples,
    mount: Samples,
}

/// All results, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Report {
    order: Vec<String>,
    pairs: BTreeMap<String, Pair>,
    singles: Vec<(String, &'static str, Samples)>,
}

impl Report {
    /// A sample of a workload on the host (`mount` false) or the mount.
    pub(super) fn pair(&mut self, name: &str, unit: &'static str, mount: bool, value: f64) {
        if !self.pairs.contains_key(name) {
            self.order.push(name.to_owned());
        }
        let pair = self.pairs.entry(name.to_owned()).or_insert_with(|| Pair { unit, ..Pair::default() });
        if mount { pair.mount.add(value) } else { pair.host.add(value) }
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

    /// As text.
    pub(super) fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        if !self.order.is_empty() {
            writeln!(out, "{:28} {:>12} {:>7} {:>12} {:>7} {:>7}", "workload", "host", "±%", "mount", "±%", "ratio")
                .ok();
        }
        for name in &self.order {
            let pair = &self.pairs[name];
            let (host, mount) = (pair.host.median(), pair.mount.median());
            let show = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.1} {}", pair.unit));
            let ratio = host.zip(mount).map_or_else(|| "-".to_owned(), |(h, m)| format!("{:.2}", m / h));
            let (a, b) = (pair.host.spread(), pair.mount.spread());
            writeln!(out, "{name:28} {:>12} {a:>7.0} {:>12} {b:>7.0} {ratio:>7}", show(host), show(mount)).ok();
        }
        if !self.singles.is_empty() {
            writeln!(out, "\n{:48} {:>14} {:>7}", "measurement", "median", "±%").ok();
        }
        for (name, unit, samples) in &self.singles {
            let median = samples.median().map_or_else(|| "-".to_owned(), |v| format!("{v:.1} {unit}"));
            writeln!(out, "{name:48} {median:>14} {:>7.0}", samples.spread()).ok();
        }
        out
    }

    /// As JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        let pairs: Vec<_> = self
            .order
            .iter()
            .map(|name| {
                let pair = &self.pairs[name];
                let ratio = pair.host.median().zip(pair.mount.median()).map(|(h, m)| m / h);
                serde_json::json!({
                    "name": name, "unit": pair.unit, "ratio": ratio,
                    "host": {"median": pair.host.median(), "spread_percent": pair.host.spread(), "samples": pair.host},
                    "mount": {"median": pair.mount.median(), "spread_percent": pair.mount.spread(), "samples": pair.mount},
                })
            })
            .collect();
        let singles: Vec<_> = self
            .singles
            .iter()
            .map(|(name, unit, s)| {
                serde_json::json!({
                    "name": name, "unit": unit, "median": s.median(), "spread_percent": s.spread(), "samples": s,
                })
            })
            .collect();
        serde_json::json!({"workloads": pairs, "measurements": singles})
    }
}
