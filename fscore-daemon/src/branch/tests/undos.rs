//! The way back to an earlier state.

use super::merges::merge;
use super::{World, create};
use crate::core::ids::BranchId;
use crate::core::record::DirentRecord;
use shm_transport::control::{BranchInfo, Command, CommitPlan, ErrorCode, Merged, Removed, Undone};
use shm_transport::wire::FileKind;

fn undo(branch: &str, to: Option<&str>, paths: &[&str]) -> Command {
    let paths = paths.iter().map(|path| (*path).into()).collect();
    Command::Undo { branch: branch.into(), to: to.map(Into::into), paths, dry_run: false }
}

impl World {
    #[track_caller]
    fn undoes(&self, command: &Command) -> Undone {
        let undone: Undone = self.ask(command).unwrap();
        self.sound();
        undone
    }

    fn same_as(&self, id: BranchId, state: &str) {
        let state = self.branches.state(state).unwrap();
        assert_eq!(self.tree(&self.view(id)), self.tree(&state));
    }
}

#[test]
fn all_goes_back_and_forth() {
    let world = World::new();
    let a = world.make("a");
    world.write(a, "f", "first");
    world.snapshot("a", "s");
    world.write(a, "f", "second");
    world.unlink(a, "d", "g");
    world.add(a, world.ino("d"), "new", "x");
    let before = world.tree(&world.view(a));
    let dry: Undone =
        world.ask(&Command::Undo { branch: "a".into(), to: None, paths: Vec::new(), dry_run: true }).unwrap();
    assert!(dry.snapshot.is_none());
    assert_eq!((dry.changes.added, dry.changes.modified, dry.changes.deleted), (1, 1, 1));
    assert_eq!(world.tree(&world.view(a)), before, "a dry run does nothing");
    let undone = world.undoes(&undo("a", None, &[]));
    assert_eq!((undone.to.as_str(), undone.snapshot.as_deref()), ("a@s", Some("before-undo-1")));
    world.same_as(a, "a@s");
    world.shows(a, "/f", "first");
    // Back again; the latest snapshot is the state before the undo.
    let undone = world.undoes(&undo("a", None, &[]));
    assert_eq!(undone.snapshot.as_deref(), Some("before-undo-2"));
    assert_eq!(world.tree(&world.view(a)), before);
    // What the branch does then is its own.
    world.write(a, "f", "third");
    world.undoes(&undo("a", Some("a@s"), &[]));
    world.shows(a, "/f", "first");
    world.undoes(&undo("a", Some("before-undo-3"), &[]));
    world.shows(a, "/f", "third");
    world.undoes(&undo("a", Some("@base"), &[]));
    assert!(world.diff("a").is_empty());
    let nothing: Undone = world.ask(&undo("a", Some("@base"), &[])).unwrap();
    assert!(nothing.snapshot.is_none(), "nothing to undo, nothing done");
}

#[test]
fn paths_go_back_and_the_rest_stays() {
    let world = World::new();
    std::fs::write(world.base().join("d/h"), "aitch").unwrap();
    let a = world.make("a");
    let root = world.ino("");
    world.write(a, "f", "changed");
    world.write(a, "d/g", "changed");
    world.unlink(a, "d", "h");
    world.add(a, world.ino("d"), "made", "x");
    world.add(a, root, "stays", "y");
    let undone = world.undoes(&undo("a", Some("@base"), &["d/g", "d/h"]));
    assert_eq!((undone.changes.added, undone.changes.modified, undone.changes.deleted), (1, 1, 0));
    world.shows(a, "/d/g", "two");
    world.shows(a, "/d/h", "aitch");
    world.shows(a, "/f", "changed");
    world.shows(a, "/d/made", "x");
    world.undoes(&undo("a", Some("@base"), &["d/"]));
    world.lacks(a, "/d/made");
    world.shows(a, "/stays", "y");
    world.undoes(&undo("a", Some("before-undo-2"), &["d/made"]));
    world.shows(a, "/d/made", "x");
}

#[test]
fn a_deleted_directory_comes_back_as_far_as_it_is_needed() {
    let world = World::new();
    let a = world.make("a");
    let root = world.ino("");
    let dir = world.mkdir(a, root, "top");
    // The directory above has one more.
    world.change(a, |view, change| {
        if let Some(found) = view.object(root).unwrap() {
            change.object(root, &found.value);
        }
    });
    let one = world.add(a, dir, "one", "1");
    let two = world.add(a, dir, "two", "2");
    world.snapshot("a", "s");
    for (name, object) in [("one", one), ("two", two)] {
        world.whiteout(a, dir, name, object);
    }
    world.whiteout(a, root, "top", dir);
    world.undoes(&undo("a", Some("s"), &["top/one"]));
    world.shows(a, "/top/one", "1");
    world.lacks(a, "/top/two");
    world.undoes(&undo("a", Some("s"), &["top"]));
    world.same_as(a, "a@s");
}

#[test]
fn content_of_a_snapshot_is_not_written_through() {
    let world = World::new();
    let a = world.make("a");
    let object = world.add(a, world.ino(""), "new", "first");
    world.snapshot("a", "s");
    world.rewrite(a, object, "second");
    world.undoes(&undo("a", Some("s"), &["new"]));
    world.shows(a, "/new", "first");
    world.rewrite(a, object, "third");
    let snapshot = world.branches.state("a@s").unwrap();
    assert!(world.tree(&snapshot)["/new"].ends_with(" first"));
    let before = world.branches.state("a@before-undo-1").unwrap();
    assert!(world.tree(&before)["/new"].ends_with(" second"));
}

#[test]
fn half_a_move_is_not_undone() {
    let world = World::new();
    let a = world.make("a");
    let root = world.ino("");
    world.mode(a, "f", 0o600);
    world.name(a, root, "f", DirentRecord::Whiteout);
    world.name(a, root, "z", DirentRecord::Entry { object: world.ino("f"), kind: FileKind::Regular });
    for path in ["f", "z"] {
        assert_eq!(world.refused(&undo("a", Some("@base"), &[path])), ErrorCode::Usage);
    }
    world.undoes(&undo("a", Some("@base"), &["f", "z"]));
    world.shows(a, "/f", "one");
    world.lacks(a, "/z");
}

#[test]
fn what_cannot_be_undone_is_refused() {
    let world = World::new();
    let a = world.make("a");
    world.write(a, "f", "x");
    assert_eq!(world.refused(&undo("a", None, &[])), ErrorCode::NotFound);
    assert_eq!(world.refused(&undo("a", Some("nothing"), &[])), ErrorCode::NotFound);
    assert_eq!(world.refused(&undo("a", Some("@fork"), &[])), ErrorCode::Usage);
    assert_eq!(world.refused(&undo("a", Some("@base"), &["no/such"])), ErrorCode::NotFound);
    assert_eq!(world.refused(&undo("a", Some("@base"), &["../f"])), ErrorCode::Usage);
    assert_eq!(world.refused(&undo("a", Some("@base"), &[""])), ErrorCode::Usage);
    world.ask::<BranchInfo>(&create("e", None, None, false)).unwrap();
    assert_eq!(world.refused(&undo("e", Some("@base"), &[])), ErrorCode::Usage);
}

#[test]
fn a_branch_goes_back_to_its_fork_point_and_is_merged_again() {
    let world = World::new();
    let p = world.make("p");
    world.write(p, "f", "by p");
    let c = world.fork("c", "p");
    world.write(c, "f", "by c");
    world.undoes(&undo("c", Some("@fork"), &[]));
    world.shows(c, "/f", "by p");
    let again = Command::Merge { branch: "c".into(), into_parent: true, dry_run: false, prefer: Vec::new() };
    assert!(!world.ask::<Merged>(&again).unwrap().applied);
    world.undoes(&undo("c", None, &[]));
    assert!(world.ask::<Merged>(&again).unwrap().applied);
    world.shows(p, "/f", "by c");
}

#[test]
fn what_the_parent_did_meanwhile_outlives_the_undo_of_a_refresh_or_merge() {
    let world = World::new();
    let p = world.make("p");
    let c = world.fork("c", "p");
    let root = world.ino("");
    world.snapshot("c", "s");
    world.add(p, root, "important", "x");
    assert!(world.ask::<Merged>(&merge("c", false)).unwrap().applied);
    world.undoes(&undo("c", Some("s"), &[]));
    world.write(c, "f", "by c");
    assert!(world.ask::<Merged>(&merge("c", true)).unwrap().applied);
    world.shows(p, "/important", "x");
    world.shows(p, "/f", "by c");
    // The same after a merge into the parent.
    world.add(p, root, "late", "y");
    world.undoes(&undo("c", Some("s"), &[]));
    world.add(c, root, "other", "z");
    let merged: Merged = world.ask(&merge("c", true)).unwrap();
    assert!(merged.applied, "{merged:?}");
    for (path, text) in [("/important", "x"), ("/late", "y"), ("/other", "z")] {
        world.shows(p, path, text);
    }
    // From the base alone it is nobody's child.
    world.undoes(&undo("c", Some("@base"), &[]));
    assert_eq!(world.refused(&merge("c", true)), ErrorCode::Usage);
}

#[test]
fn a_directory_that_another_has_the_place_of_is_not_put_back_by_halves() {
    let world = World::new();
    let a = world.make("a");
    let root = world.ino("");
    let first = world.mkdir(a, root, "top");
    let one = world.add(a, first, "one", "1");
    world.snapshot("a", "s");
    world.whiteout(a, first, "one", one);
    world.whiteout(a, root, "top", first);
    let second = world.mkdir(a, root, "top");
    world.add(a, second, "new", "x");
    assert_eq!(world.refused(&undo("a", Some("s"), &["top"])), ErrorCode::Usage);
    world.shows(a, "/top/new", "x");
    world.undoes(&undo("a", Some("s"), &[]));
    world.same_as(a, "a@s");
}

/// The branch is its parent's child no longer, and what the parent knew of the base was out of reach, or gone with it.
#[test]
fn a_branch_that_went_back_to_the_base_can_still_commit_what_it_had() {
    let world = World::new();
    let (p, _) = world.parent_and_child();
    world.write(p, "f", "by p");
    world.fork("grandchild", "p");
    let undo = |to: &str| {
        let command =
            Command::Undo { branch: "grandchild".into(), to: Some(to.into()), paths: Vec::new(), dry_run: false };
        world.ask::<Undone>(&command).unwrap();
        world.sound();
    };
    undo("@base");
    world.ask::<Removed>(&Command::BranchDelete { name: "c".into(), dry_run: false }).unwrap();
    world.ask::<Removed>(&Command::BranchDelete { name: "p".into(), dry_run: false }).unwrap();
    undo("before-undo-1");
    let prepare = Command::CommitPrepare { branch: "grandchild".into(), dry_run: true, prefer: Vec::new() };
    let plan: CommitPlan = world.ask(&prepare).unwrap();
    assert!(plan.conflicts.is_empty() && plan.summary.modified == 1, "{plan:?}");
}
