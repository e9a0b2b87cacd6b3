//! Names and objects: each name leads to an object, each object has as many names as it says, and every
//! directory is in the tree once.
//!
//! Each epoch is looked at as what it changed against its parent, so the work grows with the records, not with
//! the branches that share them. A frozen epoch that nobody refers to is looked at together with the one that alone
//! continues it: nobody sees it by itself, and a collection may be folding the two. Of an object of the base the records tell only a part: the host may have given
//! it names, or taken some, that no record knows.

use super::finding::{Finding, Repair};
use super::path::Paths;
use super::tables::Tables;
use crate::core::ids::{EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, DirentRecord, FileBody, ObjectRecord};
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};

/// What an epoch changed.
#[derive(Debug, Default)]
struct Changed<'a> {
    objects: BTreeSet<ObjectId>,
    names: BTreeSet<(ObjectId, &'a [u8])>,
}

/// Checks every epoch in `reached`.
pub(super) fn check(tables: &Tables, reached: &BTreeSet<EpochId>, found: &mut Vec<Finding>) {
    let mut changed: BTreeMap<EpochId, Changed<'_>> = BTreeMap::new();
    for (object, versions) in &tables.objects {
        for epoch in versions.keys() {
            changed.entry(*epoch).or_default().objects.insert(*object);
        }
    }
    for (dir, names) in &tables.dirents {
        for (name, versions) in names {
            for epoch in versions.keys() {
                changed.entry(*epoch).or_default().names.insert((*dir, name));
            }
        }
    }
    for epoch in changed.keys().filter(|epoch| !tables.epochs.contains_key(epoch)) {
        let message = format!("there are records of epoch {epoch}, which is missing");
        found.push(Finding::error("epoch-missing", &keys::epoch(*epoch), message));
    }
    let mut runs: BTreeMap<EpochId, Run<'_>> = BTreeMap::new();
    for (epoch, seen) in seen_at(tables, reached) {
        let run = runs.entry(seen).or_insert_with(|| Run { oldest: epoch, changed: Changed::default() });
        run.oldest = run.oldest.min(epoch);
        if let Some(more) = changed.remove(&epoch) {
            run.changed.objects.extend(more.objects);
            run.changed.names.extend(more.names);
        }
    }
    let mut paths = Paths::new(tables);
    for (epoch, run) in runs {
        Judge { tables, epoch, oldest: run.oldest, paths: &mut paths, found }.run(&run.changed);
    }
    index(tables, found);
}

/// What a state changed, together with those below it that nobody sees by themselves.
#[derive(Debug)]
struct Run<'a> {
    oldest: EpochId,
    changed: Changed<'a>,
}

/// For every epoch the one in which its changes are seen first.
fn seen_at(tables: &Tables, reached: &BTreeSet<EpochId>) -> BTreeMap<EpochId, EpochId> {
    let mut children: BTreeMap<EpochId, Vec<EpochId>> = BTreeMap::new();
    for epoch in reached {
        if let Some(parent) = tables.epochs.get(epoch).and_then(|record| record.parent) {
            children.entry(parent).or_default().push(*epoch);
        }
    }
    let named = tables.named();
    let branch = |epoch: &EpochId| tables.epochs.get(epoch).map(|record| record.branch);
    let mut seen: BTreeMap<EpochId, EpochId> = BTreeMap::new();
    // A child is younger than its parent.
    for epoch in reached.iter().rev() {
        let at = match children.get(epoch).map(Vec::as_slice) {
            Some([child]) if !named.contains(epoch) && branch(child) == branch(epoch) => seen.get(child),
            _ => None,
        };
        let at = at.copied().unwrap_or(*epoch);
        seen.insert(*epoch, at);
    }
    seen
}

struct Judge<'a, 'b> {
    tables: &'a Tables,
    epoch: EpochId,
    /// The oldest epoch that is seen together with it.
    oldest: EpochId,
    paths: &'b mut Paths<'a>,
    found: &'b mut Vec<Finding>,
}

impl<'a> Judge<'a, '_> {
    fn run(&mut self, changed: &Changed<'a>) {
        let Some((_, branch)) = self.tables.branch_of(self.epoch) else { return };
        let (root, based) = (branch.root, branch.base.is_some());
        let mut dirs: BTreeSet<ObjectId> = BTreeSet::new();
        for (dir, name) in &changed.names {
            dirs.insert(*dir);
            if let Some(DirentRecord::Entry { object, kind }) = self.tables.dirent(*dir, name, self.epoch) {
                self.entry((*dir, name), object, kind, based);
            }
            if based && dir.is_base() && !self.has_prename(*dir, name) {
                let message = "what the base had at this name is not recorded: a commit would be refused";
                self.tell("preimage-missing", &keys::dirent(*dir, self.epoch, name), message, *dir);
            }
        }
        for object in &changed.objects {
            self.hidden_contents(*object);
            let Some((of, record)) = self.tables.object(*object, self.epoch) else { continue };
            if of < self.epoch && of >= self.oldest && self.is_hidden(*object, record) {
                continue;
            }
            match &record.body {
                Body::Directory { parent, name } => {
                    dirs.insert(*object);
                    if *object != root && record.nlink > 0 {
                        self.place(*object, *parent, name);
                    }
                }
                Body::File(body) => {
                    if let FileBody::Content(id) = body {
                        self.content(*object, *id);
                    }
                    if matches!(body, FileBody::Base) && !(object.is_base() && based) {
                        let message = "its bytes should be in the base, and it is not of a base";
                        self.tell("content-record-missing", &keys::object(*object, self.epoch), message, *object);
                    }
                }
                Body::Symlink { .. } | Body::Special { .. } => {}
            }
            if !matches!(record.body, Body::Directory { .. }) && !object.is_base() {
                self.links(*object, record);
            }
            if based && object.is_base() && !self.has_preimage(*object) {
                let message = "what the base had is not recorded: a commit would be refused";
                self.tell("preimage-missing", &keys::object(*object, self.epoch), message, *object);
            }
        }
        // What lost a name here without a record of its own here.
        for (dir, name) in &changed.names {
            if let Some(object) = self.overridden(*dir, name)
                && !changed.objects.contains(&object)
                && let Some((_, record)) = self.tables.object(object, self.epoch)
                && !matches!(record.body, Body::Directory { .. })
                && !object.is_base()
                && self.count(object) > 0
            {
                self.links(object, record);
            }
        }
        for dir in dirs {
            self.directory(dir, root, based);
        }
    }

    /// Versions that nobody sees have contents all the same, until they go.
    fn hidden_contents(&mut self, object: ObjectId) {
        let versions = self.tables.objects.get(&object).into_iter().flat_map(|v| v.range(self.oldest..self.epoch));
        for (epoch, record) in versions {
            if let Body::File(FileBody::Content(id)) = record.body
                && self.tables.inherits(self.epoch, *epoch)
                && !self.tables.contents.contains_key(&id)
            {
                let message = format!("its bytes should be in content file {id}, which has no record");
                let key = keys::object(object, *epoch);
                self.found.push(Finding::error("content-record-missing", &key, message));
            }
        }
    }

    /// Whether an object of an epoch that nobody sees by itself lost its last name above it, and was given back there.
    fn is_hidden(&mut self, object: ObjectId, record: &ObjectRecord) -> bool {
        if object.is_base() || record.nlink == 0 {
            return false;
        }
        match &record.body {
            Body::Directory { parent, name } => {
                let there = self.tables.dirent(*parent, name, self.epoch);
                *parent != object && !matches!(there, Some(DirentRecord::Entry { object: to, .. }) if to == object)
            }
            Body::File(_) | Body::Symlink { .. } | Body::Special { .. } => self.count(object) == 0,
        }
    }

    fn tell(&mut self, kind: &str, key: &[u8], message: impl Into<String>, object: ObjectId) {
        let path = self.paths.of(object, self.epoch);
        self.found.push(Finding::error(kind, key, message).at(path));
    }

    /// A name that leads to an object.
    fn entry(&mut self, place: (ObjectId, &[u8]), object: ObjectId, kind: FileKind, based: bool) {
        let (dir, name) = place;
        let key = keys::dirent(dir, self.epoch, name);
        let mut tell = |kind: &str, message: String| {
            let path = self.paths.of_name(dir, name, self.epoch);
            self.found.push(Finding::error(kind, &key, message).at(path));
        };
        let Some((_, record)) = self.tables.object(object, self.epoch) else {
            if !(object.is_base() && based) {
                tell("name-dangling", format!("the name leads to object {object}, which is missing"));
            }
            return;
        };
        if record.kind() != kind {
            let message = format!("the name says {kind:?}, the object {object} is {:?}", record.kind());
            tell("name-kind", message);
        } else if record.nlink == 0 && !object.is_base() {
            tell("link-count", format!("object {object} says that it has no name"));
        } else if let Body::Directory { parent, name: own } = &record.body
            && (*parent != dir || own.as_slice() != name)
        {
            tell("name-place", format!("the directory {object} says that it is elsewhere"));
        }
    }

    /// A directory that says where it is.
    fn place(&mut self, dir: ObjectId, parent: ObjectId, name: &[u8]) {
        let key = keys::object(dir, self.epoch);
        let there = self.tables.dirent(parent, name, self.epoch);
        let here = matches!(there, Some(DirentRecord::Entry { object, .. }) if object == dir);
        // Of the base's own directories the host decides.
        if !here && !dir.is_base() {
            let message = "no name leads to the directory where it says that it is";
            return self.tell("directory-lost", &key, message, dir);
        }
        let (mut at, mut seen) = (dir, BTreeSet::new());
        while let Some((_, record)) = self.tables.object(at, self.epoch) {
            if !seen.insert(at) {
                self.tell("directory-loop", &key, "the directory lies inside itself", dir);
                return;
            }
            let Body::Directory { parent, .. } = &record.body else { return };
            if *parent == at {
                return;
            }
            at = *parent;
        }
    }

    /// Links and names of a directory.
    fn directory(&mut self, dir: ObjectId, root: ObjectId, based: bool) {
        let key = keys::object(dir, self.epoch);
        let names = self.tables.dirents.get(&dir);
        let entries = names.into_iter().flatten().filter_map(|(_, versions)| {
            match self.tables.nearest(Some(versions), self.epoch)?.1 {
                DirentRecord::Entry { kind, .. } => Some(*kind),
                DirentRecord::Whiteout => None,
            }
        });
        let (mut all, mut directories) = (0_u64, 0_u64);
        for kind in entries {
            all += 1;
            directories += u64::from(kind == FileKind::Directory);
        }
        let Some((_, record)) = self.tables.object(dir, self.epoch) else {
            if all > 0 && !(dir.is_base() && based) {
                self.tell("name-dangling", &key, "there are names in a directory that is missing", dir);
            }
            return;
        };
        let Body::Directory { parent, name } = &record.body else {
            if all > 0 {
                self.tell("name-kind", &key, "there are names in what is no directory", dir);
            }
            return;
        };
        let here = self.tables.dirent(*parent, name, self.epoch);
        let live = dir == root || matches!(here, Some(DirentRecord::Entry { object, .. }) if object == dir);
        if record.nlink == 0 {
            if all > 0 {
                self.tell("names-in-removed", &key, format!("it was removed, and {all} names are in it"), dir);
            }
        } else if live && !dir.is_base() && u64::from(record.nlink) != directories + 2 {
            let message = format!("it says {} links and has {}", record.nlink, directories + 2);
            self.tell("link-count", &key, message, dir);
        }
    }

    /// How many names lead to an object.
    fn count(&mut self, object: ObjectId) -> u64 {
        let (tables, epoch) = (self.tables, self.epoch);
        let leads = |place: &&(ObjectId, &[u8])| {
            let found = tables.dirent(place.0, place.1, epoch);
            matches!(found, Some(DirentRecord::Entry { object: to, .. }) if to == object)
        };
        self.paths.names(object).iter().filter(leads).count() as u64
    }

    fn links(&mut self, object: ObjectId, record: &ObjectRecord) {
        let names = self.count(object);
        if u64::from(record.nlink) != names {
            let message = format!("it says {} links and has {names}", record.nlink);
            self.tell("link-count", &keys::object(object, self.epoch), message, object);
        }
    }

    /// What a name led to before.
    fn overridden(&self, dir: ObjectId, name: &[u8]) -> Option<ObjectId> {
        let parent = self.tables.epochs.get(&self.oldest)?.parent?;
        match self.tables.dirent(dir, name, parent)? {
            DirentRecord::Entry { object, .. } => Some(object),
            DirentRecord::Whiteout => None,
        }
    }

    fn content(&mut self, object: ObjectId, id: crate::core::ids::ContentId) {
        let key = keys::object(object, self.epoch);
        match self.tables.contents.get(&id) {
            None => {
                let message = format!("its bytes should be in content file {id}, which has no record");
                self.tell("content-record-missing", &key, message, object);
            }
            // What a merge shares belongs to a frozen state, to which nobody writes.
            Some(owner)
                if owner.object != object
                    || !(self.tables.inherits(self.epoch, owner.epoch) || self.tables.is_frozen(owner.epoch)) =>
            {
                let message = format!("its bytes are in content file {id}, which belongs to object {}", owner.object);
                self.tell("content-owner", &key, message, object);
            }
            Some(_) => {}
        }
    }

    fn has_preimage(&self, object: ObjectId) -> bool {
        self.inherits_one(self.tables.preimages.get(&object))
    }

    fn has_prename(&self, dir: ObjectId, name: &[u8]) -> bool {
        self.inherits_one(self.tables.prenames.get(&(dir, name.to_vec())))
    }

    fn inherits_one(&self, epochs: Option<&BTreeSet<EpochId>>) -> bool {
        epochs.is_some_and(|epochs| epochs.iter().any(|epoch| self.tables.inherits(self.epoch, *epoch)))
    }
}

/// The index of changes says of every epoch which records it has.
fn index(tables: &Tables, found: &mut Vec<Finding>) {
    let mut records: BTreeSet<(EpochId, Vec<u8>)> = BTreeSet::new();
    for (object, versions) in &tables.objects {
        records.extend(versions.keys().map(|epoch| (*epoch, second(b'O', *object, &[]))));
    }
    for (dir, names) in &tables.dirents {
        for (name, versions) in names {
            records.extend(versions.keys().map(|epoch| (*epoch, second(b'D', *dir, name))));
        }
    }
    records.extend(tables.xattrs.iter().map(|(epoch, object)| (*epoch, second(b'X', *object, &[]))));
    let key = |epoch: &EpochId, second: &[u8]| [keys::changes(*epoch).as_slice(), second].concat();
    for (epoch, missing) in records.difference(&tables.index) {
        let key = key(epoch, missing);
        let message = "a changed record that the index of changes does not have";
        found.push(Finding::error("index-missing", &key, message).mend(vec![Repair::Put(key.clone(), Vec::new())]));
    }
    for (epoch, stale) in tables.index.difference(&records) {
        let key = key(epoch, stale);
        let message = "the index of changes has a record that is not there";
        found.push(Finding::leftover("index-stale", &key, message).mend(vec![Repair::Delete(key.clone())]));
    }
}

fn second(letter: u8, object: ObjectId, name: &[u8]) -> Vec<u8> {
    [&[letter], object.0.to_be_bytes().as_slice(), name].concat()
}
