//! Directory listings. Entries are ordered by a keyed hash of their name, and the hash is the cookie:
//! a listing goes on at the right place whatever came or went meanwhile, also after a restart.

use super::error::{FsError, FsResult};
use super::ids::ObjectId;
use super::session::Session;
use super::state::lock;
use super::view::{Child, View};
use shm_transport::mem::Payload;
use shm_transport::wire::{FileKind, Reply, dirent};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Most bytes of listings kept between two requests of one session; one that fell out is made again.
const KEPT_MAX: usize = 256 << 20;
/// Cookies of `.` and `..`; every other is greater.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// One entry of a listing. Its name is in the listing's bytes.
#[derive(Debug)]
struct Listed {
    cookie: u64,
    object: ObjectId,
    at: u32,
    length: u8,
    kind: FileKind,
}

/// What a directory held when somebody began to read it, by cookie.
#[derive(Debug, Default)]
struct Listing {
    names: Vec<u8>,
    entries: Vec<Listed>,
}

impl Listing {
    fn push(&mut self, cookie: u64, name: &[u8], object: ObjectId, kind: FileKind) -> FsResult<()> {
        let (Ok(at), Ok(length)) = (u32::try_from(self.names.len()), u8::try_from(name.len())) else {
            return Err(FsError::Overflow);
        };
        self.names.extend_from_slice(name);
        self.entries.push(Listed { cookie, object, at, length, kind });
        Ok(())
    }

    fn name(&self, listed: &Listed) -> &[u8] {
        let from = listed.at as usize;
        self.names.get(from..from + usize::from(listed.length)).unwrap_or_default()
    }

    /// Puts the entries in order. Where two names have one cookie, the second takes the next: reading goes on
    /// behind a cookie, and must pass nothing by.
    fn order(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by(|a, b| a.cookie.cmp(&b.cookie).then_with(|| self.name(a).cmp(self.name(b))));
        let mut least = DOT_DOT + 1;
        for entry in &mut entries {
            entry.cookie = entry.cookie.max(least);
            least = entry.cookie + 1;
        }
        entries.shrink_to_fit();
        self.names.shrink_to_fit();
        self.entries = entries;
    }

    /// Its size in memory, in bytes.
    fn size(&self) -> usize {
        self.names.len() + self.entries.len() * size_of::<Listed>()
    }
}

/// The listings that one session reads, by handle and directory: a daemon that starts afresh hands out
/// handles from the first one on, and a program may still have one of before.
#[derive(Debug)]
pub(super) struct Listings {
    key: (u64, u64),
    next: AtomicU64,
    kept: Mutex<HashMap<(u64, ObjectId), Arc<Listing>>>,
}

impl Listings {
    pub(super) fn new(key: (u64, u64)) -> Self {
        Self { key, next: AtomicU64::new(1), kept: Mutex::default() }
    }

    /// A new handle.
    pub(super) fn open(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn close(&self, fh: u64, dir: ObjectId) {
        lock(&self.kept).remove(&(fh, dir));
    }

    /// A name's cookie, with room behind it.
    fn cookie(&self, name: &[u8]) -> u64 {
        keyed_hash(self.key, name) >> 2
    }

    fn get(&self, view: &View, dir: ObjectId, fh: u64, fresh: bool, dead: bool) -> FsResult<Arc<Listing>> {
        if !fresh && let Some(listing) = lock(&self.kept).get(&(fh, dir)) {
            return Ok(Arc::clone(listing));
        }
        let mut listing = Listing::default();
        let mut pushed = Ok(());
        if !dead {
            view.each_name(dir, |name, object, kind| {
                pushed = listing.push(self.cookie(name), name, object, kind);
                pushed.is_ok()
            })?;
        }
        pushed?;
        listing.order();
        let listing = Arc::new(listing);
        self.keep((fh, dir), &listing);
        Ok(listing)
    }

    /// Keeps a listing within the bound; arbitrary others make room. One is always kept, whatever its size.
    fn keep(&self, handle: (u64, ObjectId), listing: &Arc<Listing>) {
        let mut kept = lock(&self.kept);
        kept.remove(&handle);
        // An empty one has a size too.
        let size = |l: &Listing| l.size() + size_of::<Listing>();
        let mut total: usize = size(listing) + kept.values().map(|l| size(l)).sum::<usize>();
        while total > KEPT_MAX
            && let Some(victim) = kept.keys().next().copied()
        {
            total -= kept.remove(&victim).map_or(0, |l| size(&l));
        }
        kept.insert(handle, Arc::clone(listing));
    }
}

/// A keyed hash of a name, the same for the life of a store. It spreads names evenly, and who does not
/// know the key cannot choose names that collide.
fn keyed_hash(key: (u64, u64), name: &[u8]) -> u64 {
    let mut x = key.0 ^ 0xcbf2_9ce4_8422_2325;
    for b in name {
        x = (x ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
    x ^= key.1;
    // The finalizer of MurmurHash3.
    for c in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        x = (x ^ (x >> 33)).wrapping_mul(c);
    }
    x ^ (x >> 33)
}

impl Session {
    /// `READDIR` and `READDIRPLUS`.
    #[expect(clippy::too_many_arguments, reason = "each is a field of the request")]
    pub(super) fn read_dir(
        &self,
        view: &View,
        dir: ObjectId,
        fh: u64,
        cookie: u64,
        room: usize,
        plus: bool,
        payload: &mut Payload<'_>,
    ) -> FsResult<Reply> {
        let dead = self.is_dead(view, dir)?;
        let listing = self.listings.get(view, dir, fh, cookie == 0, dead)?;
        let mut out = dirent::Writer::new(room, plus);
        let directory = FileKind::Directory.dtype();
        let dots: &[(&[u8], u64)] = &[(b".", DOT), (b"..", DOT_DOT)];
        for (name, off) in dots.iter().filter(|(_, off)| *off > cookie) {
            let ino = if *off == DOT { dir } else { super::edit::parent_of(view, dir)?.unwrap_or(dir) };
            if !out.push(name, ino.0, directory, *off, None) {
                return reply(out, payload);
            }
        }
        let from = listing.entries.partition_point(|l| l.cookie <= cookie);
        for listed in listing.entries.iter().skip(from) {
            let name = listing.name(listed);
            // An entry that cannot be looked up now is listed all the same; a lookup says why.
            let entry = if plus { self.listed_entry(view, dir, name, listed)? } else { None };
            if !out.push(name, listed.object.0, listed.kind.dtype(), listed.cookie, entry.as_ref()) {
                break;
            }
        }
        reply(out, payload)
    }

    /// What a lookup of a listed name answers; `None` when it is gone or became something else since.
    fn listed_entry(
        &self,
        view: &View,
        dir: ObjectId,
        name: &[u8],
        listed: &Listed,
    ) -> FsResult<Option<shm_transport::wire::Entry>> {
        match view.child(dir, name) {
            Ok(Some(child)) if child.object == listed.object => {
                let child = Child { kind: listed.kind, ..child };
                match self.entry(view, &child) {
                    Ok(entry) if dir == view.root => Ok(Some(self.brief(entry))),
                    Ok(entry) => Ok(Some(entry)),
                    Err(e @ FsError::Store(_)) => Err(e),
                    Err(_) => Ok(None),
                }
            }
            Ok(_) | Err(FsError::Overflow | FsError::Io { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn reply(out: dirent::Writer, payload: &mut Payload<'_>) -> FsResult<Reply> {
    let bytes = out.into_bytes();
    if !payload.copy_in(0, &bytes) {
        return Err(FsError::Range);
    }
    Ok(Reply::Data { len: bytes.len() as u32 })
}

#[cfg(test)]
mod tests;
