//! Two epochs become one: an *older* state that nobody refers to, and the *younger* one that alone continues it.
//!
//! Whichever way, every state that somebody can look at shows the same before and after each batch, so that a fold
//! may end at any of them and nothing has to be remembered.
//!
//! ```text
//! sink   the younger one has few records and no name: they move down, and the older one takes its place
//! lift   the younger one is a head, the older one has few records: what the head does not decide moves up, in one
//!        batch while no operation runs
//! rise   the younger one is frozen: what it does not decide is copied up; then the older one is no longer needed
//! prune  the younger one has a name and few records: only what it hides in the older one goes
//! ```
//!
//! Readers ask the younger epoch first. So they may run during a sink (what they miss above has come to where they
//! look next) and a prune. After a rise the older epoch stays until nobody can still be looking at it.

use super::super::epochs::Epochs;
use super::super::paths::parse;
use crate::core::error::FsResult;
use crate::core::ground::NOBODY;
use crate::core::ids::{BranchId, ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, DirentRecord, EpochRecord, FileBody, ObjectRecord};
use crate::core::state::Core;
use crate::core::view::View;
use crate::store::{Batch, Store};
use std::collections::{BTreeMap, BTreeSet};

/// Most records that one batch looks at.
const CHUNK: usize = 256;
/// So many records move up to a frozen state with a name, however few it has.
const SMALL: usize = 1024;
/// So many move up to a head, for which its programs wait.
const LIFTED_MAX: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Sink,
    Lift,
    Rise,
    Prune,
}

/// A fold under way.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) older: EpochId,
    pub(super) younger: EpochId,
    pub(super) way: Way,
    pub(super) branch: BranchId,
    /// The last key of the index that was looked at.
    after: Option<Vec<u8>>,
    /// Names that the younger epoch takes from objects of the older one (for a rise, which leaves these as they are).
    lost: BTreeMap<ObjectId, u32>,
    pub(super) dead: BTreeSet<ObjectId>,
}

/// What one batch did.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) moved: u64,
    pub(super) dropped: u64,
    /// Content files without a record now.
    pub(super) gone: Vec<ContentId>,
    /// Branches that use what others needed before them.
    pub(super) heirs: BTreeSet<BranchId>,
    /// Nothing is left to do.
    pub(super) whole: bool,
    /// It cannot be done now: contents are shared by heads only.
    pub(super) pinned: bool,
}

/// How many records an epoch has, up to `most`.
fn count(store: &dyn Store, epoch: EpochId, most: usize) -> usize {
    let prefix = keys::changes(epoch);
    let mut found = 0;
    store.scan(&prefix, &mut |key, _| {
        let inside = key.starts_with(&prefix);
        found += usize::from(inside);
        inside && found < most
    });
    found
}

impl Fold {
    /// The way that moves the fewest records.
    pub(super) fn plan(store: &dyn Store, epochs: &Epochs, (older, younger): (EpochId, EpochId)) -> Self {
        let mut most = SMALL + 1;
        // No more is counted of the larger one than of the smaller one.
        let (above, below) = loop {
            let sizes = (count(store, younger, most), count(store, older, most));
            if sizes.0 < most || sizes.1 < most {
                break sizes;
            }
            most *= 4;
        };
        let way = match (epochs.is_named(younger), epochs.is_head(younger)) {
            (true, true) if below <= LIFTED_MAX => Way::Lift,
            (true, false) if below <= above.max(SMALL) => Way::Rise,
            (true, _) => Way::Prune,
            (false, _) if above < below => Way::Sink,
            _ => Way::Rise,
        };
        let branch = epochs.branch(younger).unwrap_or(BranchId(0));
        Self { older, younger, way, branch, after: None, lost: BTreeMap::new(), dead: BTreeSet::new() }
    }

    /// Whether the pair is still one, and of the kind that it was.
    pub(super) fn still(&self, epochs: &Epochs) -> bool {
        let named = epochs.is_named(self.younger);
        epochs.only_child(self.older) == Some(self.younger)
            && match self.way {
                Way::Sink => !named,
                Way::Lift => epochs.is_head(self.younger),
                Way::Prune => named,
                Way::Rise => !epochs.is_head(self.younger),
            }
    }

    /// Whose records are gone through.
    fn source(&self) -> EpochId {
        match self.way {
            Way::Sink | Way::Prune => self.younger,
            Way::Lift | Way::Rise => self.older,
        }
    }

    /// Goes on by one batch. Nobody else changes the tree meanwhile; for a lift no operation runs on the branch.
    pub(super) fn go_on(&mut self, core: &Core, epochs: &Epochs) -> FsResult<Done> {
        let most = if self.way == Way::Lift { usize::MAX } else { CHUNK };
        let mut found = self.next(core.store.as_ref(), most);
        let below = core.records_from(epochs.parent(self.older))?;
        let way = self.way;
        let mut piece = Piece {
            core,
            epochs,
            fold: self,
            below,
            // What copies up frees nothing yet: it must leave room for deletions.
            batch: Batch { reclaims: way != Way::Rise, ..Batch::default() },
            pending: BTreeMap::new(),
            done: Done::default(),
        };
        for key in &found {
            if !key.starts_with(b"C") {
                piece.preimage(key);
            } else if let Some((letter, number, tail)) = parse(key) {
                let object = ObjectId(number);
                match letter {
                    b'D' => piece.name(object, tail)?,
                    b'O' => piece.object(object)?,
                    _ => piece.xattrs(object),
                }
            }
        }
        let (mut batch, mut done) = (piece.batch, piece.done);
        done.whole = found.len() < most;
        if done.pinned {
            return Ok(Done { pinned: true, ..Done::default() });
        }
        if done.whole {
            self.end(epochs, &mut batch);
        }
        if !batch.is_empty() {
            core.store.commit(&batch)?;
            done.heirs = core.heirs(&batch)?;
        }
        self.after = found.pop().or(self.after.take());
        Ok(done)
    }

    /// The keys to look at next: of the index of what changed, and then of the pre-images.
    fn next(&self, store: &dyn Store, most: usize) -> Vec<Vec<u8>> {
        let source = self.source();
        let after = self.after.as_deref().unwrap_or_default();
        let mut found: Vec<Vec<u8>> = Vec::new();
        for prefix in [keys::changes(source), keys::prefix(b'p', &[source.0]), keys::prefix(b'q', &[source.0])] {
            store.scan(prefix.as_slice().max(after), &mut |key, _| {
                let inside = key.starts_with(&prefix) && found.len() < most;
                if inside && key > after {
                    found.push(key.to_vec());
                }
                inside
            });
        }
        found
    }

    /// The tree without the one that has nothing to say any more.
    fn end(&self, epochs: &Epochs, batch: &mut Batch) {
        match self.way {
            Way::Prune => {}
            Way::Sink => {
                for (child, record) in epochs.continued_by(self.younger) {
                    batch.put(keys::epoch(child), EpochRecord { parent: Some(self.older), ..record.clone() }.encode());
                }
                batch.put(super::super::delete::reclaiming_mark(self.branch), []);
            }
            Way::Lift | Way::Rise => {
                let record = EpochRecord {
                    parent: epochs.parent(self.older),
                    branch: self.branch,
                    base: epochs.base(self.older),
                };
                batch.put(keys::epoch(self.younger), record.encode());
                if self.way == Way::Lift {
                    batch.delete(keys::epoch(self.older));
                } else {
                    batch.put(super::super::delete::reclaiming_mark(self.branch), []);
                }
            }
        }
    }
}

/// One batch on its way.
pub(super) struct Piece<'a> {
    pub(super) core: &'a Core,
    pub(super) epochs: &'a Epochs,
    pub(super) fold: &'a mut Fold,
    /// What the older epoch inherits.
    below: View,
    pub(super) batch: Batch,
    /// Objects of the older epoch that the batch changes.
    pub(super) pending: BTreeMap<ObjectId, Option<ObjectRecord>>,
    pub(super) done: Done,
}

impl Piece<'_> {
    fn get_name(&self, dir: ObjectId, epoch: EpochId, name: &[u8]) -> FsResult<Option<DirentRecord>> {
        let bytes = self.core.store.get(&keys::dirent(dir, epoch, name));
        Ok(bytes.map(|bytes| DirentRecord::decode(&bytes)).transpose()?)
    }

    fn get_object(&self, object: ObjectId, epoch: EpochId) -> FsResult<Option<ObjectRecord>> {
        if epoch == self.fold.older
            && let Some(pending) = self.pending.get(&object)
        {
            return Ok(pending.clone());
        }
        let bytes = self.core.store.get(&keys::object(object, epoch));
        Ok(bytes.map(|bytes| ObjectRecord::decode(&bytes)).transpose()?)
    }

    fn name(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<()> {
        let (older, younger) = (self.fold.older, self.fold.younger);
        let (above, below) = (self.get_name(dir, younger, name)?, self.get_name(dir, older, name)?);
        if above.is_some()
            && let Some(hidden) = below
        {
            if let DirentRecord::Entry { object, .. } = hidden
                && !matches!(above, Some(DirentRecord::Entry { object: stays, .. }) if stays == object)
            {
                self.lose_name(object)?;
                // A head may give the object back at any moment; its records here go before the name that finds them.
                if self.fold.way == Way::Prune && self.get_object(object, older)?.is_some() {
                    return Ok(());
                }
            }
            if self.fold.way != Way::Rise {
                self.drop_name(dir, older, name);
            }
        }
        match (self.fold.way, above, below) {
            (Way::Sink, Some(record), _) => {
                self.drop_name(dir, younger, name);
                self.put_name(dir, older, name, record)?;
            }
            (Way::Lift, Some(DirentRecord::Whiteout), _) if self.is_idle(dir, name)? => {
                self.drop_name(dir, younger, name);
            }
            (Way::Lift, None, Some(record)) => {
                self.drop_name(dir, older, name);
                self.put_name(dir, younger, name, record)?;
            }
            (Way::Rise, None, Some(record)) => self.put_name(dir, younger, name, record)?,
            _ => {}
        }
        Ok(())
    }

    fn put_name(&mut self, dir: ObjectId, epoch: EpochId, name: &[u8], record: DirentRecord) -> FsResult<()> {
        if record == DirentRecord::Whiteout && self.is_idle(dir, name)? {
            return Ok(());
        }
        self.done.moved += 1;
        self.batch.put(keys::changed_dirent(epoch, dir, name), []);
        self.batch.put(keys::dirent(dir, epoch, name), record.encode());
        Ok(())
    }

    fn drop_name(&mut self, dir: ObjectId, epoch: EpochId, name: &[u8]) {
        self.done.dropped += 1;
        self.batch.delete(keys::changed_dirent(epoch, dir, name));
        self.batch.delete(keys::dirent(dir, epoch, name));
    }

    /// Whether a whiteout would hide nothing. What a base has may come back on the host.
    fn is_idle(&self, dir: ObjectId, name: &[u8]) -> FsResult<bool> {
        if dir.is_base() {
            return Ok(false);
        }
        let inherited = self.below.dirent(dir, name)?;
        Ok(inherited.is_none_or(|found| found.value == DirentRecord::Whiteout))
    }

    /// The younger epoch takes a name from an object of the older one. What became of the object its record there says.
    /// Releases that left none when an object was given back left none only then.
    fn lose_name(&mut self, object: ObjectId) -> FsResult<()> {
        let Fold { older, younger, way, .. } = *self.fold;
        if object.is_base() {
            return Ok(());
        }
        if let Some(above) = self.get_object(object, younger)? {
            return if way == Way::Prune && above.nlink > 0 { self.object(object) } else { Ok(()) };
        }
        if way == Way::Rise {
            *self.fold.lost.entry(object).or_default() += 1;
            return Ok(());
        }
        let Some(mut record) = self.get_object(object, older)? else { return Ok(()) };
        if matches!(record.body, Body::Directory { .. }) || record.nlink <= 1 {
            self.release(&record, &[older])?;
            self.forget(object, older);
            return Ok(());
        }
        record.nlink -= 1;
        self.batch.put(keys::object(object, older), record.encode());
        self.pending.insert(object, Some(record));
        Ok(())
    }

    /// Whether an object has no name and nobody has it open. A frozen state waits for who has it open: it would keep
    /// the object for ever.
    fn is_nobodys(&mut self, object: ObjectId, record: &ObjectRecord) -> bool {
        if record.nlink > 0 {
            return false;
        }
        let open = self.core.store.get(&keys::orphan(self.fold.branch, object)).is_some();
        self.done.pinned |= open && self.fold.way != Way::Lift;
        !open
    }

    /// Says in `epoch` that an object is gone, if there is anything below that shows it.
    fn bury(&mut self, object: ObjectId, epoch: EpochId, record: &ObjectRecord) -> FsResult<()> {
        if self.below.object(object)?.is_some() {
            self.put_object(object, epoch, &record.tombstone());
        }
        Ok(())
    }

    fn object(&mut self, object: ObjectId) -> FsResult<()> {
        let (above, below) = (self.get_object(object, self.fold.younger)?, self.get_object(object, self.fold.older)?);
        if self.fold.branch == NOBODY
            && let (Some(above), Some(below)) = (&above, &below)
            && above.body == Body::File(FileBody::Base)
            && content(below).is_some()
        {
            return self.ground_object(object, above, below);
        }
        match (self.fold.way, above, below) {
            (Way::Sink, Some(above), below) => self.sink_object(object, &above, below.as_ref()),
            (Way::Lift, above, Some(below)) => self.lift_object(object, above.as_ref(), &below),
            (Way::Rise, above, Some(below)) => self.raise_object(object, above.as_ref(), &below),
            (Way::Prune, Some(above), Some(below)) => {
                // With one content in both there is nothing to give back, and it must not change hands under a head.
                if content(&below).is_none() || content(&below) != content(&above) {
                    self.release(&below, &[self.fold.older])?;
                    self.forget_record(object, self.fold.older);
                    self.pending.insert(object, None);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What one commit changed the attributes of and a later one replaced: the bytes are those that the later one kept.
    fn ground_object(&mut self, object: ObjectId, above: &ObjectRecord, below: &ObjectRecord) -> FsResult<()> {
        let both = ObjectRecord { body: below.body.clone(), ..above.clone() };
        match self.fold.way {
            Way::Sink => self.sink_object(object, &both, Some(below)),
            Way::Rise => {
                self.own(below, self.fold.older, self.fold.younger)?;
                self.put_object(object, self.fold.younger, &both);
                Ok(())
            }
            Way::Lift | Way::Prune => Ok(()),
        }
    }

    fn sink_object(&mut self, object: ObjectId, above: &ObjectRecord, below: Option<&ObjectRecord>) -> FsResult<()> {
        let (older, younger) = (self.fold.older, self.fold.younger);
        if let Some(below) = below
            && content(below) != content(above)
        {
            self.release(below, &[older, younger])?;
        }
        if self.is_nobodys(object, above) {
            self.release(above, &[older, younger])?;
            self.forget(object, younger);
            if below.is_some() {
                self.forget(object, older);
            }
            return self.bury(object, older, above);
        }
        self.forget_record(object, younger);
        self.own(above, younger, older)?;
        self.put_object(object, older, above);
        Ok(())
    }

    fn lift_object(&mut self, object: ObjectId, above: Option<&ObjectRecord>, below: &ObjectRecord) -> FsResult<()> {
        let (older, younger) = (self.fold.older, self.fold.younger);
        let Some(above) = above else {
            if self.is_nobodys(object, below) {
                self.release(below, &[older])?;
                self.forget(object, older);
                return self.bury(object, younger, below);
            }
            self.own(below, older, younger)?;
            self.forget_record(object, older);
            self.put_object(object, younger, below);
            return Ok(());
        };
        if content(below).is_some() && content(below) == content(above) {
            self.own(below, older, younger)?;
        } else {
            self.release(below, &[older])?;
        }
        self.forget_record(object, older);
        if content(above).is_none() && self.is_nobodys(object, above) {
            self.forget(object, older);
            self.forget_record(object, younger);
            self.bury(object, younger, above)?;
        }
        Ok(())
    }

    fn raise_object(&mut self, object: ObjectId, above: Option<&ObjectRecord>, below: &ObjectRecord) -> FsResult<()> {
        let (older, younger) = (self.fold.older, self.fold.younger);
        if let Some(above) = above {
            if content(below).is_some() && content(below) == content(above) {
                self.own(below, older, younger)?;
            }
            return Ok(());
        }
        let lost = self.fold.lost.get(&object).copied().unwrap_or(0);
        let nameless = lost > 0 && (matches!(below.body, Body::Directory { .. }) || lost >= below.nlink);
        if nameless || self.is_nobodys(object, below) {
            self.fold.dead.insert(object);
            return self.bury(object, younger, below);
        }
        self.own(below, older, younger)?;
        self.put_object(object, younger, below);
        Ok(())
    }

    fn put_object(&mut self, object: ObjectId, epoch: EpochId, record: &ObjectRecord) {
        self.done.moved += 1;
        self.batch.put(keys::changed_object(epoch, object), []);
        self.batch.put(keys::object(object, epoch), record.encode());
    }

    fn forget_record(&mut self, object: ObjectId, epoch: EpochId) {
        self.done.dropped += 1;
        self.batch.delete(keys::changed_object(epoch, object));
        self.batch.delete(keys::object(object, epoch));
    }

    /// The records of an object that is gone.
    fn forget(&mut self, object: ObjectId, epoch: EpochId) {
        self.forget_record(object, epoch);
        self.drop_xattrs(object, epoch);
        self.pending.insert(object, None);
    }
}

pub(super) fn content(record: &ObjectRecord) -> Option<ContentId> {
    match record.body {
        Body::File(FileBody::Content(id)) => Some(id),
        Body::File(_) | Body::Directory { .. } | Body::Symlink { .. } | Body::Special { .. } => None,
    }
}
