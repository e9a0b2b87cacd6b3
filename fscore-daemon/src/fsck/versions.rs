//! The version tree: epochs, branches, snapshots, commits, counters and what belongs to them.

use super::finding::{Finding, Repair};
use super::tables::Tables;
use crate::core::ground::NOBODY;
use crate::core::ids::{BranchId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, FileBody, ObjectRecord};
use std::collections::BTreeSet;

/// Checks the tree; gives the epochs that somebody can look at.
pub(super) fn check(tables: &Tables, found: &mut Vec<Finding>) -> BTreeSet<EpochId> {
    let mut reached = BTreeSet::new();
    for (id, branch) in &tables.branches {
        let key = keys::branch(*id);
        let name = &branch.name;
        match tables.epochs.get(&branch.head) {
            None => found.push(Finding::error("epoch-missing", &key, format!("the head of branch {name} is missing"))),
            Some(epoch) if epoch.branch != *id => {
                let message = format!("the head of branch {name} belongs to branch {}", epoch.branch);
                found.push(Finding::error("branch-broken", &key, message));
            }
            Some(_) => {}
        }
        if let Some(base) = branch.base.filter(|base| !tables.bases.contains_key(base)) {
            let message = format!("branch {name} has the base {base}, of which there is no record");
            found.push(Finding::error("base-missing", &key, message));
        }
        if let Some((from, epoch)) = branch.from
            && (!tables.branches.contains_key(&from) || !tables.epochs.contains_key(&epoch))
        {
            let message = format!("branch {name} was made from a branch or state that is missing");
            found.push(Finding::error("branch-broken", &key, message));
        }
        // Where it was made from is asked for by its next merge.
        for epoch in [Some(branch.head), branch.from.map(|(_, epoch)| epoch)].into_iter().flatten() {
            reach(tables, epoch, &mut reached, found);
        }
    }
    let mut names: Vec<_> = tables.branches.values().map(|branch| &branch.name).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.array_windows::<2>().find(|[a, b]| a == b) {
        let message = format!("two branches have the name {name}");
        found.push(Finding::error("branch-broken", b"B", message));
    }
    for ((branch, name), snapshot) in &tables.snapshots {
        let key = keys::prefix(b'S', &[branch.0]).into_iter().chain(name.iter().copied()).collect::<Vec<_>>();
        if !tables.branches.contains_key(branch) || !tables.epochs.contains_key(&snapshot.epoch) {
            found.push(Finding::error("snapshot-broken", &key, "its branch or its state is missing"));
        }
        reach(tables, snapshot.epoch, &mut reached, found);
    }
    for (id, commit) in &tables.commits {
        if !tables.branches.contains_key(&commit.branch) || !tables.epochs.contains_key(&commit.epoch) {
            found.push(Finding::error("commit-broken", &keys::commit(*id), "its branch or its state is missing"));
        }
        reach(tables, commit.epoch, &mut reached, found);
        commit.ground.into_iter().for_each(|ground| reach(tables, ground, &mut reached, found));
    }
    for (base, ground) in &tables.grounds {
        if tables.epochs.get(&ground.last).is_none_or(|epoch| epoch.branch != NOBODY) {
            let message =
                format!("new branches of base {base} would stand on epoch {}, which is no ground", ground.last);
            found.push(Finding::error("epoch-missing", &keys::ground(*base), message));
        }
        reach(tables, ground.last, &mut reached, found);
    }
    for (id, epoch) in &tables.epochs {
        if !reached.contains(id) && !tables.has_mark(epoch.branch) {
            // A branch that is being deleted has a mark from the batch on that takes its record.
            if epoch.branch != NOBODY && !tables.branches.contains_key(&epoch.branch) {
                let message = format!("a state of branch {}, of which there is no record", epoch.branch);
                found.push(Finding::error("branch-missing", &keys::epoch(*id), message));
                continue;
            }
            let mark = keys::meta(&format!("reclaiming-{}", epoch.branch));
            let message = "a state that neither a branch nor a snapshot needs";
            let finding = Finding::leftover("epoch-unreachable", &keys::epoch(*id), message);
            found.push(finding.mend(vec![Repair::Put(mark, Vec::new())]));
        }
    }
    of_bases(tables, found);
    counters(tables, found);
    reached
}

/// Adds an epoch and its ancestors.
fn reach(tables: &Tables, head: EpochId, reached: &mut BTreeSet<EpochId>, found: &mut Vec<Finding>) {
    let mut at = head;
    while let Some(epoch) = tables.epochs.get(&at) {
        if !reached.insert(at) {
            return;
        }
        let Some(parent) = epoch.parent else { return };
        if parent >= at {
            let message = format!("it inherits from epoch {parent}, which is not older");
            found.push(Finding::error("epoch-order", &keys::epoch(at), message));
            return;
        }
        if !tables.epochs.contains_key(&parent) {
            let message = format!("it inherits from epoch {parent}, which is missing");
            found.push(Finding::error("epoch-missing", &keys::epoch(at), message));
        }
        at = parent;
    }
}

fn of_bases(tables: &Tables, found: &mut Vec<Finding>) {
    for (base, key) in &tables.of_bases {
        if !tables.bases.contains_key(base) {
            let finding = Finding::leftover("base-stale", key, format!("there is no base {base}"));
            found.push(finding.mend(vec![Repair::Delete(key.clone())]));
        }
    }
}

/// No number may be given out twice.
fn counters(tables: &Tables, found: &mut Vec<Finding>) {
    let greatest = |numbers: &mut dyn Iterator<Item = u64>| numbers.max();
    let object = greatest(&mut tables.objects.keys().filter(|o| !o.is_base()).map(|o| o.0));
    let used = [
        ("next-object", object),
        ("next-epoch", greatest(&mut tables.epochs.keys().map(|e| e.0))),
        ("next-branch", greatest(&mut tables.branches.keys().map(|b| b.0))),
        ("next-content", greatest(&mut tables.contents.keys().map(|c| c.0))),
        ("next-base", greatest(&mut tables.bases.keys().map(|b| b.0))),
        ("next-commit", greatest(&mut tables.commits.keys().copied())),
    ];
    for (name, used) in used {
        let mark = tables.meta.get(name).and_then(|value| value.as_slice().try_into().ok()).map(u64::from_le_bytes);
        if let Some(used) = used
            && mark.is_none_or(|mark| mark <= used)
        {
            let key = keys::meta(name);
            let message = format!("the number {used} is used, and would be given out again");
            let raised = used.saturating_add(1).to_le_bytes().to_vec();
            found.push(Finding::error("counter-low", &key, message).mend(vec![Repair::Put(key, raised)]));
        }
    }
}

/// Whether a branch is there, or its records are being removed.
fn is_known(tables: &Tables, branch: BranchId) -> bool {
    tables.branches.contains_key(&branch) || tables.has_mark(branch)
}

/// Mounts, replies, files without a name, and pre-images.
pub(super) fn check_belongings(tables: &Tables, found: &mut Vec<Finding>) {
    let mut stale = |kind, key: Vec<u8>, message: &str| {
        found.push(Finding::leftover(kind, &key, message).mend(vec![Repair::Delete(key)]));
    };
    for (branch, session) in &tables.members {
        if !is_known(tables, *branch) {
            stale("mount-stale", keys::member(*branch, *session), "a mount of a branch that is gone");
        }
    }
    let sessions: BTreeSet<_> = tables.members.iter().map(|(_, session)| *session).collect();
    for (session, key) in &tables.replies {
        if !sessions.contains(session) {
            stale("reply-stale", key.clone(), "a reply for a mount that is gone");
        }
    }
    let unfit = |of: ObjectId| move |epoch: &&EpochId| !of.is_base() || !tables.epochs.contains_key(epoch);
    for (object, epochs) in &tables.preimages {
        for epoch in epochs.iter().filter(unfit(*object)) {
            stale("preimage-stale", keys::preimage(*epoch, *object), "it is of an epoch that is gone, or of no base");
        }
    }
    for ((dir, name), epochs) in &tables.prenames {
        for epoch in epochs.iter().filter(unfit(*dir)) {
            stale("preimage-stale", keys::prename(*epoch, *dir, name), "it is of an epoch that is gone, or of no base");
        }
    }
    for (branch, object) in &tables.orphans {
        if !tables.has_mark(*branch) && !is_orphan(tables, *branch, *object) {
            let message = "marked as without a name, and has one, or is gone";
            stale("orphan-stale", keys::orphan(*branch, *object), message);
        }
    }
    for (id, branch) in &tables.branches {
        let head = branch.head;
        for (object, versions) in &tables.objects {
            let parent = tables.epochs.get(&head).and_then(|epoch| epoch.parent);
            // What is inherited is said to be gone by a record without bytes.
            let inherited = parent.is_some_and(|parent| tables.object(*object, parent).is_some());
            let buried = |record: &ObjectRecord| inherited && !matches!(record.body, Body::File(FileBody::Content(_)));
            let nameless = versions.get(&head).is_some_and(|record| record.nlink == 0 && !buried(record));
            if nameless && !tables.orphans.contains(&(*id, *object)) {
                let message = "it has no name and nothing gives it back";
                let finding = Finding::leftover("orphan-unmarked", &keys::object(*object, head), message);
                found.push(finding.mend(vec![Repair::Put(keys::orphan(*id, *object), Vec::new())]));
            }
        }
    }
}

fn is_orphan(tables: &Tables, branch: BranchId, object: ObjectId) -> bool {
    let head = tables.branches.get(&branch).map(|record| record.head);
    head.and_then(|head| tables.object(object, head)).is_some_and(|(_, record)| record.nlink == 0)
}
