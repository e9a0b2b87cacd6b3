//! Measurements that should be the same beside much as beside little.

use super::Samples;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// How much there is besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Amount {
    /// One branch, nothing else that runs.
    Few,
    /// As many as the name says.
    Many,
}

/// A measurement beside little and beside much.
#[derive(Debug)]
pub(super) struct Growth {
    pub(super) name: String,
    unit: &'static str,
    few: Samples,
    many: Samples,
}

impl Growth {
    pub(super) fn new(name: &str, unit: &'static str) -> Self {
        Self { name: name.to_owned(), unit, few: Samples::default(), many: Samples::default() }
    }

    pub(super) fn add(&mut self, amount: Amount, value: f64) {
        match amount {
            Amount::Few => self.few.add(value),
            Amount::Many => self.many.add(value),
        }
    }

    /// How many times as much.
    fn ratio(&self) -> Option<f64> {
        Some(self.many.median()? / self.few.median().filter(|few| *few > 0.0)?)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "ratio": self.ratio(),
            "few": self.few.json(), "many": self.many.json(),
        })
    }
}

/// As a table.
pub(super) fn text(all: &[Growth], out: &mut String) {
    if all.is_empty() {
        return;
    }
    writeln!(out, "\n{:48} {:>12} {:>5} {:>12} {:>5} {:>7}", "what must not grow", "few", "±%", "many", "±%", "times")
        .ok();
    for growth in all {
        let Growth { name, unit, few, many } = growth;
        let shown = |s: &Samples| s.median().map_or_else(|| "-".to_owned(), |v| format!("{v:.1} {unit}"));
        let times = growth.ratio().map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        writeln!(
            out,
            "{name:48} {:>12} {:>5.0} {:>12} {:>5.0} {times:>7}",
            shown(few),
            few.spread(),
            shown(many),
            many.spread()
        )
        .ok();
    }
}
