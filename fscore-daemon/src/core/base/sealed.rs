//! A sealed base: a copy of a directory in the store, with the numbers, times and attributes of the original. Nothing of it
//! changes, and the original is not asked.

use super::{Base, BaseStat};
use crate::core::error::{FsError, FsResult, io, sys};
use crate::core::ids::ObjectId;
use crate::core::keys;
use crate::store::Batch;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use shm_transport::control::seal::{self, Entry, Seal, Time};
use shm_transport::wire::{Attr, FileKind, Timestamp};
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The whole copy: the list of its names, in memory. The bytes of files are in its directory.
#[derive(Debug)]
pub(super) struct Sealed {
    path: PathBuf,
    dir: OwnedFd,
    /// By directory and name.
    entries: Vec<Entry>,
    /// Indexes of `entries`, by inode number.
    by_number: Vec<u32>,
}

fn time((sec, nsec): Time) -> Timestamp {
    Timestamp { sec, nsec }
}

fn stat(entry: &Entry) -> FsResult<BaseStat> {
    let kind = FileKind::from_mode(entry.mode).ok_or(FsError::Damaged("sealed base"))?;
    let attr = Attr {
        ino: entry.ino,
        size: entry.size,
        blocks: entry.blocks,
        atime: time(entry.atime),
        mtime: time(entry.mtime),
        ctime: time(entry.ctime),
        btime: time(entry.btime),
        mode: entry.mode,
        nlink: entry.nlink,
        uid: entry.uid,
        gid: entry.gid,
        rdev: entry.rdev,
        blksize: 4096,
    };
    Ok(BaseStat { object: ObjectId(entry.ino), kind, attr, host_ino: entry.ino })
}

impl Sealed {
    /// Opens one; `root` is the number of the original's root.
    pub(super) fn open(dir: &Path, root: ObjectId) -> FsResult<Self> {
        let bytes = std::fs::read(seal::list(dir)).map_err(io("read the list of a sealed base"))?;
        let mut entries = Seal::decode(&bytes).map_err(io("read the list of a sealed base"))?.entries;
        entries.shrink_to_fit();
        let mut by_number: Vec<u32> = (0..entries.len() as u32).collect();
        by_number.sort_by_key(|n| entries.get(*n as usize).map(|entry| entry.ino));
        let open = File::open(dir).map_err(io("open a sealed base"))?;
        let it = Self { path: dir.to_owned(), dir: open.into(), entries, by_number };
        if it.is_sound(root) { Ok(it) } else { Err(FsError::Damaged("sealed base")) }
    }

    /// Its directory.
    pub(super) fn directory(&self) -> FsResult<OwnedFd> {
        self.dir.try_clone().map_err(io("open a sealed base"))
    }

    /// Whether the list is one tree of names, each once, and in order.
    fn is_sound(&self, root: ObjectId) -> bool {
        let place = |entry: &Entry| (entry.parent, entry.name.clone());
        let ascending = self.entries.array_windows::<2>().all(|[a, b]| place(a) < place(b));
        let first = self.entries.first().is_some_and(|first| (first.parent, first.ino) == (0, root.0));
        let rest = self.entries.iter().skip(1);
        let plain = |entry: &Entry| seal::PLAIN.contains(&entry.ino) && FileKind::from_mode(entry.mode).is_some();
        let within = |entry: &Entry| !entry.name.is_empty() && self.one(entry.parent).is_some_and(Entry::is_directory);
        ascending && first && self.entries.iter().all(plain) && rest.into_iter().all(within)
    }

    /// Every name of an inode number.
    fn all(&self, ino: u64) -> impl Iterator<Item = &Entry> {
        let number = |n: &u32| self.entries.get(*n as usize).map_or(0, |entry| entry.ino);
        let from = self.by_number.partition_point(|n| number(n) < ino);
        let found = self.by_number.get(from..).unwrap_or_default().iter();
        found.filter_map(|n| self.entries.get(*n as usize)).take_while(move |entry| entry.ino == ino)
    }

    fn one(&self, ino: u64) -> Option<&Entry> {
        self.all(ino).next()
    }

    fn entry(&self, object: ObjectId) -> FsResult<&Entry> {
        self.one(object.0).ok_or(FsError::Stale)
    }

    fn names(&self, dir: ObjectId) -> impl Iterator<Item = &Entry> {
        let from = self.entries.partition_point(|entry| entry.parent < dir.0);
        self.entries.get(from..).unwrap_or_default().iter().take_while(move |entry| entry.parent == dir.0)
    }

    pub(super) fn stat(&self, object: ObjectId) -> FsResult<BaseStat> {
        stat(self.entry(object)?)
    }

    pub(super) fn lookup(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<BaseStat>> {
        let at = self.entries.binary_search_by(|entry| (entry.parent, entry.name.as_slice()).cmp(&(dir.0, name)));
        at.ok().and_then(|at| self.entries.get(at)).map(stat).transpose()
    }

    /// Visits the names in a directory, in byte order, until `visit` answers `false`.
    pub(super) fn each(&self, dir: ObjectId, visit: &mut dyn FnMut(&[u8], ObjectId, FileKind) -> bool) -> FsResult<()> {
        for entry in self.names(dir) {
            let BaseStat { object, kind, .. } = stat(entry)?;
            if !visit(&entry.name, object, kind) {
                break;
            }
        }
        Ok(())
    }

    /// A regular file's bytes.
    pub(super) fn file(&self, object: ObjectId) -> FsResult<Arc<OwnedFd>> {
        if !self.entry(object)?.is_file() {
            return Err(FsError::Invalid);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::openat(&self.dir, &seal::data(object.0), flags, Mode::empty());
        opened.map(Arc::new).map_err(sys("open in a sealed base"))
    }

    /// Where a regular file's bytes are.
    pub(super) fn path(&self, object: ObjectId) -> PathBuf {
        self.path.join(seal::data(object.0))
    }

    pub(super) fn read_link(&self, object: ObjectId) -> FsResult<Vec<u8>> {
        Ok(self.entry(object)?.target.clone())
    }

    pub(super) fn xattrs(&self, object: ObjectId) -> FsResult<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(self.entry(object)?.xattrs.clone())
    }

    pub(super) fn xattr(&self, object: ObjectId, name: &[u8]) -> Option<Vec<u8>> {
        let xattrs = &self.one(object.0)?.xattrs;
        xattrs.iter().find(|(of, _)| of == name).map(|(_, value)| value.clone())
    }

    pub(super) fn places(&self, object: ObjectId) -> Vec<(ObjectId, Vec<u8>)> {
        let below = self.all(object.0).filter(|entry| entry.parent != 0);
        below.map(|entry| (ObjectId(entry.parent), entry.name.clone())).collect()
    }

    /// Puts into a batch where an object and the directories above it are: a commit finds them in the original by that.
    pub(super) fn pin(&self, base: &Base, object: ObjectId, batch: &mut Batch) {
        let (mut left, mut done) = (vec![object.0], HashSet::new());
        while let Some(at) = left.pop().filter(|_| left.len() <= self.entries.len()) {
            if !done.insert(at) {
                continue;
            }
            for entry in self.all(at).filter(|entry| entry.parent != 0) {
                let key = keys::locator(base.id, ObjectId(at), ObjectId(entry.parent), &entry.name);
                if base.store.get(&key).is_none() {
                    batch.put(key, super::find::born_value(time(entry.btime)));
                    left.push(entry.parent);
                }
            }
        }
    }
}
