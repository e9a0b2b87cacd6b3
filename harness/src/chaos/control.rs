//! The directory, outside of every mount, over which a workload and the run talk.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of the journal's end that are looked at.
const TAIL_BYTES: u64 = 64 << 10;

/// One workload's control directory.
#[derive(Debug, Clone)]
pub struct Control {
    dir: PathBuf,
}

impl Control {
    /// An existing directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether the workload is to end.
    pub fn stop_asked(&self) -> bool {
        self.path("stop").exists()
    }

    /// Asks the workload to end.
    pub fn ask_to_stop(&self) -> Result<(), String> {
        std::fs::write(self.path("stop"), "").map_err(|e| format!("{}: {e}", self.path("stop").display()))
    }

    /// The command that is being given, if one is.
    pub fn doing(&self) -> Option<String> {
        std::fs::read_to_string(self.path("doing")).ok().filter(|text| !text.is_empty())
    }

    /// Stands in [`Self::doing`] while a command is about to be given.
    pub const SOON: &str = "soon: ";

    /// Asks the workload to say [`Self::SOON`] before it gives a command with this in it; empty: no more.
    pub fn want(&self, command: &str) -> Result<(), String> {
        std::fs::write(self.path("wanted"), command).map_err(|e| format!("{}: {e}", self.path("wanted").display()))
    }

    /// What [`Self::want`] asked for.
    pub fn wanted(&self) -> Option<String> {
        std::fs::read_to_string(self.path("wanted")).ok().filter(|text| !text.is_empty())
    }

    /// Says which command is being given, or that none is.
    pub fn set_doing(&self, command: &str) -> Result<(), String> {
        std::fs::write(self.path("doing"), command).map_err(|e| format!("{}: {e}", self.path("doing").display()))
    }

    /// Operations that were answered.
    pub fn operations(&self) -> u64 {
        let bytes = std::fs::read(self.path("progress")).unwrap_or_default();
        bytes.try_into().map_or(0, u64::from_le_bytes)
    }

    /// Begin and end of each operation of a pulse, in the order of time.
    pub fn pulses(&self) -> Vec<(u64, u64)> {
        let bytes = std::fs::read(self.path("pulses")).unwrap_or_default();
        bytes.chunks_exact(16).filter_map(pulse).collect()
    }

    /// The last of [`Self::pulses`].
    pub fn last_pulse(&self) -> Option<(u64, u64)> {
        let file = std::fs::File::open(self.path("pulses")).ok()?;
        let whole = file.metadata().ok()?.len() / 16;
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, whole.checked_sub(1)? * 16).ok()?;
        pulse(&bytes)
    }

    /// The last lines of the journal, the oldest first.
    pub fn journal_tail(&self, lines: usize) -> Vec<String> {
        let mut text = String::new();
        for name in ["journal.old", "journal"] {
            let Ok(file) = std::fs::File::open(self.path(name)) else { continue };
            let len = file.metadata().map_or(0, |m| m.len());
            let mut bytes = vec![0; len.min(TAIL_BYTES) as usize];
            let read = file.read_at(&mut bytes, len.saturating_sub(TAIL_BYTES)).unwrap_or(0);
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].iter().map(ToString::to_string).collect()
    }

    /// Keeps what the workload's directory must look like.
    pub fn save<T: Serialize>(&self, model: &T) -> Result<(), String> {
        let text = serde_json::to_vec(model).map_err(|e| e.to_string())?;
        std::fs::write(self.path("model"), text).map_err(|e| format!("{}: {e}", self.path("model").display()))
    }

    /// What [`Self::save`] kept.
    pub fn load<T: DeserializeOwned>(&self) -> Result<T, String> {
        let path = self.path("model");
        let text = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
    }
}

fn pulse(bytes: &[u8]) -> Option<(u64, u64)> {
    let word = |range: std::ops::Range<usize>| Some(u64::from_le_bytes(bytes.get(range)?.try_into().ok()?));
    Some((word(0..8)?, word(8..16)?))
}
