//! `agentfs-harness pjdfstest`: the Rust port of pjdfstest as root, on a branch and natively on ext4, in one run.

use super::tool::Tool;
use crate::namespace::Namespace;
use crate::results::{Outcome, Results};
use crate::run::run as run_command;
use crate::world::{World, why_not};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TOOL: Tool = Tool { name: "pjdfstest", version: "0.2.2" };

/// Longest run on one file system.
const LIMIT: Duration = Duration::from_secs(900);

/// What the tests find when nothing is wrong. Failures that stand here need a reason in
/// `specs/posix-deviations.md`.
const BASELINE: &str = include_str!("../../baselines/pjdfstest.json");

/// Run pjdfstest on a branch and natively on ext4; fails on whatever the native file system does not fail, and on
/// fewer tests than the recorded baseline has.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Run on this mount instead of one of its own, without the native run and the baseline.
    #[arg(long)]
    pub mount: Option<PathBuf>,
    /// Only tests whose name contains one of these.
    pub groups: Vec<String>,
    /// Where the results go.
    #[arg(long, default_value = "logs")]
    pub logs: PathBuf,
}

/// What stands in the names of tests that make the file system read-only.
const READ_ONLY: &str = "erofs";

/// Size of the disk for the native run.
const DISK: u64 = 256 << 20;

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

/// Name of a test to how it ended and what it said.
type Report = BTreeMap<String, (Outcome, String)>;

#[derive(Debug, serde::Deserialize)]
struct Baseline {
    /// How many pass at least.
    passed: usize,
    /// Failed or skipped on a branch, though not natively.
    worse: BTreeSet<String>,
}

/// Runs it.
///
/// # Errors
/// It could not be run, or there were failures that the native file system does not have.
#[expect(clippy::print_stdout, reason = "its output is the purpose of a command")]
pub fn run(options: &Options) -> Result<(), String> {
    if let Some(reason) = why_not() {
        return Err(format!("cannot run: {reason}"));
    }
    let tool = TOOL.find()?;
    let mut results = Results::begin("pjdfstest", &options.logs)?;
    let world = World::start("pjdfstest").ok_or("no world")?;
    world.limit(LIMIT * 2 + Duration::from_secs(60));
    // In there mount(8) finds our helper: some tests make the file system read-only for a moment.
    let ns = Namespace::start(&world);
    let judge = Judge { tool: &tool, world: &world, ns: &ns, options, logs: results.dir().to_owned() };
    if let Some(mount) = &options.mount {
        let ours = judge.on("branch", mount)?;
        for (name, (outcome, said)) in &ours {
            results.record(name, *outcome, &[("said", said.as_str().into())])?;
        }
        let summary = results.finish(&[("mount", mount.display().to_string().into())])?;
        println!("{} passed, {} failed, {} skipped", summary.passed, summary.failed.len(), summary.skipped);
        return if summary.failed.is_empty() { Ok(()) } else { Err(listed("failed", &summary.failed)) };
    }
    let native = judge.natively()?;
    let ours = judge.on_a_branch()?;
    drop(ns);

    let mut worse = Vec::new();
    for (name, (outcome, said)) in &ours {
        let beside = native.get(name).map_or("missing", |(outcome, _)| outcome.name());
        if beside == "passed" && *outcome != Outcome::Passed {
            worse.push(name.clone());
        }
        let mut more = vec![("native", beside.into())];
        if *outcome != Outcome::Passed {
            more.push(("said", said.as_str().into()));
        }
        results.record(name, *outcome, &more)?;
    }
    let baseline: Baseline = serde_json::from_str(BASELINE).map_err(|e| format!("the baseline: {e}"))?;
    worse.retain(|name| !baseline.worse.contains(name));
    let whole = options.groups.is_empty();
    let totals = |report: &Report| {
        let count = |wanted| report.values().filter(|(outcome, _)| *outcome == wanted).count();
        json!({ "passed": count(Outcome::Passed), "failed": count(Outcome::Failed), "skipped": count(Outcome::Skipped) })
    };
    let (branch, beside) = (totals(&ours), totals(&native));
    let passed = results.finish(&[
        ("version", TOOL.version.into()),
        ("native", beside.clone()),
        ("worse_than_native", json!(worse)),
    ])?;
    println!("branch {branch}\nnative {beside}\n{}", passed.path.display());
    if !worse.is_empty() {
        return Err(listed("worse than on ext4", &worse));
    }
    if whole && (passed.passed as usize) < baseline.passed {
        return Err(format!("{} tests passed, the baseline has {}", passed.passed, baseline.passed));
    }
    Ok(())
}

fn listed(what: &str, names: &[String]) -> String {
    format!("{} {what}:\n  {}", names.len(), names.join("\n  "))
}

struct Judge<'a> {
    tool: &'a Path,
    world: &'a World,
    ns: &'a Namespace<'a>,
    options: &'a Options,
    logs: PathBuf,
}

impl Judge<'_> {
    /// On a fresh ext4.
    fn natively(&self) -> Result<Report, String> {
        let (image, at) = (self.world.out().join("ext4"), self.world.mountpoint());
        File::create(&image).and_then(|file| file.set_len(DISK)).map_err(|e| format!("no room for a disk: {e}"))?;
        let (image, at) = (text(&image)?, text(&at)?);
        self.ns.run("mkfs.ext4", &["-q", "-F", image]).success();
        self.ns.run("mount", &["-o", "loop", image, at]).success();
        let report = self.of_kind("ext4", "native", at);
        self.ns.run("umount", &[at]).success();
        report
    }

    /// On a branch that root mounted: set-id bits and device nodes count.
    fn on_a_branch(&self) -> Result<Report, String> {
        let at = self.world.mountpoint();
        let (at, store, socket) = (text(&at)?, text(self.world.store())?, text(self.world.socket())?);
        self.world.create_branch("pjdfstest", None);
        let options = format!("store={store},socket={socket}");
        self.ns.run("mount", &["-t", "fuse.agentfs", "pjdfstest", at, "-o", &options]).success();
        let report = self.of_kind("fuse.agentfs", "branch", at);
        self.ns.run("umount", &[at]).success();
        report
    }

    fn of_kind(&self, kind: &str, name: &str, at: &str) -> Result<Report, String> {
        let out = self.ns.run("findmnt", &["-n", "-o", "FSTYPE", "-T", at]).success();
        if out.stdout.trim() != kind {
            return Err(format!("{at} is no {kind}: {out}"));
        }
        self.on(name, Path::new(at))
    }

    /// The tests of read-only file systems run once more by themselves, and that counts: others leak descriptors that
    /// are open for writing, which forbid making it read-only.
    fn on(&self, name: &str, dir: &Path) -> Result<Report, String> {
        let mut report = self.once(name, dir, &self.options.groups)?;
        if report.keys().any(|test| test.contains(READ_ONLY)) {
            let alone = self.once(&format!("{name}-{READ_ONLY}"), dir, &[READ_ONLY.to_owned()])?;
            report.extend(alone.into_iter().filter(|(test, _)| self.chosen(test)));
        }
        Ok(report)
    }

    fn chosen(&self, test: &str) -> bool {
        self.options.groups.is_empty() || self.options.groups.iter().any(|group| test.contains(group.as_str()))
    }

    fn once(&self, name: &str, dir: &Path, groups: &[String]) -> Result<Report, String> {
        let config = self.world.out().join("pjdfstest.toml");
        std::fs::write(&config, CONFIG).map_err(|e| format!("cannot write the configuration: {e}"))?;
        let mut command = self.ns.command(text(self.tool)?);
        command.env("NO_COLOR", "1").arg("-c").arg(config).arg("-p").arg(dir).arg("-s").arg(self.world.out());
        command.arg("--").args(groups);
        let out = run_command(&mut command, LIMIT);
        let log = self.logs.join(format!("{name}.log"));
        let text = format!("{}{}", out.stdout, out.stderr);
        std::fs::write(&log, text).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let report = parse(&out.stdout);
        if report.is_empty() { Err(format!("pjdfstest ran no test: {out}")) } else { Ok(report) }
    }
}

/// Every feature that Linux has. The users are those that Debian and its kin come with.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.012
allow_remount = true

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// `NAME   ok`, `NAME   skipped` and `NAME   FAILED`, each followed by indented lines that explain it.
fn parse(text: &str) -> Report {
    let mut report = Report::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        if let Some(said) = line.strip_prefix('\t') {
            if let Some((_, text)) = last.as_ref().and_then(|name| report.get_mut(name)) {
                text.push_str(said);
                text.push('\n');
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let outcome = match (words.next(), words.next(), words.next()) {
            (Some(name), Some("ok"), None) => Some((name, Outcome::Passed)),
            (Some(name), Some("skipped"), None) => Some((name, Outcome::Skipped)),
            (Some(name), Some("FAILED"), None) => Some((name, Outcome::Failed)),
            _ => None,
        };
        last = outcome.map(|(name, outcome)| {
            report.insert(name.to_owned(), (outcome, String::new()));
            name.to_owned()
        });
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let text = "chmod::a::b          ok\nchmod::c     FAILED\n\tleft: 1\n\tright: 2\nlink::d   skipped\n\troot\n\n\
                    Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";
        let report = parse(text);
        assert_eq!(report.len(), 3);
        assert_eq!(report["chmod::a::b"], (Outcome::Passed, String::new()));
        assert_eq!(report["chmod::c"], (Outcome::Failed, "left: 1\nright: 2\n".into()));
        assert_eq!(report["link::d"].0, Outcome::Skipped);
    }
}
