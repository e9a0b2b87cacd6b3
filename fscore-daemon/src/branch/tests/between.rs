//! Differences between any two states.

use super::{World, asked, create};
use crate::core::ids::BranchId;
use crate::core::record::{Body, DirentRecord, FileBody, ObjectRecord};
use shm_transport::control::{BranchInfo, Command, Diff, ErrorCode};
use shm_transport::wire::FileKind;

impl World {
    /// Moves a file of the base within its root.
    fn move_f(&self, id: BranchId, to: &str) {
        let (root, f) = (self.ino(""), self.ino("f"));
        self.change(id, |view, change| {
            let (object, record) = self.base_record(view, change, "f", Body::File(FileBody::Base));
            change.object(object, &record);
        });
        self.name(id, root, "f", DirentRecord::Whiteout);
        self.name(id, root, to, DirentRecord::Entry { object: f, kind: FileKind::Regular });
    }
}

#[test]
fn a_moved_directory_is_one_change_and_what_changed_in_it_others() {
    let world = World::new();
    let id = world.make("a");
    world.move_d(id, "e");
    assert_eq!(world.diff("a"), ["Renamed e dir 0 from d"]);
    world.add(id, world.ino("d"), "h", "x");
    world.write(id, "d/g", "TWO!");
    assert_eq!(world.diff("a"), ["Renamed e dir 0 from d", "Modified e/g file 4", "Added e/h file 1"]);
    // The other way round every change is undone.
    let back = world.diff_between(Some("a"), "@base");
    assert_eq!(back.len(), 3, "{back:?}");
    assert!(back[0].starts_with("Renamed d dir") && back[0].ends_with("from e"), "{back:?}");
    assert_eq!(back[1..], ["Modified d/g file 3", "Deleted e/h file 1"]);
}

#[test]
fn a_moved_file_that_changed_says_so() {
    let world = World::new();
    let id = world.make("a");
    world.move_f(id, "z");
    assert_eq!(world.diff("a"), ["Renamed z file 3 from f"]);
    world.write(id, "f", "longer");
    assert_eq!(world.diff("a"), ["Renamed z file 6 from f edited"]);
}

#[test]
fn moved_over_something_else_the_path_is_modified() {
    let world = World::new();
    let id = world.make("a");
    world.unlink(id, "d", "g");
    world.name(id, world.ino(""), "f", DirentRecord::Whiteout);
    world.name(id, world.ino("d"), "g", DirentRecord::Entry { object: world.ino("f"), kind: FileKind::Regular });
    assert_eq!(world.diff("a"), ["Modified d/g file 3", "Deleted f file 3"]);
}

#[test]
fn another_directory_in_the_place_of_one_that_moved() {
    let world = World::new();
    let id = world.make("a");
    world.move_d(id, "e");
    let dir = world.mkdir(id, world.ino(""), "d");
    world.add(id, dir, "g", "new");
    assert_eq!(world.diff("a"), ["Added d dir 0", "Added d/g file 3", "Renamed e dir 0 from d"]);
}

/// What stayed at its path while its directory moved away from around it was not listed: by what was, it went along.
#[test]
fn what_did_not_go_with_its_directory_is_listed() {
    let world = World::new();
    let id = world.make("a");
    world.move_d(id, "e");
    let (old, g) = (world.ino("d"), world.ino("d/g"));
    world.name(id, old, "g", DirentRecord::Whiteout);
    let dir = world.mkdir(id, world.ino(""), "d");
    world.name(id, dir, "g", DirentRecord::Entry { object: g, kind: FileKind::Regular });
    assert_eq!(world.diff("a"), ["Added d dir 0", "Renamed d/g file 3 from d/g", "Renamed e dir 0 from d"]);
    let back = world.diff_between(Some("a"), "@base");
    // The directory that moves back finds it in its place.
    assert!(back.len() == 1 && back[0].starts_with("Renamed d dir"), "{back:?}");
}

#[test]
fn what_looks_like_the_one_before_in_a_directory_that_moved_is_another_one() {
    let world = World::new();
    let id = world.make("a");
    let root = world.ino("");
    let x = world.mkdir(id, root, "x");
    let s = world.mkdir(id, x, "s");
    world.snapshot("a", "one");
    world.whiteout(id, x, "s", s);
    world.name(id, root, "x", DirentRecord::Whiteout);
    world.change(id, |view, change| {
        let record = view.object(x).unwrap().unwrap().value;
        change.object(x, &ObjectRecord { body: Body::Directory { parent: root, name: "y".into() }, ..record });
    });
    world.name(id, root, "y", DirentRecord::Entry { object: x, kind: FileKind::Directory });
    let new = world.mkdir(id, root, "x");
    world.mkdir(id, new, "s");
    let told = ["Added x dir 0", "Deleted x/s dir 0", "Added x/s dir 0", "Renamed y dir 0 from x"];
    assert_eq!(world.diff_between(Some("a@one"), "a"), told);
}

#[test]
fn what_was_swapped_has_two_new_names() {
    let world = World::new();
    std::fs::write(world.base().join("k"), "four").unwrap();
    let id = world.make("a");
    let (f, k) = (world.ino("f"), world.ino("k"));
    world.name(id, world.ino(""), "f", DirentRecord::Entry { object: k, kind: FileKind::Regular });
    world.name(id, world.ino(""), "k", DirentRecord::Entry { object: f, kind: FileKind::Regular });
    assert_eq!(world.diff("a"), ["Renamed f file 4 from k", "Renamed k file 3 from f"]);
}

#[test]
fn one_more_name_is_added() {
    let world = World::new();
    let id = world.make("a");
    world.name(id, world.ino(""), "f2", DirentRecord::Entry { object: world.ino("f"), kind: FileKind::Regular });
    assert_eq!(world.diff("a"), ["Added f2 file 3"]);
}

#[test]
fn snapshots_and_heads_of_one_branch() {
    let world = World::new();
    let id = world.make("a");
    world.write(id, "f", "first");
    world.snapshot("a", "one");
    world.write(id, "f", "second!");
    world.unlink(id, "d", "g");
    world.snapshot("a", "two");
    world.add(id, world.ino("d"), "h", "x");
    assert_eq!(world.diff_between(Some("a@one"), "a@two"), ["Deleted d/g file 3", "Modified f file 7"]);
    assert_eq!(world.diff_between(Some("two"), "a"), ["Added d/h file 1"]);
    assert_eq!(world.diff_between(Some("a@two"), "a@one"), ["Added d/g file 3", "Modified f file 5"]);
    assert_eq!(world.diff_between(None, "a@one"), ["Modified f file 5"]);
    assert!(world.diff_between(Some("a"), "a").is_empty());
}

#[test]
fn what_was_named_long_before_it_changed_is_found() {
    let world = World::new();
    let id = world.make("a");
    let object = world.add(id, world.ino("d"), "made", "old");
    world.move_f(id, "moved");
    world.snapshot("a", "one");
    let content = world.content(id, object, "newer");
    world.change(id, |view, change| {
        let mut record = view.object(object).unwrap().unwrap().value;
        record.body = Body::File(FileBody::Content(content));
        change.object(object, &record);
    });
    world.write(id, "f", "moved and written");
    assert_eq!(world.diff_between(Some("a@one"), "a"), ["Modified d/made file 5", "Modified moved file 17"]);
}

#[test]
fn branches_of_one_base_and_branches_made_from_another() {
    let world = World::new();
    let a = world.make("a");
    world.write(a, "f", "by a");
    let c = world.fork("c", "a");
    world.write(c, "d/g", "by c");
    world.write(a, "f", "a again");
    let b = world.make("b");
    world.write(b, "f", "by b, long");
    assert_eq!(world.diff_between(Some("a"), "c"), ["Modified d/g file 4", "Modified f file 4"]);
    assert_eq!(world.diff_between(Some("c"), "b"), ["Modified d/g file 3", "Modified f file 10"]);
    // The same bytes are no change of content, whoever wrote them.
    world.write(b, "f", "a again");
    let same = world.diff_between(Some("a"), "b");
    // Within one tick of the clock the times are the same as well.
    assert!(same.is_empty() || same == ["Modified f file 7 meta"], "{same:?}");
}

#[test]
fn what_has_nothing_in_common_is_refused() {
    let world = World::new();
    world.make("a");
    for name in ["e1", "e2"] {
        world.ask::<BranchInfo>(&create(name, None, None, false)).unwrap();
    }
    assert_eq!(world.refused(&asked(Some("e1"), "e2")), ErrorCode::Usage);
    assert_eq!(world.refused(&asked(Some("a"), "e1")), ErrorCode::Usage);
    assert_eq!(world.refused(&asked(Some("@base"), "@base")), ErrorCode::Usage);
    assert_eq!(world.refused(&asked(Some("nobody"), "a")), ErrorCode::NotFound);
    assert_eq!(world.refused(&asked(Some("a@none"), "a")), ErrorCode::NotFound);
}

#[test]
fn an_object_without_a_place_is_no_change() {
    let world = World::new();
    let id = world.make("a");
    // Made and removed again, but still open.
    let object = world.core.new_object().unwrap();
    let mut record = super::fresh(Body::File(FileBody::Hole { size: 0 }));
    record.nlink = 0;
    world.change(id, |_, change| change.object(object, &record));
    assert!(world.diff("a").is_empty());
}

#[test]
fn sources_say_where_the_bytes_are() {
    let world = World::new();
    let id = world.make("a");
    world.write(id, "d/g", "changed");
    let Command::Diff { branch, against, limit, skip, .. } = asked(None, "a") else { unreachable!() };
    let diff: Diff = world.ask(&Command::Diff { branch, against, limit, skip, sources: true }).unwrap();
    let change = &diff.changes[0];
    let read = |source: &Option<shm_transport::control::Source>| {
        std::fs::read_to_string(source.as_ref().unwrap().path.as_ref().unwrap()).unwrap()
    };
    assert_eq!((read(&change.old).as_str(), read(&change.new).as_str()), ("two", "changed"));
    assert_eq!(change.old.as_ref().unwrap().path.as_deref(), world.base().join("d/g").to_str());
}

#[test]
fn the_cost_follows_the_changes() {
    let world = World::new();
    for n in 0..2000 {
        std::fs::write(world.base().join(format!("d/{n}")), "x").unwrap();
    }
    let id = world.make("a");
    world.move_d(id, "e");
    let before = world.ino("d/7");
    let base = world.view(id).base.clone().unwrap();
    assert_eq!(world.diff("a"), ["Renamed e dir 0 from d"]);
    // Nothing in the moved directory was looked at.
    assert!(base.locators(before).is_empty());
}
