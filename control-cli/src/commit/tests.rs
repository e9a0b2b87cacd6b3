#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

//! Plans written by hand, applied to temporary directories, interrupted and failing at every point.

use super::fault::in_tests::{Faults, arm, passed};
use super::{Outcome, carry_out};
use crate::error::Kind;
use plans::with_expectations;
use serde_json::{Value, json};
use shm_transport::control::STAGING_PREFIX;
use shm_transport::control::escape::escape;
use shm_transport::control::{CommitPlan, Diff};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A base and a store with a plan.
struct Scene {
    dir: TempDir,
    plan: CommitPlan,
}

impl Scene {
    fn new(fill: impl FnOnce(&Path), steps: &dyn Fn(&Contents) -> Vec<Value>) -> Self {
        let parent = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
        let dir = tempfile::Builder::new().prefix("agentfs-commit-test-").tempdir_in(parent).unwrap();
        // The daemon names bases without symbolic links.
        let root = dir.path().canonicalize().unwrap();
        let (base, store) = (root.join("base"), root.join("store"));
        let journal = store.join("commits/7");
        std::fs::create_dir_all(&journal).unwrap();
        std::fs::create_dir_all(store.join("contents")).unwrap();
        std::fs::create_dir(&base).unwrap();
        fill(&base);
        let steps = with_expectations(&base, steps(&Contents(store.join("contents"))));
        let lines: String = steps.iter().map(|step| format!("{step}\n")).collect();
        std::fs::write(journal.join("plan.jsonl"), lines).unwrap();
        let plan = CommitPlan {
            id: 7,
            branch: "b".into(),
            base,
            journal: Some(journal),
            summary: Diff::default(),
            conflicts: Vec::new(),
        };
        Self { dir, plan }
    }

    fn base(&self) -> &Path {
        &self.plan.base
    }

    fn go(&self, resume: bool) -> Outcome {
        let store = self.dir.path().canonicalize().unwrap().join("store");
        carry_out(&self.plan, &store, resume, &mut |_, _| {})
    }

    /// Runs until it ends or crashes; `None` for a crash.
    fn go_with(&self, resume: bool, faults: Faults) -> Option<Outcome> {
        arm(faults);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.go(resume))).ok();
        let points = passed();
        arm(Faults::default());
        assert!(points > 0);
        outcome
    }
}

impl Drop for Scene {
    /// Directories without access would stay behind when the tests do not run as root.
    fn drop(&mut self) {
        fn open_up(dir: &Path) {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).ok();
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open_up(&entry.path());
                }
            }
        }
        open_up(self.dir.path());
    }
}

/// Content files of the store.
struct Contents(PathBuf);

impl Contents {
    fn file(&self, name: &str, bytes: &[u8]) -> Value {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        json!({"kind": "file", "content": path, "size": bytes.len()})
    }
}

fn meta(mode: u32, mtime: i64) -> Value {
    let me = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    json!({"mode": mode, "uid": me, "gid": group, "atime": [5, 6], "mtime": [mtime, 123_456_789]})
}

fn with_xattr(mut meta: Value, name: &str, value: &str) -> Value {
    meta["xattrs"] = json!([[name, value]]);
    meta
}

fn make(path: &str, meta: Value, body: Value) -> Value {
    json!({"step": "make", "path": path, "object": {"meta": meta, "body": body}})
}

fn make_dir(path: &str) -> Value {
    make(path, meta(0o40755, 77), json!({"kind": "directory"}))
}

/// Everything that a program can see of a tree, staging left out.
fn look(base: &Path) -> BTreeMap<String, String> {
    fn walk(at: &Path, base: &Path, out: &mut BTreeMap<String, String>) {
        let stat = std::fs::symlink_metadata(at).unwrap();
        let kind = stat.file_type();
        let body = if kind.is_file() {
            let bytes = std::fs::read(at).unwrap();
            format!("{} bytes, {}", bytes.len(), escape(&bytes[..bytes.len().min(40)]))
        } else if kind.is_symlink() {
            format!("-> {:?}", std::fs::read_link(at).unwrap())
        } else {
            String::new()
        };
        // Directories gain a new mtime by what happens in them, unless a plan sets it.
        let mtime = if kind.is_dir() { 0 } else { stat.mtime() };
        let mut value = [0; 64];
        let xattr = rustix::fs::lgetxattr(at, c"user.x", &mut value).map_or(0, |n| n);
        let name = at.strip_prefix(base).unwrap().to_string_lossy().into_owned();
        let links = if kind.is_dir() { 0 } else { stat.nlink() };
        out.insert(
            name,
            format!(
                "{:o} {}:{} {mtime} {links} {} {:?} {body}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.rdev(),
                &value[..xattr]
            ),
        );
        if kind.is_dir() {
            for entry in std::fs::read_dir(at).unwrap() {
                let entry = entry.unwrap();
                if !entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
                    walk(&entry.path(), base, out);
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(base, base, &mut out);
    out
}

fn staging_left(base: &Path) -> bool {
    std::fs::read_dir(base).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().starts_with(STAGING_PREFIX))
}

/// One of everything: the base before.
fn fill(base: &Path) {
    for dir in ["keep", "gone/deep/er", "moved/inner/deep", "swap1", "swap2", "todir", "locked"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    for file in [
        "keep/a",
        "keep/b",
        "gone/f",
        "gone/deep/er/f",
        "moved/f",
        "moved/inner/f",
        "moved/inner/deep/f",
        "moved/drop",
        "swap1/one",
        "swap2/two",
        "tofile",
        "todir/f",
        "changed",
        "mode",
        "hard1",
        "link-target",
        "locked/in",
    ] {
        let path = base.join(file);
        std::fs::write(&path, format!("base {file}")).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
    std::fs::hard_link(base.join("hard1"), base.join("hard2")).unwrap();
    symlink("keep/a", base.join("sym")).unwrap();
    std::fs::set_permissions(base.join("locked"), std::fs::Permissions::from_mode(0o500)).unwrap();
}

/// One of everything: what the branch did to it.
fn steps(contents: &Contents) -> Vec<Value> {
    vec![
        json!({"step": "remove", "path": "gone"}),
        // By its old place, before its directory moves.
        json!({"step": "remove", "path": "moved/drop"}),
        json!({"step": "move", "from": "moved", "path": "new/place"}),
        // By its new place.
        json!({"step": "remove", "path": "new/place/f"}),
        json!({"step": "move", "from": "moved/inner/deep", "path": "deep-now-top"}),
        json!({"step": "move", "from": "swap1", "path": "swap2"}),
        json!({"step": "move", "from": "swap2", "path": "swap1"}),
        // Nothing is there any more: what comes there later must survive a second try.
        json!({"step": "remove", "path": "moved"}),
        make_dir("moved"),
        make("moved/again", meta(0o100600, 11), contents.file("c1", b"made again")),
        make("changed", with_xattr(meta(0o100644, 12), "user.x", "\\xffv"), contents.file("c2", &[7; 9000])),
        make("hard1", meta(0o100640, 13), contents.file("c3", b"both names")),
        json!({"step": "link", "target": "hard1", "path": "hard2"}),
        json!({"step": "link", "target": "hard1", "path": "keep/hard3"}),
        json!({"step": "link", "target": "link-target", "path": "keep/b"}),
        make("sym", meta(0o120777, 14), json!({"kind": "symlink", "target": "else\\xff"})),
        make("fifo", meta(0o010640, 15), json!({"kind": "special", "rdev": 0})),
        make("empty", meta(0o104755, 16), json!({"kind": "file", "content": null, "size": 0})),
        // Another kind of object.
        make_dir("tofile"),
        make("tofile/x", meta(0o100644, 17), contents.file("c4", b"x")),
        make("todir", meta(0o100644, 18), contents.file("c5", b"a file now")),
        make("d1", meta(0o40500, 19), json!({"kind": "directory"})),
        make("d1/d2", meta(0o40711, 20), json!({"kind": "directory"})),
        make("d1/d2/f\\xfe\\\\", meta(0o100644, 21), contents.file("c6", b"odd name")),
        json!({"step": "attributes", "path": "mode", "meta": with_xattr(meta(0o100700, 22), "user.x", "m")}),
        json!({"step": "attributes", "path": "keep", "meta": meta(0o40750, 23)}),
        json!({"step": "attributes", "path": "locked", "meta": meta(0o40700, 24)}),
    ]
}

fn scene() -> Scene {
    Scene::new(
        |base| {
            fill(base);
            std::fs::create_dir(base.join("new")).unwrap();
        },
        &steps,
    )
}

fn is_applied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Applied)
}

#[test]
fn a_plan_is_applied_whole() {
    let scene = scene();
    let kept = std::fs::metadata(scene.base().join("keep/a")).unwrap().ino();
    let moved = std::fs::metadata(scene.base().join("moved/inner/f")).unwrap().ino();
    assert!(is_applied(&scene.go(false)));
    let base = scene.base();
    let read = |path: &str| std::fs::read_to_string(base.join(path)).unwrap();
    let stat = |path: &str| std::fs::symlink_metadata(base.join(path)).unwrap();
    assert!(!staging_left(base));
    assert!(!base.join("gone").exists());
    assert_eq!(read("new/place/inner/f"), "base moved/inner/f");
    assert_eq!(stat("new/place/inner/f").ino(), moved, "moved, not copied");
    assert!(!base.join("new/place/drop").exists() && !base.join("new/place/f").exists());
    assert!(!base.join("new/place/inner/deep").exists());
    assert_eq!(read("deep-now-top/f"), "base moved/inner/deep/f");
    assert_eq!((read("swap1/two"), read("swap2/one")), ("base swap2/two".into(), "base swap1/one".into()));
    assert_eq!(read("moved/again"), "made again");
    assert_eq!(std::fs::read_dir(base.join("moved")).unwrap().count(), 1);
    assert_eq!(std::fs::read(base.join("changed")).unwrap(), [7; 9000]);
    assert_eq!((stat("changed").mtime(), stat("changed").mtime_nsec()), (12, 123_456_789));
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(base.join("changed"), c"user.x", &mut value).unwrap();
    assert_eq!(&value[..length], b"\xffv");
    assert_eq!(stat("hard1").ino(), stat("hard2").ino());
    assert_eq!(stat("hard1").ino(), stat("keep/hard3").ino());
    assert_eq!((stat("hard1").nlink(), stat("hard1").mode()), (3, 0o100640));
    assert_eq!(stat("keep/b").ino(), stat("link-target").ino());
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(std::fs::read_link(base.join("sym")).unwrap().as_os_str().as_bytes(), b"else\xff");
    assert_eq!(stat("sym").mtime(), 14);
    assert_eq!((stat("fifo").mode(), stat("empty").mode()), (0o010640, 0o104755));
    assert_eq!(read("tofile/x"), "x");
    assert_eq!(read("todir"), "a file now");
    assert_eq!((stat("d1").mode(), stat("d1").mtime()), (0o40500, 19));
    assert_eq!((stat("d1/d2").mode(), stat("d1/d2").mtime()), (0o40711, 20));
    assert!(base.join("d1/d2").join(std::ffi::OsStr::from_bytes(b"f\xfe\\")).exists());
    assert_eq!((read("mode"), stat("mode").mode(), stat("mode").mtime()), ("base mode".into(), 0o100700, 22));
    assert_eq!((stat("keep").mode(), stat("keep").mtime()), (0o40750, 23));
    assert_eq!(stat("keep/a").ino(), kept);
}

/// Number of points of a commit without faults.
fn points() -> u64 {
    let scene = scene();
    arm(Faults::default());
    assert!(is_applied(&scene.go(false)));
    passed()
}

#[test]
fn after_a_crash_anywhere_it_is_finished_or_taken_back() {
    let done = {
        let scene = scene();
        assert!(is_applied(&scene.go(false)));
        look(scene.base())
    };
    let points = points();
    assert!(points > 50, "the test would prove little: {points}");
    let (mut finished, mut taken_back) = (0, 0);
    for crash_at in 1..=points {
        let scene = scene();
        let before = look(scene.base());
        assert!(scene.go_with(false, Faults { crash_at: Some(crash_at), fail_at: None }).is_none());
        let outcome = scene.go(true);
        let now = look(scene.base());
        assert!(!staging_left(scene.base()), "crash at {crash_at}: staging is left");
        match &outcome {
            Outcome::Applied => {
                finished += 1;
                assert_eq!(now, done, "crash at {crash_at}");
            }
            Outcome::RolledBack(None) => {
                taken_back += 1;
                assert_eq!(now, before, "crash at {crash_at}");
            }
            Outcome::RolledBack(Some(_)) | Outcome::Pending(_) => panic!("crash at {crash_at}: {outcome:?}"),
        }
    }
    assert!(finished > 20 && taken_back > 10, "{finished} finished, {taken_back} taken back");
}

#[test]
fn crashes_one_after_the_other_end_well_too() {
    let points = points();
    let done = {
        let scene = scene();
        assert!(is_applied(&scene.go(false)));
        look(scene.base())
    };
    for first in (1..=points).step_by(3) {
        let scene = scene();
        let before = look(scene.base());
        let mut outcome = scene.go_with(false, Faults { crash_at: Some(first), fail_at: None });
        let mut next = 1;
        while outcome.is_none() {
            // Each try comes a little further.
            outcome = scene.go_with(true, Faults { crash_at: Some(next), fail_at: None });
            next += 2;
        }
        let expected = if is_applied(&outcome.unwrap()) { &done } else { &before };
        assert_eq!(&look(scene.base()), expected, "first crash at {first}");
    }
}

#[test]
fn a_step_that_fails_takes_everything_back() {
    let points = points();
    for fail_at in 1..=points {
        let scene = scene();
        let before = look(scene.base());
        let outcome = scene.go_with(false, Faults { crash_at: None, fail_at: Some(fail_at) }).unwrap();
        match outcome {
            Outcome::RolledBack(Some(why)) => {
                assert!(why.message.contains("Input/output error"), "{why:?}");
                assert_eq!(look(scene.base()), before, "failure at {fail_at}");
                assert!(!staging_left(scene.base()));
            }
            // The journal could not be written, or staging not removed: the next try sees to it.
            Outcome::Pending(_) => {
                let again = scene.go(true);
                assert!(!matches!(again, Outcome::Pending(_)), "failure at {fail_at}: {again:?}");
                assert!(is_applied(&again) || look(scene.base()) == before, "failure at {fail_at}");
            }
            Outcome::Applied => panic!("failure at {fail_at} was passed over"),
            Outcome::RolledBack(None) => panic!("failure at {fail_at} without a reason"),
        }
    }
}

#[test]
fn a_crash_while_taking_back_is_followed_by_taking_back() {
    let points = points();
    let mut crashed = 0;
    for fail_at in (points / 3..=points).step_by(7) {
        for crash_at in (fail_at + 1..fail_at + 60).step_by(2) {
            let scene = scene();
            let before = look(scene.base());
            let faults = Faults { crash_at: Some(crash_at), fail_at: Some(fail_at) };
            if scene.go_with(false, faults).is_none() {
                crashed += 1;
                // Before the journal says that it is being taken back, going forward is right too.
                let outcome = scene.go(true);
                assert!(!matches!(outcome, Outcome::Pending(_)), "{fail_at}, {crash_at}: {outcome:?}");
                if !is_applied(&outcome) {
                    assert_eq!(look(scene.base()), before, "failure at {fail_at}, crash at {crash_at}");
                }
                assert!(!staging_left(scene.base()));
            }
        }
    }
    assert!(crashed > 50, "{crashed}");
}

#[test]
fn a_plan_cannot_reach_outside_the_base() {
    for path in
        ["../out", "a/../../out", "/../out", "a//b", "", ".", "a/./b", "nul\0", "\\x2e\\x2e/out", ".agentfs-commit-9/x"]
    {
        let scene = Scene::new(|_| {}, &|_| vec![json!({"step": "remove", "path": path})]);
        let outcome = scene.go(false);
        assert!(matches!(outcome, Outcome::RolledBack(Some(_))), "{path:?}: {outcome:?}");
        assert!(!staging_left(scene.base()));
    }
}

#[test]
fn a_symbolic_link_in_the_base_is_not_followed() {
    let scene = Scene::new(
        |base| {
            std::fs::create_dir(base.join("../outside")).unwrap();
            std::fs::write(base.join("../outside/f"), "precious").unwrap();
            symlink("../outside", base.join("way")).unwrap();
        },
        &|contents| {
            vec![
                make("first", meta(0o100644, 1), contents.file("c", b"c")),
                make("way/f", meta(0o100644, 1), contents.file("d", b"d")),
            ]
        },
    );
    let before = look(scene.base());
    assert!(matches!(scene.go(false), Outcome::RolledBack(Some(_))));
    assert_eq!(look(scene.base()), before);
    assert_eq!(std::fs::read(scene.base().join("../outside/f")).unwrap(), b"precious");
}

#[test]
fn content_outside_the_store_is_refused() {
    for content in ["/etc/passwd", "STORE/../secret", "STORE/contents/way"] {
        let scene = Scene::new(|base| std::fs::write(base.join("../secret"), "s").unwrap(), &|contents| {
            symlink("/etc/passwd", contents.0.join("way")).unwrap();
            let store = contents.0.parent().unwrap().to_str().unwrap();
            let body = json!({"kind": "file", "content": content.replace("STORE", store), "size": 3});
            vec![make("f", meta(0o100644, 1), body)]
        });
        let outcome = scene.go(false);
        assert!(matches!(outcome, Outcome::RolledBack(Some(_))), "{content}: {outcome:?}");
        assert!(!scene.base().join("f").exists());
    }
}

#[test]
fn a_damaged_plan_or_journal_is_told() {
    let scene = Scene::new(|_| {}, &|_| vec![json!({"step": "no-such-step"})]);
    assert!(matches!(scene.go(false), Outcome::RolledBack(Some(e)) if e.kind == Kind::Store));
    let scene = scene_with_state("{\"version\":9,\"state\":\"staged\"}");
    assert!(matches!(scene.go(true), Outcome::Pending(e) if e.kind == Kind::Version));
    let scene = scene_with_state("nonsense");
    assert!(matches!(scene.go(true), Outcome::Pending(e) if e.kind == Kind::Store));
    // Staging is gone though the journal says that all is in it: somebody removed it.
    let scene = scene_with_state("{\"version\":1,\"state\":\"staged\"}");
    let before = look(scene.base());
    assert!(matches!(scene.go(true), Outcome::Pending(_)));
    assert_eq!(look(scene.base()), before);
}

fn scene_with_state(state: &str) -> Scene {
    let scene = scene();
    std::fs::write(scene.plan.journal.as_ref().unwrap().join("state"), state).unwrap();
    scene
}

#[test]
fn a_missing_base_leaves_a_begun_commit_pending() {
    let scene = scene();
    assert!(scene.go_with(false, Faults { crash_at: Some(points() - 10), fail_at: None }).is_none());
    let away = scene.base().with_file_name("away");
    std::fs::rename(scene.base(), &away).unwrap();
    assert!(matches!(scene.go(true), Outcome::Pending(e) if e.kind == Kind::Base));
    std::fs::rename(&away, scene.base()).unwrap();
    assert!(is_applied(&scene.go(true)));
}

mod meanwhile;
mod plans;
mod unreadable;
