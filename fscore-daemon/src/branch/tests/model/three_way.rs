//! What `specs/branch-semantics.md` §9 says of a merge, over whole trees.
//!
//! A name is decided by what the three states have there, an object by what the three states say of it. Where only
//! one side changed something, that counts; where both did, it must be to the same.

use super::tree::{Data, Id, Object, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// A directory and a name in it.
type Place = (Id, String);

/// What became of a merge.
pub(super) type Outcome = Result<Tree, BTreeSet<String>>;

struct ThreeWay<'a> {
    fork: &'a Tree,
    ours: &'a Tree,
    theirs: &'a Tree,
    /// Directories of ours or of the fork that are another one of theirs: that is at their place, and was made there
    /// since.
    same: BTreeMap<Id, Id>,
    conflicts: BTreeSet<String>,
}

/// The parent's tree with the changes of the branch, or what both changed.
pub(super) fn merge(fork: &Tree, ours: &Tree, theirs: &Tree) -> Outcome {
    let mut it = ThreeWay { fork, ours, theirs, same: BTreeMap::new(), conflicts: BTreeSet::new() };
    it.unify();
    let names = it.names();
    let result = it.result(&names);
    it.check(&names, &result);
    if it.conflicts.is_empty() { Ok(result) } else { Err(it.conflicts) }
}

impl ThreeWay<'_> {
    fn conflict(&mut self, what: impl std::fmt::Debug, why: &str) {
        self.conflicts.insert(format!("{what:?}: {why}"));
    }

    fn unify(&mut self) {
        for tree in [self.fork, self.ours] {
            let mut left = vec![(tree.root, Some(tree.root))];
            while let Some((dir, there)) = left.pop() {
                for (name, id) in tree.names(dir).iter().filter(|(_, id)| tree.is_dir(**id)) {
                    if self.theirs.is_dir(*id) {
                        left.push((*id, Some(*id)));
                        continue;
                    }
                    let other = there.and_then(|there| self.theirs.names(there).get(name));
                    let other = other.filter(|other| self.theirs.is_dir(**other) && !self.fork.is_dir(**other));
                    // Of what the fork has, its place there decides.
                    if let Some(other) = other
                        && (std::ptr::eq(tree, self.fork) || !self.fork.is_dir(*id))
                    {
                        self.same.insert(*id, *other);
                    }
                    left.push((*id, other.copied()));
                }
            }
        }
    }

    fn known(&self, id: Id) -> Id {
        self.same.get(&id).copied().unwrap_or(id)
    }

    fn map(&self, tree: &Tree) -> BTreeMap<Place, Id> {
        tree.every_name().into_iter().map(|(dir, name, id)| ((self.known(dir), name), self.known(id))).collect()
    }

    /// An object of ours or of the fork by the number that counts.
    fn object<'t>(&self, tree: &'t Tree, id: Id) -> Option<&'t Object> {
        tree.objects.get(&id).or_else(|| {
            let other = self.same.iter().find(|(own, known)| **known == id && tree.objects.contains_key(own));
            other.and_then(|(own, _)| tree.objects.get(own))
        })
    }

    fn changed(&self, id: Id, tree: &Tree) -> bool {
        match (self.fork.objects.get(&id), tree.objects.get(&id)) {
            (Some(was), Some(is)) => !was.is_as(is),
            _ => false,
        }
    }

    fn names(&mut self) -> BTreeMap<Place, Id> {
        let (fork, ours, theirs) = (self.map(self.fork), self.map(self.ours), self.map(self.theirs));
        let places: BTreeSet<Place> = [&fork, &ours, &theirs].iter().flat_map(|map| map.keys().cloned()).collect();
        let mut names = BTreeMap::new();
        for place in places {
            let (f, o, t) = (fork.get(&place).copied(), ours.get(&place).copied(), theirs.get(&place).copied());
            if let Some(id) = self.name(&place, f, o, t) {
                names.insert(place, id);
            }
        }
        names
    }

    fn name(&mut self, place: &Place, f: Option<Id>, o: Option<Id>, t: Option<Id>) -> Option<Id> {
        let alike = |a: (&Tree, Option<Id>), b: (&Tree, Option<Id>)| {
            let objects = a.1.and_then(|id| self.object(a.0, id)).zip(b.1.and_then(|id| self.object(b.0, id)));
            objects.is_some_and(|(a, b)| a.looks_like(b))
        };
        if o == t {
            return t;
        }
        if o == f {
            // Theirs decides, but for what ours did to an object that theirs has no more.
            let Some(id) = f.filter(|id| self.changed(*id, self.ours) && !self.theirs.objects.contains_key(id)) else {
                return t;
            };
            if alike((self.fork, Some(id)), (self.theirs, t)) {
                return o;
            }
            if alike((self.ours, Some(id)), (self.theirs, t)) {
                return t;
            }
            self.conflict(place, if t.is_some() { "both modified" } else { "modified here, deleted there" });
            return t;
        }
        if t == f {
            if let Some(id) = f.filter(|id| self.changed(*id, self.theirs) && !self.ours.objects.contains_key(id)) {
                self.conflict(place, if o.is_some() { "both modified" } else { "deleted here, modified there" });
                let _ = id;
            }
            return o;
        }
        if o.is_some() && alike((self.ours, o), (self.theirs, t)) {
            return t;
        }
        if f.is_some() && alike((self.fork, f), (self.theirs, t)) {
            return o;
        }
        self.conflict(
            place,
            match (f, o, t) {
                (None, ..) => "both added",
                (_, Some(_), None) => "modified here, deleted there",
                (_, None, _) => "deleted here, modified there",
                _ => "both modified",
            },
        );
        t
    }

    /// What an object is in the result.
    fn decided(&mut self, id: Id) -> Object {
        let (fork, ours) = (self.object(self.fork, id).cloned(), self.object(self.ours, id).cloned());
        let theirs = self.theirs.objects.get(&id).cloned();
        match (fork, ours, theirs) {
            (_, None, Some(theirs)) => theirs,
            (_, Some(ours), None) => ours,
            (None, Some(ours), Some(theirs)) => {
                if !ours.looks_like(&theirs) {
                    self.conflict(id, "both added");
                }
                theirs
            }
            (Some(was), Some(ours), Some(theirs)) => {
                if was.is_as(&ours) || ours.looks_like(&theirs) && !was.is_as(&theirs) {
                    theirs
                } else if was.is_as(&theirs) {
                    ours
                } else {
                    self.conflict(id, "both modified");
                    theirs
                }
            }
            (_, None, None) => panic!("{id} is nowhere"),
        }
    }

    fn result(&mut self, names: &BTreeMap<Place, Id>) -> Tree {
        let mut result = Tree::new(self.theirs.root);
        let ids: BTreeSet<Id> = names.values().copied().chain([self.theirs.root]).collect();
        for id in ids {
            let mut object = self.decided(id);
            if let Data::Directory(inside) = &mut object.data {
                *inside =
                    names.iter().filter(|((dir, _), _)| *dir == id).map(|((_, n), id)| (n.clone(), *id)).collect();
            }
            result.objects.insert(id, object);
        }
        result
    }

    /// What only the whole result shows.
    fn check(&mut self, names: &BTreeMap<Place, Id>, result: &Tree) {
        let mut whole = result.clone();
        whole.prune();
        for (dir, name) in names.keys() {
            if !whole.objects.contains_key(dir) {
                self.conflict((dir, name), "its directory is gone");
            }
        }
        for id in self.theirs.objects.keys().filter(|id| self.ours.objects.contains_key(id)) {
            if !whole.objects.contains_key(id) && (self.changed(*id, self.ours) || self.changed(*id, self.theirs)) {
                self.conflicts.insert(format!("{id}: changed, and in neither place"));
            }
        }
        let places = |map: &BTreeMap<Place, Id>, id: Id| -> BTreeSet<Place> {
            map.iter().filter(|(_, other)| **other == id).map(|(place, _)| place.clone()).collect()
        };
        let (fork, ours, theirs) = (self.map(self.fork), self.map(self.ours), self.map(self.theirs));
        for id in result.objects.keys() {
            let (was, mine, other) = (places(&fork, *id), places(&ours, *id), places(&theirs, *id));
            let left = was.iter().any(|place| !mine.contains(place) && !other.contains(place));
            let new_here = mine.iter().any(|place| !was.contains(place) && !other.contains(place));
            let new_there = other.iter().any(|place| !was.contains(place) && !mine.contains(place));
            if left && new_here && new_there {
                self.conflict(id, "both moved");
            }
        }
    }
}
