//! Further names of base files that a branch changed.
//!
//! A change of a file shows at each of its hard links, also at those that nobody has looked up. Where
//! the base has more links of a changed file than were seen, its directories are read for them.

use super::facts::Facts;
use super::paths::{Changed, present};
use crate::content::Contents;
use crate::core::base::Base;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::view::View;
use shm_transport::wire::FileKind;
use std::collections::{HashMap, HashSet};

/// Makes the base remember every name of the files that the view shows otherwise than the base.
pub(super) fn note(view: &View, contents: &Contents, changed: &Changed) -> FsResult<()> {
    note_of(view, changed, |object| shows_as_base(view, contents, object))
}

/// The same with files of which only names changed: whether one of them has another name left, its record does not say.
pub(super) fn note_all(view: &View, changed: &Changed) -> FsResult<()> {
    note_of(view, changed, |_| Ok(false))
}

fn note_of(view: &View, changed: &Changed, known: impl Fn(ObjectId) -> FsResult<bool>) -> FsResult<()> {
    let Some(base) = &view.base else { return Ok(()) };
    let mut unseen = HashMap::new();
    for &object in &changed.objects {
        let links = missing(view, object)?;
        if links > 0 && !known(object)? {
            unseen.insert(object, links);
        }
    }
    search(base, unseen)
}

/// How many names of a changed file the base has and nobody saw.
fn missing(view: &View, object: ObjectId) -> FsResult<u64> {
    let Some(base) = view.base_of(object) else { return Ok(0) };
    let Some(stat) = present(base.stat(object).map(Some))? else { return Ok(0) };
    if stat.kind == FileKind::Directory || stat.attr.nlink < 2 {
        return Ok(0);
    }
    if view.object(object)?.is_some_and(|v| v.value.nlink == 0) {
        return Ok(0);
    }
    let mut links = u64::from(stat.attr.nlink);
    for (dir, name) in base.locators(object) {
        let found = present(base.lookup(dir, &name))?;
        links = links.saturating_sub(u64::from(found.is_some_and(|s| s.object == object)));
    }
    Ok(links)
}

/// Only names of it changed, and these are known.
fn shows_as_base(view: &View, contents: &Contents, object: ObjectId) -> FsResult<bool> {
    let Some(base) = view.base_of(object) else { return Ok(true) };
    let Some(stat) = present(base.stat(object).map(Some))? else { return Ok(true) };
    let (here, there) = (Facts::of_branch(view, contents, object)?, Facts::of_base(base, &stat)?);
    Ok(here.same_attributes(&there) && here.same_time(&there) && here.data == there.data)
}

/// Reads directories until every link was found, or there is none left: links may lie outside the base.
fn search(base: &Base, mut unseen: HashMap<ObjectId, u64>) -> FsResult<()> {
    let mut read = HashSet::new();
    let mut left = vec![base.root()];
    while let Some(dir) = left.pop() {
        if unseen.is_empty() {
            break;
        }
        if !read.insert(dir) {
            continue;
        }
        let entries = match base.list(dir) {
            Ok(entries) => entries,
            // What cannot be listed here shows no names on the branch either.
            Err(FsError::Io { source, .. }) if matches!(source.raw_os_error(), Some(libc::EACCES | libc::ENOENT)) => {
                continue;
            }
            Err(e) => return Err(e),
        };
        let known: HashSet<_> = entries
            .iter()
            .filter(|e| unseen.contains_key(&e.object))
            .flat_map(|e| base.locators(e.object))
            .filter(|(parent, _)| *parent == dir)
            .map(|(_, name)| name)
            .collect();
        // Directories too, because objects are found by the names that lead to them.
        let noted = entries.iter().filter(|e| e.kind == FileKind::Directory || unseen.contains_key(&e.object));
        base.remember(dir, noted.map(|e| (e.name.as_slice(), e.object)))?;
        for entry in entries {
            if entry.kind == FileKind::Directory {
                left.push(entry.object);
            } else if !known.contains(&entry.name)
                && let Some(links) = unseen.get_mut(&entry.object)
            {
                *links -= 1;
                if *links == 0 {
                    unseen.remove(&entry.object);
                }
            }
        }
    }
    Ok(())
}
