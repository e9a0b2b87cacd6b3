//! Branches of branches on real mounts: committed into their parents, refreshed from them, taken back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports a broken promise by panicking"
)]

use harness::tree::Columns;
use harness::{Tree, World, sys};
use rustix::fs::{FileType, XattrFlags};
use std::path::{Path, PathBuf};

fn project(world: &World) -> PathBuf {
    let base = world.base("project");
    std::fs::create_dir_all(base.join("src/inner")).unwrap();
    for (n, name) in ["top", "src/one", "src/two", "src/inner/three"].into_iter().enumerate() {
        std::fs::write(base.join(name), sys::pattern(n as u64, 3000 + n)).unwrap();
    }
    base
}

/// Everything that a commit must carry.
fn work(mnt: &Path) {
    std::fs::write(mnt.join("src/one"), "changed").unwrap();
    std::fs::remove_file(mnt.join("src/two")).unwrap();
    sys::rename(&mnt.join("src/inner"), &mnt.join("moved")).unwrap();
    std::fs::write(mnt.join("moved/three"), sys::pattern(9, 100_000)).unwrap();
    std::fs::create_dir_all(mnt.join("new/deep")).unwrap();
    std::fs::write(mnt.join("new/deep/file"), "made").unwrap();
    sys::link(&mnt.join("new/deep/file"), &mnt.join("new/link")).unwrap();
    sys::symlink(b"nowhere", &mnt.join("new/symlink")).unwrap();
    sys::mknod(&mnt.join("new/fifo"), FileType::Fifo, 0o600, 0).unwrap();
    sys::chmod(&mnt.join("top"), 0o750).unwrap();
    sys::lchown(&mnt.join("top"), Some(1000), Some(1001)).unwrap();
    sys::setxattr(&mnt.join("top"), "user.x", b"y", XattrFlags::empty()).unwrap();
    sys::utimens(&mnt.join("new/deep/file"), (1_500_000_000, 0), (1_500_000_000, 42)).unwrap();
    let sparse = std::fs::File::create(mnt.join("new/sparse")).unwrap();
    sparse.set_len(16 << 20).unwrap();
}

#[test]
fn a_commit_into_the_parent_carries_everything() {
    let Some(world) = World::start("a_commit_into_the_parent") else { return };
    let base = project(&world);
    let untouched = Tree::of(&base, Columns::UNTOUCHED);
    let parent = world.mount("parent", Some(&base));
    std::fs::write(parent.join("of parent"), "before").unwrap();
    world.branch_from("child", "parent");
    std::fs::write(parent.join("later"), "after the fork").unwrap();
    let child = world.mount("child", None);
    work(&child);
    let out = world.cli_fails(&["commit", "child", "--into-parent"]).code(75);
    assert!(out.says("mount"), "{out}");
    world.umount(&child);
    world.cli_fails(&["commit", "child", "--into-parent"]).code(75);
    world.umount(&parent);
    let dry = world.cli(&["commit", "child", "--into-parent", "--dry-run"]);
    assert!(dry.says("R  src/inner/ -> moved/"), "{dry}");
    world.cli(&["commit", "child", "--into-parent"]);
    assert!(world.cli(&["commit", "child", "--into-parent"]).says("nothing"));
    assert_eq!(world.diff_between("parent", "child").total(), 0);
    let (parent, child) = (world.mount("parent", None), world.mount("child", None));
    let columns = Columns { ino: true, ..Columns::COPY };
    Tree::of(&child, columns).assert_same(&Tree::of(&parent, columns), "child and parent");
    assert_eq!(std::fs::read(parent.join("later")).unwrap(), b"after the fork");
    assert_eq!(std::fs::read(parent.join("new/link")).unwrap(), b"made");
    assert!(sys::lstat(&parent.join("new/sparse")).unwrap().st_blocks < 100, "holes stay holes");
    // They go on by themselves, through the same content.
    std::fs::write(child.join("new/deep/file"), "by the child").unwrap();
    assert_eq!(std::fs::read(parent.join("new/link")).unwrap(), b"made");
    std::fs::write(parent.join("moved/three"), "by the parent").unwrap();
    assert_eq!(std::fs::read(child.join("moved/three")).unwrap(), sys::pattern(9, 100_000));
    // And from the parent into the base.
    untouched.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the base so far");
    world.umount(&parent);
    world.cli(&["commit", "parent"]);
    assert_eq!(std::fs::read(base.join("moved/three")).unwrap(), b"by the parent");
    assert_eq!(std::fs::read(base.join("new/link")).unwrap(), b"made");
    assert_eq!(sys::lstat(&base.join("top")).unwrap().st_uid, 1000);
    assert_eq!(std::fs::read(child.join("new/deep/file")).unwrap(), b"by the child", "the child sees its own");
    world.umount(&child);
    world.cli(&["fsck"]);
    world.assert_no_panics();
}

#[test]
fn a_refresh_takes_what_a_parent_in_use_has() {
    let Some(world) = World::start("a_refresh_takes") else { return };
    let base = project(&world);
    let parent = world.mount("parent", Some(&base));
    world.branch_from("child", "parent");
    let child = world.mount("child", None);
    std::fs::write(child.join("src/one"), "child").unwrap();
    world.umount(&child);
    // A file that is open in the parent, before and after.
    let mut open = std::fs::File::create(parent.join("log")).unwrap();
    std::io::Write::write_all(&mut open, b"first ").unwrap();
    sys::rename(&parent.join("src"), &parent.join("lib")).unwrap();
    world.cli(&["refresh", "child"]);
    std::io::Write::write_all(&mut open, b"second").unwrap();
    drop(open);
    let child = world.mount("child", None);
    assert_eq!(std::fs::read(child.join("lib/one")).unwrap(), b"child", "what moved there keeps what was done here");
    assert_eq!(std::fs::read(child.join("log")).unwrap(), b"first ");
    assert_eq!(std::fs::read(parent.join("log")).unwrap(), b"first second");
    world.umount(&child);
    assert!(world.cli(&["refresh", "child", "--dry-run"]).says("log"));
    world.cli(&["refresh", "child"]);
    // A conflict, and who wins.
    std::fs::write(parent.join("lib/one"), "parent").unwrap();
    let out = world.cli_fails(&["refresh", "child"]).code(10);
    assert!(out.says("lib/one: both modified"), "{out}");
    world.cli(&["refresh", "child", "--theirs", "--ours=lib"]);
    let child = world.mount("child", None);
    assert_eq!(std::fs::read(child.join("lib/one")).unwrap(), b"child");
    world.umount(&child);
    world.umount(&parent);
    world.cli(&["commit", "child", "--into-parent"]);
    let parent = world.mount("parent", None);
    assert_eq!(std::fs::read(parent.join("lib/one")).unwrap(), b"child");
    world.umount(&parent);
    world.cli(&["fsck"]);
}

#[test]
fn nothing_is_lost_when_the_daemon_dies_around_a_merge() {
    let Some(world) = World::start("nothing_is_lost_around_a_merge") else { return };
    let base = project(&world);
    let parent = world.mount("parent", Some(&base));
    world.umount(&parent);
    world.branch_from("child", "parent");
    for round in 0..4 {
        let child = world.mount("child", None);
        std::fs::write(child.join("round"), round.to_string()).unwrap();
        for n in 0..300 {
            std::fs::write(child.join(format!("{round}-{n}")), "x").unwrap();
        }
        let columns = Columns::COPY;
        let expected = Tree::of(&child, columns);
        world.umount(&child);
        let mut command = world.agentfs(["commit", "child", "--into-parent"]);
        let mut running =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(15 * round));
        world.kill_daemon();
        running.wait().unwrap();
        // Whether it was done or not: done once more, it is. The daemon may not be back yet.
        for tries in 0.. {
            let out = world.try_cli(&["commit", "child", "--into-parent"]);
            if out.status.success() {
                break;
            }
            assert!(tries < 50, "{out}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        for branch in ["parent", "child"] {
            let at = world.mount(branch, None);
            expected.assert_same(&Tree::of(&at, columns), branch);
            world.umount(&at);
        }
        world.cli(&["fsck"]);
    }
}

#[test]
fn an_undo_brings_paths_back_and_can_be_undone() {
    let Some(world) = World::start("an_undo_brings_paths_back") else { return };
    let base = project(&world);
    let mnt = world.mount("b", Some(&base));
    std::fs::write(mnt.join("src/one"), "good").unwrap();
    world.snapshot("b", "good");
    let good = Tree::of(&mnt, Columns::COPY);
    work(&mnt);
    let bad = Tree::of(&mnt, Columns::COPY);
    world.cli_fails(&["undo", "b"]).code(75);
    world.umount(&mnt);
    let dry = world.cli(&["undo", "b", "--dry-run"]);
    assert!(dry.says("would bring") && dry.says("src/two"), "{dry}");
    world.cli(&["undo", "b"]);
    let mnt = world.mount("b", None);
    good.assert_same(&Tree::of(&mnt, Columns::COPY), "the good state");
    world.umount(&mnt);
    world.cli(&["undo", "b", "--to", "before-undo-1"]);
    let mnt = world.mount("b", None);
    bad.assert_same(&Tree::of(&mnt, Columns::COPY), "the state before the undo");
    world.umount(&mnt);
    world.cli(&["undo", "b", "--to", "good", "src/two", "new"]);
    let mnt = world.mount("b", None);
    assert!(mnt.join("src/two").exists() && !mnt.join("new").exists() && mnt.join("moved").exists());
    world.umount(&mnt);
    world.cli_fails(&["undo", "b", "--to", "good", "moved"]).code(2);
    world.cli(&["undo", "b", "--to", "@base"]);
    assert_eq!(world.diff("b").total(), 0);
    world.cli(&["fsck"]);
}

#[test]
fn the_tree_of_branches_is_shown() {
    let Some(world) = World::start("the_tree_of_branches") else { return };
    let base = project(&world);
    let mnt = world.mount("main", Some(&base));
    std::fs::write(mnt.join("new"), sys::pattern(1, 10_000)).unwrap();
    world.snapshot("main", "s");
    world.branch_from("fix", "main@s");
    world.branch_from("deep", "fix");
    let out = world.cli(&["branch", "list", "--tree"]);
    let lines: Vec<_> = out.stdout.lines().skip(1).map(|line| line.split("  ").next().unwrap_or_default()).collect();
    assert_eq!(lines, ["main", "└─ fix", ""], "{out}");
    assert!(out.stdout.contains("   └─ deep") && out.stdout.contains("main@s"), "{out}");
    let list = world.json(&["branch", "list", "--tree"].map(std::ffi::OsStr::new));
    let main = list.as_array().unwrap().iter().find(|b| b["name"] == "main").unwrap();
    assert!(main["changes"].as_u64() >= Some(2) && main["own_bytes"].as_u64() >= Some(10_000), "{main}");
}
