//! From an object's number to the object: by the places where it was seen, each of which is checked.

use super::look::{Look, may_be_same, open_name};
use super::places::Place;
use super::{Base, keep};
use crate::core::error::{FsError, FsResult, sys};
use crate::core::ids::ObjectId;
use crate::core::keys;
use crate::core::state::lock;
use crate::store::Batch;
use nix::errno::Errno;
use shm_transport::wire::{FileKind, Timestamp};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Deepest directory that is resolved.
const DEPTH_MAX: usize = 4096;
/// More dead places on the way to one object than a host leaves behind at once.
const TRIES: usize = 256;

/// More searches than an object and its directories should need while a host moves them.
const SEARCHES: usize = 8;

/// What is at the place of an object.
pub(super) enum Found {
    /// The object.
    Here(OwnedFd, Look),
    /// Another file system is mounted on it.
    Covered(Place),
}

/// How far one try came.
enum Try {
    Found(Found),
    /// This object is not at this place.
    Dead(ObjectId, Place),
    /// No place of this object is known.
    Lost(ObjectId),
}

/// The birth time in a recorded place.
fn born_of(value: &[u8]) -> Timestamp {
    let decode = || {
        let (sec, nsec) = value.split_first_chunk::<8>()?;
        Some(Timestamp { sec: i64::from_le_bytes(*sec), nsec: u32::from_le_bytes(nsec.try_into().ok()?) })
    };
    decode().unwrap_or_default()
}

pub(super) fn born_value(born: Timestamp) -> Vec<u8> {
    if born == Timestamp::default() {
        return Vec::new();
    }
    [born.sec.to_le_bytes().as_slice(), &born.nsec.to_le_bytes()].concat()
}

impl Base {
    /// Opens an object (`O_PATH`) by where it was seen, else searches for it; `Stale` when it is nowhere.
    pub(super) fn find(&self, object: ObjectId) -> FsResult<Found> {
        let mut searches = 0;
        for _ in 0..TRIES {
            match self.attempt(object)? {
                Try::Found(found) => return Ok(found),
                Try::Dead(object, place) => self.bury(object, &place),
                Try::Lost(lost) => {
                    searches += 1;
                    if searches > SEARCHES || self.is_deleted(lost) || !self.search(lost)? {
                        break;
                    }
                }
            }
        }
        Err(FsError::Stale)
    }

    /// A directory's descriptor without a search; `None` when it is not where it was seen.
    pub(super) fn reach(&self, dir: ObjectId) -> FsResult<Option<Arc<OwnedFd>>> {
        if let Some(fd) = self.cached_directory(dir) {
            return Ok(Some(fd));
        }
        match self.attempt(dir)? {
            Try::Found(Found::Here(fd, look)) if look.kind == FileKind::Directory => Ok(Some(Arc::new(fd))),
            Try::Found(_) | Try::Dead(..) | Try::Lost(_) => Ok(None),
        }
    }

    fn attempt(&self, object: ObjectId) -> FsResult<Try> {
        if object == self.root() {
            let fd = self.root.try_clone().map_err(crate::core::error::io("open base"))?;
            let look = self.look(&fd)?;
            return Ok(Try::Found(Found::Here(fd, look)));
        }
        let mut way: Vec<(ObjectId, Place)> = Vec::new();
        let mut at = object;
        let mut dir = loop {
            if at != object
                && let Some(fd) = self.cached_directory(at)
            {
                break fd;
            }
            let Some(place) = self.place(at) else { return Ok(Try::Lost(at)) };
            if way.len() >= DEPTH_MAX {
                // Directories moved into one another: one of the places is old.
                return Ok(Try::Dead(at, place));
            }
            way.push((at, place.clone()));
            at = place.parent;
        };
        while let Some((at, place)) = way.pop() {
            let fd = match self.open_name(&dir, &place.name) {
                Ok(fd) => fd,
                Err(Errno::EXDEV) if way.is_empty() => return Ok(Try::Found(Found::Covered(place))),
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EXDEV | Errno::ELOOP | Errno::ESTALE) => {
                    return Ok(Try::Dead(at, place));
                }
                Err(e) => return Err(sys("open in base")(e)),
            };
            let look = self.look(&fd)?;
            let same = self.is_same(at, &place, &look);
            if !same {
                return Ok(Try::Dead(at, place));
            }
            if way.is_empty() {
                return Ok(Try::Found(Found::Here(fd, look)));
            }
            if look.kind != FileKind::Directory {
                return Ok(Try::Dead(at, place));
            }
            dir = Arc::new(fd);
            keep(&self.dirs, at, Arc::clone(&dir));
        }
        Err(FsError::Stale)
    }

    fn is_same(&self, object: ObjectId, place: &Place, look: &Look) -> bool {
        self.number(place.parent, &place.name, look).is_ok_and(|n| n == object)
            && may_be_same(look.born(), lock(&self.places).born(object))
    }

    /// Whether the object is at this name.
    pub(super) fn is_at(&self, object: ObjectId, parent: ObjectId, dir: &OwnedFd, name: &[u8]) -> bool {
        match self.open_name(dir, name) {
            Ok(fd) => {
                let place = Place { parent, name: name.into() };
                self.look(&fd).is_ok_and(|look| self.is_same(object, &place, &look))
            }
            // Found as what a mount covers.
            Err(e) => e == Errno::EXDEV,
        }
    }

    /// A name of a directory, `O_PATH`; where descriptors ran out, with fewer kept.
    pub(super) fn open_name(&self, dir: &OwnedFd, name: &[u8]) -> nix::Result<OwnedFd> {
        match open_name(dir, name) {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.let_go();
                open_name(dir, name)
            }
            other => other,
        }
    }

    /// Whether a descriptor that is still open says that the object has no name any more.
    fn is_deleted(&self, object: ObjectId) -> bool {
        let open = |cache: &super::Cache| lock(cache).get(&object).map(Arc::clone);
        let fd = open(&self.files).or_else(|| open(&self.dirs));
        fd.is_some_and(|fd| self.look(&fd).is_ok_and(|look| look.attr.nlink == 0))
    }

    /// A place of the object that was not found dead.
    pub(super) fn place(&self, object: ObjectId) -> Option<Place> {
        if let Some(place) = lock(&self.places).first(object) {
            return Some(place);
        }
        let dead = lock(&self.places).of(object).1;
        self.recorded(object).into_iter().map(|(place, _)| place).find(|place| !dead.contains(place))
    }

    /// Where the store has an object, with its birth time.
    pub(super) fn recorded(&self, object: ObjectId) -> Vec<(Place, Timestamp)> {
        let prefix = keys::locators(self.id, object);
        let mut found = Vec::new();
        self.store.scan(&prefix, &mut |key, value| {
            if !key.starts_with(&prefix) {
                return false;
            }
            if let (Some(parent), Some(name)) = (keys::number(key, 2), keys::tail(key, 3)) {
                found.push((Place { parent: ObjectId(parent), name: name.into() }, born_of(value)));
            }
            true
        });
        found
    }

    /// The birth time of the object that a branch holds on to under this number.
    pub(super) fn claim(&self, object: ObjectId) -> Option<Timestamp> {
        let prefix = keys::locators(self.id, object);
        let mut claim = None;
        self.store.scan(&prefix, &mut |key, value| {
            if key.starts_with(&prefix) {
                claim = Some(born_of(value));
            }
            false
        });
        claim
    }

    /// Forgets a place that is dead. The last one that the store has stays: it tells that the number is
    /// taken, and where the object was expected.
    fn bury(&self, object: ObjectId, place: &Place) {
        let recorded = self.recorded(object);
        let known = recorded.iter().any(|(p, _)| p == place);
        lock(&self.places).dead(object, place, known);
        if let Some(fd) = lock(&self.dirs).remove(&object) {
            drop(fd);
        }
        if known && recorded.len() > 1 {
            let mut batch = Batch { reclaims: true, ..Batch::default() };
            batch.delete(keys::locator(self.id, object, place.parent, &place.name));
            self.write(&batch);
        }
    }

    /// Notes where an object was looked at. Only what a branch holds on to is written down.
    pub(super) fn note(&self, object: ObjectId, look: &Look, dir: ObjectId, name: &[u8]) {
        if object == self.root() {
            return;
        }
        let one_name = look.kind == FileKind::Directory || look.attr.nlink == 1;
        if one_name {
            lock(&self.places).moved(object, look.born(), dir, name);
        } else {
            lock(&self.places).seen(object, look.born(), dir, name);
        }
        let here = keys::locator(self.id, object, dir, name);
        if self.claim(object).is_some() && self.store.get(&here).is_none() {
            let mut batch = Batch::default();
            for (place, _) in self.recorded(object).into_iter().filter(|_| one_name) {
                batch.delete(keys::locator(self.id, object, place.parent, &place.name));
            }
            batch.put(here, born_value(look.born()));
            self.write(&batch);
        }
    }

    /// Reading goes on where the store takes nothing: it is all in memory too.
    fn write(&self, batch: &Batch) {
        if let Err(error) = self.store.commit(batch) {
            tracing::debug!(%error, "a place in the base is not written down");
        }
    }

    /// Puts into a batch where an object is, with the directories that lead there. For what a branch
    /// changes: it is found again whenever the daemon is started, and its number is never taken for
    /// another object's.
    pub fn pin(&self, object: ObjectId, batch: &mut Batch) {
        if let Some(sealed) = &self.sealed {
            return sealed.pin(self, object, batch);
        }
        let mut left = vec![object];
        let mut done = std::collections::HashSet::new();
        while let Some(at) = left.pop() {
            if at == self.root() || !done.insert(at) {
                continue;
            }
            let (places, born) = {
                let mut known = lock(&self.places);
                (known.of(at).0, known.born(at))
            };
            for place in places {
                let key = keys::locator(self.id, at, place.parent, &place.name);
                if self.store.get(&key).is_none() {
                    batch.put(key, born_value(born));
                    left.push(place.parent);
                }
            }
        }
    }
}
