//! What a branch and its parent both changed.

use super::World;
use super::merges::{merge, preferring};
use crate::core::ids::{BranchId, ObjectId};
use crate::core::record::{Body, DirentRecord, FileBody, ObjectRecord};
use shm_transport::control::{Command, LINE_MAX, Merged, Side, Undone};
use shm_transport::wire::FileKind;
use std::os::unix::fs::MetadataExt;

#[test]
fn every_kind_of_conflict_is_named_and_refused() {
    let world = World::new();
    for name in ["m", "md", "dm", "r"] {
        std::fs::write(world.base().join(name), name).unwrap();
    }
    let (p, c) = world.parent_and_child();
    let root = world.ino("");
    for id in [p, c] {
        world.write(id, "m", &format!("by {id}"));
        world.add(id, root, "added", &format!("by {id}"));
    }
    world.write(c, "md", "modified");
    world.unlink(p, "", "md");
    world.unlink(c, "", "dm");
    world.write(p, "dm", "modified");
    // Here the directory goes, there something comes into it.
    world.unlink(c, "d", "g");
    world.name(c, root, "d", DirentRecord::Whiteout);
    world.add(p, world.ino("d"), "late", "x");
    // The same file gets two new names.
    let r = world.ino("r");
    for (id, name) in [(p, "r of p"), (c, "r of c")] {
        world.mode(id, "r", 0o600);
        world.name(id, root, "r", DirentRecord::Whiteout);
        world.name(id, root, name, DirentRecord::Entry { object: r, kind: FileKind::Regular });
    }
    for into_parent in [true, false] {
        assert_eq!(
            world.conflicts(&merge("c", into_parent)),
            [
                "added: both added",
                "d/late: deleted here, added in the parent",
                "dm: deleted here, modified in the parent",
                "m: both modified",
                "md: modified here, deleted in the parent",
                "r of c: both moved",
            ]
        );
    }
}

#[test]
fn preferences_decide_for_all_or_for_a_path() {
    for (sides, into_parent) in [(Side::Ours, true), (Side::Theirs, true), (Side::Ours, false), (Side::Theirs, false)] {
        let world = World::new();
        for name in ["m", "md", "dm"] {
            std::fs::write(world.base().join(name), name).unwrap();
        }
        let (p, c) = world.parent_and_child();
        let root = world.ino("");
        world.write(p, "m", "by p");
        world.write(c, "m", "by c");
        world.write(c, "md", "modified");
        world.unlink(p, "", "md");
        world.unlink(c, "", "dm");
        world.write(p, "dm", "modified");
        world.unlink(c, "d", "g");
        world.name(c, root, "d", DirentRecord::Whiteout);
        world.add(p, world.ino("d"), "late", "x");
        // One path is decided otherwise.
        let other = if sides == Side::Ours { Side::Theirs } else { Side::Ours };
        world.write(p, "f", "by p");
        world.write(c, "f", "by c");
        world.applies(&preferring("c", into_parent, &[(".", sides), ("f", other)]));
        let id = if into_parent { p } else { c };
        if sides == Side::Ours {
            world.shows(id, "/m", "by c");
            world.shows(id, "/md", "modified");
            world.lacks(id, "/dm");
            world.lacks(id, "/d");
            world.shows(id, "/f", "by p");
        } else {
            world.shows(id, "/m", "by p");
            world.lacks(id, "/md");
            world.shows(id, "/dm", "modified");
            world.shows(id, "/d/late", "x");
            world.lacks(id, "/d/g");
            world.shows(id, "/f", "by c");
        }
    }
}

#[test]
fn the_same_outcome_on_both_sides_is_no_conflict() {
    let world = World::new();
    let (p, c) = world.parent_and_child();
    let root = world.ino("");
    for id in [p, c] {
        world.write(id, "f", "the same");
        world.unlink(id, "d", "g");
        let dir = world.mkdir(id, root, "new");
        world.add(id, dir, "both", "equal");
        world.add(id, dir, &format!("only {id}"), "x");
    }
    let merged = world.merged(&merge("c", true));
    assert!(merged.applied && merged.settled >= 3, "{merged:?}");
    world.same_trees(p, c);
    for path in [format!("/new/only {p}"), format!("/new/only {c}")] {
        world.shows(p, &path, "x");
    }
}

fn host_mode(world: &World, path: &str) -> u32 {
    std::fs::metadata(world.base().join(path)).unwrap().mode() & 0o7777
}

/// The same file, moved on both sides into the directory that both made, is where both have it: it was called moved
/// twice, and gone if the branch was to win.
#[test]
fn both_moving_a_file_into_a_directory_that_both_made_is_no_conflict() {
    for prefer in [&[][..], &[(".", Side::Ours)], &[(".", Side::Theirs)]] {
        for into_parent in [true, false] {
            let world = World::new();
            let (p, c) = world.parent_and_child();
            let (root, f) = (world.ino(""), world.ino("f"));
            world.write(c, "f", "by c");
            world.mode(p, "f", host_mode(&world, "f"));
            for id in [p, c] {
                let dir = world.mkdir(id, root, "new");
                world.name(id, root, "f", DirentRecord::Whiteout);
                world.name(id, dir, "f", DirentRecord::Entry { object: f, kind: FileKind::Regular });
            }
            world.applies(&preferring("c", into_parent, prefer));
            world.shows(if into_parent { p } else { c }, "/new/f", "by c");
        }
    }
}

/// Both put another directory in the place of one: what was in the old one at a name is what both began with. The
/// branch's new file was called a conflict, and if the parent was to win there was neither its file nor the branch's.
#[test]
fn a_name_in_a_directory_that_both_replaced_is_compared_with_the_old_one() {
    for prefer in [&[][..], &[(".", Side::Ours)], &[(".", Side::Theirs)]] {
        let world = World::new();
        let (p, c) = world.parent_and_child();
        let (root, d, g) = (world.ino(""), world.ino("d"), world.ino("d/g"));
        world.mode(p, "d/g", host_mode(&world, "d/g"));
        world.name(p, d, "g", DirentRecord::Whiteout);
        let theirs = world.mkdir(p, root, "d");
        world.name(p, theirs, "g", DirentRecord::Entry { object: g, kind: FileKind::Regular });
        world.unlink(c, "d", "g");
        let ours = world.mkdir(c, root, "d");
        world.add(c, ours, "g", "by c");
        world.applies(&preferring("c", true, prefer));
        world.shows(p, "/d/g", "by c");
    }
}

#[test]
fn directories_moved_into_each_other_are_a_conflict() {
    let world = World::new();
    let p = world.make("p");
    let root = world.ino("");
    let (x, y) = (world.mkdir(p, root, "x"), world.mkdir(p, root, "y"));
    let c = world.fork("c", "p");
    let relocate = |id: BranchId, dir: ObjectId, from: &str, to: ObjectId, name: &str| {
        world.change(id, |view, change| {
            let mut record = view.object(dir).unwrap().unwrap().value;
            record.body = Body::Directory { parent: to, name: name.into() };
            change.object(dir, &record);
        });
        world.name(id, root, from, DirentRecord::Whiteout);
        world.name(id, to, name, DirentRecord::Entry { object: dir, kind: FileKind::Directory });
    };
    relocate(p, x, "x", y, "x");
    relocate(c, y, "y", x, "y");
    let merged: Merged = world.ask(&merge("c", true)).unwrap();
    assert!(!merged.applied);
    let reasons: Vec<_> = merged.conflicts.iter().map(|c| c.reason.as_str()).collect();
    assert_eq!(reasons, ["moved into each other"]);
    // No preference makes a tree of it.
    let merged: Merged = world.ask(&preferring("c", true, &[(".", Side::Ours)])).unwrap();
    assert!(!merged.applied);
}

#[test]
fn no_preference_decides_one_end_of_a_move() {
    for into_parent in [true, false] {
        let world = World::new();
        let (p, c) = world.parent_and_child();
        let root = world.ino("");
        let f = world.ino("f");
        world.mode(c, "f", 0o600);
        world.name(c, root, "f", DirentRecord::Whiteout);
        world.name(c, root, "z", DirentRecord::Entry { object: f, kind: FileKind::Regular });
        world.add(p, root, "z", "by p");
        let merged: Merged = world.ask(&preferring("c", into_parent, &[(".", Side::Theirs)])).unwrap();
        assert!(!merged.applied, "{merged:?}");
        world.applies(&preferring("c", into_parent, &[(".", Side::Ours)]));
        world.shows(if into_parent { p } else { c }, "/z", "one");
    }
}

/// Another name changes a file's record, and not the file: its removal together with its directory was called a conflict.
#[test]
fn a_second_name_of_a_file_whose_directory_goes_is_no_change_of_the_file() {
    let linked = |world: &World, c: BranchId| {
        let (root, g) = (world.ino(""), world.ino("d/g"));
        world.change(c, |view, change| {
            let (object, record) = world.base_record(view, change, "d/g", Body::File(FileBody::Base));
            change.object(object, &ObjectRecord { nlink: 2, ..record });
        });
        for (dir, name) in [(world.ino("d"), "g"), (root, "second")] {
            world.name(c, dir, name, DirentRecord::Entry { object: g, kind: FileKind::Regular });
        }
    };
    for into_parent in [true, false] {
        let world = World::new();
        let (p, c) = world.parent_and_child();
        linked(&world, c);
        world.unlink(p, "d", "g");
        world.name(p, world.ino(""), "d", DirentRecord::Whiteout);
        world.applies(&merge("c", into_parent));
        let id = if into_parent { p } else { c };
        world.shows(id, "/second", "two");
        world.lacks(id, "/d");
    }
    // Changed besides, it is one.
    let world = World::new();
    let (p, c) = world.parent_and_child();
    linked(&world, c);
    world.rewrite(c, world.ino("d/g"), "by c");
    world.unlink(p, "d", "g");
    world.name(p, world.ino(""), "d", DirentRecord::Whiteout);
    assert_eq!(world.conflicts(&merge("c", true)), ["d/g: modified here, deleted in the parent"]);
}

/// A directory that the branch moved, and the parent deleted, stays where the branch has it. What was new in it was called a
/// conflict, and was lost if the parent was to win.
#[test]
fn a_moved_directory_that_the_other_side_deleted_stays_with_what_is_new_in_it() {
    for prefer in [&[][..], &[(".", Side::Ours)], &[(".", Side::Theirs)]] {
        for into_parent in [true, false] {
            let world = World::new();
            let (p, c) = world.parent_and_child();
            let d = world.ino("d");
            world.move_d(c, "e");
            world.change(c, |view, change| {
                let record = view.object(d).unwrap().unwrap().value;
                change.object(d, &ObjectRecord { mode: 0o700, ..record });
            });
            let sub = world.mkdir(c, d, "sub");
            world.add(c, sub, "new", "by c");
            world.unlink(p, "d", "g");
            world.name(p, world.ino(""), "d", DirentRecord::Whiteout);
            world.applies(&preferring("c", into_parent, prefer));
            let id = if into_parent { p } else { c };
            let tree = world.tree(&world.view(id));
            assert_eq!(tree.keys().collect::<Vec<_>>(), ["/e", "/e/sub", "/e/sub/new", "/f"]);
            world.shows(id, "/e/sub/new", "by c");
            assert!(tree["/e"].starts_with("Directory 700 "), "{tree:?}");
        }
    }
}

#[test]
fn what_is_modified_in_a_moved_directory_that_the_other_side_deleted_is_a_conflict_of_its_own() {
    let side = |prefer: &[(&str, Side)], into_parent| {
        let world = World::new();
        let (p, c) = world.parent_and_child();
        world.move_d(c, "e");
        world.write(c, "d/g", "by c");
        world.add(c, world.ino("d"), "new", "by c");
        world.unlink(p, "d", "g");
        world.name(p, world.ino(""), "d", DirentRecord::Whiteout);
        assert_eq!(world.conflicts(&merge("c", into_parent)), ["e/g: modified here, deleted in the parent"]);
        world.applies(&preferring("c", into_parent, prefer));
        let id = if into_parent { p } else { c };
        world.shows(id, "/e/new", "by c");
        world.tree(&world.view(id)).get("/e/g").cloned()
    };
    for into_parent in [true, false] {
        assert!(side(&[(".", Side::Ours)], into_parent).is_some_and(|line| line.ends_with(" by c")));
        assert_eq!(side(&[(".", Side::Theirs)], into_parent), None);
    }
}

/// Where the parent has something else at the new place, nothing is left to put it into, unless the branch wins there.
#[test]
fn a_moved_directory_whose_new_place_is_taken_is_a_conflict_with_what_is_new_in_it() {
    for into_parent in [true, false] {
        let world = World::new();
        let (p, c) = world.parent_and_child();
        world.move_d(c, "e");
        world.add(c, world.ino("d"), "new", "by c");
        world.unlink(p, "d", "g");
        world.name(p, world.ino(""), "d", DirentRecord::Whiteout);
        world.add(p, world.ino(""), "e", "by p");
        let told = ["e: both added", "e/new: added here, its directory deleted in the parent"];
        assert_eq!(world.conflicts(&merge("c", into_parent)), told);
        let half = preferring("c", into_parent, &[("e", Side::Theirs), ("e/new", Side::Ours)]);
        assert_eq!(world.conflicts(&half), [told[1]]);
        world.applies(&preferring("c", into_parent, &[(".", Side::Ours)]));
        world.shows(if into_parent { p } else { c }, "/e/new", "by c");
    }
}

/// Where the loser of a move had put the file, the winner's own file stays: it was removed as well.
#[test]
fn the_winner_of_a_move_keeps_what_it_has_at_the_other_place() {
    for into_parent in [true, false] {
        let world = World::new();
        std::fs::write(world.base().join("m"), "there").unwrap();
        let (p, c) = world.parent_and_child();
        let (root, f) = (world.ino(""), world.ino("f"));
        world.write(c, "m", "by c");
        world.unlink(p, "", "m");
        for (id, name) in [(p, "m"), (c, "z")] {
            world.mode(id, "f", host_mode(&world, "f"));
            world.name(id, root, "f", DirentRecord::Whiteout);
            world.name(id, root, name, DirentRecord::Entry { object: f, kind: FileKind::Regular });
        }
        assert_eq!(world.conflicts(&merge("c", into_parent)), ["m: both modified", "z: both moved"]);
        world.applies(&preferring("c", into_parent, &[(".", Side::Ours)]));
        let id = if into_parent { p } else { c };
        world.shows(id, "/m", "by c");
        world.shows(id, "/z", "one");
    }
}

/// The same file, put back on both sides and changed on one: the other one's was lost without a word.
#[test]
fn what_both_sides_put_back_differently_is_a_conflict() {
    for into_parent in [true, false] {
        for winner in [None, Some(Side::Ours), Some(Side::Theirs)] {
            let world = World::new();
            let p = world.make("p");
            world.unlink(p, "", "f");
            let c = world.fork("c", "p");
            for branch in ["p", "c"] {
                let to = Some("@base".into());
                let undo = Command::Undo { branch: branch.into(), to, paths: vec!["f".into()], dry_run: false };
                world.ask::<Undone>(&undo).unwrap();
            }
            let dry = Command::Merge { branch: "c".into(), into_parent, dry_run: true, prefer: Vec::new() };
            assert!(world.merged(&dry).conflicts.is_empty(), "both are the same");
            world.rewrite(p, world.ino("f"), "by p");
            let Some(side) = winner else {
                assert_eq!(world.conflicts(&merge("c", into_parent)), ["f: both added"]);
                continue;
            };
            world.applies(&preferring("c", into_parent, &[(".", side)]));
            let id = if into_parent { p } else { c };
            world.shows(id, "/f", if side == Side::Ours { "one" } else { "by p" });
        }
    }
}

/// The list of changes leaves room for the conflicts: an answer that is too long for its reader says nothing.
#[test]
fn an_answer_with_many_changes_and_many_conflicts_can_be_read() {
    let world = World::new();
    let parent = world.make("parent");
    let child = world.fork("child", "parent");
    let root = world.view(parent).root;
    for n in 0..4000 {
        for (branch, text) in [(parent, "theirs"), (child, "ours")] {
            world.add(branch, root, &format!("{n:0220}"), text);
        }
    }
    let answer: serde_json::Value = world.ask(&merge("child", true)).unwrap();
    assert!(serde_json::to_string(&answer).unwrap().len() < LINE_MAX / 10 * 9 + 4096);
    let merged: Merged = serde_json::from_value(answer).unwrap();
    assert_eq!((merged.applied, merged.changes.added), (false, 4000));
    assert!(!merged.conflicts.is_empty() && !merged.changes.changes.is_empty());
}
