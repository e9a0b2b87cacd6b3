//! What one branch changed since its fork point, taken over what its parent has now.
//!
//! Three states of one tree are compared: the *fork* point, *ours* (the branch) and *theirs* (the parent). Names are
//! judged by directory and objects by number, so that what moved keeps what the other side did to it. The result is
//! told as what differs from theirs.
//!
//! ```text
//! judge    names and objects, one by one
//! checks   what only the whole result shows: loops, directories that go and are needed
//! result   the result as records of one epoch
//! command  refresh, and the commit into a parent
//! undo     the way back to an earlier state
//! ```

mod checks;
mod command;
mod judge;
mod result;
mod undo;

pub(super) use command::{Request, preferences};
pub(super) use undo::Undo;

use super::between::{changed_between, facts, kind_of};
use super::facts::same_content;
use super::links;
use super::paths::{Changed, Name, Path, Tree, join};
use crate::content::Contents;
use crate::core::error::FsResult;
use crate::core::ids::ObjectId;
use crate::core::view::View;
use shm_transport::control::Side;
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const BOTH_MODIFIED: &str = "both modified";
const BOTH_ADDED: &str = "both added";
const BOTH_MOVED: &str = "both moved";
const DELETED_THERE: &str = "modified here, deleted in the parent";
const DELETED_HERE: &str = "deleted here, modified in the parent";
const ADDED_THERE: &str = "deleted here, added in the parent";
const DIRECTORY_GONE: &str = "added here, its directory deleted in the parent";
const LOOP: &str = "moved into each other";
const OTHER_NAMES: &str = "changed, and each side removed the name that the other kept";
const MOVED: &str = "moved, and its new place is the other side's";

/// Where a name leads.
type Entry = Option<(ObjectId, FileKind)>;

/// Which side wins where both changed something: the longest path that leads to it decides.
#[derive(Debug, Default)]
pub(super) struct Preferences(pub(super) Vec<(Path, Side)>);

impl Preferences {
    pub(super) fn of(&self, path: &[u8]) -> Option<Side> {
        let leads = |to: &[u8]| {
            to.is_empty() || path.strip_prefix(to).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.0.iter().filter(|(to, _)| leads(to)).max_by_key(|(to, _)| to.len()).map(|(_, side)| *side)
    }
}

/// A merge.
pub(super) struct Merge<'a> {
    fork: Tree<'a>,
    ours: Tree<'a>,
    theirs: Tree<'a>,
    contents: &'a Contents,
    preferences: &'a Preferences,
    /// Names that lead elsewhere than theirs do.
    names: BTreeMap<Name, Entry>,
    /// Objects of the result that get attributes and content of one of ours, mostly of the same number.
    taken: BTreeMap<ObjectId, ObjectId>,
    pub(super) conflicts: BTreeMap<Path, &'static str>,
    /// Where both came to the same; theirs stays.
    pub(super) settled: BTreeSet<Path>,
    targets: HashMap<ObjectId, Option<ObjectId>>,
}

impl<'a> Merge<'a> {
    /// Compares.
    pub(super) fn run(
        (fork, ours, theirs): (&'a View, &'a View, &'a View),
        contents: &'a Contents,
        preferences: &'a Preferences,
    ) -> FsResult<Self> {
        let mut it = Self::between((fork, ours, theirs), contents, preferences)?;
        it.judge_all(changed_between(fork, ours)?)?;
        it.check()?;
        it.take_new()?;
        Ok(it)
    }

    /// Nothing judged yet.
    fn between(
        (fork, ours, theirs): (&'a View, &'a View, &'a View),
        contents: &'a Contents,
        preferences: &'a Preferences,
    ) -> FsResult<Self> {
        let mine = changed_between(fork, ours)?;
        let mut all = changed_between(fork, theirs)?;
        all.names.extend(mine.names);
        all.objects.extend(mine.objects);
        for view in [fork, ours, theirs] {
            if !view.chain.is_empty() {
                links::note_all(view, &all)?;
            }
        }
        Ok(Self {
            fork: Tree::new(fork, &all)?,
            ours: Tree::new(ours, &all)?,
            theirs: Tree::new(theirs, &all)?,
            contents,
            preferences,
            names: BTreeMap::new(),
            taken: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            settled: BTreeSet::new(),
            targets: HashMap::new(),
        })
    }

    /// Whether theirs stays as it is.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.taken.is_empty()
    }

    fn judge_all(&mut self, mine: Changed) -> FsResult<()> {
        let mut names = mine.names;
        let mut edited = Vec::new();
        for object in mine.objects {
            let Some(kind) = kind_of(&self.ours, object)? else { continue };
            if !is_there(&mut self.ours, object, kind)? {
                continue;
            }
            if !is_there(&mut self.fork, object, kind)? {
                self.judge_added(object, kind)?;
            } else if !alike(self.contents, (&self.fork, object), (&self.ours, object), true)? {
                edited.push((object, kind));
                if kind != FileKind::Directory {
                    names.extend(self.ours.places(object)?.into_iter().map(|(_, place)| place));
                }
            }
        }
        // Several directories of ours and of the fork can be one of theirs.
        let mut places: BTreeMap<Name, Vec<ObjectId>> = BTreeMap::new();
        for (dir, name) in names {
            match self.target(dir)? {
                Some(target) => places.entry((target, name)).or_default().push(dir),
                None => self.judge_placeless(dir, &name)?,
            }
        }
        for (place, dirs) in places {
            self.judge_place(&place, &dirs)?;
        }
        for (object, kind) in edited {
            self.judge_object(object, kind)?;
        }
        Ok(())
    }

    /// A conflict, unless somebody said who wins; then that side.
    fn conflict(&mut self, path: &[u8], reason: &'static str) -> Option<Side> {
        let side = self.preferences.of(path);
        if side.is_none() {
            self.conflicts.insert(path.to_vec(), reason);
        }
        side
    }

    /// The directory of theirs that holds what ours has in `dir`; `None` where theirs has none any more. A directory
    /// that theirs lacks is its own if ours made it, or moved it: then it stays where ours has it.
    fn target(&mut self, dir: ObjectId) -> FsResult<Option<ObjectId>> {
        if let Some(known) = self.targets.get(&dir) {
            return Ok(*known);
        }
        let in_fork = self.fork.directory(dir)?.is_some();
        let found = if self.theirs.directory(dir)?.is_some() {
            Some(dir)
        } else {
            let above = if in_fork { self.fork.branch_parent(dir)? } else { self.ours.branch_parent(dir)? };
            let there = match above {
                Some((above, name)) => match self.target(above)? {
                    Some(above) => self.theirs.child(above, &name)?,
                    None => None,
                },
                None => None,
            };
            match there {
                // Another directory in its place, which was not there before.
                Some((object, FileKind::Directory)) if self.fork.directory(object)?.is_none() => Some(object),
                _ => (!in_fork || self.is_moved(dir)?).then_some(dir),
            }
        };
        self.targets.insert(dir, found);
        Ok(found)
    }

    /// Whether ours has a directory of the fork at another place.
    fn is_moved(&mut self, dir: ObjectId) -> FsResult<bool> {
        Ok(self.ours.directory(dir)?.is_some() && self.ours.branch_parent(dir)? != self.fork.branch_parent(dir)?)
    }

    /// What ours placed, and is new to theirs, comes with all that it is.
    fn take_new(&mut self) -> FsResult<()> {
        for (object, kind) in self.names.values().flatten().copied().collect::<Vec<_>>() {
            if !self.taken.contains_key(&object) && !is_there(&mut self.theirs, object, kind)? {
                self.taken.insert(object, object);
            }
        }
        Ok(())
    }

    /// A path for people: ours, or the fork's.
    fn path_of(&mut self, dir: ObjectId, name: &[u8]) -> FsResult<Path> {
        for tree in [&mut self.ours, &mut self.fork, &mut self.theirs] {
            if let Some(above) = tree.directory(dir)? {
                return Ok(join(&above, name));
            }
        }
        Ok(name.to_vec())
    }
}

/// Whether a path leads to an object.
pub(super) fn is_there(tree: &mut Tree<'_>, object: ObjectId, kind: FileKind) -> FsResult<bool> {
    if object == tree.view.root {
        return Ok(true);
    }
    if kind == FileKind::Directory {
        return Ok(tree.directory(object)?.is_some());
    }
    if tree.view.object(object)?.is_some_and(|v| v.value.nlink == 0) {
        return Ok(false);
    }
    Ok(!tree.places(object)?.is_empty())
}

/// The paths of an object.
fn paths_in(tree: &mut Tree<'_>, object: ObjectId, kind: FileKind) -> FsResult<Vec<Path>> {
    Ok(if kind == FileKind::Directory {
        tree.directory(object)?.into_iter().collect()
    } else {
        tree.places(object)?.into_iter().map(|(path, _)| path).collect()
    })
}

/// Whether two objects are the same in kind, content and attributes, and in time if that counts.
fn alike(contents: &Contents, a: (&Tree<'_>, ObjectId), b: (&Tree<'_>, ObjectId), time: bool) -> FsResult<bool> {
    let (Some(x), Some(y)) = (facts(a.0, contents, a.1)?, facts(b.0, contents, b.1)?) else { return Ok(false) };
    Ok(x.kind == y.kind
        && x.same_attributes(&y)
        && (!time || x.same_time(&y))
        && same_content(contents, a.0.view.base.as_ref(), &x, &y)?)
}
