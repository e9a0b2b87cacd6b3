//! A branch and its parent, taken together.

use super::super::facts::{Data, Facts};
use super::{World, create};
use crate::core::ids::{BranchId, ObjectId};
use crate::core::record::{Body, DirentRecord, FileBody, XattrSet};
use crate::core::view::View;
use crate::fsck;
use shm_transport::control::{Command, CommitPlan, ErrorCode, Merged, Preference, Removed, Side};
use shm_transport::wire::FileKind;
use std::collections::BTreeMap;

pub(super) fn merge(branch: &str, into_parent: bool) -> Command {
    Command::Merge { branch: branch.into(), into_parent, dry_run: false, prefer: Vec::new() }
}

pub(super) fn preferring(branch: &str, into_parent: bool, prefer: &[(&str, Side)]) -> Command {
    let prefer = prefer.iter().map(|(path, side)| Preference { path: (*path).into(), side: *side }).collect();
    Command::Merge { branch: branch.into(), into_parent, dry_run: false, prefer }
}

impl World {
    pub(super) fn merged(&self, command: &Command) -> Merged {
        let merged: Merged = self.ask(command).unwrap();
        self.sound();
        merged
    }

    #[track_caller]
    pub(super) fn applies(&self, command: &Command) {
        let merged = self.merged(command);
        assert!(merged.applied && merged.conflicts.is_empty(), "{merged:?}");
    }

    #[track_caller]
    pub(super) fn conflicts(&self, command: &Command) -> Vec<String> {
        let before = self.all();
        let merged = self.merged(command);
        assert!(!merged.applied);
        assert_eq!(self.all(), before, "a refused merge changes nothing");
        merged.conflicts.into_iter().map(|c| format!("{}: {}", c.path, c.reason)).collect()
    }

    /// Every branch as it looks.
    pub(super) fn all(&self) -> Vec<BTreeMap<String, String>> {
        let ids = self.branches.records().unwrap().into_iter().map(|(id, _)| id);
        ids.map(|id| self.tree(&self.view(id))).collect()
    }

    /// The store is as `fsck` wants it.
    #[track_caller]
    pub(super) fn sound(&self) {
        let found = fsck::check(self.store.as_ref(), self.core.contents.root()).unwrap();
        let told: Vec<_> = found.findings.iter().map(|f| &f.told).filter(|f| f.kind != "orphan-unmarked").collect();
        assert!(told.is_empty(), "{told:#?}");
    }

    /// Paths, each with kind, mode, links and content.
    pub(super) fn tree(&self, view: &View) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut left = vec![(String::new(), view.root)];
        while let Some((path, dir)) = left.pop() {
            for (name, (object, kind)) in view.names(dir).unwrap() {
                let path = format!("{path}/{}", String::from_utf8(name).unwrap());
                let facts = Facts::of_branch(view, &self.core.contents, object).unwrap();
                let text = match &facts.data {
                    Data::Content(id) => std::fs::read_to_string(self.core.contents.path(*id)).unwrap(),
                    Data::Base(object) => {
                        let fd = view.base.as_ref().unwrap().file(*object).unwrap();
                        let mut bytes = vec![0; facts.size as usize];
                        nix::sys::uio::pread(&*fd, &mut bytes, 0).unwrap();
                        String::from_utf8(bytes).unwrap()
                    }
                    other @ (Data::Directory | Data::Hole | Data::Symlink(_) | Data::Special(_)) => {
                        format!("{other:?}")
                    }
                };
                let links = view.object(object).unwrap().filter(|_| kind != FileKind::Directory || !object.is_base());
                let links = links.map_or_else(|| "-".into(), |v| v.value.nlink.to_string());
                let xattrs = facts.xattrs.len();
                found.insert(path.clone(), format!("{kind:?} {:o} {links} {xattrs} {text}", facts.mode));
                if kind == FileKind::Directory {
                    left.push((path, object));
                }
            }
        }
        found
    }

    pub(super) fn same_trees(&self, a: BranchId, b: BranchId) {
        assert_eq!(self.tree(&self.view(a)), self.tree(&self.view(b)));
    }

    #[track_caller]
    pub(super) fn shows(&self, id: BranchId, path: &str, text: &str) {
        let tree = self.tree(&self.view(id));
        let line = tree.get(path).unwrap_or_else(|| panic!("{path} is missing in {tree:#?}"));
        assert!(line.ends_with(&format!(" {text}")), "{path}: {line}");
    }

    #[track_caller]
    pub(super) fn lacks(&self, id: BranchId, path: &str) {
        let tree = self.tree(&self.view(id));
        assert!(!tree.contains_key(path), "{path} in {tree:#?}");
    }

    /// Gives an object of a branch another content.
    pub(super) fn rewrite(&self, id: BranchId, object: ObjectId, text: &str) {
        let content = self.content(id, object, text);
        self.change(id, |view, change| {
            let mut record = view.object(object).unwrap().unwrap().value;
            record.body = Body::File(FileBody::Content(content));
            change.object(object, &record);
        });
    }

    pub(super) fn mode(&self, id: BranchId, path: &str, mode: u32) {
        self.change(id, |view, change| {
            let found = view.object(self.ino(path)).unwrap().map(|v| (self.ino(path), v.value));
            let (object, mut record) =
                found.unwrap_or_else(|| self.base_record(view, change, path, Body::File(FileBody::Base)));
            record.mode = mode;
            change.object(object, &record);
        });
    }

    pub(super) fn whiteout(&self, id: BranchId, dir: ObjectId, name: &str, object: ObjectId) {
        self.change(id, |view, change| {
            let mut record = view.object(object).unwrap().unwrap().value;
            record.nlink = 0;
            change.object(object, &record);
        });
        self.name(id, dir, name, DirentRecord::Whiteout);
    }

    pub(super) fn parent_and_child(&self) -> (BranchId, BranchId) {
        let parent = self.make("p");
        (parent, self.fork("c", "p"))
    }
}

#[test]
fn everything_goes_into_the_parent_once() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    let root = world.ino("");
    world.write(c, "f", "changed");
    world.unlink(c, "d", "g");
    world.name(c, root, "d", DirentRecord::Whiteout);
    let dir = world.mkdir(c, root, "new");
    let made = world.add(c, dir, "file", "made");
    world.change(c, |_, change| change.xattrs(made, &XattrSet(vec![(b"user.a".to_vec(), b"b".to_vec())])));
    world.add(c, root, "top", "top");
    let dry: Merged = world
        .ask(&Command::Merge { branch: "c".into(), into_parent: true, dry_run: true, prefer: Vec::new() })
        .unwrap();
    assert!(!dry.applied && dry.conflicts.is_empty());
    assert_eq!((dry.changes.added, dry.changes.modified, dry.changes.deleted), (3, 1, 2));
    world.lacks(p, "/top");
    world.applies(&merge("c", true));
    world.same_trees(p, c);
    world.shows(p, "/f", "changed");
    world.shows(p, "/new/file", "made");
    world.lacks(p, "/d");
    assert!(!world.merged(&merge("c", true)).applied, "a second time there is nothing to do");
    assert!(world.diff_between(Some("p"), "c").is_empty());
    // Both go on by themselves.
    world.rewrite(c, made, "by c");
    world.shows(p, "/new/file", "made");
    world.applies(&merge("c", true));
    world.shows(p, "/new/file", "by c");
}

#[test]
fn what_the_parent_changed_meanwhile_stays() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    let root = world.ino("");
    world.write(p, "f", "by p");
    world.add(p, root, "of p", "p");
    world.write(c, "d/g", "by c");
    world.add(c, root, "of c", "c");
    world.applies(&merge("c", true));
    for id in [p, c] {
        for (path, text) in [("/f", "by p"), ("/of p", "p"), ("/d/g", "by c"), ("/of c", "c")] {
            world.shows(id, path, text);
        }
    }
}

#[test]
fn a_refresh_takes_the_parents_changes_and_gives_it_none() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    let root = world.ino("");
    world.write(c, "d/g", "by c");
    assert!(!world.merged(&merge("c", false)).applied, "the parent has nothing new");
    world.write(p, "f", "by p");
    world.add(p, root, "new", "of p");
    world.applies(&merge("c", false));
    world.shows(c, "/f", "by p");
    world.shows(c, "/new", "of p");
    world.shows(c, "/d/g", "by c");
    world.shows(p, "/d/g", "two");
    assert_eq!(world.diff_between(Some("p"), "c"), ["Modified d/g file 4"]);
    assert!(!world.merged(&merge("c", false)).applied);
    // The fork point moved: only what is new counts.
    world.write(p, "f", "p again");
    world.applies(&merge("c", true));
    world.same_trees(p, c);
    world.shows(p, "/f", "p again");
}

#[test]
fn a_branch_without_changes_follows_its_parent() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    world.write(p, "f", "by p");
    world.applies(&merge("c", false));
    world.same_trees(p, c);
    assert!(!world.merged(&merge("c", true)).applied);
}

#[test]
fn what_moved_keeps_what_the_other_side_did_to_it() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    world.move_d(c, "e");
    world.write(p, "d/g", "by p");
    world.add(p, world.ino("d"), "late", "x");
    world.applies(&merge("c", true));
    world.same_trees(p, c);
    world.shows(p, "/e/g", "by p");
    world.shows(p, "/e/late", "x");
    world.lacks(p, "/d");
}

#[test]
fn hard_links_keep_their_count() {
    let world = World::new();
    let p = world.make("p");
    let root = world.ino("");
    let object = world.add(p, root, "one", "text");
    let c = world.fork("c", "p");
    let link = |id: BranchId, name: &str| {
        world.change(id, |view, change| {
            let mut record = view.object(object).unwrap().unwrap().value;
            record.nlink += 1;
            change.object(object, &record);
        });
        world.name(id, root, name, DirentRecord::Entry { object, kind: FileKind::Regular });
    };
    link(p, "of p");
    link(c, "of c");
    world.applies(&merge("c", true));
    assert_eq!(world.view(p).object(object).unwrap().unwrap().value.nlink, 3);
    world.same_trees(p, c);
}

#[test]
fn many_levels_and_a_base_that_changed() {
    let world = World::new();
    world.age(&["f", "d/g"]);
    let a = world.make("a");
    let b = world.fork("b", "a");
    let c = world.fork("c", "b");
    world.write(c, "f", "by c");
    world.write(b, "d/g", "by b");
    world.applies(&merge("c", true));
    world.applies(&merge("b", true));
    world.shows(a, "/f", "by c");
    world.shows(a, "/d/g", "by b");
    // The base changed before the change came to the branch that is committed: still a conflict.
    std::fs::write(world.base().join("f"), "host").unwrap();
    let plan: CommitPlan =
        world.ask(&Command::CommitPrepare { branch: "a".into(), dry_run: true, prefer: Vec::new() }).unwrap();
    let told: Vec<_> = plan.conflicts.iter().map(|c| format!("{}: {}", c.path, c.reason)).collect();
    assert_eq!(told, ["f: both modified"]);
    // The grandchild takes everything over.
    world.applies(&merge("c", false));
    world.shows(c, "/d/g", "by b");
}

#[test]
fn shared_content_outlives_either_side() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    let object = world.add(c, world.ino(""), "new", "shared");
    world.snapshot("c", "s");
    world.applies(&merge("c", true));
    // The parent moves on from what it got; the snapshot does not.
    world.rewrite(p, object, "other");
    let snapshot = world.branches.state("c@s").unwrap();
    assert!(world.tree(&snapshot)["/new"].ends_with(" shared"));
    world.ask::<Removed>(&Command::BranchDelete { name: "c".into(), dry_run: false }).unwrap();
    world.sound();
    world.shows(p, "/new", "other");
}

#[test]
fn the_parents_copy_stays_when_the_branch_goes() {
    let mut world = World::new();
    let (p, c) = world.parent_and_child();
    world.add(c, world.ino(""), "new", "shared");
    world.snapshot("c", "s");
    world.applies(&merge("c", true));
    let dry: Removed = world.ask(&Command::BranchDelete { name: "c".into(), dry_run: true }).unwrap();
    assert_eq!(dry.contents, 0, "the parent needs it");
    world.ask::<Removed>(&Command::BranchDelete { name: "c".into(), dry_run: false }).unwrap();
    world.restart();
    world.sound();
    world.shows(p, "/new", "shared");
}

#[test]
fn a_child_of_the_branch_is_left_alone() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    world.write(c, "f", "by c");
    let g = world.fork("g", "c");
    world.write(g, "d/g", "by g");
    world.applies(&merge("c", true));
    world.shows(g, "/f", "by c");
    world.shows(g, "/d/g", "by g");
    // And has something to commit.
    world.applies(&merge("g", true));
    world.shows(c, "/d/g", "by g");
    world.shows(p, "/d/g", "two");
}

#[test]
fn restarts_find_what_a_merge_left() {
    let mut world = World::new();
    let (p, c) = world.parent_and_child();
    world.write(c, "f", "by c");
    world.applies(&merge("c", true));
    world.restart();
    world.sound();
    world.same_trees(p, c);
    world.write(c, "f", "again");
    world.applies(&merge("c", true));
    world.shows(p, "/f", "again");
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let world = World::new();
    world.make("p");
    assert_eq!(world.refused(&merge("p", true)), ErrorCode::Usage);
    assert_eq!(world.refused(&merge("nobody", false)), ErrorCode::NotFound);
    world.ask::<serde_json::Value>(&create("e", None, None, false)).unwrap();
    assert_eq!(world.refused(&merge("e", false)), ErrorCode::Usage);
    world.fork("c", "p");
    assert_eq!(world.refused(&preferring("c", false, &[("a\\b", Side::Ours)])), ErrorCode::Usage);
}

#[test]
fn a_branch_of_a_base_is_told_what_both_changed() {
    let world = World::new();
    world.age(&["f", "d/g"]);
    let a = world.make("a");
    world.write(a, "f", "by a");
    assert!(world.merged(&merge("a", false)).conflicts.is_empty());
    std::fs::write(world.base().join("f"), "by the host").unwrap();
    std::fs::write(world.base().join("d/g"), "by the host").unwrap();
    assert_eq!(world.conflicts(&merge("a", false)), ["f: both modified"]);
    world.shows(a, "/d/g", "by the host");
}

#[test]
fn a_deleted_new_file_stays_deleted() {
    let world = World::new();
    let p = world.make("p");
    let root = world.ino("");
    let object = world.add(p, root, "made", "x");
    let c = world.fork("c", "p");
    world.whiteout(c, root, "made", object);
    world.applies(&merge("c", true));
    world.lacks(p, "/made");
    world.same_trees(p, c);
}
