//! `agentfs-harness suite NAME`: tests of `harness/tests/` under a name, with structured results.

use crate::results::{Outcome, Results};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name, test binary, and what the names of its tests contain (nothing: all of them).
type Part = (&'static str, &'static str, &'static [&'static str]);

/// Every suite; several lines with one name are one suite.
const PARTS: &[Part] = &[
    ("fuse-basic-ops", "basic_ops", &[]),
    ("fuse-negative-ops", "negative_ops", &[]),
    ("fuse-overlay-ops", "overlay", &[]),
    ("fuse-control-plane", "control_door", &[]),
    ("fuse-control-plane", "branches", &[]),
    ("fuse-control-plane", "bindings", &[]),
    ("fuse-mount-cycle", "mount_life", &["hundred"]),
    ("fuse-mount-failures", "mount_life", &["cannot_be"]),
    ("fuse-mount-failures", "mount_helper", &["cannot_be", "cannot_live"]),
    ("fuse-mount-failures", "user_mounts", &["may_not"]),
    ("fuse-mount-failures", "bad_input", &["mountpoint", "bases"]),
    ("fuse-mount-concurrent", "mount_life", &["at_once"]),
    ("fuse-mount-concurrent", "mount_helper", &["side_by_side"]),
    ("fuse-mount-concurrent", "branches", &["in_parallel", "one_writer"]),
    ("fuse-xattrs", "basic_ops", &["extended_attributes"]),
    ("fuse-xattrs", "negative_ops", &["extended_attributes"]),
    ("fuse-xattrs", "posix_acl", &[]),
    ("fuse-mknod", "basic_ops", &["links", "directory_entries"]),
    ("fuse-mount-options", "mount_helper", &["options", "option_user", "cannot_be"]),
    ("fuse-mount-options", "mount_options", &[]),
    ("fuse-mount-options", "negative_ops", &["read_only"]),
    ("fuse-advanced-io", "basic_ops", &["allocation", "locks", "mappings", "appenders", "large_contents", "open_file"]),
    ("fuse-security-permissions", "negative_ops", &["another_user"]),
    ("fuse-security-permissions", "posix_acl", &["lists", "trusted"]),
    ("fuse-security-privileges", "user_mounts", &[]),
    ("fuse-security-input", "negative_ops", &["strange_names", "4095"]),
    ("fuse-security-input", "bad_input", &["garbage", "nonsense"]),
    ("fuse-security-sandbox", "negative_ops", &["symlink_loops"]),
    ("fuse-security-sandbox", "bad_input", &["git_file", "bases"]),
    ("fuse-security-robustness", "mount_life", &["limits"]),
    ("fuse-security-robustness", "bad_input", &["full_disk", "newer_format"]),
    ("fuse-stress", "chaos", &[]),
    ("fuse-stress", "differential", &[]),
    ("fuse-compat", "user_mounts", &["works", "libfuse_2"]),
    ("fuse-compat", "mount_helper", &["fstab", "option_user"]),
];

/// Run the tests of a suite by its name; `logs/NAME-TIMESTAMP/summary.json` and `results.jsonl` tell what came of it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The suite; without one they are listed.
    pub name: Option<String>,
    /// Where the results go.
    #[arg(long, default_value = "logs")]
    pub logs: PathBuf,
}

/// Runs it.
///
/// # Errors
/// There is no such suite, it could not be run, or a test failed.
#[expect(clippy::print_stdout, reason = "its output is the purpose of a command")]
pub fn run(options: &Options) -> Result<(), String> {
    let Some(name) = &options.name else {
        let mut names: Vec<_> = PARTS.iter().map(|part| part.0).collect();
        names.dedup();
        println!("{}", names.join("\n"));
        return Ok(());
    };
    let bare = name.strip_prefix("test-").unwrap_or(name);
    let parts: Vec<&Part> = PARTS.iter().filter(|part| part.0 == bare).collect();
    if parts.is_empty() {
        return Err(format!("there is no suite {name:?}; without a name they are listed"));
    }
    let mut results = Results::begin(bare, &options.logs)?;
    for (_, binary, filters) in parts {
        let out = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .args(["test", "--quiet", "-p", "harness", "--locked", "--test", binary, "--", "--format=pretty"])
            .args(["--show-output", "--test-threads=1"])
            .args(*filters)
            .output()
            .map_err(|e| format!("cannot run cargo: {e}"))?;
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        let log = results.dir().join(format!("{binary}.log"));
        std::fs::write(&log, &text).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let tests = parse(&text);
        if tests.is_empty() {
            return Err(format!("{binary} ran no test, see {}", log.display()));
        }
        for (test, outcome) in tests {
            results.record(&format!("{binary}::{test}"), outcome, &[])?;
        }
    }
    let summary = results.finish(&[])?;
    println!("{bare}: {} passed, {} failed, {} skipped", summary.passed, summary.failed.len(), summary.skipped);
    println!("{}", summary.path.display());
    if summary.failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", summary.failed.join(", "))) }
}

/// `test NAME ... ok` and its like; a test that says `skipped: …` of itself counts as skipped.
fn parse(text: &str) -> Vec<(String, Outcome)> {
    let mut found: Vec<(String, Outcome)> = Vec::new();
    for line in text.lines() {
        let Some((name, end)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else { continue };
        let outcome = match end.split(',').next().unwrap_or(end).trim() {
            "ok" => Outcome::Passed,
            "ignored" => Outcome::Skipped,
            _ => Outcome::Failed,
        };
        found.push((name.to_owned(), outcome));
    }
    // What a test said stands below its name.
    let mut of = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.split(' ').next()) {
            of = name;
        } else if line.starts_with("skipped: ")
            && let Some(test) = found.iter_mut().find(|(name, outcome)| name == of && *outcome == Outcome::Passed)
        {
            test.1 = Outcome::Skipped;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_says_becomes_outcomes() {
        let text = "running 4 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ignored, slow\ntest d ... ok\n\n\
                    ---- d stdout ----\nskipped: d: not root\n\ntest result: FAILED. 1 passed";
        let outcomes: Vec<_> = parse(text).into_iter().map(|(_, outcome)| outcome.name()).collect();
        assert_eq!(outcomes, ["passed", "failed", "skipped", "skipped"]);
    }

    #[test]
    fn every_part_names_tests_that_there_are() {
        for (suite, binary, filters) in PARTS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{binary}.rs"));
            let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            for filter in *filters {
                let named = source.lines().any(|l| l.starts_with("fn ") && l.contains(filter));
                assert!(named, "{suite}: no test of {binary} contains {filter:?}");
            }
        }
    }
}
