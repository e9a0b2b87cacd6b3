//! Changed paths: what a branch has at a path against what its base has there now.

use super::Branches;
use super::facts::{Facts, Same, same_content};
use super::info::fail_branch;
use super::links;
use super::paths::{Changed, Path, Tree, join};
use crate::content::Contents;
use crate::core::base::BaseStat;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::view::View;
use shm_transport::control::{Change, ChangeKind, Diff, Failure, LINE_MAX, escape::escape};
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};

/// Room for the changes in one answer line, in bytes.
const ANSWER_MAX: usize = LINE_MAX / 10 * 9;
/// A branch in use may change under a comparison, which then begins again.
const TRIES: usize = 4;

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
}

impl<'a> Comparison<'a> {
    /// Compares a view with its base.
    pub(super) fn run(view: &'a View, contents: &'a Contents, changed: &'a Changed) -> FsResult<Self> {
        links::note(view, contents, changed)?;
        let tree = Tree::new(view, changed)?;
        let mut it = Self { tree, contents, changed, entries: BTreeMap::new(), settled: BTreeSet::new() };
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
                        if same.whole() {
                            return Ok(());
                        }
                        entry.kind = ChangeKind::Modified;
                        entry.metadata_only = same.content;
                        entry.time_only = same.but_for_time();
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

    /// Counts, and the changes from `skip` on, at most `limit` and at most a line's worth.
    pub(super) fn answer(&self, limit: u64, skip: u64) -> Diff {
        let mut diff = Diff::default();
        let mut room = ANSWER_MAX;
        let mut full = false;
        for (n, (path, entry)) in self.entries.iter().enumerate() {
            *match entry.kind {
                ChangeKind::Added => &mut diff.added,
                ChangeKind::Modified => &mut diff.modified,
                ChangeKind::Deleted => &mut diff.deleted,
                ChangeKind::Retyped => &mut diff.retyped,
            } += 1;
            if full || (n as u64) < skip || diff.changes.len() as u64 >= limit {
                continue;
            }
            let change = Change {
                path: shown(path),
                kind: entry.kind,
                object: word(entry.object).into(),
                metadata_only: entry.metadata_only,
                size: entry.size,
            };
            let length = serde_json::to_string(&change).map_or(ANSWER_MAX, |text| text.len() + 1);
            full = length > room;
            if !full {
                room -= length;
                diff.changes.push(change);
            }
        }
        diff
    }
}

/// A path as answers have it.
pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".into() } else { escape(path) }
}

fn word(kind: FileKind) -> &'static str {
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

impl Branches {
    pub(super) fn diff(&self, name: &str, limit: u32, skip: u64) -> Result<Diff, Failure> {
        let branch = self.loaded(self.find(name)?)?;
        let mut last = FsError::Stale;
        for _ in 0..TRIES {
            // Not held: a comparison takes long, and freezing must not wait for it.
            let view = branch.view().clone();
            let run = || {
                let changed = Changed::of(&view)?;
                Ok(Comparison::run(&view, &self.core.contents, &changed)?.answer(limit.into(), skip))
            };
            match run() {
                Ok(diff) => return Ok(diff),
                Err(e @ (FsError::Damaged(_) | FsError::Store(_))) => return Err(fail_branch(name, e)),
                Err(e) => last = e,
            }
        }
        Err(fail_branch(name, last))
    }
}
