//! Which epochs of a view say something of an object or of a directory, found without asking each.
//!
//! Keys are ordered by object and then by epoch, and a chain descends. So the greatest key up to an epoch of the
//! chain tells how far down the chain nothing is said, and the chain tells which keys are of other branches: the two
//! skip over each other. The cost is flat in the depth of the chain and in the number of siblings.

use super::error::{FsError, FsResult};
use super::ids::{EpochId, ObjectId};
use super::keys;
use super::merged::Names;
use super::record::DirentRecord;
use super::view::{Versioned, View};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Chains up to this length are asked epoch by epoch.
const SHORT: usize = 4;
/// After so many epochs that changed a directory, what the others say of it is merged and kept; what these say as well, when
/// they were asked for as many names as there are.
const DEEP: usize = 8;

impl View {
    /// The index in the chain, from `from` on, of the nearest epoch with a key below `prefix`, which ends where the
    /// epoch begins.
    fn next_with(&self, prefix: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let epoch = *self.chain.get(at)?;
            // Before every key of the next epoch, and after those of this one.
            let bound = [prefix, &epoch.0.saturating_add(1).to_be_bytes()].concat();
            let mut found = None;
            self.store.scan_back(&bound, &mut |key, _| {
                if key == bound {
                    return true;
                }
                let number = key.strip_prefix(prefix).and_then(|rest| rest.first_chunk::<8>());
                found = number.map(|bytes| u64::from_be_bytes(*bytes));
                false
            });
            let found = EpochId(found?);
            at += self.chain.get(at..)?.partition_point(|epoch| *epoch > found);
            if self.chain.get(at) == Some(&found) {
                return Some(at);
            }
        }
    }

    /// The nearest record of a thing, from the `from`-th epoch of the chain on; `prefix` is its key up to the epoch.
    pub(super) fn nearest<T>(
        &self,
        prefix: &[u8],
        from: usize,
        decode: impl Fn(&[u8]) -> FsResult<T>,
    ) -> FsResult<Option<Versioned<T>>> {
        let get = |epoch: EpochId| self.store.get(&[prefix, &epoch.0.to_be_bytes()].concat());
        let found = if self.chain.len() <= SHORT {
            self.chain.iter().skip(from).find_map(|epoch| Some((*epoch, get(*epoch)?)))
        } else {
            let mut from = from;
            loop {
                let Some(at) = self.next_with(prefix, from) else { break None };
                let Some(&epoch) = self.chain.get(at) else { break None };
                if let Some(bytes) = get(epoch) {
                    break Some((epoch, bytes));
                }
                // What was there moved down meanwhile: collections fold epochs.
                from = at + 1;
            }
        };
        found.map(|(epoch, bytes)| Ok(Versioned { epoch, value: decode(&bytes)? })).transpose()
    }

    /// The nearest record of a name, from the `from`-th epoch of the chain on.
    pub(super) fn dirent_from(
        &self,
        dir: ObjectId,
        name: &[u8],
        from: usize,
    ) -> FsResult<Option<Versioned<DirentRecord>>> {
        let get = |epoch: EpochId| -> FsResult<Option<Versioned<DirentRecord>>> {
            let bytes = self.store.get(&keys::dirent(dir, epoch, name));
            bytes.map(|bytes| Ok(Versioned { epoch, value: decode(&bytes)? })).transpose()
        };
        if self.chain.len() <= SHORT {
            for &epoch in self.chain.iter().skip(from) {
                if let Some(found) = get(epoch)? {
                    return Ok(Some(found));
                }
            }
            return Ok(None);
        }
        let prefix = keys::prefix(b'D', &[dir.0]);
        let (mut at, mut asked, mut frozen) = (from, 0, None);
        while let Some(index) = self.next_with(&prefix, at) {
            let Some(&epoch) = self.chain.get(index) else { break };
            if let Some(merged) = self.merged_at(dir, index, asked)? {
                // Asked so often that what those above say is better merged too.
                if let Some((index, epoch)) = frozen
                    && self.merged.owes(dir, epoch, asked, merged.len())
                {
                    self.merge(dir, index)?;
                }
                return Ok(merged.get(name).map(|(epoch, value)| Versioned { epoch: *epoch, value: *value }));
            }
            if let Some(found) = get(epoch)? {
                return Ok(Some(found));
            }
            if index > 0 {
                frozen = frozen.or(Some((index, epoch)));
            }
            (at, asked) = (index + 1, asked + 1);
        }
        Ok(None)
    }

    /// The names that records decide in `dir`: nearest epoch wins.
    pub fn recorded_names(&self, dir: ObjectId) -> FsResult<BTreeMap<Vec<u8>, DirentRecord>> {
        let mut names = BTreeMap::new();
        if self.chain.len() <= SHORT {
            for &epoch in self.chain.iter() {
                self.names_of(dir, epoch, |name, value| {
                    names.entry(name.to_vec()).or_insert(value);
                })?;
            }
            return Ok(names);
        }
        let prefix = keys::prefix(b'D', &[dir.0]);
        let (mut at, mut asked) = (0, 0);
        while let Some(index) = self.next_with(&prefix, at) {
            let Some(&epoch) = self.chain.get(index) else { break };
            if let Some(merged) = self.merged_at(dir, index, asked)? {
                for (name, (_, value)) in merged.iter() {
                    if !names.contains_key(name.as_ref()) {
                        names.insert(name.to_vec(), *value);
                    }
                }
                break;
            }
            self.names_of(dir, epoch, |name, value| {
                names.entry(name.to_vec()).or_insert(value);
            })?;
            (at, asked) = (index + 1, asked + 1);
        }
        Ok(names)
    }

    /// What one epoch decides in a directory.
    fn names_of(&self, dir: ObjectId, epoch: EpochId, mut take: impl FnMut(&[u8], DirentRecord)) -> FsResult<()> {
        let prefix = keys::dirent(dir, epoch, &[]);
        let mut damaged = false;
        self.store.scan(&prefix, &mut |key, value| {
            let Some(name) = key.strip_prefix(prefix.as_slice()) else { return false };
            match decode(value) {
                Ok(record) => take(name, record),
                Err(_) => damaged = true,
            }
            true
        });
        if damaged { Err(FsError::Damaged("dirent")) } else { Ok(()) }
    }

    /// The merged names of a directory from a frozen epoch on: those kept, or new ones after many were asked.
    fn merged_at(&self, dir: ObjectId, index: usize, asked: usize) -> FsResult<Option<Arc<Names>>> {
        // The first of the chain takes changes.
        let Some(&epoch) = self.chain.get(index).filter(|_| index > 0) else { return Ok(None) };
        if let Some(kept) = self.merged.get(dir, epoch) {
            return Ok(Some(kept));
        }
        if asked < DEEP { Ok(None) } else { self.merge(dir, index).map(Some) }
    }

    /// Merges the names of a directory from a frozen epoch on.
    fn merge(&self, dir: ObjectId, index: usize) -> FsResult<Arc<Names>> {
        let prefix = keys::prefix(b'D', &[dir.0]);
        let (turn, mut names, mut at) = (self.merged.turn(), Names::new(), index);
        // The nearest first, each as soon as it is found: what a collection moves meanwhile moves down.
        while let Some(index) = self.next_with(&prefix, at) {
            let Some(&epoch) = self.chain.get(index) else { break };
            if let Some(kept) = self.merged.get(dir, epoch) {
                let nearer = std::mem::replace(&mut names, (*kept).clone());
                names.extend(nearer);
                break;
            }
            self.names_of(dir, epoch, |name, value| {
                if !names.contains_key(name) {
                    names.insert(name.into(), (epoch, value));
                }
            })?;
            at = index + 1;
        }
        let names = Arc::new(names);
        if let Some(&epoch) = self.chain.get(index) {
            self.merged.put(dir, epoch, &names, turn);
        }
        Ok(names)
    }
}

fn decode(bytes: &[u8]) -> FsResult<DirentRecord> {
    DirentRecord::decode(bytes).map_err(|_| FsError::Damaged("dirent"))
}
