//! Which objects and names a branch changed, and where they are: on the branch and in the base.

use crate::core::base::BaseStat;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::{EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, DirentRecord};
use crate::core::view::View;
use crate::store::Store;
use shm_transport::wire::FileKind;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Deepest directory that is followed.
const DEPTH_MAX: usize = 4096;

/// A path below the root, names joined by `/`; empty for the root.
pub(super) type Path = Vec<u8>;
/// A directory and a name in it.
pub(super) type Name = (ObjectId, Vec<u8>);

/// Every record below a prefix; `None` from `decode` says that one is damaged.
pub(super) fn scan<T>(
    store: &dyn Store,
    prefix: &[u8],
    decode: impl Fn(&[u8], &[u8]) -> Option<T>,
) -> FsResult<Vec<T>> {
    let mut found = Vec::new();
    let mut damaged = false;
    store.scan(prefix, &mut |key, value| {
        if !key.starts_with(prefix) {
            return false;
        }
        match decode(key, value) {
            Some(it) => found.push(it),
            None => damaged = true,
        }
        true
    });
    if damaged { Err(FsError::Damaged("record")) } else { Ok(found) }
}

/// What one or more epochs changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Names.
    pub(super) names: BTreeSet<Name>,
    /// Objects with a record or with extended attributes.
    pub(super) objects: BTreeSet<ObjectId>,
}

/// A letter, its number, and what follows, of a key of the change index.
pub(super) fn parse(key: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (letter, rest) = keys::tail(key, 1)?.split_first()?;
    let (number, tail) = rest.split_first_chunk::<8>()?;
    Some((*letter, u64::from_be_bytes(*number), tail))
}

/// The key of the record that a key of the change index stands for, and whether that is an object's.
pub(super) fn record_key(key: &[u8], epoch: EpochId) -> Option<(Vec<u8>, bool)> {
    match parse(key)? {
        (b'D', dir, name) => Some((keys::dirent(ObjectId(dir), epoch, name), false)),
        (b'O', object, _) => Some((keys::object(ObjectId(object), epoch), true)),
        (b'X', object, _) => Some((keys::xattrs(ObjectId(object), epoch), false)),
        _ => None,
    }
}

/// What an epoch changed.
pub(super) fn changed_in(store: &dyn Store, epoch: EpochId) -> FsResult<Changed> {
    let mut changed = Changed::default();
    for (letter, number, tail) in scan(store, &keys::changes(epoch), |key, _| {
        let (letter, number, tail) = parse(key)?;
        Some((letter, ObjectId(number), tail.to_vec()))
    })? {
        match letter {
            b'D' => drop(changed.names.insert((number, tail))),
            _ => drop(changed.objects.insert(number)),
        }
    }
    Ok(changed)
}

impl Changed {
    /// What a view's epochs changed. What its ground says is no change.
    pub(super) fn of(view: &View) -> FsResult<Self> {
        let mut all = Self::default();
        for &epoch in view.own()? {
            all.add(view.store.as_ref(), epoch)?;
        }
        Ok(all)
    }

    /// Adds what an epoch changed.
    pub(super) fn add(&mut self, store: &dyn Store, epoch: EpochId) -> FsResult<()> {
        let one = changed_in(store, epoch)?;
        self.names.extend(one.names);
        self.objects.extend(one.objects);
        Ok(())
    }
}

/// `dir/name`.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Path {
    let mut path = dir.to_vec();
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Directory and name of a path that is not the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

/// What is at a path.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pair {
    /// On the branch.
    pub(super) branch: Option<(ObjectId, FileKind)>,
    /// In the base.
    pub(super) base: Option<BaseStat>,
}

/// The names of a view and of its base.
pub(super) struct Tree<'a> {
    /// The view.
    pub(super) view: &'a View,
    /// Where changed names lead.
    named: HashMap<ObjectId, Vec<Name>>,
    /// All of them: every epoch was looked at.
    whole: bool,
    branch_dirs: HashMap<ObjectId, Option<Path>>,
    base_dirs: HashMap<ObjectId, Option<Path>>,
    at: HashMap<Path, (Option<ObjectId>, Option<ObjectId>)>,
    /// What the base was seen to have at its names.
    seen: RefCell<BTreeMap<Name, Option<BaseStat>>>,
}

/// What cannot be shown, or is gone meanwhile, is not there.
pub(super) fn present<T>(found: FsResult<Option<T>>) -> FsResult<Option<T>> {
    match found {
        Err(FsError::Overflow | FsError::Stale | FsError::NotFound | FsError::NotDirectory) => Ok(None),
        other => other,
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(view: &'a View, changed: &Changed) -> FsResult<Self> {
        Ok(Self {
            view,
            named: named(view, changed)?,
            whole: view.chain.is_empty(),
            branch_dirs: HashMap::new(),
            base_dirs: HashMap::new(),
            at: HashMap::new(),
            seen: RefCell::default(),
        })
    }

    pub(super) fn base_root(&self) -> Option<ObjectId> {
        self.view.base.as_ref().map(|b| b.root())
    }

    /// Where a name of the branch leads.
    pub(super) fn child(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<(ObjectId, FileKind)>> {
        Ok(present(self.view.child(dir, name))?.map(|c| (c.object, c.kind)))
    }

    /// Where a name in a base directory leads, in the base, as it was when first asked for. One answer for
    /// each name, so that what is compared, judged and planned is the same.
    pub(super) fn base_child(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<BaseStat>> {
        let Some(base) = self.view.base_of(dir) else { return Ok(None) };
        let key = (dir, name.to_vec());
        if let Some(known) = self.seen.borrow().get(&key) {
            return Ok(*known);
        }
        let found = present(base.lookup(dir, name))?;
        self.seen.borrow_mut().insert(key, found);
        Ok(found)
    }

    /// What was seen in a base directory.
    pub(super) fn seen_in(&self, dir: ObjectId) -> Vec<BaseStat> {
        let seen = self.seen.borrow();
        seen.range((dir, Vec::new())..).take_while(|((of, _), _)| *of == dir).filter_map(|(_, stat)| *stat).collect()
    }

    /// Where the base was seen to have an object.
    pub(super) fn locators(&self, object: ObjectId) -> Vec<Name> {
        self.view.base_of(object).map(|b| b.locators(object)).unwrap_or_default()
    }

    /// The directory that a directory of the branch is in, and its name there.
    pub(super) fn branch_parent(&self, dir: ObjectId) -> FsResult<Option<Name>> {
        let mut candidates = Vec::new();
        if let Some(record) = self.view.object(dir)?.map(|v| v.value) {
            if record.nlink == 0 {
                return Ok(None);
            }
            if let Body::Directory { parent, name } = record.body {
                candidates.push((parent, name));
            }
        }
        candidates.extend(self.locators(dir));
        for (parent, name) in candidates {
            if self.child(parent, &name)?.is_some_and(|(o, _)| o == dir) {
                return Ok(Some((parent, name)));
            }
        }
        Ok(None)
    }

    /// The path at which a directory was last seen, for what no path leads to any more.
    pub(super) fn expected(&self, dir: ObjectId) -> Path {
        let (mut names, mut at) = (Vec::new(), dir);
        while let Some((parent, name)) = self.locators(at).into_iter().next()
            && names.len() < DEPTH_MAX
        {
            names.push(name);
            at = parent;
        }
        names.iter().rev().fold(Vec::new(), |path, name| join(&path, name))
    }

    fn base_parent(&self, dir: ObjectId) -> FsResult<Option<Name>> {
        for (parent, name) in self.locators(dir) {
            if self.base_child(parent, &name)?.is_some_and(|s| s.object == dir) {
                return Ok(Some((parent, name)));
            }
        }
        Ok(None)
    }

    /// The path of a directory on the branch; `None` when no path leads there.
    pub(super) fn directory(&mut self, dir: ObjectId) -> FsResult<Option<Path>> {
        let mut known = std::mem::take(&mut self.branch_dirs);
        let path = climb(&mut known, self.view.root, dir, |d| self.branch_parent(d));
        self.branch_dirs = known;
        path
    }

    /// The path of a base directory in the base.
    pub(super) fn base_directory(&mut self, dir: ObjectId) -> FsResult<Option<Path>> {
        let Some(root) = self.base_root() else { return Ok(None) };
        let mut known = std::mem::take(&mut self.base_dirs);
        let path = climb(&mut known, root, dir, |d| self.base_parent(d));
        self.base_dirs = known;
        path
    }

    /// The names of an object of the branch: directory, name and path of each, ordered by path.
    pub(super) fn places(&mut self, object: ObjectId) -> FsResult<Vec<(Path, Name)>> {
        let places = self.known_places(object)?;
        if self.whole || self.view.object(object)?.is_none_or(|v| places.len() as u64 >= u64::from(v.value.nlink)) {
            return Ok(places);
        }
        // It was named by a change that is not among those looked at.
        let all = Changed::of(self.view)?;
        self.named = named(self.view, &all)?;
        self.whole = true;
        self.known_places(object)
    }

    fn known_places(&mut self, object: ObjectId) -> FsResult<Vec<(Path, Name)>> {
        let mut candidates: BTreeSet<Name> = self.named.get(&object).cloned().unwrap_or_default().into_iter().collect();
        candidates.extend(self.locators(object));
        let mut places = Vec::new();
        for (dir, name) in candidates {
            if self.child(dir, &name)?.is_some_and(|(o, _)| o == object)
                && let Some(path) = self.directory(dir)?
            {
                places.push((join(&path, &name), (dir, name)));
            }
        }
        places.sort();
        Ok(places)
    }

    /// The directories of both sides at a path.
    pub(super) fn directories(&mut self, path: &[u8]) -> FsResult<(Option<ObjectId>, Option<ObjectId>)> {
        let mut here = (Some(self.view.root), self.base_root());
        if path.is_empty() {
            return Ok(here);
        }
        if let Some(known) = self.at.get(path) {
            return Ok(*known);
        }
        let mut end = 0;
        for name in path.split(|b| *b == b'/') {
            end += name.len() + usize::from(end > 0);
            let prefix = path.get(..end).unwrap_or_default();
            if let Some(known) = self.at.get(prefix) {
                here = *known;
                continue;
            }
            let branch = match here.0 {
                Some(dir) => self.child(dir, name)?.filter(|(_, k)| *k == FileKind::Directory).map(|(o, _)| o),
                None => None,
            };
            let base = match here.1 {
                Some(dir) => self.base_child(dir, name)?.filter(|s| s.kind == FileKind::Directory).map(|s| s.object),
                None => None,
            };
            here = (branch, base);
            self.at.insert(prefix.to_vec(), here);
        }
        Ok(here)
    }

    /// What is at a path on both sides.
    pub(super) fn pair(&mut self, path: &[u8]) -> FsResult<Pair> {
        if path.is_empty() {
            let base = self.view.base.as_ref().map(|b| b.stat(b.root())).transpose()?;
            return Ok(Pair { branch: Some((self.view.root, FileKind::Directory)), base });
        }
        let (dir, name) = split(path);
        let (branch, base) = self.directories(dir)?;
        Ok(Pair {
            branch: branch.map_or(Ok(None), |d| self.child(d, name))?,
            base: base.map_or(Ok(None), |d| self.base_child(d, name))?,
        })
    }

    /// Names in a directory of the base.
    pub(super) fn base_names(&self, dir: ObjectId) -> FsResult<Vec<Vec<u8>>> {
        let Some(base) = self.view.base_of(dir) else { return Ok(Vec::new()) };
        let entries = base.list(dir)?;
        // Noted all at once, so that looking them up writes nothing.
        base.remember(dir, entries.iter().map(|e| (e.name.as_slice(), e.object)))?;
        Ok(entries.into_iter().map(|e| e.name).collect())
    }

    /// Names in a directory of the branch.
    pub(super) fn names(&self, dir: ObjectId) -> FsResult<Vec<Vec<u8>>> {
        self.base_names(dir)?;
        Ok(self.view.names(dir)?.into_keys().collect())
    }
}

/// Where changed names lead.
fn named(view: &View, changed: &Changed) -> FsResult<HashMap<ObjectId, Vec<Name>>> {
    let mut named: HashMap<ObjectId, Vec<Name>> = HashMap::new();
    for (dir, name) in &changed.names {
        if let Some(DirentRecord::Entry { object, .. }) = view.dirent(*dir, name)?.map(|v| v.value) {
            named.entry(object).or_default().push((*dir, name.clone()));
        }
    }
    Ok(named)
}

/// Follows parents up to the root or to a directory whose path is known.
fn climb(
    known: &mut HashMap<ObjectId, Option<Path>>,
    root: ObjectId,
    dir: ObjectId,
    parent: impl Fn(ObjectId) -> FsResult<Option<Name>>,
) -> FsResult<Option<Path>> {
    let mut below: Vec<Name> = Vec::new();
    let mut at = dir;
    let mut path = loop {
        if at == root {
            break Some(Vec::new());
        }
        if let Some(path) = known.get(&at) {
            break path.clone();
        }
        let up = if below.len() < DEPTH_MAX { parent(at)? } else { None };
        let Some((up, name)) = up else {
            known.insert(at, None);
            break None;
        };
        below.push((at, name));
        at = up;
    };
    for (object, name) in below.into_iter().rev() {
        path = path.map(|p| join(&p, &name));
        known.insert(object, path.clone());
    }
    Ok(path)
}
