//! Bytes and what is said of them, until both are of one moment.
//!
//! A file is whole when nothing of it changed from before it was read until after. Times are told in steps of the host's
//! clock, so one that changed within the last step is waited for: else a second change would not be seen.
//!
//! The copy is of one moment when the directory is the same before and after: then it was so all the time between.

use super::tree::{Failed, Root, Tree, entry, look};
use crate::commit::copy_data;
use rustix::io::Errno;
use shm_transport::control::seal::{self, Entry, Time};
use shm_transport::mem::sys::{clone_file, xattrs_of_path_fd};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than a step of any host's clock.
const STEP: Duration = Duration::from_millis(20);
/// Up to so many bytes are read and written at once: finding holes takes longer.
const SMALL: u64 = 128 << 10;
/// How often a file is copied that changes meanwhile.
const TRIES: usize = 100;
/// How often the directory is looked at that changes meanwhile.
const ROUNDS: usize = 5;

/// Why there is no copy.
#[derive(Debug)]
pub(super) enum Stop {
    /// At this path.
    Failed(PathBuf, io::Error),
    /// Blocks cannot be shared, which was required.
    NotCloned(String),
}

impl From<Failed> for Stop {
    fn from((path, error): Failed) -> Self {
        Self::Failed(path, error)
    }
}

/// A copy on its way.
#[derive(Debug)]
pub(super) struct Copying<'a> {
    root: &'a Root,
    dir: &'a Path,
    /// Blocks are to be shared.
    clone: bool,
    /// Or there is to be no copy.
    pub(super) required: bool,
    /// Why not all of them are.
    pub(super) not_cloned: Option<String>,
    /// Paths that are not of one moment with the others.
    pub(super) changed: u64,
    /// What is said of the bytes that were copied.
    have: HashMap<u64, Entry>,
    bytes: u64,
}

/// What tells that a file changed.
fn identity(entry: &Entry) -> (u64, u32, u64, Time, Time) {
    (entry.ino, entry.mode, entry.size, entry.mtime, entry.ctime)
}

/// Whether two looks saw the same. Reading changes the one time, and writing out what was written before the blocks.
fn same(a: &Entry, b: &Entry) -> bool {
    Entry { atime: b.atime, blocks: b.blocks, ..a.clone() } == *b
}

fn now() -> Duration {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// How long until a change is told from the last one; nothing of a time that lies ahead.
fn unsettled(ctime: Time, now: Duration) -> Option<Duration> {
    let changed = Duration::new(u64::try_from(ctime.0).ok()?, ctime.1);
    // Of a time that lies ahead by more than a step, no waiting makes one that lies behind.
    let age = (now + STEP).checked_sub(changed)?.saturating_sub(STEP);
    STEP.checked_sub(age).filter(|left| !left.is_zero())
}

/// Why a clone was refused, for people.
fn why(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::XDEV) => "they are on different file systems".into(),
        Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
            "the file system cannot share blocks (btrfs and xfs can)".into()
        }
        _ => error.to_string(),
    }
}

fn copy_small(from: impl AsFd, to: impl AsFd, size: u64) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    let mut have = 0;
    while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match rustix::io::retry_on_intr(|| rustix::io::pread(&from, &mut *rest, have as u64))? {
            // It became shorter, which its size tells afterwards.
            0 => break,
            length => have += length,
        }
    }
    let mut written = 0;
    while let Some(rest) = bytes.get(written..have).filter(|rest| !rest.is_empty()) {
        written += rustix::io::retry_on_intr(|| rustix::io::pwrite(&to, rest, written as u64))?;
    }
    Ok(())
}

impl<'a> Copying<'a> {
    pub(super) fn new(root: &'a Root, dir: &'a Path, clone: bool) -> Self {
        let (not_cloned, changed, have, bytes) = Default::default();
        Self { root, dir, clone, required: false, not_cloned, changed, have, bytes }
    }

    /// Copies everything; what the list is to have. `progress` is told of files, of how many, and of bytes.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(usize, usize, u64)) -> Result<Vec<Entry>, Stop> {
        let mut before: Option<Tree> = None;
        let mut again = HashSet::new();
        for round in 0..ROUNDS {
            let tree = self.root.scan()?;
            let pending = self.pending(&tree);
            if pending.is_empty()
                && let Some(before) = &before
                && before.entries.len() == tree.entries.len()
                && before.entries.iter().zip(&tree.entries).all(|(a, b)| same(a, b))
            {
                return Ok(tree.entries);
            }
            if round > 0 {
                again.extend(pending.iter().copied());
            }
            for ino in &pending {
                let of = tree.files.len().max(self.have.len());
                progress(self.have.len(), of, self.bytes);
                if let Some(path) = tree.files.get(ino) {
                    self.file(*ino, path)?;
                }
            }
            before = Some(tree);
        }
        self.changed = again.len().max(1) as u64;
        Ok(self.settle(before.unwrap_or_default().entries))
    }

    /// The files whose bytes are not there as they were seen.
    fn pending(&self, tree: &Tree) -> Vec<u64> {
        let missing = |entry: &&Entry| self.have.get(&entry.ino).map(identity) != Some(identity(entry));
        let mut found: Vec<u64> =
            tree.entries.iter().filter(|entry| entry.is_file()).filter(missing).map(|entry| entry.ino).collect();
        let mut seen = HashSet::new();
        found.retain(|ino| seen.insert(*ino));
        found
    }

    /// Copies a file, whole. What was removed or replaced meanwhile is not there.
    fn file(&mut self, ino: u64, path: &Path) -> Result<(), Stop> {
        let failed = |e: io::Error| Stop::Failed(path.to_owned(), e);
        self.have.remove(&ino);
        let from = match self.root.file(path) {
            Err(e)
                if matches!(
                    e.raw_os_error().map(Errno::from_raw_os_error),
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                ) =>
            {
                return Ok(());
            }
            other => other.map_err(failed)?,
        };
        let place = self.dir.join(seal::data(ino));
        for _ in 0..TRIES {
            let before = entry(0, b"", &look(&from).map_err(failed)?);
            if before.ino != ino || !before.is_file() {
                return Ok(());
            }
            if let Some(left) = unsettled(before.ctime, now()) {
                std::thread::sleep(left);
                continue;
            }
            let to =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&place).map_err(failed)?;
            self.transfer(&from, &to, before.size).map_err(|stop| match stop {
                Stop::Failed(_, e) => failed(e),
                stop @ Stop::NotCloned(_) => stop,
            })?;
            let mut after = entry(0, b"", &look(&from).map_err(failed)?);
            if identity(&before) == identity(&after) {
                self.bytes += after.size;
                after.xattrs = xattrs_of_path_fd(from.as_fd()).map_err(failed)?;
                self.have.insert(ino, after);
                return Ok(());
            }
        }
        Err(failed(io::Error::other("it is changed all the time")))
    }

    fn transfer(&mut self, from: impl AsFd, to: impl AsFd, size: u64) -> Result<(), Stop> {
        let here = |e: io::Error| Stop::Failed(PathBuf::new(), e);
        if self.clone && size > 0 {
            match clone_file(from.as_fd(), to.as_fd()) {
                Ok(()) => return Ok(()),
                Err(e)
                    if matches!(
                        e.raw_os_error().map(Errno::from_raw_os_error),
                        Some(Errno::NOSPC | Errno::DQUOT | Errno::IO)
                    ) =>
                {
                    return Err(here(e));
                }
                Err(e) if self.required => return Err(Stop::NotCloned(why(&e))),
                Err(e) => {
                    let never = [Errno::XDEV, Errno::OPNOTSUPP, Errno::NOTTY, Errno::NOSYS];
                    self.clone = !never.iter().any(|never| e.raw_os_error() == Some(never.raw_os_error()));
                    self.not_cloned = Some(why(&e));
                }
            }
        }
        if size <= SMALL {
            copy_small(from, to, size).map_err(here)
        } else {
            copy_data(from.as_fd(), to.as_fd(), size).map_err(here)
        }
    }

    /// Of a directory that never stands still: what is whole, with what is said of that.
    fn settle(&self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut dirs: HashSet<u64> = HashSet::from([0]);
        let known = |entry: Entry| match self.have.get(&entry.ino) {
            Some(have) => Some(Entry { parent: entry.parent, name: entry.name, ..have.clone() }),
            None => (!entry.is_file()).then_some(entry),
        };
        let mut left: Vec<Entry> = entries.into_iter().filter_map(known).collect();
        let mut kept = Vec::new();
        // A directory that was moved meanwhile may have been seen twice, or what is in it without itself.
        loop {
            let (here, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|entry| dirs.contains(&entry.parent));
            if here.is_empty() {
                break;
            }
            kept.extend(here.into_iter().filter(|entry| !entry.is_directory() || dirs.insert(entry.ino)));
            left = others;
        }
        kept.sort_unstable_by(|a, b| (a.parent, &a.name).cmp(&(b.parent, &b.name)));
        kept.dedup_by(|a, b| (a.parent, &a.name) == (b.parent, &b.name));
        kept
    }
}
