//! Every record of a store, decoded, and the version tree that gives them their order.

use super::finding::{Finding, Severity, shown_key};
use crate::branch::mark;
use crate::core::codec::Reader;
use crate::core::division::Division;
use crate::core::ground::GroundRecord;
use crate::core::ids::{BaseId, BranchId, ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::member::Member;
use crate::core::record::{
    BaseIdentity, BaseRecord, BranchRecord, CommitRecord, ContentRecord, DirentRecord, EpochRecord, ObjectRecord,
    ReplyRecord, SnapshotRecord, XattrSet,
};
use crate::store::Store;
use shm_transport::wire::{SessionId, decode_reply};
use std::collections::{BTreeMap, BTreeSet};

/// Versions of one thing by epoch.
pub(super) type Versions<T> = BTreeMap<EpochId, T>;

/// What a store has.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) records: u64,
    pub(super) bases: BTreeMap<BaseId, BaseRecord>,
    pub(super) branches: BTreeMap<BranchId, BranchRecord>,
    pub(super) epochs: BTreeMap<EpochId, EpochRecord>,
    pub(super) snapshots: BTreeMap<(BranchId, Vec<u8>), SnapshotRecord>,
    pub(super) commits: BTreeMap<u64, CommitRecord>,
    pub(super) objects: BTreeMap<ObjectId, Versions<ObjectRecord>>,
    pub(super) dirents: BTreeMap<ObjectId, BTreeMap<Vec<u8>, Versions<DirentRecord>>>,
    pub(super) xattrs: BTreeSet<(EpochId, ObjectId)>,
    /// The change index: epoch, and the key behind it from its letter on.
    pub(super) index: BTreeSet<(EpochId, Vec<u8>)>,
    pub(super) contents: BTreeMap<ContentId, ContentRecord>,
    pub(super) members: BTreeSet<(BranchId, SessionId)>,
    /// Sessions with recorded replies or marks.
    pub(super) replies: Vec<(SessionId, Vec<u8>)>,
    pub(super) orphans: BTreeSet<(BranchId, ObjectId)>,
    pub(super) preimages: BTreeMap<ObjectId, BTreeSet<EpochId>>,
    pub(super) prenames: BTreeMap<(ObjectId, Vec<u8>), BTreeSet<EpochId>>,
    pub(super) grounds: BTreeMap<BaseId, GroundRecord>,
    /// Keys that name a base.
    pub(super) of_bases: Vec<(BaseId, Vec<u8>)>,
    pub(super) meta: BTreeMap<String, Vec<u8>>,
    tour: BTreeMap<EpochId, (u64, u64)>,
}

/// The counters, each with the kind of number that it gives out.
pub(super) const COUNTERS: [&str; 6] =
    ["next-object", "next-epoch", "next-branch", "next-content", "next-base", "next-commit"];
/// Marks of removals that take several batches.
pub(super) const MARKS: [&str; 2] = ["deleting-", "reclaiming-"];
/// The mark of what is to be folded, which explains nothing that is there.
const FOLDING: &str = "folding-";

/// `None` says that the value, or the key's shape, is not what this kind of key has.
type Taken = Option<()>;

/// Of a window of a base: device, high bits of the inode numbers, and how many had them before.
fn window(value: &[u8]) -> Taken {
    let mut r = Reader::new(value, 1).ok()?;
    r.u64().ok()?;
    r.u64().ok()?;
    r.u32().ok()?;
    r.end().ok()
}

fn empty(value: &[u8]) -> Taken {
    value.is_empty().then_some(())
}

impl Tables {
    /// Reads everything. What cannot be understood is told and left out.
    pub(super) fn read(store: &dyn Store, found: &mut Vec<Finding>) -> Self {
        let mut tables = Self::default();
        store.scan(&[], &mut |key, value| {
            tables.records += 1;
            let letter = key.first().copied().unwrap_or_default();
            if !b"ABCDEGJKLMNORSUVWXYpq".contains(&letter) {
                let message = "a key of a kind that this release does not know";
                found.push(Finding::new("unknown-key", Severity::Error, shown_key(key), message));
            } else if tables.take(letter, key, value).is_none() {
                let message = "the record's bytes are not what this kind of record has";
                found.push(Finding::new("undecodable", Severity::Error, shown_key(key), message));
            }
            true
        });
        tables.walk();
        tables
    }

    fn take(&mut self, letter: u8, key: &[u8], value: &[u8]) -> Taken {
        let number = |at| keys::number(key, at);
        let exact = |numbers: usize| (key.len() == 1 + numbers * 8).then_some(());
        let name = |numbers| keys::tail(key, numbers).filter(|name| !name.is_empty());
        match letter {
            b'A' => {
                exact(1)?;
                self.bases.insert(BaseId(number(0)?), BaseRecord::decode(value).ok()?);
            }
            b'B' => {
                exact(1)?;
                self.branches.insert(BranchId(number(0)?), BranchRecord::decode(value).ok()?);
            }
            b'C' => {
                empty(value)?;
                let changed = keys::tail(key, 1)?;
                match changed.first()? {
                    b'O' | b'X' if changed.len() == 9 => {}
                    b'D' if changed.len() > 9 => {}
                    _ => return None,
                }
                self.index.insert((EpochId(number(0)?), changed.to_vec()));
            }
            b'D' => {
                let record = DirentRecord::decode(value).ok()?;
                let names = self.dirents.entry(ObjectId(number(0)?)).or_default();
                names.entry(name(2)?.to_vec()).or_default().insert(EpochId(number(1)?), record);
            }
            b'E' => {
                exact(1)?;
                self.epochs.insert(EpochId(number(0)?), EpochRecord::decode(value).ok()?);
            }
            b'G' => {
                exact(1)?;
                let base = BaseId(number(0)?);
                self.grounds.insert(base, GroundRecord::decode(value).ok()?);
                self.of_bases.push((base, key.to_vec()));
            }
            b'J' => {
                exact(1)?;
                self.commits.insert(number(0)?, CommitRecord::decode(value).ok()?);
            }
            b'K' => {
                exact(1)?;
                self.contents.insert(ContentId(number(0)?), ContentRecord::decode(value).ok()?);
            }
            b'L' => {
                exact(2)?;
                Member::decode(key, value).ok()?;
                self.members.insert((BranchId(number(0)?), SessionId(number(1)?)));
            }
            b'M' => {
                let name = std::str::from_utf8(key.get(1..)?).ok()?;
                let len = match name {
                    "cookie-key" => 16,
                    "recoveries" => 8,
                    name if COUNTERS.contains(&name) => 8,
                    name => {
                        MARKS.iter().chain([&FOLDING]).find_map(|mark| name.strip_prefix(mark)?.parse::<u64>().ok())?;
                        0
                    }
                };
                (value.len() == len).then_some(())?;
                self.meta.insert(name.to_owned(), value.to_vec());
            }
            b'N' => {
                matches!(value.len(), 0 | 12).then_some(())?;
                name(3)?;
                self.of_bases.push((BaseId(number(0)?), key.to_vec()));
            }
            b'O' => {
                exact(2)?;
                let record = ObjectRecord::decode(value).ok()?;
                self.objects.entry(ObjectId(number(0)?)).or_default().insert(EpochId(number(1)?), record);
            }
            b'p' => {
                exact(2)?;
                if !value.is_empty() {
                    BaseIdentity::decode(value).ok()?;
                }
                self.preimages.entry(ObjectId(number(1)?)).or_default().insert(EpochId(number(0)?));
            }
            b'q' => {
                (value.len() == 8).then_some(())?;
                let name = (ObjectId(number(1)?), name(2)?.to_vec());
                self.prenames.entry(name).or_default().insert(EpochId(number(0)?));
            }
            b'R' => {
                exact(2)?;
                decode_reply(&ReplyRecord::decode(value).ok()?.reply).ok()?;
                u32::try_from(number(1)?).ok()?;
                self.replies.push((SessionId(number(0)?), key.to_vec()));
            }
            b'V' => {
                exact(2)?;
                mark::decode(value)?;
                u32::try_from(number(1)?).ok()?;
                self.replies.push((SessionId(number(0)?), key.to_vec()));
            }
            b'Y' => {
                exact(1)?;
                Division::decode(value).ok()?;
                self.replies.push((SessionId(number(0)?), key.to_vec()));
            }
            b'S' => {
                let record = SnapshotRecord::decode(value).ok()?;
                self.snapshots.insert((BranchId(number(0)?), name(1)?.to_vec()), record);
            }
            b'U' => {
                exact(2)?;
                empty(value)?;
                self.orphans.insert((BranchId(number(0)?), ObjectId(number(1)?)));
            }
            b'W' => {
                exact(2)?;
                window(value)?;
                self.of_bases.push((BaseId(number(0)?), key.to_vec()));
            }
            _ => {
                exact(2)?;
                XattrSet::decode(value).ok()?;
                self.xattrs.insert((EpochId(number(1)?), ObjectId(number(0)?)));
            }
        }
        Some(())
    }

    /// Numbers the tree so that "is an ancestor of" is one comparison.
    fn walk(&mut self) {
        let mut children: BTreeMap<Option<EpochId>, Vec<EpochId>> = BTreeMap::new();
        for (epoch, record) in &self.epochs {
            // A parent that is missing, or not older, begins nothing: that is told elsewhere.
            let parent = record.parent.filter(|parent| parent < epoch && self.epochs.contains_key(parent));
            children.entry(parent).or_default().push(*epoch);
        }
        let mut time = 0;
        let mut stack: Vec<(EpochId, bool)> =
            children.get(&None).into_iter().flatten().map(|epoch| (*epoch, false)).collect();
        while let Some((epoch, left)) = stack.pop() {
            time += 1;
            if left {
                self.tour.entry(epoch).or_default().1 = time;
                continue;
            }
            self.tour.insert(epoch, (time, u64::MAX));
            stack.push((epoch, true));
            stack.extend(children.get(&Some(epoch)).into_iter().flatten().map(|child| (*child, false)));
        }
    }

    /// Whether `epoch` inherits from `ancestor`, or is it.
    pub(super) fn inherits(&self, epoch: EpochId, ancestor: EpochId) -> bool {
        match (self.tour.get(&epoch), self.tour.get(&ancestor)) {
            (Some(it), Some(above)) => above.0 <= it.0 && it.1 <= above.1,
            _ => false,
        }
    }

    /// The epochs that somebody refers to: heads, snapshots, fork points, commits under way.
    pub(super) fn named(&self) -> BTreeSet<EpochId> {
        let branches = self.branches.values();
        let of_branches =
            branches.flat_map(|branch| [Some(branch.head), branch.from.map(|(_, epoch)| epoch)]).flatten();
        let snapshots = self.snapshots.values().map(|snapshot| snapshot.epoch);
        of_branches.chain(snapshots).chain(self.commits.values().map(|commit| commit.epoch)).collect()
    }

    /// Whether an epoch is there and takes no changes.
    pub(super) fn is_frozen(&self, epoch: EpochId) -> bool {
        self.epochs.contains_key(&epoch) && !self.branches.values().any(|branch| branch.head == epoch)
    }

    /// The version that counts in an epoch.
    pub(super) fn nearest<'a, T>(&self, versions: Option<&'a Versions<T>>, epoch: EpochId) -> Option<(EpochId, &'a T)> {
        let (found, value) = versions?.range(..=epoch).rev().find(|(at, _)| self.inherits(epoch, **at))?;
        Some((*found, value))
    }

    /// An object's record in an epoch.
    pub(super) fn object(&self, object: ObjectId, epoch: EpochId) -> Option<(EpochId, &ObjectRecord)> {
        self.nearest(self.objects.get(&object), epoch)
    }

    /// A name's record in an epoch.
    pub(super) fn dirent(&self, dir: ObjectId, name: &[u8], epoch: EpochId) -> Option<DirentRecord> {
        let names = self.dirents.get(&dir)?;
        self.nearest(names.get(name), epoch).map(|(_, record)| *record)
    }

    /// The branch that a frozen or present state belongs to.
    pub(super) fn branch_of(&self, epoch: EpochId) -> Option<(BranchId, &BranchRecord)> {
        let branch = self.epochs.get(&epoch)?.branch;
        Some((branch, self.branches.get(&branch)?))
    }

    /// Whether a removal of a branch's records is under way.
    pub(super) fn has_mark(&self, branch: BranchId) -> bool {
        MARKS.iter().any(|mark| self.meta.contains_key(&format!("{mark}{branch}")))
    }
}
