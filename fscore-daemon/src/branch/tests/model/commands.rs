//! Steps that are commands over whole states.

use super::tree::{Id, Tree};
use super::world::{State, World, same};
use super::{What, three_way, told};
use shm_transport::control::{Change, Command, Diff, ErrorCode, Merged, Preference, Removed, Side, Undone};
use std::collections::BTreeSet;

impl World {
    pub(super) fn unmount(&mut self, name: &str) {
        self.real.unmount(name);
    }

    pub(super) fn delete_snapshot(&mut self, name: &str, a: u8) {
        let line = self.line(name).clone();
        let Some((snapshot, (_, state))) = line.snapshots.iter().nth(usize::from(a) % line.snapshots.len().max(1))
        else {
            return;
        };
        let command = Command::SnapshotDelete { branch: name.into(), name: snapshot.clone(), dry_run: false };
        match self.real.ask::<()>(&command) {
            Ok(()) => drop(self.line(name).snapshots.remove(snapshot)),
            Err(e) if e.code == ErrorCode::Busy => {
                let mut children = self.model.lines.values().filter(|line| line.parent.as_deref() == Some(name));
                let needed = children.any(|child| child.head.fork.as_ref() == Some(&state.tree));
                assert!(needed, "{name}@{snapshot} is no fork point: {e:?}");
            }
            Err(e) => {
                assert!(self.may_fail, "{e:?}");
                self.dead = true;
            }
        }
    }

    pub(super) fn delete_branch(&mut self, name: &str) {
        if self.model.lines.len() < 2 {
            return;
        }
        self.unmount(name);
        let command = Command::BranchDelete { name: name.into(), dry_run: false };
        if self.model.lines.values().any(|line| line.parent.as_deref() == Some(name)) {
            assert_eq!(self.real.ask::<Removed>(&command).unwrap_err().code, ErrorCode::Busy);
        } else if self.commanded::<Removed>(&command).is_some() {
            self.model.lines.remove(name);
        }
    }

    /// The tree that a branch shows.
    fn shown(&self, name: &str) -> Tree {
        self.real.read(&self.real.view(name), &self.numbers)
    }

    pub(super) fn merge(&mut self, name: &str, into_parent: bool, what: What) {
        let line = self.line(name).clone();
        let (Some(parent), Some(fork)) = (line.parent.clone(), line.head.fork.clone()) else { return };
        self.unmount(name);
        if into_parent {
            self.unmount(&parent);
        }
        let (ours, theirs) = (line.head.tree, self.line(&parent).head.tree.clone());
        let side = match what {
            What::CommitOurs | What::RefreshOurs => Some(Side::Ours),
            What::CommitTheirs | What::RefreshTheirs => Some(Side::Theirs),
            _ => None,
        };
        let prefer = side.iter().map(|side| Preference { path: ".".into(), side: *side }).collect();
        let command = Command::Merge { branch: name.into(), into_parent, dry_run: false, prefer };
        let wanted = three_way::merge(&fork, &ours, &theirs);
        let Some(merged) = self.commanded::<Merged>(&command) else { return };
        let context = format!("{name} and {parent}, {what:?}: {merged:?}, wanted {:?}", wanted.as_ref().err());
        let result = match (&wanted, side) {
            // What has no place left is not dropped for a preference.
            (Ok(_), Some(_)) if !merged.conflicts.is_empty() => {
                assert!(!merged.applied, "{context}");
                return;
            }
            (Ok(tree), _) => {
                assert!(merged.conflicts.is_empty(), "nothing is changed on both sides. {context}");
                tree.clone()
            }
            (Err(_), None) => {
                assert!(!merged.conflicts.is_empty() && !merged.applied, "both changed something. {context}");
                return;
            }
            // A preference settles more than the model has a word for: what the winner wrote is kept.
            (Err(_), Some(side)) => {
                if !merged.applied {
                    return;
                }
                let tree = self.shown(if into_parent { &parent } else { name });
                let winner = if side == Side::Ours { &ours } else { &theirs };
                nothing_lost(&fork, winner, &tree, &context);
                tree
            }
        };
        if !merged.applied {
            same(if into_parent { &theirs } else { &ours }, &result, &format!("nothing was done. {context}"));
            return;
        }
        if wanted.is_ok() {
            nothing_lost(&fork, &ours, &result, &context);
            nothing_lost(&fork, &theirs, &result, &context);
        }
        same(&self.shown(name), &result, &context);
        if into_parent {
            same(&self.shown(&parent), &result, &context);
            self.line(&parent).head.tree = result.clone();
            self.line(name).head = State { tree: result.clone(), fork: Some(result) };
        } else {
            self.line(name).head = State { tree: result, fork: Some(theirs) };
        }
    }

    /// Where a branch can go back to.
    fn goals(&mut self, name: &str) -> Vec<(Option<String>, State)> {
        let line = self.line(name).clone();
        let latest = line.snapshots.values().max_by_key(|(order, _)| *order);
        let mut goals: Vec<_> = latest.iter().map(|(_, state)| (None, state.clone())).collect();
        goals.extend(line.snapshots.iter().map(|(snapshot, (_, state))| (Some(snapshot.clone()), state.clone())));
        if let Some(fork) = &line.head.fork {
            goals.push((Some("@fork".into()), State { tree: fork.clone(), fork: Some(fork.clone()) }));
        }
        if line.based {
            goals.push((Some("@base".into()), State { tree: self.model.base.clone(), fork: None }));
        }
        goals
    }

    pub(super) fn undo(&mut self, name: &str, a: u8) {
        let goals = self.goals(name);
        if goals.is_empty() {
            return;
        }
        let (to, goal) = goals[usize::from(a) % goals.len()].clone();
        self.unmount(name);
        let command = Command::Undo { branch: name.into(), to, paths: Vec::new(), dry_run: false };
        let Some(undone) = self.commanded::<Undone>(&command) else { return };
        let now = self.line(name).head.clone();
        told::check(&now.tree, &goal.tree, &undone.changes.changes).unwrap_or_else(|e| panic!("{e}: {undone:?}"));
        let Some(snapshot) = undone.snapshot else {
            assert!(undone.changes.changes.is_empty());
            return;
        };
        let tick = self.tick();
        let line = self.line(name);
        line.snapshots.insert(snapshot, (tick, now));
        line.head = State { tree: goal.tree, fork: goal.fork.filter(|_| line.parent.is_some()) };
        if line.head.fork.is_none() {
            line.parent = None;
        }
    }

    pub(super) fn undo_paths(&mut self, name: &str, (a, b, c): (u8, u8, u8)) {
        let goals = self.goals(name);
        if goals.is_empty() {
            return;
        }
        let (to, goal) = goals[usize::from(a) % goals.len()].clone();
        let (now, then) = (self.line(name).head.clone(), goal.tree);
        let all: BTreeSet<String> = now.tree.paths().into_keys().chain(then.paths().into_keys()).collect();
        let pick = |number: u8| all.iter().nth(usize::from(number) % all.len().max(1)).cloned();
        let paths: Vec<String> = [pick(b), pick(c)].into_iter().flatten().collect();
        if paths.is_empty() {
            return;
        }
        self.unmount(name);
        let command = Command::Undo { branch: name.into(), to, paths: paths.clone(), dry_run: false };
        let undone = match self.real.ask::<Undone>(&command) {
            Ok(undone) => undone,
            Err(e) if e.code == ErrorCode::Usage => {
                assert!(crosses(&paths, &now.tree, &then), "{paths:?} can go back: {e:?}");
                return;
            }
            Err(e) => {
                assert!(self.may_fail, "{e:?}");
                self.dead = true;
                return;
            }
        };
        let result = self.shown(name);
        let context = format!("{paths:?}, {undone:?}");
        let whole = undone.snapshot.is_some();
        taken_back(&paths, &now.tree, &then, &result).unwrap_or_else(|e| panic!("{e}: {context}"));
        if let Some(snapshot) = undone.snapshot {
            let tick = self.tick();
            let line = self.line(name);
            line.snapshots.insert(snapshot, (tick, now));
            line.head.tree = result;
        } else {
            assert!(!whole);
            same(&result, &now.tree, &context);
        }
    }

    pub(super) fn diff(&mut self, name: &str, (a, b, c): (u8, u8, u8)) {
        let mut states: Vec<_> =
            Self::states(&self.model).into_iter().map(|(name, tree)| (name, tree.clone())).collect();
        let new = if c % 2 == 0 {
            (name.to_owned(), self.line(name).head.tree.clone())
        } else {
            states[usize::from(a) % states.len()].clone()
        };
        if new.1.root == self.model.base.root {
            states.push(("@base".into(), self.model.base.clone()));
        }
        states.retain(|(_, tree)| tree.root == new.1.root);
        let old = states[usize::from(b) % states.len()].clone();
        let against = Some(old.0.clone());
        let command = Command::Diff { branch: new.0.clone(), against, limit: 10_000, skip: 0, sources: false };
        let Some(diff) = self.commanded::<Diff>(&command) else { return };
        told::check(&old.1, &new.1, &diff.changes).unwrap_or_else(|e| {
            panic!("{e}: from {} to {} {:#?}", old.0, new.0, diff.changes.iter().map(short).collect::<Vec<_>>());
        });
    }
}

fn short(change: &Change) -> String {
    let from = change.from.as_deref().unwrap_or_default();
    format!(
        "{:?} {} {} {} from {from:?}, edited {}",
        change.kind, change.path, change.object, change.metadata_only, change.edited
    )
}

/// Bytes that one side wrote are in the result.
fn nothing_lost(fork: &Tree, side: &Tree, result: &Tree, context: &str) {
    let contents =
        |tree: &Tree| tree.objects.values().filter_map(|object| object.bytes().cloned()).collect::<BTreeSet<_>>();
    let (before, after) = (contents(fork), contents(result));
    for bytes in contents(side).difference(&before) {
        let lost = String::from_utf8_lossy(bytes).into_owned();
        assert!(bytes.is_empty() || after.contains(bytes), "{lost:?} is lost. {context}");
    }
}

fn within(paths: &[String], path: &str) -> bool {
    paths.iter().any(|top| path.strip_prefix(top.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Whether an object is, in one of the states, at a named path, and in one of them at another; or the directories
/// above are not the same.
fn crosses(paths: &[String], now: &Tree, then: &Tree) -> bool {
    let of = |inside: bool| -> BTreeSet<Id> {
        let all = now.paths().into_iter().chain(then.paths());
        all.filter(|(path, _)| within(paths, path) == inside).map(|(_, id)| id).collect()
    };
    let moved_above = paths.iter().any(|path| {
        path.match_indices('/').any(|(end, _)| now.paths().get(&path[..end]) != then.paths().get(&path[..end]))
    });
    moved_above || !of(true).is_disjoint(&of(false))
}

/// What is named is as it was then, and everything else as it was.
fn taken_back(paths: &[String], now: &Tree, then: &Tree, result: &Tree) -> Result<(), String> {
    let (before, wanted, is) = (now.paths(), then.paths(), result.paths());
    for (path, id) in wanted.iter().filter(|(path, _)| within(paths, path)) {
        if is.get(path) != Some(id) || !then.objects[id].is_as(&result.objects[id]) {
            return Err(format!("{path} is not as it was"));
        }
    }
    let named: BTreeSet<Id> = wanted.iter().filter(|(path, _)| within(paths, path)).map(|(_, id)| *id).collect();
    for (path, id) in &is {
        let above = || paths.iter().any(|top| top.starts_with(&format!("{path}/")));
        if within(paths, path) {
            if !wanted.contains_key(path) {
                return Err(format!("{path} was not there then"));
            }
        } else if before.get(path) != Some(id) && !(above() && wanted.get(path) == Some(id)) {
            return Err(format!("{path} is another one now"));
        } else if !named.contains(id) && now.objects.get(id).is_some_and(|object| !object.is_as(&result.objects[id])) {
            return Err(format!("{path} changed"));
        }
    }
    match before.iter().find(|(path, _)| !within(paths, path) && !is.contains_key(*path)) {
        Some((path, _)) => Err(format!("{path} is gone")),
        None => Ok(()),
    }
}
