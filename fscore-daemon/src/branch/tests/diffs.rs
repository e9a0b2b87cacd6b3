use super::{World, create, fresh};
use crate::core::ids::ObjectId;
use crate::core::record::{Body, DirentRecord, FileBody, XattrSet};
use shm_transport::control::{BranchInfo, Command, Diff};
use shm_transport::wire::FileKind;
use std::os::unix::fs::MetadataExt;

#[test]
fn nothing_changed() {
    let world = World::new();
    let id = world.make("a");
    assert!(world.diff("a").is_empty());
    // A directory whose times alone changed.
    world.change(id, |view, change| {
        let body = Body::Directory { parent: view.root, name: b"d".to_vec() };
        let (object, mut record) = world.base_record(view, change, "d", body);
        record.mtime.sec += 5;
        record.own_times = true;
        change.object(object, &record);
    });
    assert!(world.diff("a").is_empty());
}

#[test]
fn every_kind_of_change() {
    let world = World::new();
    let id = world.make("a");
    let root = world.ino("");
    world.write(id, "f", "ONE");
    let dir = world.mkdir(id, root, "new");
    world.add(id, dir, "in\\ner", "abcd");
    world.change(id, |view, change| {
        let (object, mut record) = world.base_record(view, change, "d/g", Body::File(FileBody::Base));
        record.mode = 0o600;
        change.object(object, &record);
        change.xattrs(world.ino("d"), &XattrSet(vec![(b"user.a".to_vec(), b"b".to_vec())]));
    });
    let size = std::fs::metadata(world.base().join("d")).unwrap().size();
    assert_eq!(
        world.diff("a"),
        [
            format!("Modified d dir {size} meta"),
            "Modified d/g file 3 meta".into(),
            "Modified f file 3".into(),
            "Added new dir 0".into(),
            r"Added new/in\\ner file 4".into(),
        ]
    );
}

#[test]
fn another_kind_at_a_path() {
    let world = World::new();
    let id = world.make("a");
    let object = world.core.new_object().unwrap();
    world.change(id, |_, change| change.object(object, &fresh(Body::Symlink { target: b"t".to_vec() })));
    world.unlink(id, "d", "g");
    world.name(id, world.ino(""), "d", DirentRecord::Entry { object, kind: FileKind::Symlink });
    assert_eq!(world.diff("a"), ["Retyped d symlink 1", "Deleted d/g file 3"]);
}

#[test]
fn a_replaced_directory_is_compared_within() {
    let world = World::new();
    let id = world.make("a");
    let dir = world.mkdir(id, world.ino(""), "d");
    world.add(id, dir, "g2", "x");
    let diff = world.diff("a");
    assert_eq!(diff.len(), 3, "{diff:?}");
    assert_eq!(diff[1..], ["Deleted d/g file 3", "Added d/g2 file 1"]);
}

#[test]
fn without_a_base_everything_is_added_and_pages_go_on() {
    let world = World::new();
    world.ask::<BranchInfo>(&create("e", None, None, false)).unwrap();
    let id = world.branches.find("e").unwrap();
    let root: ObjectId = world.view(id).root;
    assert!(world.diff("e").is_empty());
    for n in 0..10 {
        world.add(id, root, &format!("f{n}"), "x");
    }
    let command = Command::Diff { branch: "e".into(), against: None, limit: 3, skip: 8, sources: false };
    let page: Diff = world.ask(&command).unwrap();
    assert_eq!(page.added, 10);
    assert_eq!(page.changes.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), ["f8", "f9"]);
}
