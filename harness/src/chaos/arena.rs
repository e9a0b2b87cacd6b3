//! The store, the mounts, and the workloads on them.

use super::control::Control;
use super::verdict::Violation;
use super::workloads::{Kind, Place, branches, make_origin};
use crate::run::Running;
use crate::world::World;
use crate::{mounts, procs, sys};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Events of the journal that a violation shows.
const EVENTS: usize = 40;

/// One branch and where it is mounted.
#[derive(Debug)]
pub(super) struct Mounted {
    /// The branch.
    pub(super) branch: String,
    /// The mountpoint.
    pub(super) at: PathBuf,
}

/// One process of a workload.
#[derive(Debug)]
pub(super) struct Job {
    /// The workload.
    pub(super) kind: Kind,
    /// Its name and its mount's, for messages.
    pub(super) name: String,
    /// Where it works.
    pub(super) place: Place,
    /// The branch that it works on.
    branch: String,
    running: Option<Running>,
    broken: bool,
}

impl Job {
    /// Whether it has met something wrong.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Its violation, when it has ended with one since the last look.
    pub(super) fn look(&mut self) -> Option<Violation> {
        let status = self.running.as_mut()?.poll()?;
        let output = self.running.take()?.finish(Duration::from_secs(1));
        if status.success() {
            return None;
        }
        self.broken = true;
        let said = std::fs::read_to_string(self.place.control.path("violation"));
        let what = said.unwrap_or_else(|_| format!("ended with {status}: {}", output.stderr.trim()));
        Some(Violation { events: self.place.control.journal_tail(EVENTS), ..Violation::new(&self.name, what) })
    }

    /// Gives it up; what is known about why.
    pub(super) fn give_up(&mut self, why: &str) -> Violation {
        self.broken = true;
        let pids: Vec<i32> = self.running.iter().map(Running::pid).collect();
        let group: Vec<i32> =
            procs::all().into_iter().filter(|p| procs::group(*p).is_some_and(|g| pids.contains(&g))).collect();
        let states: Vec<String> = group
            .iter()
            .map(|pid| {
                let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
                let state = procs::state(*pid).unwrap_or('?');
                format!("{pid} {state} {}", read("stack").lines().take(8).collect::<Vec<_>>().join(" "))
            })
            .collect();
        let what = format!("{why}; its processes: {}", states.join("; "));
        Violation { events: self.place.control.journal_tail(EVENTS), ..Violation::new(&self.name, what) }
    }

    /// Whether it runs.
    pub(super) fn runs(&self) -> bool {
        self.running.is_some()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Arena {
    /// The installation.
    pub(super) world: World,
    /// The mounts.
    pub(super) mounts: Vec<Mounted>,
    /// The workloads.
    pub(super) jobs: Vec<Job>,
}

impl Arena {
    /// Makes a base, branches of it and of each other, and mounts them.
    pub(super) fn set_up(world: World, count: usize, kinds: &[Kind], seed: u64) -> Result<Self, String> {
        let base = world.base("project");
        for n in 0..300_u64 {
            let dir = base.join(format!("sub{}", n % 12));
            std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            std::fs::write(dir.join(format!("file{n}")), sys::pattern(n, 500 + n as usize * 7))
                .map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        if kinds.contains(&Kind::Git) {
            make_origin(&base, &mut |dir, args| {
                world.program(dir, "git", args);
            });
        }
        let mut mounted = Vec::new();
        for n in 0..count {
            let branch = format!("branch{n}");
            if n % 3 == 2 {
                world.branch_from(&branch, &format!("branch{}", n - 1));
            } else {
                world.create_branch(&branch, Some(&base));
            }
            let at = world.mount(&branch, None);
            mounted.push(Mounted { branch, at });
        }
        let mut arena = Self { world, mounts: mounted, jobs: Vec::new() };
        for n in 0..count {
            for kind in kinds.iter().copied().chain([Kind::Pulse]) {
                for process in 0..kind.processes() {
                    let seed = seed.wrapping_mul(1000).wrapping_add(n as u64 * 31 + process * 7 + kind as u64);
                    arena.add(n, kind, process, seed)?;
                }
            }
        }
        Ok(arena)
    }

    fn add(&mut self, mount: usize, kind: Kind, process: u64, seed: u64) -> Result<(), String> {
        let name = format!("{}{process}", kind.name());
        let control = self.world.out().join(format!("mount{mount}")).join(&name);
        let dir = self.mounts[mount].at.join(&name);
        for dir in [&control, &dir] {
            std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let place = Place { dir, control: Control::new(&control), seed };
        let name = format!("{name} on mount {mount}");
        let branch = self.mounts[mount].branch.clone();
        self.jobs.push(Job { kind, name, place, branch, running: None, broken: false });
        Ok(())
    }

    fn command(&self, job: &Job, verify: bool) -> Result<std::process::Command, String> {
        let own = std::env::current_exe().map_err(|e| format!("cannot find the running executable: {e}"))?;
        let mut command = self.world.command(own);
        command.args(["probe", "work", job.kind.name()]).arg(&job.place.dir).arg(job.place.control.path(""));
        command.args(["--seed", &job.place.seed.to_string()]);
        if verify {
            command.arg("--verify");
        }
        command.env(branches::AGENTFS, self.world.bins().path("agentfs")).env(branches::BRANCH, &job.branch);
        command.env(branches::HOST, self.world.dir().join("host"));
        command.env_remove("CARGO_TARGET_DIR").env("CARGO_INCREMENTAL", "1");
        // The world has a home of its own; the tools of Rust lie in the user's.
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        for (name, dir) in [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")] {
            let value = std::env::var_os(name).map_or_else(|| home.join(dir), PathBuf::from);
            command.env(name, value);
        }
        Ok(command)
    }

    /// Starts all workloads.
    pub(super) fn start(&mut self) -> Result<(), String> {
        for n in 0..self.jobs.len() {
            let mut command = self.command(&self.jobs[n], false)?;
            self.jobs[n].running = Some(self.world.spawn(&mut command));
        }
        Ok(())
    }

    /// The control directories of one workload.
    pub(super) fn controls(&self, kind: Kind) -> Vec<Control> {
        self.jobs.iter().filter(|j| j.kind == kind).map(|j| j.place.control.clone()).collect()
    }

    /// The violations of workloads that ended since the last look.
    pub(super) fn look(&mut self) -> Vec<Violation> {
        self.jobs.iter_mut().filter_map(Job::look).collect()
    }

    /// Asks all to stop, and waits.
    pub(super) fn finish(&mut self, limit: Duration) -> Vec<Violation> {
        let mut violations = Vec::new();
        for job in &self.jobs {
            if let Err(e) = job.place.control.ask_to_stop() {
                violations.push(Violation::new(&job.name, e));
            }
        }
        let end = Instant::now() + limit;
        while self.jobs.iter().any(Job::runs) && Instant::now() < end {
            violations.extend(self.look());
            std::thread::sleep(Duration::from_millis(20));
        }
        let late = self.jobs.iter_mut().filter(|j| j.runs());
        violations.extend(late.map(|j| j.give_up(&format!("it did not end within {limit:?}"))));
        if violations.iter().any(|v| v.what.contains("did not end")) {
            mounts::abort_below(self.world.dir(), &[]);
        }
        for job in &mut self.jobs {
            job.running = None;
        }
        violations
    }

    /// Lets each workload that was right so far check what it left.
    pub(super) fn verify(&mut self, when: &str, limit: Duration) -> Vec<Violation> {
        let mut violations = Vec::new();
        for n in 0..self.jobs.len() {
            if self.jobs[n].broken {
                continue;
            }
            match self.command(&self.jobs[n], true) {
                Ok(mut command) => self.jobs[n].running = Some(self.world.spawn(&mut command)),
                Err(e) => violations.push(Violation::new(&self.jobs[n].name, e)),
            }
            let end = Instant::now() + limit;
            while self.jobs[n].runs() && Instant::now() < end {
                violations.extend(self.jobs[n].look());
                std::thread::sleep(Duration::from_millis(2));
            }
            if self.jobs[n].runs() {
                violations.push(self.jobs[n].give_up(&format!("the check did not end within {limit:?}")));
                mounts::abort_below(self.world.dir(), &[]);
                self.jobs[n].running = None;
            }
        }
        for v in &mut violations {
            v.what = format!("{when}: {}", v.what);
        }
        violations
    }
}

/// How many files lie below a directory.
pub(super) fn files_below(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|e| if e.path().is_dir() { files_below(&e.path()) } else { 1 }).sum()
}
