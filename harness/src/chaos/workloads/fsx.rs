//! Random reads and writes of a few files through handles that stay open for the whole run, a file
//! without a name among them, and a long directory that is read a little at a time.

use super::writer::read_full;
use super::{Place, Workload};
use crate::chaos::journal::{Journal, io};
use crate::chaos::random::Random;
use crate::sys;
use rustix::fs::{Advice, Dir, FallocateFlags, OFlags, fadvise, fallocate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const FILES: usize = 4;
/// How many of [`FILES`] keep their names.
const NAMED: usize = 3;
const SIZE_MAX: usize = 256 << 10;
const ENTRIES: usize = 1500;
/// Entries of the directory that one step reads.
const ENTRIES_STEP: usize = 40;

struct Open {
    name: String,
    handles: [File; 2],
    data: Vec<u8>,
}

pub(super) struct Fsx {
    place: Place,
    random: Random,
    files: Vec<Open>,
    many: PathBuf,
    stream: Option<(Dir, BTreeSet<String>)>,
}

/// Hashes of the files that have names.
#[derive(Debug, Serialize, Deserialize)]
struct Left(Vec<(String, String)>);

fn entry(n: usize) -> String {
    format!("{n:05}-{}", "long".repeat(14))
}

impl Fsx {
    pub(super) fn begin(place: &Place, j: &mut Journal) -> Result<Self, String> {
        let many = place.dir.join("many");
        j.act("mkdir many", || sys::mkdir(&many, 0o755))?;
        for n in 0..ENTRIES {
            let path = many.join(entry(n));
            j.act(&format!("create entry {n}"), || {
                sys::open(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600)
            })?;
        }
        let mut files = Vec::new();
        for n in 0..FILES {
            let name = format!("file{n}");
            let path = place.dir.join(&name);
            let first = j.act(&format!("create {name}"), || {
                sys::open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, 0o600)
            })?;
            let second = j.act(&format!("open {name}"), || sys::open(&path, OFlags::RDWR, 0))?;
            if n >= NAMED {
                j.act(&format!("unlink {name}, which stays open"), || sys::unlink(&path))?;
            }
            files.push(Open { name, handles: [first, second], data: Vec::new() });
        }
        Ok(Self { place: place.clone(), random: Random::new(place.seed), files, many, stream: None })
    }

    fn change(&mut self, j: &mut Journal) -> Result<(), String> {
        let random = &mut self.random;
        let n = random.below(self.files.len());
        let Open { name, handles, data } = &mut self.files[n];
        let file = &handles[random.below(2)];
        let (at, len) = (random.below(SIZE_MAX - 20_000), 1 + random.below(20_000));
        match random.below(20) {
            0..=9 => {
                let bytes = sys::pattern(random.next_u64(), len);
                j.act(&format!("write {len} at {at} of {name}"), || io(file.write_all_at(&bytes, at as u64)))?;
                data.resize(data.len().max(at + len), 0);
                data[at..at + len].copy_from_slice(&bytes);
            }
            10..=11 => {
                j.act(&format!("set the size of {name} to {at}"), || io(file.set_len(at as u64)))?;
                data.resize(at, 0);
            }
            12 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                j.act(&format!("punch {len} at {at} of {name}"), || fallocate(file, flags, at as u64, len as u64))?;
                let end = (at + len).min(data.len());
                data[at.min(end)..end].fill(0);
            }
            13 => {
                let flags = FallocateFlags::empty();
                j.act(&format!("allocate {len} at {at} of {name}"), || fallocate(file, flags, at as u64, len as u64))?;
                data.resize(data.len().max(at + len), 0);
            }
            14 => j.act(&format!("fsync {name}"), || io(file.sync_all()))?,
            15 => j.act(&format!("forget the pages of {name}"), || fadvise(file, 0, None, Advice::DontNeed))?,
            _ => {
                let mut found = vec![0; len];
                let got = j.act(&format!("read {len} at {at} of {name}"), || {
                    let mut got = 0;
                    while got < len {
                        match io(file.read_at(&mut found[got..], (at + got) as u64))? {
                            0 => break,
                            more => got += more,
                        }
                    }
                    Ok(got)
                })?;
                let want = data.get(at..).map_or(&[][..], |rest| &rest[..rest.len().min(len)]);
                same(name, at, &found[..got], want)?;
            }
        }
        Ok(())
    }

    /// Reads a little more of the directory; at its end every entry must have come exactly once.
    fn list(&mut self, j: &mut Journal) -> Result<(), String> {
        let (mut dir, mut seen) = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let dir = j.act("open many", || {
                    sys::open(&self.many, OFlags::RDONLY | OFlags::DIRECTORY, 0).and_then(Dir::new)
                })?;
                (dir, BTreeSet::new())
            }
        };
        for _ in 0..ENTRIES_STEP {
            let Some(next) = j.act("read many", || dir.next().transpose())? else {
                if seen.len() != ENTRIES {
                    return Err(format!("the directory has {ENTRIES} entries, {} were listed", seen.len()));
                }
                return Ok(());
            };
            let name = next.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." && !seen.insert(name.clone()) {
                return Err(format!("{name} was listed twice"));
            }
        }
        self.stream = Some((dir, seen));
        Ok(())
    }
}

fn same(name: &str, at: usize, found: &[u8], want: &[u8]) -> Result<(), String> {
    if found == want {
        return Ok(());
    }
    let first = found.iter().zip(want).position(|(a, b)| a != b).unwrap_or_else(|| found.len().min(want.len()));
    let wrong = found.iter().zip(want).filter(|(a, b)| a != b).count();
    Err(format!(
        "{name} from {at}: {} bytes read, {} expected; the first wrong one is at {}, {wrong} are wrong",
        found.len(),
        want.len(),
        at + first
    ))
}

impl Workload for Fsx {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        for _ in 0..10 {
            self.change(journal)?;
        }
        self.list(journal)
    }

    fn finish(&mut self, journal: &mut Journal) -> Result<(), String> {
        let mut left = Vec::new();
        for Open { name, handles, data } in &self.files {
            let mut found = vec![0; data.len() + 1];
            let got = journal.act(&format!("read {name}"), || io(read_full(&handles[0], &mut found)))?;
            same(name, 0, &found[..got], data)?;
            left.push((name.clone(), sys::sha256(data)));
        }
        left.truncate(NAMED);
        self.files.clear();
        self.place.control.save(&Left(left))
    }
}

pub(super) fn verify(place: &Place) -> Result<(), String> {
    let Left(left) = place.control.load()?;
    for (name, want) in left {
        let found = sys::sha256_file(&place.dir.join(&name)).map_err(|e| format!("{name}: {e}"))?;
        if found != want {
            return Err(format!("{name} is {found}, should be {want}"));
        }
    }
    let listed = sys::readdir(&place.dir.join("many")).map_err(|e| format!("readdir: {e}"))?.len();
    if listed == ENTRIES { Ok(()) } else { Err(format!("{listed} entries are listed, {ENTRIES} were made")) }
}
