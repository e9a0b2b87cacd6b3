//! Object numbers of a base. Mostly the host's inode number; what could collide there gets a number of a
//! range of its own. `specs/branch-semantics.md` §3 lists the ranges.

use crate::core::codec::{Malformed, Reader, Writer};
use crate::core::error::{FsError, FsResult};
use crate::core::ids::{BaseId, ObjectId};
use crate::core::keys;
use crate::core::state::lock;
use crate::store::{Batch, Store};
use shm_transport::wire::FileKind;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

/// Inode numbers below this one, of the root's own file system, are object numbers as they are.
const WINDOWS: u64 = 1 << 51;
/// Numbers from here on are hashes of places.
const HASHED: u64 = WINDOWS | (1 << 50);
/// Bits of an inode number that a window keeps.
const WINDOW_BITS: u32 = 40;
/// Most windows of a base.
const WINDOWS_MAX: u64 = 1 << 10;
/// Smallest inode number that is used as it is: 0 is no object, and 1 is the root of every mount.
const FIRST: u64 = 2;

/// A stretch of 2^40 inode numbers that cannot be used as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Window {
    /// The subvolume or device; 0 for that of the root.
    device: u64,
    /// The bits of the inode numbers above those that the window keeps.
    high: u64,
    /// How many objects before it had the inode number while a branch held on to each.
    reuse: u32,
}

impl Window {
    fn encode(self) -> Vec<u8> {
        let mut w = Writer::new(1);
        w.u64(self.device).u64(self.high).u32(self.reuse);
        w.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, 1)?;
        let it = Self { device: r.u64()?, high: r.u64()?, reuse: r.u32()? };
        r.end().map(|()| it)
    }
}

/// The windows of a base: which stands for what.
#[derive(Debug)]
pub(super) struct Windows {
    base: BaseId,
    known: Mutex<HashMap<Window, u64>>,
}

impl Windows {
    /// Those that the store has.
    pub(super) fn load(base: BaseId, store: &dyn Store) -> FsResult<Self> {
        let prefix = keys::prefix(b'W', &[base.0]);
        let (mut known, mut damaged) = (HashMap::new(), false);
        store.scan(&prefix, &mut |key, value| {
            if !key.starts_with(&prefix) {
                return false;
            }
            match (keys::number(key, 1), Window::decode(value)) {
                (Some(index), Ok(window)) if index < WINDOWS_MAX => drop(known.insert(window, index)),
                _ => damaged = true,
            }
            true
        });
        if damaged { Err(FsError::Damaged("window")) } else { Ok(Self { base, known: Mutex::new(known) }) }
    }

    /// The number of an inode; `device` is 0 for the root's own.
    pub(super) fn number(&self, store: &dyn Store, device: u64, ino: u64, reuse: u32) -> FsResult<ObjectId> {
        if device == 0 && reuse == 0 && (FIRST..WINDOWS).contains(&ino) {
            return Ok(ObjectId(ino));
        }
        let window = Window { device, high: ino >> WINDOW_BITS, reuse };
        let low = ino & ((1 << WINDOW_BITS) - 1);
        Ok(ObjectId(WINDOWS | (self.index(store, window)? << WINDOW_BITS) | low))
    }

    fn index(&self, store: &dyn Store, window: Window) -> FsResult<u64> {
        let mut known = lock(&self.known);
        if let Some(index) = known.get(&window) {
            return Ok(*index);
        }
        // The same one again where the store did not take it: chosen by what it stands for.
        let wish = mix(mix(mix(0, window.device), window.high), u64::from(window.reuse)) % WINDOWS_MAX;
        let taken: HashSet<u64> = known.values().copied().collect();
        let index = (0..WINDOWS_MAX)
            .map(|n| (wish + n) % WINDOWS_MAX)
            .find(|index| !taken.contains(index))
            .ok_or(FsError::Overflow)?;
        let mut batch = Batch::default();
        batch.put(keys::window(self.base, index), window.encode());
        if let Err(error) = store.commit(&batch) {
            tracing::warn!(%error, "a subvolume of a base is numbered for this run only");
        }
        known.insert(window, index);
        Ok(index)
    }
}

/// Whether a number of the root's own file system can be an object number as it is.
pub(super) fn is_plain(ino: u64) -> bool {
    (FIRST..WINDOWS).contains(&ino)
}

/// The number of a base's root. No name of the base leads to it, so that one number is free for a root whose
/// inode number cannot be used as it is.
pub fn of_root(ino: u64) -> ObjectId {
    if is_plain(ino) { ObjectId(ino) } else { by_place(ObjectId(0), b"", FileKind::Directory) }
}

/// The number of an object whose inode number does not stay: by its place.
pub(super) fn by_place(parent: ObjectId, name: &[u8], kind: FileKind) -> ObjectId {
    let mut hash = mix(mix(0, parent.0), u64::from(kind.dtype()));
    for bytes in name.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
        }
        hash = mix(hash, u64::from_le_bytes(word));
    }
    ObjectId(HASHED | (mix(hash, name.len() as u64) & ((1 << 50) - 1)))
}

/// One step of a hash: the finalizer of MurmurHash3. It must stay as it is: numbers are made of it.
fn mix(state: u64, word: u64) -> u64 {
    let mut x = state.rotate_left(5) ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for c in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        x = (x ^ (x >> 33)).wrapping_mul(c);
    }
    x ^ (x >> 33)
}
