//! The programs that run on the mounts. Each is a process of its own that checks all it can, ends at the
//! first thing that is wrong, and leaves outside of the mount what its directory must look like.

pub(super) mod branches;
mod build;
mod fsx;
mod git;
mod mapped;
mod postgres;
mod pulse;
mod sqlite;
mod writer;

use super::control::Control;
use super::journal::Journal;
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) use git::make_origin;

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Creates, renames, links, removes, appends: every acknowledged operation is known.
    Writer,
    /// Random reads and writes through handles that stay open, files without a name, half-read directories.
    Fsx,
    /// Writes through shared mappings (needs python3).
    Mapped,
    /// A database with a counter and its journal, checked by `integrity_check` (needs sqlite3).
    Sqlite,
    /// clone, checkout, commit, gc, fsck (needs git).
    Git,
    /// initdb, pgbench, checksums (needs the server's programs).
    Postgres,
    /// Snapshots, branches of them, `agentfs run` and commits beside the mount, all checked by content.
    Branches,
    /// `cargo build` of a small program, which is run (needs cargo).
    Cargo,
    /// One small operation after the other, to measure the pauses. Always there.
    #[value(skip)]
    Pulse,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Fsx => "fsx",
            Self::Mapped => "mapped",
            Self::Sqlite => "sqlite",
            Self::Git => "git",
            Self::Postgres => "postgres",
            Self::Branches => "branches",
            Self::Cargo => "cargo",
            Self::Pulse => "pulse",
        }
    }

    /// All that run unless told otherwise.
    pub fn defaults() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// The workload of a name.
    pub fn named(name: &str) -> Result<Self, String> {
        let all = Self::value_variants().iter().copied().chain([Self::Pulse]);
        all.into_iter().find(|k| k.name() == name).ok_or_else(|| format!("no workload {name}"))
    }

    /// Processes of it for each mount.
    pub fn processes(self) -> u64 {
        if self == Self::Writer { 2 } else { 1 }
    }

    /// Why it cannot run on this machine, if it cannot.
    pub fn why_not(self) -> Option<String> {
        let program = match self {
            Self::Writer | Self::Fsx | Self::Branches | Self::Pulse => return None,
            Self::Mapped => "python3",
            Self::Sqlite => "sqlite3",
            Self::Git => "git",
            Self::Cargo => "cargo",
            Self::Postgres => return postgres::why_not(),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
        (!found).then(|| format!("{program} is not installed"))
    }
}

/// Where one process of a workload works.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its directory on the mount.
    pub dir: PathBuf,
    /// Its control directory.
    pub control: Control,
    /// Seed of its choices.
    pub seed: u64,
}

/// A workload that runs.
trait Workload {
    /// Does a little and checks it.
    fn step(&mut self, journal: &mut Journal) -> Result<(), String>;
    /// Checks the whole, closes everything, and keeps what [`verify`] needs.
    fn finish(&mut self, journal: &mut Journal) -> Result<(), String>;
}

fn begin(kind: Kind, place: &Place, journal: &mut Journal) -> Result<Box<dyn Workload>, String> {
    Ok(match kind {
        Kind::Writer => Box::new(writer::Writer::begin(place, journal)?),
        Kind::Fsx => Box::new(fsx::Fsx::begin(place, journal)?),
        Kind::Mapped => Box::new(mapped::Mapped::begin(place)?),
        Kind::Sqlite => Box::new(sqlite::Sqlite::begin(place, journal)?),
        Kind::Git => Box::new(git::Git::begin(place)),
        Kind::Postgres => Box::new(postgres::Postgres::begin(place, journal)?),
        Kind::Branches => Box::new(branches::Working::begin(place)?),
        Kind::Cargo => Box::new(build::Build::begin(place)?),
        Kind::Pulse => Box::new(pulse::Pulse::begin(place, journal)?),
    })
}

/// Works until told to stop; the count of operations, or the first thing that was wrong.
pub fn work(kind: Kind, place: &Place) -> Result<u64, String> {
    let mut journal = Journal::open(&place.control)?;
    let done = run(kind, place, &mut journal);
    if let Err(wrong) = &done {
        std::fs::write(place.control.path("violation"), wrong).map_err(|e| format!("{wrong}; {e}"))?;
    }
    done.map(|()| journal.operations())
}

fn run(kind: Kind, place: &Place, journal: &mut Journal) -> Result<(), String> {
    let mut workload = begin(kind, place, journal)?;
    while !place.control.stop_asked() {
        let operations = journal.operations();
        workload.step(journal).map_err(|e| format!("operation {operations}: {e}"))?;
    }
    workload.finish(journal).map_err(|e| format!("at the end: {e}"))
}

/// Whether a directory is as its workload, which has ended, left it; it may be looked at any time later.
pub fn verify(kind: Kind, place: &Place) -> Result<(), String> {
    let mut journal = Journal::open(&place.control)?;
    match kind {
        Kind::Writer => writer::verify(place),
        Kind::Fsx => fsx::verify(place),
        Kind::Mapped => mapped::verify(place),
        Kind::Sqlite => sqlite::verify(place, &mut journal),
        Kind::Git => git::verify(place, &mut journal),
        Kind::Postgres => postgres::verify(place, &mut journal),
        Kind::Branches => branches::verify(place, &mut journal),
        Kind::Cargo => build::verify(place, &mut journal),
        Kind::Pulse => pulse::verify(place),
    }
}

/// A program that works in `dir`.
fn program(name: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(dir);
    command
}
