//! A branch or a snapshot as a whole tree in memory: what it would be if branching were copying.

use std::collections::{BTreeMap, BTreeSet};

/// An object of every tree that has it: a copy of a tree has the same objects.
pub(super) type Id = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Directory(BTreeMap<String, Id>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
}

/// An object; its names are in the directories that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) mode: u32,
    /// Of everything but directories, in seconds.
    pub(super) mtime: i64,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) data: Data,
}

impl Object {
    pub(super) fn new(mode: u32, mtime: i64, data: Data) -> Self {
        Self { mode, mtime, xattrs: BTreeMap::new(), data }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.data, Data::Directory(_))
    }

    /// Kind, as a word.
    pub(super) fn kind(&self) -> &'static str {
        match self.data {
            Data::Directory(_) => "dir",
            Data::File(_) => "file",
            Data::Symlink(_) => "symlink",
            Data::Fifo => "fifo",
        }
    }

    /// The same content; what is in directories does not count.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        (self.is_dir() && other.is_dir()) || self.data == other.data
    }

    /// The same in kind, content and attributes, times aside.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        let link = matches!(self.data, Data::Symlink(_));
        self.same_content(other) && (link || self.mode == other.mode) && self.xattrs == other.xattrs
    }

    /// The same, modification time included.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.looks_like(other) && (self.is_dir() || self.mtime == other.mtime)
    }

    pub(super) fn bytes(&self) -> Option<&Vec<u8>> {
        match &self.data {
            Data::File(bytes) => Some(bytes),
            Data::Directory(_) | Data::Symlink(_) | Data::Fifo => None,
        }
    }
}

/// A whole tree. Objects that no path leads to are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: Id,
    pub(super) objects: BTreeMap<Id, Object>,
}

impl Tree {
    pub(super) fn new(root: Id) -> Self {
        let object = Object::new(0o755, 0, Data::Directory(BTreeMap::new()));
        Self { root, objects: BTreeMap::from([(root, object)]) }
    }

    pub(super) fn names(&self, dir: Id) -> &BTreeMap<String, Id> {
        match &self.objects[&dir].data {
            Data::Directory(names) => names,
            other => panic!("{dir} is {other:?}"),
        }
    }

    pub(super) fn names_mut(&mut self, dir: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.objects.get_mut(&dir).unwrap().data {
            Data::Directory(names) => names,
            other => panic!("{dir} is {other:?}"),
        }
    }

    pub(super) fn is_dir(&self, id: Id) -> bool {
        self.objects.get(&id).is_some_and(Object::is_dir)
    }

    /// Every name: directory, name, object.
    pub(super) fn every_name(&self) -> Vec<(Id, String, Id)> {
        let dirs = self.objects.iter().filter(|(_, object)| object.is_dir());
        dirs.flat_map(|(dir, _)| self.names(*dir).iter().map(|(name, id)| (*dir, name.clone(), *id))).collect()
    }

    pub(super) fn links(&self, id: Id) -> usize {
        self.every_name().iter().filter(|(_, _, object)| *object == id).count()
    }

    /// Every path but the root's, without a slash at its beginning.
    pub(super) fn paths(&self) -> BTreeMap<String, Id> {
        let mut found = BTreeMap::new();
        let mut left = vec![(String::new(), self.root)];
        while let Some((above, dir)) = left.pop() {
            for (name, id) in self.names(dir) {
                let path = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
                found.insert(path.clone(), *id);
                if self.is_dir(*id) {
                    left.push((path, *id));
                }
            }
        }
        found
    }

    /// Paths of directories, the root's included.
    pub(super) fn directories(&self) -> Vec<(String, Id)> {
        let below = self.paths().into_iter().filter(|(_, id)| self.is_dir(*id));
        std::iter::once((String::new(), self.root)).chain(below).collect()
    }

    /// Whether `id` is `above` or lies below it.
    pub(super) fn is_within(&self, id: Id, above: Id) -> bool {
        let (mut left, mut seen) = (vec![above], BTreeSet::new());
        while let Some(at) = left.pop() {
            if at == id {
                return true;
            }
            if self.is_dir(at) && seen.insert(at) {
                left.extend(self.names(at).values());
            }
        }
        false
    }

    /// Drops what no path leads to.
    pub(super) fn prune(&mut self) {
        let (mut left, mut kept) = (vec![self.root], BTreeSet::new());
        while let Some(at) = left.pop() {
            if kept.insert(at) && self.is_dir(at) {
                left.extend(self.names(at).values());
            }
        }
        self.objects.retain(|id, _| kept.contains(id));
    }
}
