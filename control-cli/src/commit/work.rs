//! What a commit works with: the base, the staging directory, and the steps in the order in which
//! their parts are done.

use super::expect;
use super::path::RelPath;
use super::plan::{Body, Meta, Plan, Step};
use super::tree::{self, Tree};
use crate::error::{CliError, Kind, Result};
use rustix::ffi::{CStr, CString};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Marks in the staging directory. All are made and removed by operations on that directory alone, which
/// file systems keep in order among the renames, so that after any crash they tell the truth.
pub(super) mod mark {
    use std::ffi::CStr;

    /// Every moved object was taken out of the base.
    pub(in crate::commit) const TAKEN: &CStr = c"moves-taken";
    /// Every step but attributes was done.
    pub(in crate::commit) const PLACED: &CStr = c"all-placed";
    /// The attributes that objects had were saved, and may be changed.
    pub(in crate::commit) const SAVED: &CStr = c"attributes-saved";
}

/// What attributes are meant for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// The object of that inode number.
    Object(u64),
    /// A directory that this commit made.
    NewDirectory,
}

/// Where a moved object is found.
#[derive(Debug)]
pub(super) enum Source {
    /// In the base.
    Base(RelPath),
    /// In what an early removal, the step of that number, took away.
    Removed(usize, RelPath),
}

/// A commit being done.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) base: Tree,
    pub(super) staging: Tree,
    pub(super) plan: Plan,
    /// Removals inside a directory that a later step moves away: they go first.
    pub(super) early: Vec<usize>,
    /// Moves in the order in which they are taken out: what lies deepest goes first.
    pub(super) moves: Vec<(usize, Source)>,
}

impl Work {
    /// Orders the steps.
    pub(super) fn new(base: Tree, staging: Tree, plan: Plan) -> Self {
        let early = early(&plan.steps);
        let mut moves: Vec<(usize, &RelPath)> = plan
            .steps
            .iter()
            .enumerate()
            .filter_map(|(n, step)| match step {
                Step::Move { from, .. } => Some((n, from)),
                Step::Remove { .. } | Step::Make { .. } | Step::Link { .. } | Step::Attributes { .. } => None,
            })
            .collect();
        moves.sort_by_key(|(_, from)| std::cmp::Reverse(from.depth()));
        let removed: HashMap<&RelPath, usize> =
            early.iter().filter_map(|n| Some((plan.steps.get(*n)?.path(), *n))).collect();
        let find = |from: &RelPath| {
            let around = from.above().filter_map(|(path, rest)| Some((*removed.get(&path)?, rest)));
            // The outermost goes with what is in it.
            around.last().map_or_else(|| Source::Base(from.clone()), |(n, rest)| Source::Removed(n, rest))
        };
        let moves = moves.into_iter().map(|(n, from)| (n, find(from))).collect();
        Self { base, staging, plan, early, moves }
    }

    /// The staging directory.
    pub(super) fn stage(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    /// Whether a name exists in the staging directory.
    pub(super) fn staged(&self, name: &CStr) -> io::Result<bool> {
        tree::exists(self.stage(), name)
    }

    /// Sets a mark.
    pub(super) fn mark(&self, name: &CStr) -> io::Result<()> {
        match rustix::fs::mkdirat(self.stage(), name, rustix::fs::Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes a mark away.
    pub(super) fn unmark(&self, name: &CStr) -> io::Result<()> {
        match rustix::fs::unlinkat(self.stage(), name, rustix::fs::AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The directory and the name of a move's source.
    pub(super) fn source(&self, source: &Source) -> io::Result<(std::os::fd::OwnedFd, CString)> {
        match source {
            Source::Base(path) => self.base.parent(path),
            Source::Removed(n, rest) => {
                let old = RelPath::root();
                let top = self.staging.find(&old)?;
                let dir = rustix::fs::openat(
                    top,
                    old_name(*n),
                    rustix::fs::OFlags::PATH
                        | rustix::fs::OFlags::DIRECTORY
                        | rustix::fs::OFlags::NOFOLLOW
                        | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )?;
                Tree::new(dir).parent(rest)
            }
        }
    }

    /// Every object whose attributes are set when all is in place, what lies deepest first, so that a
    /// directory that becomes inaccessible does not hide what is in it: changed objects and new
    /// directories.
    pub(super) fn attributes(&self) -> Vec<(&RelPath, &Meta, Wanted)> {
        let mut list: Vec<_> = self
            .plan
            .steps
            .iter()
            .enumerate()
            .filter_map(|(n, step)| match step {
                Step::Attributes { path, meta } => {
                    Some((path, meta, Wanted::Object(self.plan.expected(n).was.map_or(0, |was| was.ino))))
                }
                Step::Make { path, meta, body: Body::Directory } => Some((path, meta, Wanted::NewDirectory)),
                Step::Make { .. } | Step::Remove { .. } | Step::Move { .. } | Step::Link { .. } => None,
            })
            .collect();
        list.sort_by_key(|(path, ..)| std::cmp::Reverse(path.depth()));
        list
    }
}

fn early(steps: &[Step]) -> Vec<usize> {
    // The last move from a place, and the first to it.
    let (mut from, mut to) = (HashMap::new(), HashMap::new());
    for (n, step) in steps.iter().enumerate() {
        if let Step::Move { from: source, path, .. } = step {
            from.insert(source, n);
            to.entry(path).or_insert(n);
        }
    }
    let mut early = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        let Step::Remove { path } = step else { continue };
        let around = |moves: &HashMap<&RelPath, usize>, fits: &dyn Fn(usize) -> bool| {
            !moves.is_empty() && path.above().any(|(dir, _)| moves.get(&dir).is_some_and(|m| fits(*m)))
        };
        if around(&from, &|m| m > n) && !around(&to, &|m| m < n) {
            early.push(n);
        }
    }
    early
}

/// Staging name of what a step puts into place.
pub(super) fn new_name(n: usize) -> CString {
    name("new", n)
}

/// Staging name of what a step took away.
pub(super) fn old_name(n: usize) -> CString {
    name("old", n)
}

/// Staging name of the mark that a removal found nothing.
pub(super) fn absent_name(n: usize) -> CString {
    name("absent", n)
}

fn name(what: &str, n: usize) -> CString {
    CString::new(format!("{what}-{n}")).unwrap_or_default()
}

/// Says at which path the operating system refused.
pub(super) trait At<T> {
    /// `verb` reads on from "cannot".
    fn at(self, verb: &str, path: &RelPath) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, verb: &str, path: &RelPath) -> Result<T> {
        self.map_err(|error| {
            if expect::is_changed(&error) {
                return CliError::new(
                    Kind::Conflict,
                    format!("{path} changed in the base while the commit ran: {error}"),
                )
                .hint("run the commit again: it tells what is in conflict, and applies what is not");
            }
            let failure = CliError::new(crate::error::kind_of(&error), format!("cannot {verb} {path}: {error}"));
            match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR | rustix::io::Errno::NOENT) => {
                    failure.hint("the base changed while the commit ran; run it again")
                }
                Some(rustix::io::Errno::XDEV) => {
                    failure.hint("another file system is mounted in the base there; unmount it first")
                }
                Some(rustix::io::Errno::BUSY) => {
                    failure.hint("something is mounted there, or it is in use; unmount it, then commit again")
                }
                _ if error.kind() == io::ErrorKind::PermissionDenied => failure.hint(
                    "make it and its directory writable for you (`lsattr -d` shows whether it is immutable), or commit as their owner or root",
                ),
                _ if failure.kind == Kind::NoSpace => failure.hint("free some space in the base's file system"),
                _ => failure,
            }
        })
    }
}
