//! Branches are private, snapshots do not change, and both outlive their daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::tree::Columns;
use harness::{Tree, World, sys};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn project(world: &World) -> PathBuf {
    let base = world.base("project");
    for dir in ["a", "b/c"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    for (n, file) in ["top", "a/one", "a/two", "b/c/deep"].into_iter().enumerate() {
        std::fs::write(base.join(file), sys::pattern(n as u64, 10_000)).unwrap();
    }
    base
}

#[test]
fn two_mounts_in_parallel_never_mix() {
    let Some(world) = World::start("two_mounts_in_parallel_never_mix") else { return };
    let base = project(&world);
    let before = Tree::of(&base, Columns::UNTOUCHED);
    let mounts = [world.mount("left", Some(&base)), world.mount("right", Some(&base))];
    let mut threads = Vec::new();
    for (m, mnt) in mounts.iter().enumerate() {
        for worker in 0..2 {
            let mnt = mnt.clone();
            threads.push(std::thread::spawn(move || write_and_check(&mnt, m, worker)));
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    for (m, mnt) in mounts.iter().enumerate() {
        for worker in 0..2 {
            for n in 0..60 {
                let text = format!("mount {m} worker {worker} file {n}");
                assert_eq!(std::fs::read_to_string(mnt.join(format!("w{worker}-{n}"))).unwrap(), text);
            }
        }
        let top = std::fs::read(mnt.join("top")).unwrap();
        assert!(top[..100].iter().all(|b| *b == b'A' + m as u8), "a byte of the other branch");
    }
    before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the base");
    let names: Vec<u64> = ["left", "right"].iter().map(|b| world.diff(b).added).collect();
    assert_eq!(names, [122, 122], "60 files and one renamed over itself, of two workers");
}

fn write_and_check(mnt: &Path, m: usize, worker: usize) {
    for n in 0..60 {
        let path = mnt.join(format!("w{worker}-{n}"));
        let text = format!("mount {m} worker {worker} file {n}");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let top = std::fs::OpenOptions::new().write(true).open(mnt.join("top")).unwrap();
        top.write_all_at(&[b'A' + m as u8; 100], 0).unwrap();
        let tmp = mnt.join(format!("a/tmp-{worker}"));
        std::fs::write(&tmp, &text).unwrap();
        std::fs::rename(&tmp, mnt.join(format!("a/kept-{worker}"))).unwrap();
        assert_eq!(std::fs::read_to_string(mnt.join(format!("a/kept-{worker}"))).unwrap(), text);
    }
}

#[test]
fn a_snapshot_does_not_change_and_can_be_branched() {
    let Some(world) = World::start("a_snapshot_does_not_change") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    std::fs::write(mnt.join("top"), "at the snapshot").unwrap();
    std::fs::write(mnt.join("new"), "new at the snapshot").unwrap();
    std::fs::remove_file(mnt.join("a/two")).unwrap();
    std::fs::write(mnt.join("big"), sys::pattern(5, 3 << 20)).unwrap();
    let mut appender = std::fs::OpenOptions::new().append(true).open(mnt.join("new")).unwrap();
    let at_snapshot = Tree::of(&mnt, Columns::COPY);
    world.snapshot("b", "s1");
    // Every kind of later change, through an open descriptor too.
    appender.write_all(b", then more").unwrap();
    std::fs::OpenOptions::new().write(true).open(mnt.join("big")).unwrap().write_all_at(b"later", 1 << 20).unwrap();
    std::fs::write(mnt.join("top"), "later").unwrap();
    std::fs::write(mnt.join("a/two"), "back").unwrap();
    std::fs::remove_file(mnt.join("b/c/deep")).unwrap();
    std::fs::rename(mnt.join("a"), mnt.join("z")).unwrap();
    sys::chmod(&mnt.join("z/one"), 0o700).unwrap();
    let later = Tree::of(&mnt, Columns::COPY);
    for from in ["b@s1", "s1"] {
        let name = format!("from-{}", from.replace('@', "-"));
        world.branch_from(&name, from);
        let other = world.mount(&name, None);
        at_snapshot.assert_same(&Tree::of(&other, Columns::COPY), from);
        std::fs::write(other.join("only-here"), "x").unwrap();
        std::fs::write(other.join("new"), "branch of the snapshot").unwrap();
        world.umount(&other);
    }
    later.assert_same(&Tree::of(&mnt, Columns::COPY), "the first branch after the others");
    world.branch_from("third", "b@s1");
    let third = world.mount("third", None);
    at_snapshot.assert_same(&Tree::of(&third, Columns::COPY), "a third branch of the snapshot");
    world.umount(&third);
    drop(appender);
    world.stop();
    world.branch_from("fourth", "b@s1");
    let fourth = world.mount("fourth", None);
    at_snapshot.assert_same(&Tree::of(&fourth, Columns::COPY), "after a restart");
    let list = world.cli(&["snapshot", "list"]);
    assert!(list.says("s1"), "{list}");
    world.cli_fails(&["snapshot", "delete", "--branch", "b", "--name", "s1"]);
    world.cli_fails(&["snapshot", "create", "--branch", "b", "--name", "s1"]);
}

#[test]
fn a_branch_of_a_branch_starts_where_that_one_is() {
    let Some(world) = World::start("a_branch_of_a_branch") else { return };
    let base = project(&world);
    let parent = world.mount("parent", Some(&base));
    std::fs::write(parent.join("mine"), "parent").unwrap();
    world.branch_from("child", "parent");
    std::fs::write(parent.join("mine"), "changed later").unwrap();
    let child = world.mount("child", None);
    assert_eq!(std::fs::read(child.join("mine")).unwrap(), b"parent");
    std::fs::write(child.join("mine"), "child").unwrap();
    std::fs::write(child.join("childs"), "c").unwrap();
    assert_eq!(std::fs::read(parent.join("mine")).unwrap(), b"changed later");
    assert_eq!(sys::names(&parent), ["a", "b", "mine", "top"]);
    let diff = world.diff("child");
    assert_eq!(diff.kind("childs"), Some("added"), "{diff:?}");
}

#[test]
fn everything_outlives_a_stop_and_start() {
    let Some(world) = World::start("everything_outlives_a_stop_and_start") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    world.create_branch("idle", None);
    std::fs::write(mnt.join("top"), "changed").unwrap();
    std::fs::create_dir_all(mnt.join("deep/er")).unwrap();
    std::fs::write(mnt.join("deep/er/file"), sys::pattern(2, 100_000)).unwrap();
    std::fs::remove_dir_all(mnt.join("b")).unwrap();
    sys::symlink(b"x", &mnt.join("link")).unwrap();
    sys::link(&mnt.join("top"), &mnt.join("hard")).unwrap();
    world.snapshot("b", "s");
    let columns = Columns { ino: true, ctime: true, dir_mtime: true, ..Columns::COPY };
    let before = Tree::of(&mnt, columns);
    let diff = world.diff("b").by_path();
    world.stop();
    world.cli(&["daemon", "start"]);
    assert_eq!(world.branches(), ["b", "idle"]);
    assert_eq!(world.diff("b").by_path(), diff);
    let mnt = world.mount("b", None);
    before.assert_same(&Tree::of(&mnt, columns), "after stop and start");
    // New numbers do not clash with old ones.
    std::fs::write(mnt.join("fresh"), "").unwrap();
    let fresh = sys::lstat(&mnt.join("fresh")).unwrap().st_ino;
    assert_ne!(fresh, sys::lstat(&mnt.join("deep/er/file")).unwrap().st_ino);
    let status = world.status();
    assert_eq!(status["pid"].as_i64(), Some(i64::from(world.daemon_pid())), "{status}");
    assert_eq!(status["store"].as_str(), world.store().to_str());
    for key in ["uptime_seconds", "branches", "mounts"] {
        assert!(!status[key].is_null(), "status lacks {key}: {status}");
    }
}

#[test]
fn names_in_use_and_unknown_names_are_refused() {
    let Some(world) = World::start("names_in_use_and_unknown_names") else { return };
    let base = project(&world);
    let other = world.base("other");
    world.create_branch("taken", Some(&base));
    let out = world.cli_fails(&["branch", "create", "taken"]).code(73);
    assert!(out.says("taken"), "{out}");
    let at = world.mountpoint();
    let at = at.to_str().unwrap();
    let clash = ["mount", "--base", other.to_str().unwrap(), "--branch", "taken", at];
    let out = world.cli_fails(&clash);
    assert!(out.says("taken"), "a name of another base: {out}");
    for command in [
        vec!["diff", "nobody"],
        vec!["commit", "nobody"],
        vec!["discard", "nobody"],
        vec!["branch", "delete", "nobody"],
        vec!["snapshot", "create", "--branch", "nobody", "--name", "s"],
        vec!["snapshot", "delete", "--branch", "taken", "--name", "nobody"],
        vec!["branch", "create", "x", "--from", "nobody"],
        vec!["branch", "create", "x", "--from", "taken@nobody"],
    ] {
        let out = world.cli_fails(&command).code(68);
        assert!(out.says("nobody"), "the message names what is unknown: {out}");
    }
    for name in ["", ".", "..", "a@b", "-x", "a b\n", &sys::long_name(300)] {
        let out = world.try_cli(&["branch", "create", "--", name]);
        out.clear_failure();
    }
    assert_eq!(world.branches(), ["taken"]);
    let failed = world.cli_fails(&["umount", world.base("unmounted").to_str().unwrap()]);
    assert!(failed.says("mount"), "{failed}");
}

#[test]
fn a_mounted_branch_is_not_deleted() {
    let Some(world) = World::start("a_mounted_branch_is_not_deleted") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    std::fs::write(mnt.join("precious"), "p").unwrap();
    for command in [["branch", "delete", "b"].as_slice(), &["discard", "b"]] {
        let out = world.cli_fails(command).code(75);
        assert!(out.says("mount"), "{out}");
    }
    assert_eq!(std::fs::read(mnt.join("precious")).unwrap(), b"p");
    world.umount(&mnt);
    world.cli(&["discard", "b"]);
    assert!(!base.join("precious").exists());
    if world.branches().contains(&"b".to_owned()) {
        assert_eq!(world.diff("b").total(), 0, "a discarded branch that stays has no changes");
        world.cli(&["branch", "delete", "b"]);
    }
    assert!(world.branches().is_empty());
    // The name is free again, and nothing of the old branch comes back.
    let mnt = world.mount("b", Some(&base));
    assert!(!mnt.join("precious").exists());
}

#[test]
fn a_branch_has_one_writer_at_a_time() {
    let Some(world) = World::start("a_branch_has_one_writer_at_a_time") else { return };
    let mnt = world.mount("b", None);
    std::fs::write(mnt.join("f"), "1").unwrap();
    let second = world.mountpoint();
    let out = world.try_cli(&["mount", "--branch", "b", second.to_str().unwrap()]);
    out.clear_failure();
    assert!(!harness::mounts::is_mounted(&second));
    assert_eq!(std::fs::read(mnt.join("f")).unwrap(), b"1");
}

#[test]
fn a_root_without_a_base_starts_empty() {
    let Some(world) = World::start("a_root_without_a_base_starts_empty") else { return };
    let mnt = world.mount("scratch", None);
    assert!(sys::names(&mnt).is_empty());
    std::fs::create_dir(mnt.join("d")).unwrap();
    std::fs::write(mnt.join("d/f"), "f").unwrap();
    let diff = world.diff("scratch");
    assert_eq!((diff.added, diff.total()), (2, 2), "{diff:?}");
    world.umount(&mnt);
    let out = world.cli_fails(&["commit", "scratch"]);
    assert!(out.says("base"), "there is nothing to commit into: {out}");
    let list = world.cli(&["branch", "list"]);
    assert!(list.says("scratch"), "{list}");
}

#[test]
fn several_stores_live_side_by_side() {
    let Some(one) = World::start("several_stores_1") else { return };
    let Some(two) = World::start("several_stores_2") else { return };
    let (a, b) = (one.mount("same", None), two.mount("same", None));
    std::fs::write(a.join("f"), "one").unwrap();
    assert!(!b.join("f").exists());
    assert_ne!(one.daemon_pid(), two.daemon_pid());
    // The flags mean the same as the variables.
    let flags = ["--store", one.store().to_str().unwrap(), "--socket", one.socket().to_str().unwrap()];
    let mut args = vec!["branch", "list", "--json"];
    args.extend(flags);
    assert!(two.cli(&args).says("same"));
    assert_eq!(two.status()["store"].as_str(), two.store().to_str());
}
