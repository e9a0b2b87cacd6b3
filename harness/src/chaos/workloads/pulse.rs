//! Makes and removes a directory, again and again: a request that is not idempotent and never answered
//! from a cache, so that each one tells whether the file system answers, and how soon.

use super::{Place, Workload};
use crate::chaos::journal::Journal;
use crate::sys;
use std::path::PathBuf;
use std::time::Duration;

/// Between two operations: it measures, it is no load.
const NAP: Duration = Duration::from_micros(500);

pub(super) struct Pulse {
    path: PathBuf,
}

impl Pulse {
    pub(super) fn begin(place: &Place, journal: &mut Journal) -> Result<Self, String> {
        journal.keep_pulses()?;
        Ok(Self { path: place.dir.join("pulse") })
    }
}

impl Workload for Pulse {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        journal.act("mkdir pulse", || sys::mkdir(&self.path, 0o755))?;
        std::thread::sleep(NAP);
        journal.act("rmdir pulse", || sys::rmdir(&self.path))?;
        std::thread::sleep(NAP);
        Ok(())
    }

    fn finish(&mut self, _: &mut Journal) -> Result<(), String> {
        Ok(())
    }
}

pub(super) fn verify(place: &Place) -> Result<(), String> {
    let names = sys::readdir(&place.dir).map_err(|e| format!("readdir: {e}"))?;
    if names.is_empty() { Ok(()) } else { Err(format!("should be empty: {names:?}")) }
}
