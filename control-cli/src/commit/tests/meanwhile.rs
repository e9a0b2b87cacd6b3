//! The base is changed by others between the plan and its steps: nothing of theirs is lost.

use super::*;

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A plan of one of each, over a base that somebody changes after it was made.
fn changed_by(change: impl FnOnce(&Path)) -> (Scene, BTreeMap<String, String>) {
    let scene = scene();
    change(scene.base());
    let theirs = look(scene.base());
    (scene, theirs)
}

#[test]
fn what_was_changed_after_the_plan_is_refused_and_kept() {
    type Change = Box<dyn FnOnce(&Path)>;
    let changes: Vec<(&str, Change)> = vec![
        ("changed", Box::new(|b| write(&b.join("changed"), "theirs"))),
        (
            "changed",
            Box::new(|b| {
                write(&b.join("other"), "base changed");
                std::fs::rename(b.join("other"), b.join("changed")).unwrap();
            }),
        ),
        ("gone", Box::new(|b| write(&b.join("gone/deep/er/new"), "theirs"))),
        ("gone", Box::new(|b| write(&b.join("gone/f"), "theirs"))),
        ("todir", Box::new(|b| std::fs::create_dir(b.join("todir/sub")).unwrap())),
        ("d1", Box::new(|b| write(&b.join("d1"), "the name was free"))),
        ("mode", Box::new(|b| write(&b.join("mode"), "theirs"))),
        ("keep", Box::new(|b| std::fs::set_permissions(b.join("keep"), PermissionsExt::from_mode(0o711)).unwrap())),
        (
            "swap1",
            Box::new(|b| {
                std::fs::rename(b.join("swap1"), b.join("elsewhere")).unwrap();
                std::fs::create_dir(b.join("swap1")).unwrap();
            }),
        ),
    ];
    for (path, change) in changes {
        let (scene, theirs) = changed_by(change);
        match scene.go(false) {
            Outcome::RolledBack(Some(why)) => {
                assert_eq!(why.kind, Kind::Conflict, "{path}: {why:?}");
                assert!(why.message.starts_with(path), "{path}: {why:?}");
            }
            other @ (Outcome::Applied | Outcome::Pending(_) | Outcome::RolledBack(None)) => panic!("{path}: {other:?}"),
        }
        assert_eq!(look(scene.base()), theirs, "{path}");
        assert!(!staging_left(scene.base()));
    }
}

#[test]
fn what_was_put_in_place_of_ours_is_not_taken_back() {
    let scene = scene();
    // All is placed, and then it ends; somebody works on; the rest of the commit cannot be done.
    let points = points();
    let crash_at = points - 14;
    assert!(scene.go_with(false, Faults { crash_at: Some(crash_at), fail_at: None }).is_none());
    assert!(scene.base().join("moved/again").exists(), "the crash came too early");
    write(&scene.base().join("moved/again"), "theirs");
    write(&scene.base().join("mode"), "theirs too");
    let outcome = scene.go(true);
    assert!(matches!(&outcome, Outcome::Pending(e) if e.kind == Kind::Conflict), "{outcome:?}");
    assert_eq!(std::fs::read(scene.base().join("moved/again")).unwrap(), b"theirs");
    // What they have moved away is no hindrance any more.
    std::fs::rename(scene.base().join("moved/again"), scene.base().join("saved")).unwrap();
    let outcome = scene.go(true);
    assert!(matches!(outcome, Outcome::RolledBack(None)), "{outcome:?}");
    assert_eq!(std::fs::read(scene.base().join("saved")).unwrap(), b"theirs");
    assert_eq!(std::fs::read(scene.base().join("mode")).unwrap(), b"theirs too");
    assert_eq!(std::fs::read(scene.base().join("changed")).unwrap(), b"base changed");
    assert!(!staging_left(scene.base()));
}

#[test]
fn a_staging_directory_of_somebody_else_is_left_alone() {
    let scene = scene();
    let name = super::super::staging_name(scene.plan.id, scene.plan.journal.as_ref().unwrap()).unwrap();
    let planted = scene.base().join(name.to_str().unwrap());
    std::fs::create_dir(&planted).unwrap();
    std::fs::set_permissions(&planted, PermissionsExt::from_mode(0o777)).unwrap();
    write(&planted.join("precious"), "theirs");
    let before = look(scene.base());
    let outcome = scene.go(false);
    assert!(matches!(&outcome, Outcome::RolledBack(Some(e)) if e.message.contains("File exists")), "{outcome:?}");
    assert_eq!(look(scene.base()), before);
    assert!(planted.join("precious").exists());
}

#[test]
fn a_plan_that_others_could_have_written_or_that_breaks_off_is_refused() {
    let scene = scene();
    let file = scene.plan.journal.as_ref().unwrap().join("plan.jsonl");
    let before = look(scene.base());
    let refused = |kind: Kind| {
        let outcome = scene.go(false);
        assert!(matches!(&outcome, Outcome::RolledBack(Some(e)) if e.kind == kind), "{outcome:?}");
        assert_eq!(look(scene.base()), before);
    };
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    refused(Kind::Denied);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    // Without its last lines; without one in the middle; with one more.
    let lines: Vec<_> = text.lines().collect();
    for cut in [&lines[..3], &lines[..lines.len() - 1], &lines[1..]] {
        write(&file, &(cut.join("\n") + "\n"));
        refused(Kind::Store);
    }
    std::fs::rename(&file, file.with_extension("real")).unwrap();
    symlink(file.with_extension("real"), &file).unwrap();
    write(&file.with_extension("real"), &text);
    refused(Kind::System);
}
