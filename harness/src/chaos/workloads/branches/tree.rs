//! A directory that changes all the time, and what it must hold.

use crate::chaos::journal::Journal;
use crate::chaos::random::Random;
use crate::sys::{self, of_io};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Directories, files in each, and the most bytes of one.
const DIRECTORIES: usize = 3;
const FILES: usize = 4;
const LENGTH_MAX: usize = 150_000;

/// Path below the directory to the SHA-256 of the file's bytes.
pub(super) type Content = BTreeMap<String, String>;

/// See the module.
#[derive(Debug)]
pub(super) struct Tree {
    dir: PathBuf,
    random: Random,
    bytes: BTreeMap<String, Vec<u8>>,
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Tree {
    /// An empty one in a directory that is there.
    pub(super) fn begin(dir: &Path, seed: u64) -> Result<Self, String> {
        for n in 0..DIRECTORIES {
            let dir = dir.join(format!("d{n}"));
            std::fs::create_dir_all(&dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
        }
        Ok(Self { dir: dir.to_owned(), random: Random::new(seed), bytes: BTreeMap::new() })
    }

    fn name(&mut self) -> String {
        format!("d{}/f{}", self.random.below(DIRECTORIES), self.random.below(FILES))
    }

    /// Writes, appends, renames or removes a file.
    pub(super) fn change(&mut self, j: &mut Journal) -> Result<(), String> {
        let (name, other) = (self.name(), self.name());
        let (path, to) = (self.dir.join(&name), self.dir.join(&other));
        let length = self.random.below(LENGTH_MAX) >> self.random.below(14);
        let fresh = sys::pattern(self.random.next_u64(), length);
        match (self.random.below(5), self.bytes.get(&name).cloned()) {
            (0, Some(_)) => {
                j.act(&format!("rm {name}"), || std::fs::remove_file(&path).map_err(|e| of_io(&e)))?;
                self.bytes.remove(&name);
            }
            (1, Some(bytes)) if name != other => {
                j.act(&format!("mv {name} {other}"), || sys::rename(&path, &to))?;
                self.bytes.remove(&name);
                self.bytes.insert(other, bytes);
            }
            (2, Some(mut bytes)) => {
                let append = || std::fs::File::options().append(true).open(&path)?.write_all(&fresh);
                j.act(&format!("append {length} to {name}"), || append().map_err(|e| of_io(&e)))?;
                bytes.extend(&fresh);
                self.bytes.insert(name, bytes);
            }
            _ => {
                j.act(&format!("write {length} to {name}"), || std::fs::write(&path, &fresh).map_err(|e| of_io(&e)))?;
                self.bytes.insert(name, fresh);
            }
        }
        Ok(())
    }

    /// What it holds now.
    pub(super) fn content(&self) -> Content {
        self.bytes.iter().map(|(name, bytes)| (name.clone(), hash(bytes))).collect()
    }
}

/// What `sha256sum` said of the files of a directory in which it ran.
pub(super) fn parse(said: &str) -> Content {
    let pair = |line: &str| line.split_once("  ./").map(|(hash, name)| (name.to_owned(), hash.to_owned()));
    said.lines().filter_map(pair).collect()
}

/// The first differences of what was found from what must be there.
pub(super) fn differences(wanted: &Content, found: &Content) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    let differ = names.into_iter().filter(|name| wanted.get(*name) != found.get(*name));
    differ.map(|name| format!("{name}: should be {:?}, is {:?}", wanted.get(name), found.get(name))).take(5).collect()
}
