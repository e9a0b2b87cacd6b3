use super::{World, create};
use crate::core::member::Member;
use crate::core::record::DirentRecord;
use shm_transport::control::{
    BranchInfo, Command, CommitPlan, ErrorCode, PlanBody, PlanStep, Preference, Side, SnapshotInfo, Undone,
};
use shm_transport::wire::{FileKind, SessionId};
use std::fs;
use std::path::Path;

fn prepare(world: &World, dry_run: bool) -> CommitPlan {
    world.ask(&Command::CommitPrepare { branch: "a".into(), dry_run, prefer: Vec::new() }).unwrap()
}

fn steps(plan: &CommitPlan) -> Vec<PlanStep> {
    let text = fs::read_to_string(plan.journal.as_ref().unwrap().join("plan.jsonl")).unwrap();
    let mut steps: Vec<PlanStep> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = steps.pop();
    assert_eq!(last, Some(PlanStep::End { lines: steps.len() as u64 }));
    steps
}

fn told(plan: &CommitPlan) -> Vec<String> {
    steps(plan)
        .into_iter()
        .filter(|step| !matches!(step, PlanStep::Inside { .. }))
        .map(|step| match step {
            PlanStep::Remove { path, .. } => format!("remove {path}"),
            PlanStep::Move { from, path, .. } => format!("move {from} {path}"),
            PlanStep::Make { path, object, .. } => match object.body {
                PlanBody::File { content, size } => {
                    format!("file {path} {size} {}", fs::read_to_string(content.unwrap()).unwrap())
                }
                other @ (PlanBody::Directory | PlanBody::Symlink { .. } | PlanBody::Special { .. }) => {
                    format!("make {path} {other:?}")
                }
            },
            PlanStep::Link { target, path, .. } => format!("link {target} {path}"),
            PlanStep::Attributes { path, .. } => format!("attributes {path}"),
            PlanStep::Inside { .. } | PlanStep::End { .. } => String::new(),
        })
        .collect()
}

fn conflicts(world: &World) -> Vec<String> {
    let plan = prepare(world, true);
    plan.conflicts.into_iter().map(|c| format!("{}: {}", c.path, c.reason)).collect()
}

#[test]
fn a_plan_goes_from_the_top_and_a_finish_starts_afresh() {
    let world = World::new();
    let id = world.make("a");
    let root = world.ino("");
    world.write(id, "f", "ONE");
    let dir = world.mkdir(id, root, "new");
    let file = world.add(id, dir, "x", "text");
    world.name(id, root, "also", DirentRecord::Entry { object: file, kind: FileKind::Regular });
    world.unlink(id, "d", "g");
    assert!(prepare(&world, true).journal.is_none());
    let head = world.view(id).head();
    let plan = prepare(&world, false);
    assert_eq!((plan.base.clone(), plan.summary.added), (world.base(), 3));
    assert!(world.branches.is_committing(id).unwrap());
    assert_eq!(world.view(id).chain[1], head);
    assert_eq!(
        told(&plan),
        ["file also 4 text", "remove d/g", "file f 3 ONE", "make new Directory", "link also new/x"]
    );
    assert_eq!(
        world.refused(&Command::CommitPrepare { branch: "a".into(), dry_run: false, prefer: Vec::new() }),
        ErrorCode::Busy
    );
    assert_eq!(world.refused(&Command::BranchDelete { name: "a".into(), dry_run: false }), ErrorCode::Busy);
    let pending: Vec<CommitPlan> = world.ask(&Command::CommitPending).unwrap();
    assert_eq!((pending[0].id, &pending[0].journal), (plan.id, &plan.journal));

    let base = world.base();
    fs::write(base.join("f"), "ONE").unwrap();
    fs::remove_file(base.join("d/g")).unwrap();
    world.branches.handle(&Command::CommitFinish { id: plan.id }).unwrap();
    assert_eq!(world.view(id).own().unwrap().len(), 1);
    assert!(world.diff("a").is_empty());
    assert!(!plan.journal.unwrap().exists());
    assert_eq!(world.core.contents.ids().unwrap().count(), 0);
    assert_eq!(world.refused(&Command::CommitFinish { id: plan.id }), ErrorCode::NotFound);
    // Its pre-images are of now.
    world.write(id, "f", "third");
    assert!(conflicts(&world).is_empty());
}

#[test]
fn snapshots_outlive_a_commit() {
    let mut world = World::new();
    let id = world.make("a");
    world.write(id, "f", "ONE");
    world.ask::<SnapshotInfo>(&Command::SnapshotCreate { branch: "a".into(), name: "s".into() }).unwrap();
    let plan = prepare(&world, false);
    world.branches.handle(&Command::CommitFinish { id: plan.id }).unwrap();
    world.restart();
    assert!(world.diff("a").is_empty());
    world.ask::<BranchInfo>(&create("b", None, Some("a@s"), false)).unwrap();
    assert_eq!(world.diff("b"), ["Modified f file 3"]);
}

#[test]
fn an_abort_leaves_the_branch_as_it_is() {
    let world = World::new();
    let id = world.make("a");
    world.write(id, "f", "ONE");
    let plan = prepare(&world, false);
    world.branches.handle(&Command::CommitAbort { id: plan.id }).unwrap();
    assert!(!plan.journal.unwrap().exists());
    assert_eq!(world.diff("a"), ["Modified f file 3"]);
    assert!(prepare(&world, false).journal.is_some());
}

#[test]
fn refusals() {
    let world = World::new();
    let id = world.make("a");
    let command = Command::CommitPrepare { branch: "a".into(), dry_run: false, prefer: Vec::new() };
    world.core.join(&Member::new(SessionId(1), id, false, Path::new("/m"))).unwrap();
    assert_eq!(world.refused(&command), ErrorCode::Busy);
    world.core.end_session(SessionId(1)).unwrap();
    assert_eq!((prepare(&world, false).id, prepare(&world, false).journal), (0, None));
    world.ask::<BranchInfo>(&create("e", None, None, false)).unwrap();
    assert_eq!(
        world.refused(&Command::CommitPrepare { branch: "e".into(), dry_run: true, prefer: Vec::new() }),
        ErrorCode::Usage
    );
}

#[test]
fn moved_objects_of_the_base_are_moved() {
    let world = World::new();
    let id = world.make("a");
    world.move_d(id, "e");
    world.add(id, world.ino("d"), "h", "x");
    world.unlink(id, "d", "g");
    assert_eq!(told(&prepare(&world, false)), ["move d e", "remove e/g", "file e/h 1 x"]);
}

/// `mv f f~; cp -p f~ f`: the base's file goes to its new name, so that a new one must come in its place.
#[test]
fn a_file_that_was_moved_away_does_not_stay_for_its_equal() {
    for time_too in [true, false] {
        let world = World::new();
        let id = world.make("a");
        let (object, root) = (world.ino("f"), world.ino(""));
        world.add_like(id, "", "f", "one", time_too);
        world.name(id, root, "f~", DirentRecord::Entry { object, kind: FileKind::Regular });
        assert_eq!(told(&prepare(&world, false)), ["file f 3 one", "move f f~"]);
    }
}

#[test]
fn a_further_name_of_a_base_file_is_a_link_and_attributes_come_last() {
    let world = World::new();
    let id = world.make("a");
    let (object, root) = (world.ino("f"), world.ino(""));
    world.change(id, |view, change| {
        let body = crate::core::record::Body::File(crate::core::record::FileBody::Base);
        let (object, mut record) = world.base_record(view, change, "f", body);
        record.mode = 0o600;
        change.object(object, &record);
    });
    world.name(id, root, "again", DirentRecord::Entry { object, kind: FileKind::Regular });
    assert_eq!(told(&prepare(&world, false)), ["link f again", "attributes f"]);
}

#[test]
fn every_hard_link_of_a_changed_file_changes() {
    let world = World::new();
    let id = world.make("a");
    fs::create_dir_all(world.base().join("deep/er")).unwrap();
    fs::hard_link(world.base().join("f"), world.base().join("deep/er/h")).unwrap();
    world.write(id, "f", "mine");
    assert_eq!(world.diff("a"), ["Modified deep/er/h file 4", "Modified f file 4"]);
    assert_eq!(told(&prepare(&world, false)), ["file deep/er/h 4 mine", "link deep/er/h f"]);
}

#[test]
fn a_name_added_to_a_removed_directory_is_a_conflict() {
    let world = World::new();
    let id = world.make("a");
    world.unlink(id, "d", "g");
    // The directory's record is gone, as after the kernel forgot it.
    world.name(id, world.ino(""), "d", DirentRecord::Whiteout);
    assert!(conflicts(&world).is_empty());
    fs::write(world.base().join("d/h"), "theirs").unwrap();
    assert_eq!(conflicts(&world), ["d/h: deleted here, added in the base"]);
}

#[test]
fn conflicts_are_found() {
    let world = World::new();
    let id = world.make("a");
    let (base, root) = (world.base(), world.ino(""));
    world.write(id, "f", "mine");
    world.unlink(id, "d", "g");
    world.add(id, root, "new", "mine");
    world.add(id, root, "same", "equal");
    assert!(conflicts(&world).is_empty());

    fs::write(base.join("f"), "theirs!").unwrap();
    fs::write(base.join("d/g"), "theirs!").unwrap();
    fs::write(base.join("new"), "theirs!").unwrap();
    assert_eq!(conflicts(&world), ["d/g: deleted here, modified in the base", "f: both modified", "new: both added"]);
    let plan = prepare(&world, false);
    assert_eq!((plan.id, plan.journal, plan.conflicts.len()), (0, None, 3));
    world.branches.handle(&Command::CommitAbort { id: 0 }).unwrap();

    // Deleted on both sides is nothing; another file in its place is a conflict, as is none.
    fs::remove_file(base.join("d/g")).unwrap();
    fs::remove_file(base.join("new")).unwrap();
    fs::write(base.join("f2"), "other").unwrap();
    fs::rename(base.join("f2"), base.join("f")).unwrap();
    assert_eq!(conflicts(&world), ["f: both modified"]);
    fs::remove_file(base.join("f")).unwrap();
    assert_eq!(conflicts(&world), ["f: modified here, deleted in the base"]);
}

#[test]
fn a_fork_finds_the_preimages_of_its_source() {
    let world = World::new();
    let id = world.make("src");
    world.write(id, "f", "mine");
    world.unlink(id, "d", "g");
    world.ask::<BranchInfo>(&create("a", None, Some("src"), false)).unwrap();
    assert!(conflicts(&world).is_empty());
    fs::write(world.base().join("f"), "theirs!").unwrap();
    assert_eq!(conflicts(&world), ["f: both modified"]);
}

#[test]
fn a_time_alone_is_taken_over() {
    let world = World::new();
    let id = world.make("a");
    world.age(&["f", "d/g"]);
    std::os::unix::fs::symlink("f", world.base().join("l")).unwrap();
    // A link's own time; a file rewritten with the bytes it had, in place and by a new one.
    let link = world.ino("l");
    world.change(id, |view, change| {
        let body = crate::core::record::Body::Symlink { target: b"f".to_vec() };
        let (object, mut record) = world.base_record(view, change, "l", body);
        record.mtime.sec = 77;
        change.object(object, &record);
    });
    world.write(id, "f", "one");
    world.add_like(id, "d", "g", "two", false);
    assert_eq!(world.diff("a"), ["Modified d/g file 3 meta", "Modified f file 3 meta", "Modified l symlink 1 meta"]);
    let plan = prepare(&world, false);
    assert_eq!(told(&plan), ["attributes d/g", "attributes f", "attributes l"]);
    let found = steps(&plan).into_iter().find(|step| matches!(step, PlanStep::Attributes { path, .. } if path == "l"));
    let Some(PlanStep::Attributes { meta, was: Some(was), .. }) = found else { panic!("{found:?}") };
    assert_eq!((meta.mtime.0, was.ino), (77, link.0));
}

#[test]
fn the_same_on_both_sides_but_for_the_time_stays_as_the_base_has_it() {
    let world = World::new();
    let id = world.make("a");
    world.write(id, "f", "ONE");
    world.add(id, world.ino(""), "new", "new");
    fs::write(world.base().join("f"), "ONE").unwrap();
    world.add_in_base("new", "new");
    world.age(&["f", "new"]);
    assert_eq!(world.diff("a"), ["Modified f file 3 meta", "Modified new file 3 meta"]);
    let plan = prepare(&world, false);
    assert_eq!((plan.conflicts.len(), plan.journal, plan.summary.modified), (0, None, 0));
    // One who sets other permissions as well is in conflict.
    fs::set_permissions(world.base().join("f"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(conflicts(&world), ["f: both modified"]);
}

#[test]
fn a_plan_says_what_each_step_must_find() {
    let world = World::new();
    let id = world.make("a");
    let (d, g, f) = (world.ino("d"), world.ino("d/g"), world.ino("f"));
    world.write(id, "f", "ONE");
    world.unlink(id, "d", "g");
    world.name(id, world.ino(""), "d", DirentRecord::Whiteout);
    world.add(id, world.ino(""), "new", "x");
    let mut expected = Vec::new();
    let mut inside = Vec::new();
    for step in steps(&prepare(&world, false)) {
        if let PlanStep::Remove { path, was } | PlanStep::Make { path, was, .. } = step {
            expected.push((path, was.map(|w| w.ino)));
        } else if let PlanStep::Inside { was } = step {
            inside.push(was.ino);
        } else {
            panic!("{step:?}");
        }
    }
    let names = [("d", Some(d.0)), ("f", Some(f.0)), ("new", None)];
    assert_eq!(expected, names.map(|(path, ino)| (path.to_owned(), ino)));
    assert_eq!(inside, [g.0]);
}

#[test]
fn what_was_moved_does_not_vanish_where_the_base_wins_its_new_place() {
    let world = World::new();
    let id = world.make("a");
    let root = world.ino("");
    world.mode(id, "f", 0o600);
    world.name(id, root, "f", DirentRecord::Whiteout);
    world.name(id, root, "z", DirentRecord::Entry { object: world.ino("f"), kind: FileKind::Regular });
    world.add_in_base("z", "of the host");
    let prefer = vec![Preference { path: ".".into(), side: Side::Theirs }];
    let plan: CommitPlan = world.ask(&Command::CommitPrepare { branch: "a".into(), dry_run: true, prefer }).unwrap();
    let paths: Vec<_> = plan.conflicts.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(paths, ["z"]);
}

#[test]
fn after_a_way_back_over_a_commit_the_hosts_later_edits_are_conflicts() {
    let world = World::new();
    let id = world.make("a");
    world.write(id, "f", "ONE");
    world.add(id, world.ino(""), "new", "text");
    world.snapshot("a", "s");
    let plan = prepare(&world, false);
    world.branches.handle(&Command::CommitFinish { id: plan.id }).unwrap();
    // As a commit leaves it: other objects at these names. Then somebody edits them.
    for name in ["f", "new"] {
        let path = world.base().join(name);
        fs::write(path.with_extension("tmp"), "later work of the host").unwrap();
        fs::rename(path.with_extension("tmp"), path).unwrap();
    }
    let back = Command::Undo { branch: "a".into(), to: Some("s".into()), paths: Vec::new(), dry_run: false };
    world.ask::<Undone>(&back).unwrap();
    let found = conflicts(&world);
    assert!(found.iter().any(|c| c.starts_with("f: ")) && found.iter().any(|c| c.starts_with("new: ")), "{found:?}");
}

#[test]
fn what_a_branch_changes_after_a_commit_says_nothing_of_the_states_before_it() {
    let world = World::new();
    let id = world.make("a");
    world.write(id, "f", "ONE");
    world.unlink(id, "d", "g");
    world.snapshot("a", "s");
    let plan = prepare(&world, false);
    world.branches.handle(&Command::CommitFinish { id: plan.id }).unwrap();
    fs::write(world.base().join("f"), "work of the host").unwrap();
    fs::write(world.base().join("d/g"), "work of the host too").unwrap();
    // What the branch has now was made of the host's work; what the snapshot has was not.
    world.write(id, "f", "TWO");
    world.unlink(id, "d", "g");
    assert!(conflicts(&world).is_empty());
    world
        .ask::<Undone>(&Command::Undo { branch: "a".into(), to: Some("s".into()), paths: Vec::new(), dry_run: false })
        .unwrap();
    assert_eq!(conflicts(&world), ["d/g: deleted here, modified in the base", "f: both modified"]);
    world.sound();
}
