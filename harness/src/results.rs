//! Structured results of a suite: `LOGS/SUITE-TIMESTAMP/results.jsonl`, one line per case in the order of their
//! running, and `summary.json`.

use nix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Version of the layout of both files.
const SCHEMA: u32 = 1;

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed,
    /// It could not run here.
    Skipped,
}

impl Outcome {
    /// As it stands in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// The results of one run.
#[derive(Debug)]
pub struct Results {
    suite: String,
    dir: PathBuf,
    lines: File,
    stamp: String,
    begun: Instant,
    counts: BTreeMap<Outcome, u64>,
    failed: Vec<String>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Summary {
    /// `summary.json`.
    pub path: PathBuf,
    /// How many passed.
    pub passed: u64,
    /// Names of those that failed.
    pub failed: Vec<String>,
    /// How many could not run here.
    pub skipped: u64,
}

impl Results {
    /// Begins a run; its directory is made below `logs`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn begin(suite: &str, logs: &Path) -> Result<Self, String> {
        let stamp = timestamp();
        let mut dir = logs.join(format!("{suite}-{stamp}"));
        let mut again = 1;
        std::fs::create_dir_all(logs).map_err(|e| format!("cannot make {}: {e}", logs.display()))?;
        while let Err(e) = std::fs::create_dir(&dir) {
            if e.kind() != std::io::ErrorKind::AlreadyExists {
                return Err(format!("cannot make {}: {e}", dir.display()));
            }
            again += 1;
            dir = logs.join(format!("{suite}-{stamp}-{again}"));
        }
        let path = dir.join("results.jsonl");
        let lines = File::create(&path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        let (suite, counts, failed) = (suite.to_owned(), BTreeMap::new(), Vec::new());
        Ok(Self { suite, dir, lines, stamp, begun: Instant::now(), counts, failed })
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Records one case; `more` stands beside its name and outcome.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn record(&mut self, case: &str, outcome: Outcome, more: &[(&str, Value)]) -> Result<(), String> {
        *self.counts.entry(outcome).or_default() += 1;
        if outcome == Outcome::Failed {
            self.failed.push(case.to_owned());
        }
        let mut line = Map::new();
        line.insert("case".into(), case.into());
        line.insert("outcome".into(), outcome.name().into());
        line.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        writeln!(self.lines, "{}", Value::Object(line)).map_err(|e| format!("cannot write the results: {e}"))
    }

    /// Writes the summary; `more` stands beside the counts.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self, more: &[(&str, Value)]) -> Result<Summary, String> {
        let count = |outcome| self.counts.get(&outcome).copied().unwrap_or(0);
        let mut summary = json!({
            "schema_version": SCHEMA,
            "suite": self.suite,
            "started": self.stamp,
            "seconds": self.begun.elapsed().as_secs(),
            "passed": count(Outcome::Passed),
            "failed": count(Outcome::Failed),
            "skipped": count(Outcome::Skipped),
            "failures": self.failed,
        });
        for (name, value) in more {
            summary[*name] = value.clone();
        }
        let path = self.dir.join("summary.json");
        let text = serde_json::to_string_pretty(&summary).map_err(|e| e.to_string())?;
        std::fs::write(&path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        let (passed, skipped) = (count(Outcome::Passed), count(Outcome::Skipped));
        Ok(Summary { path, passed, failed: self.failed, skipped })
    }
}

/// Now, in UTC, as `20260131T235959Z`.
fn timestamp() -> String {
    let seconds = clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| t.tv_sec());
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Year, month and day of a count of days since 1970, by the Gregorian calendar.
fn date(days: i64) -> (i64, i64, i64) {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut left) = (1970, days);
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while month < 11 && left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    (year, month as i64 + 1, left + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_787), (2026, 11, 30));
        assert_eq!(date(20_818), (2026, 12, 31));
    }

    #[test]
    fn a_run_leaves_one_line_per_case_and_a_summary() {
        let logs = tempfile::tempdir().unwrap();
        let mut results = Results::begin("some", logs.path()).unwrap();
        let second = Results::begin("some", logs.path()).unwrap();
        assert_ne!(results.dir(), second.dir());
        results.record("a", Outcome::Passed, &[]).unwrap();
        results.record("b", Outcome::Failed, &[("why", "no".into())]).unwrap();
        let lines = std::fs::read_to_string(results.dir().join("results.jsonl")).unwrap();
        assert_eq!(lines.lines().nth(1).unwrap(), r#"{"case":"b","outcome":"failed","why":"no"}"#);
        let summary = results.finish(&[("seed", 7.into())]).unwrap();
        assert_eq!(summary.failed, ["b"]);
        let value: Value = serde_json::from_slice(&std::fs::read(summary.path).unwrap()).unwrap();
        assert_eq!((&value["passed"], &value["failed"], &value["seed"]), (&1.into(), &1.into(), &7.into()));
    }
}
