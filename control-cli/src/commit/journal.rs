//! How far a commit has come, as the store remembers it.

use super::fault;
use super::plan::{self, Plan};
use super::root_time::RootTime;
use crate::error::{CliError, Doing, Kind, Result};
use serde::{Deserialize, Serialize};
use shm_transport::control::PlanStep;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Version of the state file.
const VERSION: u32 = 1;

/// How far a commit has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Nothing of the base was touched; what is staged may be thrown away.
    Preparing,
    /// All that is new is staged and durable: whatever happens, the commit goes forward from here,
    /// unless a step cannot be done.
    Staged,
    /// A step could not be done: what was done is being taken back.
    Undoing,
    /// Everything was taken back; staging may be thrown away.
    Undone,
    /// Everything was done; staging, which holds what was replaced, may be thrown away.
    Applied,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    state: State,
}

/// The directory of one commit in the store.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// The journal in this directory.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// What is to be done.
    pub(super) fn plan(&self) -> Result<Plan> {
        plan::read(&self.dir.join("plan.jsonl"))
    }

    /// How far it has come.
    pub(super) fn state(&self) -> Result<State> {
        let file = self.dir.join("state");
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(State::Preparing),
            other => other.doing(|| format!("read {}", file.display()))?,
        };
        match serde_json::from_slice::<StateFile>(&bytes) {
            Ok(StateFile { version: VERSION, state }) => Ok(state),
            Ok(other) => Err(CliError::new(
                Kind::Version,
                format!("{} is of version {}, this program knows {VERSION}", file.display(), other.version),
            )),
            Err(e) => Err(CliError::new(Kind::Store, format!("{} is damaged: {e}", file.display()))),
        }
    }

    /// Remembers how far it has come; durable on return.
    pub(super) fn set(&self, state: State) -> Result<()> {
        let bytes = serde_json::to_vec(&StateFile { version: VERSION, state }).unwrap_or_default();
        self.replace("state", |file| file.write_all(&bytes))
    }

    /// Remembers the time of the base's own directory. Without it, as after a crash in between, that is not
    /// given back; nothing else is lost.
    pub(super) fn set_root_time(&self, time: Option<RootTime>) {
        if let Some(bytes) = time.and_then(|time| serde_json::to_vec(&time).ok()) {
            std::fs::write(self.dir.join("root-time"), bytes).ok();
        }
    }

    /// The time of the base's own directory, if it is known.
    pub(super) fn root_time(&self) -> Option<RootTime> {
        serde_json::from_slice(&std::fs::read(self.dir.join("root-time")).ok()?).ok()
    }

    /// Remembers the attributes that objects had before.
    pub(super) fn save_attributes(&self, old: &[PlanStep]) -> Result<()> {
        self.replace("attributes.jsonl", |file| {
            let mut file = BufWriter::new(file);
            let end = PlanStep::End { lines: old.len() as u64 };
            for step in old.iter().chain([&end]) {
                serde_json::to_writer(&mut file, step)?;
                file.write_all(b"\n")?;
            }
            file.flush()
        })
    }

    /// The attributes that objects had before.
    pub(super) fn saved_attributes(&self) -> Result<Plan> {
        plan::read(&self.dir.join("attributes.jsonl"))
    }

    fn replace(&self, name: &str, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        let (new, file) = (self.dir.join(format!("{name}.new")), self.dir.join(name));
        let write = || {
            let mut out = File::create(&new)?;
            fill(&mut out)?;
            out.sync_all()?;
            drop(out);
            fault::point()?;
            std::fs::rename(&new, &file)?;
            File::open(&self.dir)?.sync_all()?;
            fault::point()
        };
        write().doing(|| format!("write {}", file.display()))
    }
}
