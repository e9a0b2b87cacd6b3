//! What several writers of one mount do to the same names: a log that all append to, a counter that all
//! raise under a lock, and exclusive creations of which one alone may succeed.

use crate::chaos::control::Control;
use crate::chaos::journal::{Journal, io};
use crate::chaos::workloads::Place;
use crate::sys;
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Writers of one mount find each other here, beside their own directories.
const NAME: &str = "shared";

/// What one writer was told.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    /// Lines that it appended: `MARK 0` to `MARK n-1`.
    lines: u64,
    /// How often it raised the counter.
    raised: u64,
    /// Races that it took part in.
    races: u64,
    /// Races that it won.
    won: BTreeSet<u64>,
}

pub(super) struct Shared {
    dir: PathBuf,
    mark: String,
    told: Told,
    turn: u64,
}

fn dir(place: &Place) -> PathBuf {
    place.dir.parent().unwrap_or(&place.dir).join(NAME)
}

fn mark(place: &Place) -> String {
    place.dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Shared {
    pub(super) fn begin(place: &Place, journal: &mut Journal) -> Result<Self, String> {
        let dir = dir(place);
        match journal.try_act("mkdir shared", || sys::mkdir(&dir, 0o755))? {
            Ok(()) | Err(sys::Errno::EXIST) => {}
            Err(e) => return Err(format!("mkdir shared: {e}")),
        }
        Ok(Self { dir, mark: mark(place), told: Told::default(), turn: 0 })
    }

    pub(super) fn step(&mut self, j: &mut Journal) -> Result<(), String> {
        self.turn += 1;
        match self.turn % 3 {
            0 => self.append(j),
            1 => self.raise(j),
            _ => self.race(j),
        }
    }

    fn append(&mut self, j: &mut Journal) -> Result<(), String> {
        let path = self.dir.join("log");
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let mut file = j.act("open the shared log", || sys::open(&path, flags, 0o644))?;
        let line = format!("{} {}\n", self.mark, self.told.lines);
        j.act(&format!("append {} to the shared log", line.trim_end()), || io(file.write_all(line.as_bytes())))?;
        self.told.lines += 1;
        Ok(())
    }

    fn raise(&mut self, j: &mut Journal) -> Result<(), String> {
        let path = self.dir.join("counter");
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = j.act("open the counter", || sys::open(&path, flags, 0o644))?;
        j.act("lock the counter", || flock(&file, FlockOperation::LockExclusive))?;
        let mut bytes = [0; 8];
        j.act("read the counter", || io(file.read_at(&mut bytes, 0)))?;
        let next = u64::from_le_bytes(bytes) + 1;
        j.act(&format!("set the counter to {next}"), || io(file.write_all_at(&next.to_le_bytes(), 0)))?;
        self.told.raised += 1;
        Ok(())
    }

    fn race(&mut self, j: &mut Journal) -> Result<(), String> {
        let n = self.told.races;
        let path = self.dir.join(format!("race{n}"));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let made = j.try_act(&format!("race for race{n}"), || sys::open(&path, flags, 0o644))?;
        match made {
            Ok(mut file) => {
                let mark = self.mark.clone();
                j.act(&format!("sign race{n}"), || io(file.write_all(mark.as_bytes())))?;
                self.told.won.insert(n);
            }
            Err(sys::Errno::EXIST) => {}
            Err(e) => return Err(format!("race for race{n}: {} ({e})", sys::errno_name(e))),
        }
        self.told.races += 1;
        Ok(())
    }

    pub(super) fn finish(&self, control: &Control) -> Result<(), String> {
        let text = serde_json::to_vec(&self.told).map_err(|e| e.to_string())?;
        std::fs::write(control.path("told"), text).map_err(|e| format!("told: {e}"))
    }
}

/// What every writer of this mount was told; one that ended early has told nothing.
fn everybody(place: &Place) -> Result<Vec<(String, Told)>, String> {
    let own = place.control.path("");
    let mut all = Vec::new();
    let siblings = sys::readdir(dir(place).parent().unwrap_or(Path::new("/"))).map_err(|e| e.to_string())?;
    for (name, _, _) in siblings {
        let name = String::from_utf8_lossy(&name).into_owned();
        let Some(control) = own.parent().map(|dir| dir.join(&name)).filter(|c| c.join("told").exists()) else {
            continue;
        };
        let text = std::fs::read(control.join("told")).map_err(|e| format!("told: {e}"))?;
        all.push((name, serde_json::from_slice(&text).map_err(|e| format!("told: {e}"))?));
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| format!("{}: {e}", path.display())),
    }
}

pub(super) fn verify(place: &Place) -> Result<(), String> {
    let (dir, own) = (dir(place), mark(place));
    let all = everybody(place)?;
    let Some((_, told)) = all.iter().find(|(name, _)| *name == own) else { return Err("it told nothing".into()) };
    let log = String::from_utf8_lossy(&read(&dir.join("log"))?).into_owned();
    let mine: Vec<&str> = log.lines().filter_map(|l| l.strip_prefix(own.as_str())?.strip_prefix(' ')).collect();
    if let Some((n, found)) = (0..).zip(&mine).find(|(n, found)| **found != format!("{n}")) {
        return Err(format!("line {n} of {own} in the shared log is {found}"));
    }
    if mine.len() as u64 != told.lines {
        return Err(format!("the shared log has {} lines of {own}, should have {}", mine.len(), told.lines));
    }
    let raised: u64 = all.iter().map(|(_, t)| t.raised).sum();
    let counter = read(&dir.join("counter"))?.try_into().map_or(0, u64::from_le_bytes);
    if counter != raised {
        return Err(format!("the counter is {counter}, it was raised {raised} times"));
    }
    for n in 0..told.races {
        let winners: Vec<&str> = all.iter().filter(|(_, t)| t.won.contains(&n)).map(|(m, _)| m.as_str()).collect();
        let signed = String::from_utf8_lossy(&read(&dir.join(format!("race{n}")))?).into_owned();
        if winners != [signed.as_str()] {
            return Err(format!("race{n} was won by {winners:?} and is signed by {signed:?}"));
        }
    }
    Ok(())
}
