//! Keys of the store. One letter says what the value is; numbers are big endian, so that byte order
//! is number order. `specs/on-disk-format.md` lists them.

use super::ids::{BaseId, BranchId, ContentId, EpochId, ObjectId};
use shm_transport::wire::{SessionId, SlotIndex};

fn key(letter: u8, numbers: &[u64], tail: &[u8]) -> Vec<u8> {
    let mut k = Vec::with_capacity(1 + numbers.len() * 8 + tail.len());
    k.push(letter);
    for n in numbers {
        k.extend_from_slice(&n.to_be_bytes());
    }
    k.extend_from_slice(tail);
    k
}

/// The `at`-th number of a key, counted from 0.
pub fn number(key: &[u8], at: usize) -> Option<u64> {
    let from = 1 + at * 8;
    Some(u64::from_be_bytes(key.get(from..from + 8)?.try_into().ok()?))
}

/// What follows `numbers` numbers in a key.
pub fn tail(key: &[u8], numbers: usize) -> Option<&[u8]> {
    key.get(1 + numbers * 8..)
}

/// `A base` → [`super::record::BaseRecord`].
pub fn base(id: BaseId) -> Vec<u8> {
    key(b'A', &[id.0], &[])
}
/// `B branch` → [`super::record::BranchRecord`].
pub fn branch(id: BranchId) -> Vec<u8> {
    key(b'B', &[id.0], &[])
}
/// `C epoch 'D' dir name` → empty: the epoch has a dirent record there.
pub fn changed_dirent(epoch: EpochId, dir: ObjectId, name: &[u8]) -> Vec<u8> {
    let mut k = key(b'C', &[epoch.0], b"D");
    k.extend_from_slice(&dir.0.to_be_bytes());
    k.extend_from_slice(name);
    k
}
/// `C epoch 'O' object` → empty: the epoch has an object record there.
pub fn changed_object(epoch: EpochId, object: ObjectId) -> Vec<u8> {
    let mut k = key(b'C', &[epoch.0], b"O");
    k.extend_from_slice(&object.0.to_be_bytes());
    k
}
/// `C epoch 'X' object` → empty: the epoch has an extended attribute set there.
pub fn changed_xattrs(epoch: EpochId, object: ObjectId) -> Vec<u8> {
    let mut k = key(b'C', &[epoch.0], b"X");
    k.extend_from_slice(&object.0.to_be_bytes());
    k
}
/// Prefix of everything that an epoch changed.
pub fn changes(epoch: EpochId) -> Vec<u8> {
    key(b'C', &[epoch.0], &[])
}
/// `D dir epoch name` → [`super::record::DirentRecord`].
pub fn dirent(dir: ObjectId, epoch: EpochId, name: &[u8]) -> Vec<u8> {
    key(b'D', &[dir.0, epoch.0], name)
}
/// `E epoch` → [`super::record::EpochRecord`].
pub fn epoch(id: EpochId) -> Vec<u8> {
    key(b'E', &[id.0], &[])
}
/// `G base` → [`super::ground::GroundRecord`]: the ground that new branches of the base stand on.
pub fn ground(base: BaseId) -> Vec<u8> {
    key(b'G', &[base.0], &[])
}
/// `J commit` → [`super::record::CommitRecord`].
pub fn commit(id: u64) -> Vec<u8> {
    key(b'J', &[id], &[])
}
/// `K content` → [`super::record::ContentRecord`].
pub fn content(id: ContentId) -> Vec<u8> {
    key(b'K', &[id.0], &[])
}
/// `L branch session` → [`super::member::Member`].
pub fn member(branch: BranchId, session: SessionId) -> Vec<u8> {
    key(b'L', &[branch.0, session.0], &[])
}
/// `M name` → a counter's or setting's value.
pub fn meta(name: &str) -> Vec<u8> {
    key(b'M', &[], name.as_bytes())
}
/// `N base object parent name` → birth time (i64 seconds, u32 nanoseconds) of a changed base object, or of a
/// directory on the way to one, at this place; empty where the birth time is not known.
pub fn locator(base: BaseId, object: ObjectId, parent: ObjectId, name: &[u8]) -> Vec<u8> {
    key(b'N', &[base.0, object.0, parent.0], name)
}
/// Prefix of the locators of one object.
pub fn locators(base: BaseId, object: ObjectId) -> Vec<u8> {
    key(b'N', &[base.0, object.0], &[])
}
/// `O object epoch` → [`super::record::ObjectRecord`].
pub fn object(object: ObjectId, epoch: EpochId) -> Vec<u8> {
    key(b'O', &[object.0, epoch.0], &[])
}
/// `p epoch object` → [`super::record::BaseIdentity`]: the base object when the epoch first changed it; empty where it
/// is known that the base has the object no more.
pub fn preimage(epoch: EpochId, object: ObjectId) -> Vec<u8> {
    key(b'p', &[epoch.0, object.0], &[])
}
/// `q epoch dir name` → object number (u64, little endian; 0 for none) that the base had there when the epoch first
/// changed the name.
pub fn prename(epoch: EpochId, dir: ObjectId, name: &[u8]) -> Vec<u8> {
    key(b'q', &[epoch.0, dir.0], name)
}
/// `R session slot` → [`super::record::ReplyRecord`].
pub fn reply(session: SessionId, slot: SlotIndex) -> Vec<u8> {
    key(b'R', &[session.0, u64::from(slot.0)], &[])
}
/// `S branch name` → [`super::record::SnapshotRecord`].
pub fn snapshot(branch: BranchId, name: &str) -> Vec<u8> {
    key(b'S', &[branch.0], name.as_bytes())
}
/// `U branch object` → empty: the object has no name left but may be open.
pub fn orphan(branch: BranchId, object: ObjectId) -> Vec<u8> {
    key(b'U', &[branch.0, object.0], &[])
}
/// `V session slot` → request number (u64, little endian) and, where it is kept, the answer in JSON: a command about
/// branches that came through a mount was carried out.
pub fn done(session: SessionId, slot: SlotIndex) -> Vec<u8> {
    key(b'V', &[session.0, u64::from(slot.0)], &[])
}
/// `W base index` → which inode numbers the window stands for.
pub fn window(base: BaseId, index: u64) -> Vec<u8> {
    key(b'W', &[base.0, index], &[])
}
/// `X object epoch` → [`super::record::XattrSet`].
pub fn xattrs(object: ObjectId, epoch: EpochId) -> Vec<u8> {
    key(b'X', &[object.0, epoch.0], &[])
}
/// `Y session` → [`super::division::Division`].
pub fn division(session: SessionId) -> Vec<u8> {
    key(b'Y', &[session.0], &[])
}
/// Prefix of every key with this letter and leading numbers.
pub fn prefix(letter: u8, numbers: &[u64]) -> Vec<u8> {
    key(letter, numbers, &[])
}
