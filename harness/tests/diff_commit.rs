//! A diff lists every change; a commit makes the base equal to the branch, or leaves it alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::run::run;
use harness::small_disk::SmallDisk;
use harness::tree::Columns;
use harness::{Tree, World, sys};
use rustix::fs::{FileType, XattrFlags};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn project(world: &World) -> PathBuf {
    let base = world.base("project");
    for dir in ["keep", "src/inner", "olddir/sub", "todir", "moved/deep"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    let files = [
        "keep/a",
        "keep/b",
        "src/one",
        "src/two",
        "src/inner/three",
        "olddir/x",
        "olddir/sub/y",
        "tofile/never",
        "mode",
        "owner",
        "times",
        "xattr",
        "todir/inside",
        "moved/f",
        "moved/deep/g",
        "hard1",
        "script",
        "tosymlink",
        "todirfile",
    ];
    std::fs::create_dir_all(base.join("tofile")).unwrap();
    for (n, file) in files.into_iter().enumerate() {
        std::fs::write(base.join(file), sys::pattern(n as u64, 2000 + n)).unwrap();
        sys::utimens(&base.join(file), (1_600_000_000, 0), (1_600_000_000 + n as i64, 7)).unwrap();
    }
    sys::link(&base.join("hard1"), &base.join("hard2")).unwrap();
    sys::symlink(b"src/one", &base.join("link")).unwrap();
    sys::setxattr(&base.join("xattr"), "user.old", b"1", XattrFlags::empty()).unwrap();
    base
}

/// Every kind of change, and the diff that they make.
fn change_everything(mnt: &Path) -> BTreeMap<String, String> {
    let p = |name: &str| mnt.join(name);
    std::fs::write(p("added"), "added").unwrap();
    std::fs::create_dir_all(p("newdir/sub")).unwrap();
    std::fs::write(p("newdir/sub/file"), sys::pattern(99, 200_000)).unwrap();
    sys::symlink(b"anywhere", &p("newlink")).unwrap();
    sys::mknod(&p("fifo"), FileType::Fifo, 0o600, 0).unwrap();
    std::fs::OpenOptions::new().write(true).open(p("src/one")).unwrap().write_all_at(b"changed", 3).unwrap();
    std::fs::write(p("src/two"), "shorter").unwrap();
    std::fs::remove_file(p("src/inner/three")).unwrap();
    std::fs::remove_dir_all(p("olddir")).unwrap();
    sys::chmod(&p("mode"), 0o755).unwrap();
    sys::lchown(&p("owner"), Some(1000), Some(1000)).unwrap();
    sys::utimens(&p("times"), (1_500_000_000, 0), (1_500_000_000, 42)).unwrap();
    sys::setxattr(&p("xattr"), "user.new", b"2", XattrFlags::empty()).unwrap();
    sys::removexattr(&p("xattr"), "user.old").unwrap();
    std::fs::remove_dir_all(p("todir")).unwrap();
    std::fs::write(p("todir"), "a file now").unwrap();
    std::fs::remove_dir_all(p("tofile")).unwrap();
    sys::symlink(b"keep", &p("tofile")).unwrap();
    std::fs::remove_file(p("tosymlink")).unwrap();
    sys::symlink(b"keep/a", &p("tosymlink")).unwrap();
    std::fs::remove_file(p("todirfile")).unwrap();
    std::fs::create_dir(p("todirfile")).unwrap();
    std::fs::write(p("todirfile/in"), "in").unwrap();
    sys::rename(&p("moved"), &p("newplace")).unwrap();
    sys::rename(&p("script"), &p("keep/script")).unwrap();
    std::fs::remove_file(p("link")).unwrap();
    sys::symlink(b"src/two", &p("link")).unwrap();
    std::fs::write(p("hard1"), "both names").unwrap();
    sys::link(&p("keep/a"), &p("keep/a-too")).unwrap();
    let all = [
        (
            "added",
            &["added", "newdir", "newdir/sub", "newdir/sub/file", "newlink", "fifo", "todirfile/in", "keep/a-too"][..],
        ),
        ("modified", &["src/one", "src/two", "mode", "owner", "times", "xattr", "link", "hard1", "hard2"]),
        (
            "deleted",
            &["src/inner/three", "olddir", "olddir/x", "olddir/sub", "olddir/sub/y", "todir/inside", "tofile/never"],
        ),
        ("renamed", &["newplace", "keep/script"]),
        ("retyped", &["todir", "tofile", "tosymlink", "todirfile"]),
    ];
    all.iter().flat_map(|(kind, paths)| paths.iter().map(|p| ((*p).to_owned(), (*kind).to_owned()))).collect()
}

#[track_caller]
fn assert_diff(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    let missing: Vec<_> = expected.iter().filter(|(p, k)| found.get(*p) != Some(k)).collect();
    let extra: Vec<_> = found.iter().filter(|(p, k)| expected.get(*p) != Some(k)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "diff: missing or other: {missing:?}; not expected: {extra:?}");
}

#[test]
fn a_diff_lists_every_change() {
    let Some(world) = World::start("a_diff_lists_every_change") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    let mut expected = change_everything(&mnt);
    // A hard link more changes nothing of the first name but its count.
    let diff = world.diff("b");
    let mut found = diff.by_path();
    found.remove("keep/a");
    expected.remove("keep/a");
    assert_diff(&found, &expected);
    let count = |kind: &str| diff.of_kind(kind).len() as u64;
    assert_eq!(
        (diff.added, diff.modified, diff.deleted, diff.retyped, diff.renamed),
        (count("added"), count("modified"), count("deleted"), count("retyped"), count("renamed"))
    );
    let from = |p: &str| diff.changes.iter().find(|c| c.path == p).and_then(|c| c.from.as_deref());
    assert_eq!((from("newplace"), from("keep/script")), (Some("moved"), Some("script")));
    let metadata_only = |p: &str| diff.changes.iter().find(|c| c.path == p).is_some_and(|c| c.metadata_only);
    assert!(metadata_only("mode") && metadata_only("owner") && metadata_only("xattr"), "{diff:?}");
    assert!(!metadata_only("src/one") && !metadata_only("src/two"));
    let sorted: Vec<&str> = diff.changes.iter().map(|c| c.path.as_str()).collect();
    assert!(sorted.is_sorted_by(|a, b| a.split('/').le(b.split('/'))) || sorted.is_sorted(), "ordered by path");
    for options in [&["diff", "b"][..], &["diff", "b", "--stat"]] {
        let out = world.cli(options);
        assert!(options.len() == 3 || out.stdout.contains("src/inner/three"), "deletions are shown: {out}");
    }
    // What is undone is no change any more.
    std::fs::remove_file(mnt.join("added")).unwrap();
    assert_eq!(world.diff("b").kind("added"), None, "an added and removed file is no change");
}

#[test]
fn a_commit_makes_the_base_equal_to_the_branch() {
    let Some(world) = World::start("a_commit_makes_the_base_equal") else { return };
    let base = project(&world);
    let untouched = Tree::of(&base, Columns::UNTOUCHED);
    let kept_ino = sys::lstat(&base.join("keep/b")).unwrap().st_ino;
    let mnt = world.mount("b", Some(&base));
    let expected = change_everything(&mnt);
    let branch = Tree::of(&mnt, Columns::COPY);
    let out = world.cli_fails(&["commit", "b"]).code(75);
    assert!(out.says("mount"), "a mounted branch is refused: {out}");
    world.umount(&mnt);
    let dry = world.cli(&["commit", "b", "--dry-run"]);
    assert!(dry.says("olddir"), "a dry run tells what would go: {dry}");
    untouched.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "a dry run applies nothing");
    world.cli(&["commit", "b"]);
    branch.assert_same(&Tree::of(&base, Columns::COPY), "branch and committed base");
    assert_eq!(sys::lstat(&base.join("keep/b")).unwrap().st_ino, kept_ino, "what did not change is not rewritten");
    for (path, kind) in &expected {
        let there = sys::lstat(&base.join(path)).is_ok();
        assert_eq!(there, kind != "deleted", "{path}");
    }
    assert!(!base.join("moved").exists() && base.join("newplace/deep/g").exists());
    let left = sys::names(&base).into_iter().filter(|n| n.starts_with(".agentfs")).collect::<Vec<_>>();
    assert!(left.is_empty(), "staging is left in the base: {left:?}");
    let committed = Tree::of(&base, Columns::UNTOUCHED);
    assert_eq!(world.diff("b").total(), 0, "after a commit nothing differs: {:?}", world.diff("b"));
    world.cli(&["commit", "b"]);
    committed.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "committing again applies nothing");
    // The branch goes on from its base.
    let mnt = world.mount("b", None);
    branch.assert_same(&Tree::of(&mnt, Columns::COPY), "the branch after its commit");
    std::fs::write(mnt.join("added"), "second round").unwrap();
    std::fs::remove_file(mnt.join("newplace/f")).unwrap();
    world.umount(&mnt);
    assert_eq!(world.diff("b").total(), 2, "{:?}", world.diff("b"));
    world.cli(&["commit", "b"]);
    assert_eq!(std::fs::read(base.join("added")).unwrap(), b"second round");
    assert!(!base.join("newplace/f").exists());
}

#[test]
fn other_branches_go_on_to_see_what_they_saw() {
    let Some(world) = World::start("other_branches_go_on_to_see_what_they_saw") else { return };
    let base = project(&world);
    let (mnt, other) = (world.mount("b", Some(&base)), world.mount("other", Some(&base)));
    let frozen = world.mount_with("frozen", Some(&base), &["--frozen"]);
    world.snapshot("b", "before");
    change_everything(&mnt);
    std::fs::write(other.join("own"), "of the other").unwrap();
    world.umount(&mnt);
    let columns = Columns { ino: true, ..Columns::COPY };
    let seen = |at: &Path| Tree::of(at, columns);
    let (others, theirs) = (seen(&other), seen(&frozen));
    let open = std::fs::File::open(other.join("olddir/sub/y")).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                others.assert_same(&seen(&other), "another branch while a commit is applied");
                rounds += 1;
            }
            rounds
        });
        world.cli(&["commit", "b"]);
        std::thread::sleep(Duration::from_millis(1500));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(rounds > 1);
    theirs.assert_same(&seen(&frozen), "a branch of the frozen base");
    let mut bytes = [0; 16];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..], sys::pattern(6, 2006)[..16], "an open file");
    drop(open);
    world.kill_daemon();
    others.assert_same(&seen(&other), "after a restart");
    world.branch_from("of-before", "b@before");
    let before = world.mount("of-before", None);
    theirs.assert_same(&seen(&before), "a snapshot of the branch, from before its changes");
    // It has not changed what it does not see, and commits what is its own.
    assert_eq!(world.diff("other").by_path().into_keys().collect::<Vec<_>>(), ["own"]);
    world.umount(&other);
    let committed = Tree::of(&base, Columns::COPY);
    world.cli(&["commit", "other"]);
    assert_eq!(std::fs::read_to_string(base.join("own")).unwrap(), "of the other");
    committed.assert_same(&Tree::without(&base, Columns::COPY, &["own"]), "what was committed before stays");
    // A refresh takes it over.
    world.umount(&frozen);
    world.cli(&["refresh", "frozen"]);
    let frozen = world.mount("frozen", None);
    Tree::of(&base, Columns::COPY).assert_same(&Tree::of(&frozen, Columns::COPY), "after a refresh");
}

#[test]
fn conflicts_are_listed_and_nothing_is_applied() {
    let Some(world) = World::start("conflicts_are_listed") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    std::fs::write(mnt.join("src/one"), "branch").unwrap();
    std::fs::write(mnt.join("src/two"), "branch").unwrap();
    std::fs::remove_file(mnt.join("keep/a")).unwrap();
    std::fs::write(mnt.join("both-add"), "branch").unwrap();
    std::fs::write(mnt.join("fine"), "no conflict").unwrap();
    std::fs::remove_dir_all(mnt.join("olddir")).unwrap();
    world.umount(&mnt);
    std::fs::write(base.join("src/one"), "host, other content").unwrap();
    std::fs::remove_file(base.join("src/two")).unwrap();
    std::fs::write(base.join("keep/a"), "host changed what the branch deleted").unwrap();
    std::fs::write(base.join("both-add"), "host").unwrap();
    std::fs::write(base.join("olddir/new-on-host"), "would be lost").unwrap();
    std::fs::write(base.join("unrelated"), "host").unwrap();
    let before = Tree::of(&base, Columns::UNTOUCHED);
    for options in [&["commit", "b", "--dry-run"][..], &["commit", "b"]] {
        let out = world.try_cli(options);
        for path in ["src/one", "src/two", "keep/a", "both-add", "olddir"] {
            assert!(out.says(path), "{path} is a conflict: {out}");
        }
        assert!(!out.says("fine") || out.says("conflict"), "{out}");
        if options.len() == 2 {
            out.clear_failure().code(10);
        }
        before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the base of a refused commit");
    }
    let mnt = world.mount("b", None);
    assert_eq!(std::fs::read(mnt.join("src/one")).unwrap(), b"branch", "the branch keeps its changes");
}

#[test]
fn who_wins_is_said_for_all_or_for_a_path() {
    let Some(world) = World::start("who_wins_is_said") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    for file in ["src/one", "src/two", "both-add", "fine"] {
        std::fs::write(mnt.join(file), "branch").unwrap();
    }
    std::fs::remove_file(mnt.join("keep/a")).unwrap();
    std::fs::remove_file(mnt.join("keep/b")).unwrap();
    std::fs::remove_dir_all(mnt.join("olddir")).unwrap();
    world.umount(&mnt);
    for file in ["src/one", "keep/a", "keep/b", "both-add", "olddir/new-on-host"] {
        std::fs::write(base.join(file), "the host's").unwrap();
    }
    std::fs::remove_file(base.join("src/two")).unwrap();
    let before = Tree::of(&base, Columns::UNTOUCHED);
    // What is in a directory that goes cannot be kept by itself.
    let out = world.cli_fails(&["commit", "b", "--theirs"]).code(10);
    assert!(out.says("olddir/new-on-host") && !out.says("src/one"), "{out}");
    before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the base of a refused commit");
    world.cli(&["commit", "b", "--theirs", "--ours=olddir", "--ours=src/two", "--ours=keep/b"]);
    for (file, text) in [("src/one", "the host's"), ("src/two", "branch"), ("keep/a", "the host's")] {
        assert_eq!(std::fs::read_to_string(base.join(file)).unwrap(), text, "{file}");
    }
    assert_eq!(std::fs::read(base.join("both-add")).unwrap(), b"the host's");
    assert_eq!(std::fs::read(base.join("fine")).unwrap(), b"branch");
    assert!(!base.join("olddir").exists() && !base.join("keep/b").exists());
    assert_eq!(world.diff("b").total(), 0);
    // And everything of the branch's.
    let mnt = world.mount("b", None);
    std::fs::write(mnt.join("src/one"), "branch again").unwrap();
    world.umount(&mnt);
    std::fs::write(base.join("src/one"), "the host's again").unwrap();
    world.cli(&["commit", "b", "--ours"]);
    assert_eq!(std::fs::read(base.join("src/one")).unwrap(), b"branch again");
}

#[test]
fn the_same_outcome_on_both_sides_is_no_conflict() {
    let Some(world) = World::start("the_same_outcome_on_both_sides") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    for side in [&mnt, &base] {
        std::fs::write(side.join("both-add"), "the same").unwrap();
        std::fs::write(side.join("src/one"), "the same").unwrap();
        std::fs::remove_file(side.join("src/two")).unwrap();
    }
    std::fs::write(mnt.join("keep/a"), "branch").unwrap();
    std::fs::write(mnt.join("keep/b"), "branch").unwrap();
    world.umount(&mnt);
    // Written on the host with the content that it had: what it was is known by its times alone.
    let content = std::fs::read(base.join("keep/b")).unwrap();
    std::fs::write(base.join("keep/b"), content).unwrap();
    let out = world.cli_fails(&["commit", "b"]).code(10);
    assert!(out.says("conflict: keep/b") && out.stdout.lines().count() == 1, "only what came out differently: {out}");
    let mnt = world.mount("b", None);
    std::fs::copy(base.join("keep/b"), mnt.join("keep/b")).unwrap();
    world.umount(&mnt);
    world.cli(&["commit", "b"]);
    assert_eq!(std::fs::read(base.join("keep/a")).unwrap(), b"branch");
    assert_eq!(std::fs::read(base.join("both-add")).unwrap(), b"the same");
    assert_eq!(world.diff("b").total(), 0, "{:?}", world.diff("b"));
}

/// A base of `files` files and a branch that changes, removes and adds; the old and the new state.
fn commit_case(world: &World, name: &str, files: u64) -> (PathBuf, Tree, Tree) {
    let base = world.base(name);
    std::fs::create_dir(base.join("dir")).unwrap();
    std::fs::write(base.join("dir/inside"), "i").unwrap();
    for n in 0..files {
        std::fs::write(base.join(format!("f{n}")), sys::pattern(n, 3000)).unwrap();
    }
    let old = Tree::of(&base, Columns::CONTENT);
    let mnt = world.mount(name, Some(&base));
    for n in 0..files {
        match n % 4 {
            0 => std::fs::write(mnt.join(format!("f{n}")), sys::pattern(n + 1000, 9000)).unwrap(),
            1 => std::fs::remove_file(mnt.join(format!("f{n}"))).unwrap(),
            2 => sys::chmod(&mnt.join(format!("f{n}")), 0o600).unwrap(),
            _ => std::fs::write(mnt.join(format!("new{n}")), "new").unwrap(),
        }
    }
    sys::rename(&mnt.join("dir"), &mnt.join("moved")).unwrap();
    let new = Tree::of(&mnt, Columns::CONTENT);
    world.umount(&mnt);
    (base, old, new)
}

/// After an interrupted commit: the next command leaves the base old or new, and a commit makes it new.
fn recover(world: &World, name: &str, base: &Path, old: &Tree, new: &Tree, next: &[&str], what: &str) {
    let out = run(&mut world.agentfs(next), Duration::from_secs(60)).success();
    let now = Tree::of(base, Columns::CONTENT);
    let clean = now == *new || (now == *old && next != ["commit", name]);
    assert!(clean, "{what}, then {next:?}: neither old nor new:\n{}\n{out}", now.differences(new));
    world.cli(&["commit", name]);
    new.assert_same(&Tree::of(base, Columns::CONTENT), what);
    assert_eq!(world.diff(name).total(), 0, "{what}");
}

#[test]
fn a_killed_commit_is_finished_or_taken_back_by_the_next_command() {
    let Some(world) = World::start("a_killed_commit") else { return };
    world.limit(Duration::from_secs(300));
    for (round, delay_ms) in [3_u64, 10, 25, 60].into_iter().enumerate() {
        let name = format!("b{round}");
        let (base, old, new) = commit_case(&world, &name, 150);
        let commit = world.spawn(&mut world.agentfs(["commit", name.as_str()]));
        std::thread::sleep(Duration::from_millis(delay_ms));
        harness::procs::kill_all(&[commit.pid()]);
        commit.finish(Duration::from_secs(20));
        // Either command takes up what was begun.
        let next = if round % 2 == 0 { vec!["status"] } else { vec!["commit", name.as_str()] };
        recover(&world, &name, &base, &old, &new, &next, &format!("killed after {delay_ms} ms"));
    }
}

/// Debug builds of `agentfs` end abruptly at the point whose number stands in the environment.
#[test]
fn a_commit_that_ends_at_any_point_is_finished_or_taken_back() {
    let Some(world) = World::start("a_commit_that_ends_at_any_point") else { return };
    let mut aborted = 0;
    for point in 1..200 {
        world.limit(Duration::from_secs(120));
        let name = format!("b{point}");
        let (base, old, new) = commit_case(&world, &name, 4);
        let mut command = world.agentfs(["commit", name.as_str()]);
        command.env("AGENTFS_TEST_COMMIT_ABORT_AT", point.to_string());
        let out = run(&mut command, Duration::from_secs(60));
        if out.status.success() {
            new.assert_same(&Tree::of(&base, Columns::CONTENT), "a whole commit");
            break;
        }
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&out.status), Some(6), "{out}");
        aborted += 1;
        let next = if point % 2 == 0 { vec!["status"] } else { vec!["commit", name.as_str()] };
        recover(&world, &name, &base, &old, &new, &next, &format!("ended at point {point}"));
        world.cli(&["discard", name.as_str()]);
    }
    if aborted == 0 {
        eprintln!("skipped: a_commit_that_ends_at_any_point: this build of agentfs has no such points");
    }
}

/// `mv f f~; cp -p f~ f` once lost `f` at the commit: the base's file went to its new name, and what the branch had
/// in its place was taken for the one that lay there before.
#[test]
fn a_backup_and_its_original_are_both_committed() {
    let Some(world) = World::start("a_backup_and_its_original_are_both_committed") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    for (name, options) in [("keep/a", "-p"), ("keep/b", "--no-preserve=all"), ("script", "-p")] {
        let (name, saved) = (mnt.join(name), mnt.join(format!("{name}~")));
        sys::rename(&name, &saved).unwrap();
        world.program(&mnt, "cp", &[options, saved.to_str().unwrap(), name.to_str().unwrap()]);
    }
    let branch = Tree::of(&mnt, Columns::COPY);
    world.umount(&mnt);
    world.cli(&["commit", "b"]);
    branch.assert_same(&Tree::of(&base, Columns::COPY), "branch and committed base");
    world.assert_no_panics();
}

#[test]
fn a_discarded_branch_changes_nothing() {
    let Some(world) = World::start("a_discarded_branch") else { return };
    let base = project(&world);
    let before = Tree::of(&base, Columns::UNTOUCHED);
    let mnt = world.mount("b", Some(&base));
    change_everything(&mnt);
    world.umount(&mnt);
    let used = |store: &Path| {
        let out = std::process::Command::new("du").args(["-sk", "--exclude=log"]).arg(store).output().unwrap();
        String::from_utf8(out.stdout).unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let with = used(world.store());
    world.cli(&["discard", "b"]);
    before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the base");
    let freed = harness::procs::wait_for(Duration::from_secs(10), || used(world.store()) + 150 < with);
    assert!(freed, "discarding gives the space back: {with} KiB before, {} after", used(world.store()));
}

fn ino(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().ino()
}

#[test]
fn an_inode_number_that_the_host_used_again_is_no_conflict() {
    let Some(world) = World::start("a_number_used_again") else { return };
    let disk = SmallDisk::new(&world, 8, &["-N", "32"]);
    let base = disk.path().join("project");
    std::fs::create_dir_all(base.join("d")).unwrap();
    std::fs::write(base.join("d/f"), "old").unwrap();
    for branch in ["holds", "removes", "removes-all"] {
        world.cli(&["branch", "create", branch, "--base", base.to_str().unwrap()]);
    }
    let held = world.mount("holds", None);
    std::fs::write(held.join("d/f"), "changed").unwrap();
    let number = ino(&base.join("d/f"));
    std::fs::remove_file(base.join("d/f")).unwrap();
    // As many as there are inodes: one of them gets the number.
    let taker = (0..32)
        .map(|n| base.join(format!("d/g{n}")))
        .find(|file| std::fs::write(file, "new").is_ok() && ino(file) == number);
    let taker = taker.expect("the file system gives the number out again");
    let name = taker.file_name().unwrap();

    let mnt = world.mount("removes", None);
    std::fs::remove_file(mnt.join("d").join(name)).unwrap();
    world.cli(&["umount", mnt.to_str().unwrap()]);
    world.cli(&["commit", "removes"]);
    assert!(!taker.exists());

    std::fs::write(&taker, "once more").unwrap();
    // It had not seen that go.
    world.cli(&["refresh", "removes-all"]);
    let mnt = world.mount("removes-all", None);
    std::fs::remove_dir_all(mnt.join("d")).unwrap();
    world.cli(&["umount", mnt.to_str().unwrap()]);
    world.cli(&["commit", "removes-all"]);
    assert!(!base.join("d").exists());
    assert_eq!(std::fs::read_to_string(held.join("d/f")).unwrap(), "changed");
    world.cli(&["umount", held.to_str().unwrap()]);
}
