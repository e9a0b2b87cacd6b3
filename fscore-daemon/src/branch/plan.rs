//! The steps that make a base what the branch shows.
//!
//! Steps go by path, so that a directory is in place before what is in it: removals, moves of base
//! objects and new objects; then further names; then attributes of what is kept.

use super::diff::{Comparison, shown};
use super::facts::{Data, Facts};
use super::paths::{Name, Path, join};
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::view::View;
use shm_transport::control::escape::escape;
use shm_transport::control::{PlanBody, PlanObject, PlanStep};
use shm_transport::wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Plan {
    /// By path: what is done there.
    places: BTreeMap<Path, PlanStep>,
    links: BTreeMap<Path, PlanStep>,
    attributes: BTreeMap<Path, PlanStep>,
    /// Names of the base whose objects are moved away.
    moved: BTreeSet<Name>,
}

/// The steps, in order.
pub(super) fn steps(comparison: &mut Comparison<'_>) -> FsResult<Vec<PlanStep>> {
    let mut plan = Plan::default();
    let mut removals = Vec::new();
    // Objects at names where the base's directory does not have them.
    let mut placed: BTreeMap<ObjectId, Vec<Path>> = BTreeMap::new();
    for (dir, name) in &comparison.changed.names {
        let Some(above) = comparison.tree.directory(*dir)? else { continue };
        let path = join(&above, name);
        let was = comparison.tree.base_child(*dir, name)?;
        match (comparison.tree.child(*dir, name)?, was) {
            (None, None) => {}
            (None, Some(_)) => removals.push((path, (*dir, name.clone()))),
            (Some((object, _)), Some(stat)) if stat.object == object => {}
            (Some((object, kind)), was) => {
                // Both sides came to the same file.
                let same = match was {
                    Some(stat) if stat.kind == kind && kind != FileKind::Directory => {
                        let facts = comparison.branch_facts(object)?;
                        comparison.same(&facts, &comparison.base_facts(&stat)?)? == (true, true)
                    }
                    _ => false,
                };
                if !same {
                    placed.entry(object).or_default().push(path);
                }
            }
        }
    }
    let objects: BTreeSet<_> = placed.keys().chain(&comparison.changed.objects).copied().collect();
    for object in objects {
        let mut paths = placed.remove(&object).unwrap_or_default();
        paths.sort();
        one(comparison, &mut plan, object, paths)?;
    }
    for (path, name) in removals {
        if !plan.moved.contains(&name) {
            plan.places.insert(path.clone(), PlanStep::Remove { path: shown(&path) });
        }
    }
    Ok(plan.places.into_values().chain(plan.links.into_values()).chain(plan.attributes.into_values()).collect())
}

/// Plans one object; `placed` are its names that the base must be given.
fn one(comparison: &mut Comparison<'_>, plan: &mut Plan, object: ObjectId, placed: Vec<Path>) -> FsResult<()> {
    let view = comparison.tree.view;
    let in_place = in_place(comparison, object)?;
    if in_place.is_empty() && placed.is_empty() {
        return Ok(());
    }
    let facts = comparison.branch_facts(object)?;
    let base = match view.base_of(object) {
        Some(base) => match base.stat(object) {
            Ok(stat) => Some(comparison.base_facts(&stat)?),
            Err(FsError::Stale | FsError::NotFound) => None,
            Err(e) => return Err(e),
        },
        None => None,
    };
    let compared = base.map(|b| comparison.same(&facts, &b)).transpose()?;
    let mut others;
    let first = match compared {
        // The base's own object goes on, perhaps elsewhere.
        Some((same_attributes, true)) => {
            others = placed;
            let first = match in_place.first() {
                Some(first) => first.clone(),
                None => {
                    let (from, name) = source(comparison, object)?;
                    let first = others.remove(0);
                    let step = PlanStep::Move { from: escape(&from), path: escape(&first) };
                    plan.places.insert(first.clone(), step);
                    plan.moved.insert(name);
                    first
                }
            };
            if !same_attributes {
                plan.attributes.insert(first.clone(), PlanStep::Attributes { path: shown(&first), meta: facts.meta() });
            }
            first
        }
        Some((_, false)) | None => {
            others = in_place;
            others.extend(placed);
            others.sort();
            let first = others.remove(0);
            let made = PlanObject { meta: facts.meta(), body: body(comparison, &facts)? };
            plan.places.insert(first.clone(), PlanStep::Make { path: escape(&first), object: made });
            first
        }
    };
    for path in others {
        let step = PlanStep::Link { target: escape(&first), path: escape(&path) };
        plan.links.insert(path, step);
    }
    Ok(())
}

/// Names of a base object that it has on the branch as in the base.
fn in_place(comparison: &mut Comparison<'_>, object: ObjectId) -> FsResult<Vec<Path>> {
    if object == comparison.tree.view.root {
        return Ok(vec![Vec::new()]);
    }
    let mut paths = Vec::new();
    for (path, (dir, name)) in comparison.tree.places(object)? {
        if comparison.tree.base_child(dir, &name)?.is_some_and(|s| s.object == object) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Where the base has an object.
fn source(comparison: &mut Comparison<'_>, object: ObjectId) -> FsResult<(Path, Name)> {
    for (dir, name) in comparison.tree.locators(object) {
        if comparison.tree.base_child(dir, &name)?.is_some_and(|s| s.object == object)
            && let Some(above) = comparison.tree.base_directory(dir)?
        {
            return Ok((join(&above, &name), (dir, name)));
        }
    }
    Err(FsError::Stale)
}

fn body(comparison: &Comparison<'_>, facts: &Facts) -> FsResult<PlanBody> {
    Ok(match &facts.data {
        Data::Directory => PlanBody::Directory,
        Data::Content(id) => PlanBody::File { content: Some(comparison.contents.path(*id)), size: facts.size },
        Data::Hole => PlanBody::File { content: None, size: facts.size },
        // The base's own bytes are moved, never made; that they seem to differ from themselves means that
        // they changed between two looks.
        Data::Base(_) => return Err(FsError::Stale),
        Data::Symlink(target) => PlanBody::Symlink { target: escape(target) },
        Data::Special(rdev) => PlanBody::Special { rdev: *rdev },
    })
}

/// Which of the objects are the base's: a commit may have replaced them there.
pub(super) fn base_objects(view: &View, objects: &BTreeSet<ObjectId>) -> Vec<ObjectId> {
    objects.iter().copied().filter(|o| view.base_of(*o).is_some()).collect()
}
