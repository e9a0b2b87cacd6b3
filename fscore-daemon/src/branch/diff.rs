//! What a commit compares: what a branch has at a path against what its base has there now.

use super::facts::{Data, Facts, Same, same_content};
use super::links;
use super::paths::{Changed, Path, Tree, join, split};
use crate::content::Contents;
use crate::core::base::BaseStat;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::view::View;
use shm_transport::control::{ChangeKind, Diff, escape::escape};
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A changed path.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) kind: ChangeKind,
    /// Kind of object on the branch, or in the base where it is deleted.
    pub(super) object: FileKind,
    pub(super) metadata_only: bool,
    /// Nothing differs but the modification time.
    pub(super) time_only: bool,
    pub(super) size: u64,
    /// On the branch.
    pub(super) branch: Option<ObjectId>,
    /// In the base.
    pub(super) base: Option<BaseStat>,
}

/// A whole comparison.
pub(super) struct Comparison<'a> {
    pub(super) tree: Tree<'a>,
    pub(super) contents: &'a Contents,
    pub(super) changed: &'a Changed,
    /// By path.
    pub(super) entries: BTreeMap<Path, Entry>,
    /// Names at which both sides came to the same but for the time: the base's stays.
    pub(super) settled: BTreeSet<Path>,
    /// Changed on the branch, and the same in the base now.
    pub(super) same: BTreeMap<Path, Entry>,
    /// Conflicts at which the branch has the object that the base had there.
    pub(super) at_home: BTreeSet<Path>,
    /// Paths at which the base's stays although the branch has something else; with what is below, or not.
    pub(super) kept: BTreeMap<Path, bool>,
}

impl<'a> Comparison<'a> {
    /// Compares a view with its base.
    pub(super) fn run(view: &'a View, contents: &'a Contents, changed: &'a Changed) -> FsResult<Self> {
        links::note(view, contents, changed)?;
        let tree = Tree::new(view, changed)?;
        let mut it = Self {
            tree,
            contents,
            changed,
            entries: BTreeMap::new(),
            settled: BTreeSet::new(),
            same: BTreeMap::new(),
            at_home: BTreeSet::new(),
            kept: BTreeMap::new(),
        };
        let mut paths = BTreeSet::new();
        for (dir, name) in &changed.names {
            if let Some(path) = it.tree.directory(*dir)? {
                paths.insert(join(&path, name));
            }
            if dir.is_base()
                && let Some(path) = it.tree.base_directory(*dir)?
            {
                paths.insert(join(&path, name));
            }
        }
        for &object in &changed.objects {
            let record = view.object(object)?.map(|v| v.value);
            if record.as_ref().is_some_and(|r| r.nlink == 0) {
                continue;
            }
            match it.tree.directory_or_root(object, record.map(|r| r.kind()))? {
                Some(path) => drop(paths.insert(path)),
                None => paths.extend(it.tree.places(object)?.into_iter().map(|(path, _)| path)),
            }
        }
        let mut seen = BTreeSet::new();
        let mut left: Vec<Path> = paths.into_iter().collect();
        while let Some(path) = left.pop() {
            if seen.insert(path.clone()) {
                it.compare(path, &mut left)?;
            }
        }
        Ok(it)
    }

    /// Leaves the base's at a path; `false` where the base's directory above goes, and where something of the base was
    /// moved to the path or below: it would stay nowhere.
    pub(super) fn keep(&mut self, path: &[u8]) -> bool {
        let goes = |entry: &Entry| matches!(entry.kind, ChangeKind::Deleted | ChangeKind::Retyped);
        if ancestors(path).any(|above| self.entries.get(above).is_some_and(goes)) {
            return false;
        }
        let within = |at: &[u8]| {
            path.is_empty() || at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let came = |entry: &Entry| {
            entry.branch.is_some_and(|o| o.is_base() && entry.base.as_ref().is_none_or(|stat| stat.object != o))
        };
        if self.entries.iter().any(|(at, entry)| within(at) && came(entry) && !self.at_home.contains(at)) {
            return false;
        }
        let both_directories = self.entries.get(path).is_none_or(|entry| {
            let base = entry.base.is_some_and(|stat| stat.kind == FileKind::Directory);
            base && entry.branch.is_some() && entry.object == FileKind::Directory
        });
        self.kept.insert(path.to_vec(), !both_directories);
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|path, _| !self.is_kept(path));
        self.entries = entries;
        true
    }

    /// Whether the base's stays at a path.
    pub(super) fn is_kept(&self, path: &[u8]) -> bool {
        self.kept.contains_key(path) || ancestors(path).any(|above| self.kept.get(above) == Some(&true))
    }

    /// Whether what the branch has at a path can still be read.
    pub(super) fn has_content(&self, path: &[u8]) -> FsResult<bool> {
        let Some(object) = self.entries.get(path).and_then(|entry| entry.branch) else { return Ok(true) };
        match self.branch_facts(object) {
            Ok(facts) => {
                Ok(!matches!(facts.data, Data::Base(_)) || self.entries.get(path).is_some_and(|e| e.base.is_some()))
            }
            Err(FsError::Stale | FsError::NotFound) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn branch_facts(&self, object: ObjectId) -> FsResult<Facts> {
        Facts::of_branch(self.tree.view, self.contents, object)
    }

    pub(super) fn base_facts(&self, stat: &BaseStat) -> FsResult<Facts> {
        Facts::of_base(self.tree.view.base.as_ref().ok_or(FsError::Damaged("no base"))?, stat)
    }

    /// In what they are the same.
    pub(super) fn same(&self, branch: &Facts, base: &Facts) -> FsResult<Same> {
        Ok(Same {
            attributes: branch.same_attributes(base),
            time: branch.same_time(base),
            content: same_content(self.contents, self.tree.view.base.as_ref(), branch, base)?,
        })
    }

    fn compare(&mut self, path: Path, left: &mut Vec<Path>) -> FsResult<()> {
        let pair = self.tree.pair(&path)?;
        let is_root = path.is_empty();
        let branch_dir = pair.branch.filter(|(_, k)| *k == FileKind::Directory).map(|(o, _)| o);
        let base_dir = pair.base.filter(|s| s.kind == FileKind::Directory).map(|s| s.object);
        let mut names = BTreeSet::new();
        // The same directory on both sides: what changed in it is looked at by itself.
        if branch_dir != base_dir && !is_root {
            if let Some(dir) = branch_dir {
                names.extend(self.tree.names(dir)?);
            }
            if let Some(dir) = base_dir {
                names.extend(self.tree.base_names(dir)?);
            }
        }
        left.extend(names.iter().map(|name| join(&path, name)));
        let mut entry = match (pair.branch, pair.base) {
            (None, None) => return Ok(()),
            (None, Some(stat)) => Entry {
                kind: ChangeKind::Deleted,
                object: stat.kind,
                metadata_only: false,
                time_only: false,
                size: stat.attr.size,
                branch: None,
                base: Some(stat),
            },
            (Some((object, kind)), base) => Entry {
                kind: if base.is_some() { ChangeKind::Retyped } else { ChangeKind::Added },
                object: kind,
                metadata_only: false,
                time_only: false,
                size: 0,
                branch: Some(object),
                base,
            },
        };
        if let Some(object) = entry.branch {
            match self.branch_facts(object) {
                Ok(facts) => {
                    entry.size = facts.size;
                    if let Some(stat) = &entry.base
                        && stat.kind == entry.object
                    {
                        let base = self.base_facts(stat)?;
                        let same = self.same(&facts, &base)?;
                        entry.kind = ChangeKind::Modified;
                        entry.metadata_only = same.content;
                        entry.time_only = same.but_for_time();
                        if same.whole() {
                            self.same.insert(path, entry);
                            return Ok(());
                        }
                    }
                }
                // A moved file whose content the base has lost: told as a conflict.
                Err(FsError::Stale) if object.is_base() => {}
                Err(e) => return Err(e),
            }
        }
        if is_root && entry.kind != ChangeKind::Modified {
            return Ok(());
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    /// How many paths differ, by kind. What moved with its directory is no change.
    pub(super) fn summary(&self) -> Diff {
        let mut diff = Diff::default();
        let mut gone: HashMap<ObjectId, Vec<&Path>> = HashMap::new();
        for (path, entry) in self.entries.iter().rev() {
            if let (ChangeKind::Deleted, Some(stat)) = (entry.kind, &entry.base) {
                gone.entry(stat.object).or_default().push(path);
            }
        }
        let mut moves: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        for (path, entry) in &self.entries {
            if let (ChangeKind::Added, Some(object)) = (entry.kind, entry.branch)
                && let Some(from) = gone.get_mut(&object).and_then(Vec::pop)
            {
                moves.insert(from, path);
            }
        }
        for (from, to) in &moves {
            let ((above, name), (new_above, new_name)) = (split(from), split(to));
            let carried = name == new_name && moves.get(above) == Some(&new_above);
            diff.renamed += u64::from(!carried);
        }
        for entry in self.entries.values() {
            *match entry.kind {
                ChangeKind::Added => &mut diff.added,
                ChangeKind::Modified => &mut diff.modified,
                ChangeKind::Deleted => &mut diff.deleted,
                ChangeKind::Retyped => &mut diff.retyped,
                ChangeKind::Renamed => &mut diff.renamed,
            } += 1;
        }
        diff.added -= moves.len() as u64;
        diff.deleted -= moves.len() as u64;
        diff
    }
}

/// The directories above a path, without the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').filter_map(|(at, _)| path.get(..at))
}

/// A path as answers have it.
pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".into() } else { escape(path) }
}

/// The kind of an object as answers have it.
pub(super) fn word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char",
        FileKind::BlockDevice => "block",
    }
}

impl Tree<'_> {
    /// The path of an object that is a directory; `None` for others and for what no path leads to.
    fn directory_or_root(&mut self, object: ObjectId, kind: Option<FileKind>) -> FsResult<Option<Path>> {
        let known = object == self.view.root || kind == Some(FileKind::Directory);
        if known { self.directory(object) } else { Ok(None) }
    }
}
