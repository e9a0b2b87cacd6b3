//! A commit into the base, as the other branches of that base see it.

use super::{World, create};
use crate::core::ids::BranchId;
use crate::core::record::{DirentRecord, Quota};
use shm_transport::control::{Collected, Command, CommitPlan, ErrorCode, Merged, Preference, Removed, Side, Undone};
use shm_transport::wire::FileKind;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

impl World {
    /// A state without its counts of links, which are told only of what has a record.
    fn seen(&self, state: &str) -> BTreeMap<String, String> {
        let without = |line: String| {
            line.split(' ').enumerate().filter(|(n, _)| *n != 2).map(|(_, f)| f.to_owned() + " ").collect()
        };
        self.tree(&self.branches.state(state).unwrap()).into_iter().map(|(path, line)| (path, without(line))).collect()
    }

    fn prepared(&self, branch: &str, dry_run: bool) -> CommitPlan {
        let command = Command::CommitPrepare { branch: branch.into(), dry_run, prefer: Vec::new() };
        let plan = self.ask(&command).unwrap();
        self.sound();
        plan
    }

    /// Puts a file into the base as a commit does: a new object, by a rename.
    fn put(&self, path: &str, text: &str) {
        self.add_in_base("staged", text);
        fs::rename(self.base().join("staged"), self.base().join(path)).unwrap();
    }

    fn finished(&self, plan: &CommitPlan) {
        assert!(plan.conflicts.is_empty() && plan.id > 0, "{plan:?}");
        self.ask::<()>(&Command::CommitFinish { id: plan.id }).unwrap();
        self.sound();
    }

    fn refreshed(&self, branch: &str, prefer: Option<Side>) -> Merged {
        let prefer = prefer.into_iter().map(|side| Preference { path: ".".into(), side }).collect();
        let merged =
            self.ask(&Command::Merge { branch: branch.into(), into_parent: false, dry_run: false, prefer }).unwrap();
        self.sound();
        merged
    }

    fn conflicting(&self, branch: &str) -> Vec<String> {
        self.prepared(branch, true).conflicts.into_iter().map(|conflict| conflict.path).collect()
    }

    /// `a` changes a file, removes one, makes one and gives a directory another mode.
    fn busy(&self, a: BranchId) {
        self.write(a, "f", "ONE");
        self.unlink(a, "d", "g");
        self.add(a, self.ino(""), "new", "text");
    }

    fn busy_base(&self) {
        self.put("f", "ONE");
        fs::remove_file(self.base().join("d/g")).unwrap();
        self.put("new", "text");
    }
}

#[test]
fn others_go_on_to_see_what_they_saw() {
    let mut world = World::new();
    let (a, b) = (world.make("a"), world.make("b"));
    world.add(b, world.ino("d"), "own", "of b");
    world.snapshot("a", "before");
    world.busy(a);
    let (others, old) = (world.seen("b"), world.seen("a@before"));
    let plan = world.prepared("a", false);
    let same = |world: &World| {
        assert_eq!(world.seen("b"), others);
        assert_eq!(world.seen("a@before"), old);
    };
    same(&world);
    world.busy_base();
    same(&world);
    world.finished(&plan);
    same(&world);
    assert!(world.seen("a").contains_key("/new") && !world.seen("a").contains_key("/d/g"));
    // What the host does elsewhere is seen as before, and no change of this is a change of theirs.
    world.add_in_base("d/later", "of the host");
    let others = {
        let seen = world.seen("b");
        assert!(seen.contains_key("/d/later"));
        seen
    };
    assert_eq!(world.diff("b"), ["Added d/own file 4"]);
    assert!(world.conflicting("b").is_empty());
    world.restart();
    assert_eq!(world.seen("b"), others);
    // A branch that is made now begins with what is there now.
    let late = world.make("late");
    world.shows(late, "/f", "ONE");
    assert_eq!(world.prepared("b", true).summary.added, 1);
    // With a refresh it is seen here too.
    let merged = world.refreshed("b", None);
    assert!(merged.applied && merged.snapshot.is_some(), "{merged:?}");
    let (seen, base) = (world.seen("b"), world.seen("late"));
    assert_eq!(seen.len(), base.len() + 1);
    assert_eq!((seen.get("/f"), seen.get("/new")), (base.get("/f"), base.get("/new")));
    assert_eq!(world.seen(&format!("b@{}", merged.snapshot.unwrap())), others);
    assert!(!world.refreshed("b", None).applied, "once");
}

#[test]
fn what_both_changed_is_a_conflict_as_ever() {
    let world = World::new();
    let (a, b) = (world.make("a"), world.make("b"));
    world.write(b, "f", "by b");
    world.busy(a);
    let plan = world.prepared("a", false);
    world.busy_base();
    world.finished(&plan);
    world.shows(b, "/f", "by b");
    // Changed before the commit, and after it.
    let (d, g) = (world.ino("d"), world.view(b).child(world.ino("d"), b"g").unwrap().unwrap().object);
    world.change(b, |view, change| {
        let record = view.object(g).unwrap().unwrap().value;
        change.object(g, &crate::core::record::ObjectRecord { mode: 0o600, ..record });
    });
    world.name(b, d, "moved", DirentRecord::Entry { object: g, kind: FileKind::Regular });
    world.name(b, d, "g", DirentRecord::Whiteout);
    world.shows(b, "/d/moved", "two");
    world.add(b, world.ino(""), "new", "another");
    assert_eq!(world.conflicting("b"), ["d/g", "d/moved", "f", "new"].map(str::to_owned)[1..].to_vec());
    assert!(!world.refreshed("b", None).applied);
}

#[test]
fn a_commit_that_is_taken_back_leaves_others_where_they_stand() {
    let world = World::new();
    let (a, b) = (world.make("a"), world.make("b"));
    world.busy(a);
    let others = world.seen("b");
    let plan = world.prepared("a", false);
    assert!(super::removals::files(&world) > 2, "kept meanwhile");
    world.ask::<()>(&Command::CommitAbort { id: plan.id }).unwrap();
    world.sound();
    assert_eq!(world.seen("b"), others);
    // Its next change there is known to be of what the base has.
    world.mode(b, "f", 0o600);
    assert!(world.conflicting("b").is_empty());
    world.put("f", "by the host");
    assert_eq!(world.conflicting("b"), ["f"]);
    world.refreshed("b", Some(Side::Theirs));
    world.shows(b, "/f", "by the host");
    // It can be done again.
    let plan = world.prepared("a", true);
    assert_eq!(plan.conflicts.len(), 1);
}

#[test]
fn a_directory_that_is_replaced_by_an_equal_one_is_whole_for_others() {
    let world = World::new();
    fs::write(world.base().join("d/same"), "same").unwrap();
    world.age(&["d/g", "d/same"]);
    let (a, b) = (world.make("a"), world.make("b"));
    let (root, d) = (world.ino(""), world.ino("d"));
    for name in ["g", "same"] {
        world.unlink(a, "d", name);
    }
    world.mode(a, "d", 0o755);
    world.change(a, |view, change| {
        let record = view.object(d).unwrap().unwrap().value;
        change.object(d, &crate::core::record::ObjectRecord { nlink: 0, ..record });
    });
    let new = world.mkdir(a, root, "d");
    world.add(a, new, "g", "other");
    world.add_like(a, "d", "same", "same", true);
    world.change(a, |view, change| {
        // Where the helper put it: in the old directory.
        let found = view.dirent(d, b"same").unwrap().unwrap().value;
        change.dirent(new, b"same", found, true);
        change.dirent(d, b"same", DirentRecord::Whiteout, true);
    });
    let seen = world.seen("b");
    let plan = world.prepared("a", false);
    fs::rename(world.base().join("d"), world.dir.path().join("gone")).unwrap();
    fs::create_dir(world.base().join("d")).unwrap();
    world.put("d/g", "other");
    world.put("d/same", "same");
    fs::remove_dir_all(world.dir.path().join("gone")).unwrap();
    world.finished(&plan);
    assert_eq!(world.seen("b"), seen);
    world.shows(b, "/d/same", "same");
}

#[test]
fn one_commit_into_a_base_at_a_time() {
    let world = World::new();
    let (a, b) = (world.make("a"), world.make("b"));
    world.busy(a);
    world.add(b, world.ino(""), "other", "text");
    let others = world.seen("b");
    let plan = world.prepared("a", false);
    let second = Command::CommitPrepare { branch: "b".into(), dry_run: false, prefer: Vec::new() };
    assert_eq!(world.refused(&second), ErrorCode::Busy);
    let refresh = Command::Merge { branch: "b".into(), into_parent: false, dry_run: false, prefer: Vec::new() };
    assert_eq!(world.refused(&refresh), ErrorCode::Busy);
    // Who begins now begins with the base as it was.
    world.make("late");
    world.busy_base();
    world.finished(&plan);
    let late = world.seen("late");
    assert_eq!(late.len() + 1, others.len());
    assert!(late.iter().all(|(path, line)| others.get(path) == Some(line)));
    world.finished(&world.prepared("b", false));
}

#[test]
fn what_the_host_does_beside_a_commit_is_followed() {
    let world = World::new();
    let (a, b) = (world.make("a"), world.make("b"));
    world.add(a, world.ino("d"), "new", "text");
    let plan = world.prepared("a", false);
    world.put("d/new", "text");
    world.finished(&plan);
    world.lacks(b, "/d/new");
    // The directory in which the name is was not changed itself.
    fs::rename(world.base().join("d"), world.dir.path().join("gone")).unwrap();
    fs::create_dir(world.base().join("d")).unwrap();
    world.add_in_base("d/built", "by the host");
    world.shows(b, "/d/built", "by the host");
}

#[test]
fn states_of_several_commits_become_one_and_go_with_who_needs_them() {
    let world = World::new();
    world.make("watcher");
    world.write(world.make("mover"), "d/g", "moved away");
    let seen = world.seen("watcher");
    for (n, branch) in ["one", "two", "three"].into_iter().enumerate() {
        let id = world.make(branch);
        if n == 0 {
            world.mode(id, "f", 0o600);
        } else {
            world.write(id, "f", branch);
        }
        world.add(id, world.ino(""), branch, "text");
        let plan = world.prepared(branch, false);
        if n == 0 {
            fs::set_permissions(world.base().join("f"), fs::Permissions::from_mode(0o600)).unwrap();
        } else {
            world.put("f", branch);
        }
        world.put(branch, "text");
        world.finished(&plan);
        assert_eq!(world.seen("watcher"), seen, "{branch}");
    }
    for branch in ["one", "two", "three"] {
        world.ask::<Removed>(&Command::BranchDelete { name: branch.into(), dry_run: false }).unwrap();
        world.sound();
    }
    let chain = world.branches.state("watcher").unwrap().chain.len();
    let collected: Collected = world.ask(&Command::Gc { branches: Vec::new(), dry_run: false }).unwrap();
    assert!(collected.folded > 0 && !collected.left, "{collected:?}");
    world.sound();
    assert_eq!(world.seen("watcher"), seen);
    assert!(world.branches.state("watcher").unwrap().chain.len() < chain);
    // The base without its changes is the base as it sees it.
    let back = Command::Undo { branch: "mover".into(), to: Some("@base".into()), paths: Vec::new(), dry_run: false };
    world.ask::<Undone>(&back).unwrap();
    assert_eq!(world.seen("mover"), seen);
    world.forget("mover", "before-undo-1");
    for branch in ["mover", "watcher"] {
        world.delete(branch);
    }
    world.ask::<Collected>(&Command::Gc { branches: Vec::new(), dry_run: false }).unwrap();
    world.sound();
    assert_eq!(super::removals::files(&world), 0, "nobody needs it any more");
}

#[test]
fn a_directory_that_goes_is_there_for_others() {
    let world = World::new();
    let (a, b) = (world.make("a"), world.make("b"));
    world.unlink(a, "d", "g");
    let (root, d) = (world.ino(""), world.ino("d"));
    world.mode(a, "d", 0o755);
    world.change(a, |view, change| {
        let record = view.object(d).unwrap().unwrap().value;
        change.object(d, &crate::core::record::ObjectRecord { nlink: 0, ..record });
    });
    world.name(a, root, "d", DirentRecord::Whiteout);
    let seen = world.seen("b");
    let plan = world.prepared("a", false);
    fs::remove_dir_all(world.base().join("d")).unwrap();
    world.finished(&plan);
    assert_eq!(world.seen("b"), seen);
    world.lacks(b, "/d/none");
    world.add(b, d, "own", "text");
    world.shows(b, "/d/own", "text");
    assert_eq!(world.diff("b"), ["Added d/own file 4"]);
    assert!(!world.conflicting("b").is_empty(), "its directory is gone");
    assert_eq!(world.refused(&create("b", Some(world.base()), None, false)), ErrorCode::Exists);
    assert_eq!(world.core.branch_record(b).unwrap().quota, Quota::default());
}
