//! Whether a diff tells what differs between two trees, nothing less and nothing more: what it says is done to the
//! old one, and must make the new one of it.

use super::tree::{Id, Tree};
use shm_transport::control::{Change, ChangeKind};
use std::collections::{BTreeMap, BTreeSet};

/// Why the changes are not the difference.
pub(super) fn check(old: &Tree, new: &Tree, changes: &[Change]) -> Result<(), String> {
    let (before, after) = (old.paths(), new.paths());
    // What is deleted has its old path, which something else may have now.
    let mut by_path: BTreeMap<&str, &Change> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for change in changes {
        let twice = match change.kind {
            ChangeKind::Deleted => !gone.insert(&change.path),
            _ => by_path.insert(&change.path, change).is_some(),
        };
        if twice {
            return Err(format!("{} is listed twice", change.path));
        }
    }
    let of = |kind: ChangeKind| changes.iter().filter(move |change| change.kind == kind);
    let mut moves: BTreeMap<&str, &str> = BTreeMap::new();
    for change in of(ChangeKind::Renamed) {
        let from = change.from.as_deref().ok_or("a move from nowhere")?;
        if before.get(from) != after.get(&change.path) || !before.contains_key(from) {
            return Err(format!("{from} did not move to {}", change.path));
        }
        moves.insert(from, &change.path);
    }
    // It stayed, and its directory did not.
    for (from, _) in moves.iter().filter(|(from, to)| from == to) {
        let above = from.rsplit_once('/').map_or("", |(above, _)| above);
        if moved(&moves, above) == above {
            return Err(format!("{from} did not move"));
        }
    }
    let deleted: BTreeSet<&str> = of(ChangeKind::Deleted).map(|change| change.path.as_str()).collect();
    if let Some(path) = deleted.iter().find(|path| !before.contains_key(**path)) {
        return Err(format!("{path} was never there, and is said to be deleted"));
    }
    // What stayed, by where it is now.
    let mut kept: BTreeMap<String, Id> = BTreeMap::new();
    for (path, id) in before.iter().filter(|(path, _)| !deleted.contains(path.as_str())) {
        let mut now = moved(&moves, path);
        let changed =
            by_path.get(path.as_str()).is_some_and(|c| matches!(c.kind, ChangeKind::Modified | ChangeKind::Retyped));
        if changed && after.get(&now) != Some(id) && !moves.contains_key(path.as_str()) {
            // Its directory moved away without it, and in its place is another one.
            now.clone_from(path);
        }
        if !moves.contains_key(path.as_str()) && moves.values().any(|to| *to == now) {
            // A directory that moved here took its place.
            if new.objects.contains_key(id) || !after.get(&now).is_some_and(|id| new.is_dir(*id)) {
                return Err(format!("{path} had another object before, and its end is not listed"));
            }
            continue;
        }
        if let Some(other) = kept.insert(now.clone(), *id) {
            return Err(format!("{other} and {id} would both be at {now}"));
        }
    }
    for path in of(ChangeKind::Added).map(|change| &change.path) {
        if kept.contains_key(path) || !after.contains_key(path) {
            return Err(format!("{path} was not added"));
        }
    }
    for path in after.keys() {
        let added = by_path.get(path.as_str()).is_some_and(|change| change.kind == ChangeKind::Added);
        if !added && !kept.contains_key(path) {
            return Err(format!("{path} is new, and not listed"));
        }
    }
    kept.insert(String::new(), old.root);
    for (path, was) in &kept {
        let Some(is) = after.get(path).or(path.is_empty().then_some(&new.root)) else {
            return Err(format!("{path} is gone, and not listed"));
        };
        let (was, is) = (&old.objects[was], &new.objects[is]);
        let listed = by_path.get(path.as_str());
        let wanted = if was.kind() == is.kind() {
            (!was.is_as(is)).then(|| (ChangeKind::Modified, was.same_content(is)))
        } else {
            Some((ChangeKind::Retyped, false))
        };
        let told = match listed {
            None => None,
            Some(change) if change.kind == ChangeKind::Renamed => {
                change.edited.then_some((ChangeKind::Modified, was.same_content(is)))
            }
            Some(change) => Some((change.kind, change.metadata_only)),
        };
        if wanted != told {
            return Err(format!("{path:?}: {wanted:?} is told as {listed:?}"));
        }
        if let Some(change) = listed
            && (change.object != is.kind() || is.bytes().is_some_and(|bytes| bytes.len() as u64 != change.size))
        {
            return Err(format!("{path:?}: kind or size is wrong in {change:?}"));
        }
    }
    Ok(())
}

/// Where a path is after the moves of it and of what it is in.
fn moved(moves: &BTreeMap<&str, &str>, path: &str) -> String {
    let inside = |top: &str| path.strip_prefix(top).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let nearest = moves.iter().filter_map(|(from, to)| inside(from).map(|rest| (from.len(), to, rest)));
    match nearest.max_by_key(|(len, ..)| *len) {
        Some((_, to, rest)) => format!("{to}{rest}"),
        None => path.to_owned(),
    }
}
