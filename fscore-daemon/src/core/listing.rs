//! Directory listings. Entries are ordered by a keyed hash of their name, and the hash is the cookie:
//! a listing goes on at the right place whatever came or went meanwhile, also after a restart.

use super::error::FsResult;
use super::ids::ObjectId;
use super::session::Session;
use super::state::lock;
use super::view::{Child, View};
use shm_transport::mem::Payload;
use shm_transport::wire::{FileKind, Reply, dirent};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Most listings kept between two requests of one session; one that fell out is made again.
const KEPT_MAX: usize = 256;
/// Cookies of `.` and `..`; every other is greater.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

#[derive(Debug)]
struct Listed {
    cookie: u64,
    name: Vec<u8>,
    object: ObjectId,
    kind: FileKind,
}

/// The listings that one session reads.
#[derive(Debug)]
pub(super) struct Listings {
    key: (u64, u64),
    next: AtomicU64,
    kept: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
}

impl Listings {
    pub(super) fn new(key: (u64, u64)) -> Self {
        Self { key, next: AtomicU64::new(1), kept: Mutex::default() }
    }

    /// A new handle.
    pub(super) fn open(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn close(&self, fh: u64) {
        lock(&self.kept).remove(&fh);
    }

    fn cookie(&self, name: &[u8]) -> u64 {
        (keyed_hash(self.key, name) >> 1).max(DOT_DOT + 1)
    }

    fn get(&self, view: &View, dir: ObjectId, fh: u64, fresh: bool, dead: bool) -> FsResult<Arc<Vec<Listed>>> {
        if !fresh && let Some(listing) = lock(&self.kept).get(&fh) {
            return Ok(Arc::clone(listing));
        }
        let names = if dead { std::collections::BTreeMap::new() } else { view.names(dir)? };
        let mut listing: Vec<Listed> = names
            .into_iter()
            .map(|(name, (object, kind))| Listed { cookie: self.cookie(&name), name, object, kind })
            .collect();
        listing.sort_by(|a, b| (a.cookie, &a.name).cmp(&(b.cookie, &b.name)));
        let listing = Arc::new(listing);
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT_MAX
            && let Some(victim) = kept.keys().next().copied()
        {
            kept.remove(&victim);
        }
        kept.insert(fh, Arc::clone(&listing));
        Ok(listing)
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
        let from = listing.partition_point(|l| l.cookie <= cookie);
        for listed in listing.iter().skip(from) {
            // An entry that cannot be looked up now is listed all the same; a lookup says why.
            let entry = if plus { self.listed_entry(view, dir, listed)? } else { None };
            if !out.push(&listed.name, listed.object.0, listed.kind.dtype(), listed.cookie, entry.as_ref()) {
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
        listed: &Listed,
    ) -> FsResult<Option<shm_transport::wire::Entry>> {
        match view.child(dir, &listed.name) {
            Ok(Some(child)) if child.object == listed.object => {
                let child = Child { kind: listed.kind, ..child };
                match self.entry(view, &child) {
                    Ok(entry) => Ok(Some(entry)),
                    Err(e @ super::error::FsError::Store(_)) => Err(e),
                    Err(_) => Ok(None),
                }
            }
            Ok(_) | Err(super::error::FsError::Overflow | super::error::FsError::Io { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn reply(out: dirent::Writer, payload: &mut Payload<'_>) -> FsResult<Reply> {
    let bytes = out.into_bytes();
    if !payload.copy_in(0, &bytes) {
        return Err(super::error::FsError::Range);
    }
    Ok(Reply::Data { len: bytes.len() as u32 })
}
