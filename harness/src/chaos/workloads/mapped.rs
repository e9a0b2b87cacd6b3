//! Shared mappings, by a small Python program: nothing in this crate may map memory itself.

use super::{Place, Workload};
use crate::chaos::journal::Journal;
use crate::sys;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = include_str!("mapped.py");

pub(super) struct Mapped {
    place: Place,
    child: Child,
}

fn file(place: &Place) -> PathBuf {
    place.dir.join("mapped")
}

impl Mapped {
    pub(super) fn begin(place: &Place) -> Result<Self, String> {
        let errors = std::fs::File::create(place.control.path("stderr")).map_err(|e| e.to_string())?;
        let child = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(file(place))
            .arg(place.control.path(""))
            .arg(place.seed.to_string())
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("python3 cannot be started: {e}"))?;
        Ok(Self { place: place.clone(), child })
    }

    fn ended(&self, status: std::process::ExitStatus) -> Result<(), String> {
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(self.place.control.path("stderr")).unwrap_or_default();
        Err(format!("the program ended with {status}: {said}"))
    }
}

impl Workload for Mapped {
    fn step(&mut self, _: &mut Journal) -> Result<(), String> {
        std::thread::sleep(Duration::from_millis(20));
        match self.child.try_wait().map_err(|e| format!("wait: {e}"))? {
            // It saw `stop` before we did, or something is wrong.
            Some(status) => self.ended(status),
            None => Ok(()),
        }
    }

    fn finish(&mut self, _: &mut Journal) -> Result<(), String> {
        let status = self.child.wait().map_err(|e| format!("wait: {e}"))?;
        self.ended(status)
    }
}

pub(super) fn verify(place: &Place) -> Result<(), String> {
    let want: String = place.control.load()?;
    let found = sys::sha256_file(&file(place)).map_err(|e| format!("read: {e}"))?;
    if found == want { Ok(()) } else { Err(format!("the mapped file is {found}, should be {want}")) }
}
