//! What users do beside the programs on a mount: snapshots of the branch while it is written, branches of
//! them that are looked into and deleted, commits of other branches into a base of their own and into the branch that
//! they were made from. Some snapshots are kept for a while; what each must hold is known, byte for byte.
//!
//! A command that finds no daemon says so and is given again; whether the first did it or the second, the
//! outcome must be the same.

mod tree;

use super::{Place, Workload};
use crate::chaos::control::Control;
use crate::chaos::journal::{Journal, OUTPUT_MAX, tail};
use crate::chaos::random::Random;
use crate::sys::of_io;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tree::{Content, Tree};

/// Exit codes of `agentfs` that ask to try again: no daemon answers, or it is busy.
const AGAIN: [i32; 2] = [69, 75];
/// Exit codes that tell that an earlier try did it: the name is taken, or there is nothing of that name.
const EXISTS: i32 = 73;
const NOT_FOUND: i32 = 68;
/// How long to try.
const TRY_MAX: Duration = Duration::from_secs(60);
const TRY_AFTER: Duration = Duration::from_millis(50);

/// What a workload is told about its surroundings, in the environment.
pub(in crate::chaos) const AGENTFS: &str = "AGENTFS_CHAOS_COMMAND";
pub(in crate::chaos) const BRANCH: &str = "AGENTFS_CHAOS_BRANCH";
pub(in crate::chaos) const HOST: &str = "AGENTFS_CHAOS_HOST";

/// From saying that a command comes to giving it: who wants to hold the daemon up in it needs so long.
const SOON: Duration = Duration::from_millis(80);
/// Snapshots that are kept at most.
const KEPT_MAX: usize = 4;

struct Branches {
    place: Place,
    agentfs: PathBuf,
    branch: String,
    /// The base that is committed into, on the host.
    base: PathBuf,
    random: Random,
    model: Model,
}

/// What must be there.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Model {
    serial: u64,
    /// The snapshots by name, and what each holds of our directory.
    kept: Vec<(String, Content)>,
}

fn told(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: `agentfs-harness chaos` starts this workload"))
}

impl Branches {
    fn begin(place: &Place) -> Result<Self, String> {
        let branch = told(BRANCH)?;
        let base = Path::new(&told(HOST)?).join(format!("commits-of-{branch}"));
        std::fs::create_dir_all(&base).map_err(|e| format!("mkdir {}: {e}", base.display()))?;
        let random = Random::new(place.seed);
        Ok(Self { place: place.clone(), agentfs: told(AGENTFS)?.into(), branch, base, random, model: Model::default() })
    }

    /// Gives a command until it is taken. `done` is the exit code that tells that an earlier try did it.
    fn agentfs(&self, j: &mut Journal, args: &[&str], done: Option<i32>) -> Result<String, String> {
        let line = format!("agentfs {}", args.join(" "));
        let control = &self.place.control;
        if control.wanted().is_some_and(|wanted| line.contains(&wanted)) {
            control.set_doing(&format!("{}{line}", Control::SOON))?;
            std::thread::sleep(SOON);
        }
        control.set_doing(&line)?;
        let given = self.give(j, &line, args, done);
        control.set_doing("")?;
        given
    }

    fn give(&self, j: &mut Journal, line: &str, args: &[&str], done: Option<i32>) -> Result<String, String> {
        let end = Instant::now() + TRY_MAX;
        let mut tried = false;
        loop {
            let mut command = Command::new(&self.agentfs);
            command.args(args).stdin(Stdio::null()).current_dir("/");
            let output: Output = j.act(line, || command.output().map_err(|e| of_io(&e)))?;
            let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            j.note(&format!("{} {}", output.status, tail(&stderr, OUTPUT_MAX)))?;
            match output.status.code() {
                Some(0) => return Ok(stdout.into_owned()),
                Some(code) if tried && done == Some(code) => return Ok(stdout.into_owned()),
                Some(code) if Instant::now() < end && AGAIN.contains(&code) => {}
                _ => {
                    let said = format!("{}{}", tail(&stdout, OUTPUT_MAX), tail(&stderr, OUTPUT_MAX));
                    return Err(format!("{line}: {}: {said}", output.status));
                }
            }
            tried = true;
            std::thread::sleep(TRY_AFTER);
        }
    }

    /// Takes a snapshot between two changes, and keeps it.
    fn snapshot(&mut self, j: &mut Journal, tree: &mut Tree) -> Result<(), String> {
        for _ in 0..=self.random.below(4) {
            tree.change(j)?;
        }
        let name = format!("s{}", self.model.serial);
        self.agentfs(j, &["snapshot", "create", "--branch", &self.branch, "--name", &name], Some(EXISTS))?;
        self.model.kept.push((name, tree.content()));
        tree.change(j)
    }

    /// Whether a branch of a snapshot holds what the snapshot must hold, and nothing is different between the two.
    fn look_into(&self, j: &mut Journal, name: &str, wanted: &Content) -> Result<(), String> {
        let snapshot = format!("{}@{name}", self.branch);
        let copy = format!("{}-copy{}-{name}", self.branch, self.model.serial);
        self.agentfs(j, &["branch", "create", &copy, "--from", &snapshot], Some(EXISTS))?;
        let below = self.place.dir.file_name().map(|d| d.to_string_lossy().into_owned()).unwrap_or_default();
        let sums = "cd \"$0\" && find . -type f -exec sha256sum {} +";
        let said =
            self.agentfs(j, &["run", "--branch", &copy, "--no-summary", "--", "sh", "-c", sums, &below], None)?;
        let wrong = tree::differences(wanted, &tree::parse(&said));
        if !wrong.is_empty() {
            return Err(format!("{snapshot} holds something else: {}", wrong.join("; ")));
        }
        let diff = self.agentfs(j, &["diff", &snapshot, &copy, "--json"], None)?;
        let diff: serde_json::Value = serde_json::from_str(&diff).map_err(|e| format!("diff says {diff:?}: {e}"))?;
        if diff["changes"].as_array().is_none_or(|changes| !changes.is_empty()) {
            return Err(format!("{copy}, in which nothing was changed, differs from {snapshot}: {diff}"));
        }
        self.agentfs(j, &["branch", "delete", &copy], Some(NOT_FOUND)).map(drop)
    }

    /// Looks into one of the snapshots that are kept, and deletes one when there are too many.
    fn look_back(&mut self, j: &mut Journal) -> Result<(), String> {
        let at = self.random.below(self.model.kept.len());
        if let Some((name, content)) = self.model.kept.get(at) {
            self.look_into(j, name, content)?;
        }
        if self.model.kept.len() <= KEPT_MAX {
            return Ok(());
        }
        let (name, _) = self.model.kept.remove(self.random.below(KEPT_MAX));
        self.agentfs(j, &["snapshot", "delete", "--branch", &self.branch, "--name", &name], Some(NOT_FOUND)).map(drop)
    }

    /// Gives a branch what a branch of it has.
    fn give_back(&self, j: &mut Journal) -> Result<(), String> {
        let n = self.model.serial;
        let (line, twig) = (format!("{}-line", self.branch), format!("{}-twig{n}", self.branch));
        if n == 1 {
            self.agentfs(j, &["branch", "create", &line], Some(EXISTS))?;
        }
        self.agentfs(j, &["branch", "create", &twig, "--from", &line], Some(EXISTS))?;
        let work = format!("echo {n} >> log; rm -f old; test ! -e now || mv now old; echo {n} > now");
        self.agentfs(j, &["run", "--branch", &twig, "--no-summary", "--", "sh", "-ec", &work], None)?;
        self.agentfs(j, &["commit", &twig, "--into-parent"], None)?;
        let look = "cat log; echo; cat now";
        let said = self.agentfs(j, &["run", "--branch", &line, "--no-summary", "--", "sh", "-ec", look], None)?;
        let wanted: String = (1..=n).map(|n| format!("{n}\n")).collect::<String>() + &format!("\n{n}\n");
        if said != wanted {
            return Err(format!("{line} says {said:?} after {n} commits into it, should say {wanted:?}"));
        }
        self.agentfs(j, &["branch", "delete", &twig], Some(NOT_FOUND)).map(drop)
    }

    fn commit(&self, j: &mut Journal) -> Result<(), String> {
        let n = self.model.serial;
        let branch = format!("{}-commit{n}", self.branch);
        let base = self.base.to_string_lossy().into_owned();
        let work = format!(
            "set -e; test ! -e value || mv value former; echo {n} > value; mkdir dir{n}; echo {n} > dir{n}/one; \
             ln dir{n}/one dir{n}/two; rm -rf dir{}",
            n.saturating_sub(4)
        );
        self.agentfs(j, &["branch", "create", &branch, "--base", &base], Some(EXISTS))?;
        self.agentfs(j, &["run", "--branch", &branch, "--no-summary", "--", "sh", "-c", &work], None)?;
        self.agentfs(j, &["commit", &branch], None)?;
        self.is_committed()?;
        self.agentfs(j, &["branch", "delete", &branch], Some(NOT_FOUND)).map(drop)
    }

    fn is_committed(&self) -> Result<(), String> {
        let n = self.model.serial;
        for name in ["value".to_owned(), format!("dir{n}/one"), format!("dir{n}/two")] {
            let found = std::fs::read_to_string(self.base.join(&name)).map_err(|e| format!("{name}: {e}"))?;
            if found.trim() != n.to_string() {
                return Err(format!("{name} of the base is {found:?} after commit {n}"));
            }
        }
        let gone = self.base.join(format!("dir{}", n.saturating_sub(4)));
        if n >= 4 && gone.exists() {
            return Err(format!("{} is still there after commit {n}", gone.display()));
        }
        Ok(())
    }
}

impl Workload for Working {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        self.branches.model.serial += 1;
        self.branches.snapshot(journal, &mut self.tree)?;
        self.branches.look_back(journal)?;
        self.branches.commit(journal)?;
        self.branches.give_back(journal)
    }

    fn finish(&mut self, _: &mut Journal) -> Result<(), String> {
        self.branches.place.control.save(&self.branches.model)
    }
}

/// The workload while it works.
pub(super) struct Working {
    branches: Branches,
    tree: Tree,
}

impl Working {
    pub(super) fn begin(place: &Place) -> Result<Self, String> {
        Ok(Self { branches: Branches::begin(place)?, tree: Tree::begin(&place.dir, place.seed)? })
    }
}

pub(super) fn verify(place: &Place, journal: &mut Journal) -> Result<(), String> {
    let branches = Branches { model: place.control.load()?, ..Branches::begin(place)? };
    if branches.model.serial == 0 {
        return Ok(());
    }
    for (name, content) in &branches.model.kept {
        branches.look_into(journal, name, content)?;
    }
    branches.is_committed()
}
