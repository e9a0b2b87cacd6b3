//! What users do beside the programs on a mount: snapshots of the branch while it is written, branches of
//! them that are looked into and deleted, and commits of other branches into a base of their own.
//!
//! A command that finds no daemon says so and is given again; whether the first did it or the second, the
//! outcome must be the same.

use super::{Place, Workload};
use crate::chaos::journal::{Journal, OUTPUT_MAX, tail};
use crate::sys::{self, of_io};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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

pub(super) struct Branches {
    place: Place,
    agentfs: PathBuf,
    branch: String,
    /// The base that is committed into, on the host.
    base: PathBuf,
    serial: u64,
}

fn told(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: `agentfs-harness chaos` starts this workload"))
}

impl Branches {
    pub(super) fn begin(place: &Place) -> Result<Self, String> {
        let branch = told(BRANCH)?;
        let base = Path::new(&told(HOST)?).join(format!("commits-of-{branch}"));
        std::fs::create_dir_all(&base).map_err(|e| format!("mkdir {}: {e}", base.display()))?;
        Ok(Self { place: place.clone(), agentfs: told(AGENTFS)?.into(), branch, base, serial: 0 })
    }

    /// Gives a command until it is taken. `done` is the exit code that tells that an earlier try did it.
    fn agentfs(&self, j: &mut Journal, args: &[&str], done: Option<i32>) -> Result<String, String> {
        let line = format!("agentfs {}", args.join(" "));
        let end = Instant::now() + TRY_MAX;
        let mut tried = false;
        loop {
            let mut command = Command::new(&self.agentfs);
            command.args(args).stdin(Stdio::null()).current_dir("/");
            let output: Output = j.act(&line, || command.output().map_err(|e| of_io(&e)))?;
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

    fn snapshot(&self, j: &mut Journal) -> Result<(), String> {
        let marker = self.place.dir.join("marker");
        let n = self.serial.to_string();
        // Another file renamed over it: what was acknowledged before the snapshot is in it, whole.
        let fresh = self.place.dir.join("marker.new");
        j.act("write the marker", || std::fs::write(&fresh, &n).map_err(|e| of_io(&e)))?;
        j.act("rename the marker", || sys::rename(&fresh, &marker))?;
        let (name, copy) = (format!("s{n}"), format!("{}-copy{n}", self.branch));
        self.agentfs(j, &["snapshot", "create", "--branch", &self.branch, "--name", &name], Some(EXISTS))?;
        j.act("write the next marker", || std::fs::write(&marker, "later").map_err(|e| of_io(&e)))?;
        self.agentfs(j, &["branch", "create", &copy, "--from", &format!("{}@{name}", self.branch)], Some(EXISTS))?;
        let below = self.place.dir.file_name().map(|d| d.to_string_lossy().into_owned()).unwrap_or_default();
        let inside = format!("{below}/marker");
        let found = self.agentfs(j, &["run", "--branch", &copy, "--no-summary", "--", "cat", &inside], None)?;
        if found != n {
            return Err(format!("the snapshot holds the marker {found:?}, should hold {n:?}"));
        }
        self.agentfs(j, &["diff", &copy], None)?;
        self.agentfs(j, &["branch", "delete", &copy], Some(NOT_FOUND))?;
        self.agentfs(j, &["snapshot", "delete", "--branch", &self.branch, "--name", &name], Some(NOT_FOUND)).map(drop)
    }

    fn commit(&self, j: &mut Journal) -> Result<(), String> {
        let n = self.serial;
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
        let n = self.serial;
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

impl Workload for Branches {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        self.serial += 1;
        self.snapshot(journal)?;
        self.commit(journal)
    }

    fn finish(&mut self, _: &mut Journal) -> Result<(), String> {
        self.place.control.save(&self.serial)
    }
}

pub(super) fn verify(place: &Place) -> Result<(), String> {
    let serial: u64 = place.control.load()?;
    let branches = Branches { serial, ..Branches::begin(place)? };
    if serial == 0 { Ok(()) } else { branches.is_committed() }
}
