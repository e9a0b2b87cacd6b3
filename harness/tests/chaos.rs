//! `agentfs-harness chaos` in a short form, and that it finds what it is there to find.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    reason = "a test reports a broken promise by panicking"
)]

use harness::run::{Output, run};
use harness::world::why_not;
use harness::{procs, sys};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const HARNESS: &str = env!("CARGO_BIN_EXE_agentfs-harness");

fn chaos(args: &[&str]) -> serde_json::Value {
    let out = run(Command::new(HARNESS).args(["chaos", "--json"]).args(args), Duration::from_secs(420));
    assert!(out.status.success(), "violations: {out}");
    serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("not JSON: {e}: {out}"))
}

#[test]
fn real_programs_see_no_kill() {
    let test = "real_programs_see_no_kill";
    if let Some(reason) = why_not() {
        eprintln!("skipped: {test}: {reason}");
        return;
    }
    let verdict =
        chaos(&["--kills", "24", "--seed", "7", "--every", "800", "--workloads", "writer,fsx,mapped,sqlite,git"]);
    for (name, why) in verdict["skipped"].as_object().unwrap() {
        eprintln!("skipped: {test}, {name}: {why}");
    }
    let kills: u64 = verdict["kills"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(kills, 24, "{verdict}");
    assert_eq!(verdict["kills"].as_object().unwrap().len(), 3, "each of the three is killed: {verdict}");
    assert!(verdict["operations"]["writer"].as_u64().unwrap() > 1000, "{verdict}");
    assert!(verdict["pauses"]["daemon"]["median_ms"].as_f64().unwrap() > 0.0, "{verdict}");
    assert_eq!(verdict["violations"].as_array().unwrap().len(), 0, "{verdict}");
}

/// A workload on a directory of the host, where nothing is killed.
struct Lone {
    _temp: tempfile::TempDir,
    kind: &'static str,
    dir: PathBuf,
    control: PathBuf,
}

impl Lone {
    /// Works until it has done some operations; it ended well.
    fn worked(kind: &'static str, operations: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (dir, control) = (temp.path().join("mount/one"), temp.path().join("control/one"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&control).unwrap();
        let lone = Self { _temp: temp, kind, dir, control };
        let running = harness::run::Running::start(&mut lone.command());
        let did = || std::fs::read(lone.control.join("progress")).ok()?.try_into().ok().map(u64::from_le_bytes);
        let enough = procs::wait_for(Duration::from_secs(60), || did().is_some_and(|n| n >= operations));
        assert!(enough, "{kind} does not reach {operations} operations");
        std::fs::write(lone.control.join("stop"), "").unwrap();
        running.finish(Duration::from_secs(60)).success();
        lone
    }

    fn command(&self) -> Command {
        let mut command = Command::new(HARNESS);
        command.args(["probe", "work", self.kind]).arg(&self.dir).arg(&self.control).args(["--seed", "5"]);
        command
    }

    fn verify(&self) -> Output {
        run(self.command().arg("--verify"), Duration::from_secs(60))
    }

    #[track_caller]
    fn must_be_found(&self, what: &str) {
        let out = self.verify();
        assert_eq!(out.status.code(), Some(1), "{what} was not found: {out}");
        assert!(!out.stderr.trim().is_empty(), "{what} was found silently: {out}");
    }
}

/// Some file that the writer left.
fn a_file(dir: &Path) -> PathBuf {
    let is_long = |p: &PathBuf| sys::lstat(p).is_ok_and(|s| s.st_mode & 0o170_000 == 0o100_000 && s.st_size > 100);
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).find(is_long).expect("a file of some length")
}

#[test]
fn a_lost_change_is_found() {
    let lone = Lone::worked("writer", 2000);
    lone.verify().success();
    let file = a_file(&lone.dir);
    std::fs::rename(&file, lone.dir.join("elsewhere")).unwrap();
    lone.must_be_found("a lost rename");
    std::fs::rename(lone.dir.join("elsewhere"), &file).unwrap();
    lone.verify().success();
    let bytes = std::fs::read(&file).unwrap();
    let mut older = bytes.clone();
    older[50] ^= 1;
    std::fs::write(&file, older).unwrap();
    lone.must_be_found("an old byte");
    std::fs::write(&file, bytes).unwrap();
    lone.verify().success();
}

#[test]
fn a_doubled_or_lost_common_change_is_found() {
    let lone = Lone::worked("writer", 2000);
    let shared = lone.dir.with_file_name("shared");
    let log = std::fs::read_to_string(shared.join("log")).unwrap();
    let counter = std::fs::read(shared.join("counter")).unwrap();
    let last = log.lines().last().unwrap();
    std::fs::write(shared.join("log"), format!("{log}{last}\n")).unwrap();
    lone.must_be_found("a doubled line");
    std::fs::write(shared.join("log"), log.strip_suffix(&format!("{last}\n")).unwrap()).unwrap();
    lone.must_be_found("a lost line");
    std::fs::write(shared.join("log"), &log).unwrap();
    let more = u64::from_le_bytes(counter.clone().try_into().unwrap()) + 1;
    std::fs::write(shared.join("counter"), more.to_le_bytes()).unwrap();
    lone.must_be_found("a doubled increment");
    std::fs::write(shared.join("counter"), &counter).unwrap();
    std::fs::write(shared.join("race0"), "").unwrap();
    lone.must_be_found("a race whose winner was told that it lost");
}

#[test]
fn a_wrong_byte_under_open_handles_is_found() {
    let lone = Lone::worked("fsx", 3000);
    lone.verify().success();
    let file = a_file(&lone.dir);
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    lone.must_be_found("a wrong byte");
}

#[test]
fn an_error_ends_a_workload_with_its_journal() {
    let temp = tempfile::tempdir().unwrap();
    let control = temp.path().join("control");
    std::fs::create_dir(&control).unwrap();
    // A directory that is not there: the first operation fails.
    let mut command = Command::new(HARNESS);
    command.args(["probe", "work", "pulse"]).arg(temp.path().join("none")).arg(&control);
    let out = run(&mut command, Duration::from_secs(20));
    assert_eq!(out.status.code(), Some(1), "{out}");
    let violation = std::fs::read_to_string(control.join("violation")).unwrap();
    assert!(violation.contains("mkdir pulse: ENOENT"), "{violation}");
    let journal = std::fs::read_to_string(control.join("journal")).unwrap();
    assert!(journal.contains("> mkdir pulse") && journal.contains("ENOENT"), "{journal}");
}
