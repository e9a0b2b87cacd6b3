//! The steps that make a base what the branch shows.
//!
//! Steps go by path, so that a directory is in place before what is in it: removals, moves of base
//! objects and new objects; then further names; then attributes of what is kept.

use super::diff::{Comparison, shown};
use super::facts::{Data, Facts};
use super::paths::{Name, Path, join};
use crate::core::base::BaseStat;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::view::View;
use shm_transport::control::escape::escape;
use shm_transport::control::{PlanBody, PlanObject, PlanStep, PlanWas};
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
    /// Directories of the base that are taken away with what is in them.
    taken: BTreeMap<Name, ObjectId>,
}

/// A place of an object, and what the base has there.
#[derive(Clone)]
struct Place {
    path: Path,
    name: Name,
    was: Option<BaseStat>,
}

/// The steps, in order.
pub(super) fn steps(comparison: &mut Comparison<'_>) -> FsResult<Vec<PlanStep>> {
    let mut plan = Plan::default();
    let mut removals = Vec::new();
    // Objects at names where the base's directory does not have them.
    let mut placed: BTreeMap<ObjectId, Vec<Place>> = BTreeMap::new();
    for (dir, name) in &comparison.changed.names {
        let Some(above) = comparison.tree.directory(*dir)? else { continue };
        let place = Place {
            path: join(&above, name),
            name: (*dir, name.clone()),
            was: comparison.tree.base_child(*dir, name)?,
        };
        if comparison.is_kept(&place.path) {
            continue;
        }
        match (comparison.tree.child(*dir, name)?, &place.was) {
            (None, None) => {}
            (None, Some(_)) => removals.push(place),
            (Some((object, _)), Some(stat)) if stat.object == object => {}
            (Some((object, kind)), _) => {
                if !is_done_there(comparison, &mut plan, object, kind, &place)? {
                    placed.entry(object).or_default().push(place);
                }
            }
        }
    }
    let objects: BTreeSet<_> = placed.keys().chain(&comparison.changed.objects).copied().collect();
    for object in objects {
        let mut places = placed.remove(&object).unwrap_or_default();
        places.sort_by(|a, b| a.path.cmp(&b.path));
        one(comparison, &mut plan, object, places)?;
    }
    for place in removals {
        if !plan.moved.contains(&place.name) {
            let step = PlanStep::Remove { path: shown(&place.path), was: plan.takes(&place) };
            plan.places.insert(place.path, step);
        }
    }
    let inside = plan.inside(comparison);
    let steps = plan.places.into_values().chain(plan.links.into_values()).chain(plan.attributes.into_values());
    Ok(steps.chain(inside).collect())
}

impl Plan {
    /// Notes that what the base has at a place is taken away.
    fn takes(&mut self, place: &Place) -> Option<PlanWas> {
        if let Some(stat) = place.was.filter(|s| s.kind == FileKind::Directory) {
            self.taken.insert(place.name.clone(), stat.object);
        }
        place.was.as_ref().map(was)
    }

    /// What was seen in the directories that are taken away.
    fn inside(&self, comparison: &Comparison<'_>) -> Vec<PlanStep> {
        let mut inside = Vec::new();
        let gone = self.taken.iter().filter(|(name, _)| !self.moved.contains(name));
        let mut left: Vec<_> = gone.map(|(_, dir)| *dir).collect();
        let mut done = BTreeSet::new();
        while let Some(dir) = left.pop() {
            if !done.insert(dir) {
                continue;
            }
            for stat in comparison.tree.seen_in(dir) {
                if stat.kind == FileKind::Directory {
                    left.push(stat.object);
                }
                inside.push(PlanStep::Inside { was: was(&stat) });
            }
        }
        inside
    }
}

fn was(stat: &BaseStat) -> PlanWas {
    let a = &stat.attr;
    let mtime = (a.mtime.sec, a.mtime.nsec);
    PlanWas { ino: stat.host_ino, mode: a.mode, uid: a.uid, gid: a.gid, size: a.size, mtime }
}

/// Whether the base has at a place what the branch has there, so that no other object is put there; that only
/// the time differs is planned here. Not where the branch has the base's object elsewhere (`mv f f~; cp -p f~ f`).
fn is_done_there(
    comparison: &mut Comparison<'_>,
    plan: &mut Plan,
    object: ObjectId,
    kind: FileKind,
    place: &Place,
) -> FsResult<bool> {
    let Some(stat) = place.was.filter(|s| s.kind == kind && kind != FileKind::Directory) else { return Ok(false) };
    if !comparison.tree.places(stat.object)?.is_empty() {
        return Ok(false);
    }
    let facts = comparison.branch_facts(object)?;
    let same = comparison.same(&facts, &comparison.base_facts(&stat)?)?;
    if same.whole() {
        return Ok(true);
    }
    if !same.but_for_time() {
        return Ok(false);
    }
    if comparison.settled.contains(&place.path) {
        return Ok(true);
    }
    // Not where another name would get the time, or would be separated.
    let names = comparison.tree.view.object(object)?.map_or(1, |v| v.value.nlink);
    if (names, stat.attr.nlink) != (1, 1) {
        return Ok(false);
    }
    let step = PlanStep::Attributes { path: shown(&place.path), meta: facts.meta(), was: Some(was(&stat)) };
    plan.attributes.insert(place.path.clone(), step);
    Ok(true)
}

/// Plans one object; `placed` are its names that the base must be given.
fn one(comparison: &mut Comparison<'_>, plan: &mut Plan, object: ObjectId, placed: Vec<Place>) -> FsResult<()> {
    let mut in_place = in_place(comparison, object)?;
    in_place.retain(|place| !comparison.is_kept(&place.path));
    if in_place.is_empty() && placed.is_empty() {
        return Ok(());
    }
    let facts = comparison.branch_facts(object)?;
    let kept = in_place.first().map(|place| (place.path.clone(), place.name.clone(), place.was));
    let kept = match kept {
        Some((path, name, Some(stat))) => Some((path, name, stat)),
        Some((.., None)) | None => source(comparison, object)?,
    };
    let same = match &kept {
        Some((.., stat)) => Some(comparison.same(&facts, &comparison.base_facts(stat)?)?),
        None => None,
    };
    let mut others;
    let first = match (same, kept) {
        // The base's own object goes on, perhaps elsewhere.
        (Some(same), Some((from, name, stat))) if same.content => {
            others = placed;
            let first = match in_place.first() {
                Some(first) => first.path.clone(),
                None => {
                    let first = others.remove(0);
                    let (moved, was) = (Some(was(&stat)), plan.takes(&first));
                    let step = PlanStep::Move { from: escape(&from), path: escape(&first.path), moved, was };
                    plan.places.insert(first.path.clone(), step);
                    plan.moved.insert(name);
                    first.path
                }
            };
            let settled = in_place.iter().any(|place| comparison.settled.contains(&place.path));
            if !(same.attributes && (same.time || settled)) {
                let step = PlanStep::Attributes { path: shown(&first), meta: facts.meta(), was: Some(was(&stat)) };
                plan.attributes.insert(first.clone(), step);
            }
            first
        }
        _ => {
            others = in_place;
            others.extend(placed);
            others.sort_by(|a, b| a.path.cmp(&b.path));
            let first = others.remove(0);
            let object = PlanObject { meta: facts.meta(), body: body(comparison, &facts)? };
            let step = PlanStep::Make { path: escape(&first.path), object, was: plan.takes(&first) };
            plan.places.insert(first.path.clone(), step);
            first.path
        }
    };
    for other in others {
        let step = PlanStep::Link { target: escape(&first), path: escape(&other.path), was: plan.takes(&other) };
        plan.links.insert(other.path, step);
    }
    Ok(())
}

/// Names of a base object that it has on the branch as in the base.
fn in_place(comparison: &mut Comparison<'_>, object: ObjectId) -> FsResult<Vec<Place>> {
    let view = comparison.tree.view;
    if object == view.root {
        let was = view.base.as_ref().map(|b| b.stat(object)).transpose()?;
        return Ok(vec![Place { path: Vec::new(), name: (object, Vec::new()), was }]);
    }
    let mut places = Vec::new();
    for (path, (dir, name)) in comparison.tree.places(object)? {
        let was = comparison.tree.base_child(dir, &name)?;
        if was.is_some_and(|s| s.object == object) {
            places.push(Place { path, name: (dir, name), was });
        }
    }
    Ok(places)
}

/// Where the base has an object: path, name and what it is; `None` where the base has it no more.
fn source(comparison: &mut Comparison<'_>, object: ObjectId) -> FsResult<Option<(Path, Name, BaseStat)>> {
    for (dir, name) in comparison.tree.locators(object) {
        if let Some(stat) = comparison.tree.base_child(dir, &name)?.filter(|s| s.object == object)
            && let Some(above) = comparison.tree.base_directory(dir)?
        {
            return Ok(Some((join(&above, &name), (dir, name), stat)));
        }
    }
    Ok(None)
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
