//! Differences between any two states of real mounts, and as patches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::format_collect,
    reason = "a test reports a broken promise by panicking"
)]

use harness::{Tree, World, sys, tree::Columns};
use std::path::{Path, PathBuf};
use std::process::Command;

fn project(world: &World) -> PathBuf {
    let base = world.base("project");
    std::fs::create_dir_all(base.join("src/inner")).unwrap();
    for (name, lines) in [("top", 30), ("src/one", 12), ("src/inner/two", 5), ("gone", 3)] {
        let text: String = (0..lines).map(|n| format!("{name} {n}\n")).collect();
        std::fs::write(base.join(name), text).unwrap();
    }
    base
}

fn replace(path: &Path, what: &str, with: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(what));
    std::fs::write(path, text.replace(what, with)).unwrap();
}

#[test]
fn states_of_branches_are_compared_while_they_are_in_use() {
    let Some(world) = World::start("states_of_branches_are_compared") else { return };
    let base = project(&world);
    let a = world.mount("a", Some(&base));
    std::fs::write(a.join("top"), "one").unwrap();
    world.snapshot("a", "one");
    std::fs::write(a.join("top"), "two!").unwrap();
    std::fs::remove_file(a.join("gone")).unwrap();
    sys::rename(&a.join("src"), &a.join("lib")).unwrap();
    std::fs::write(a.join("lib/one"), "changed").unwrap();
    let diff = world.diff_between("a@one", "a");
    let kinds: Vec<_> = diff.changes.iter().map(|c| (c.path.as_str(), c.kind.as_str())).collect();
    assert_eq!(kinds, [("gone", "deleted"), ("lib", "renamed"), ("lib/one", "modified"), ("top", "modified")]);
    assert_eq!(world.diff_between("a", "a@one").changes.len(), 4);
    assert_eq!(world.diff_between("@base", "a").by_path(), world.diff("a").by_path());
    // Branches of one base that know nothing of each other.
    let b = world.mount("b", Some(&base));
    std::fs::write(b.join("top"), "b").unwrap();
    assert_eq!(world.diff_between("a@one", "b").by_path().into_keys().collect::<Vec<_>>(), ["top"]);
    world.cli_fails(&["diff", "a", "nobody"]).code(68);
    world.create_branch("empty", None);
    world.cli_fails(&["diff", "a", "empty"]).code(2);
}

#[test]
fn git_applies_the_patch_of_a_branch() {
    let Some(world) = World::start("git_applies_the_patch") else { return };
    let base = project(&world);
    let mnt = world.mount("a", Some(&base));
    replace(&mnt.join("top"), "top 14\n", "fourteen\nand more\n");
    replace(&mnt.join("top"), "top 29\n", "no newline at the end");
    std::fs::remove_file(mnt.join("gone")).unwrap();
    sys::rename(&mnt.join("src/inner/two"), &mnt.join("src/zwei drei")).unwrap();
    replace(&mnt.join("src/zwei drei"), "two 3", "two drei");
    sys::chmod(&mnt.join("src/one"), 0o755).unwrap();
    std::fs::write(mnt.join("new"), "new\n").unwrap();
    std::fs::write(mnt.join("empty"), "").unwrap();
    sys::symlink(b"src/one", &mnt.join("link")).unwrap();
    let out = world.cli(&["diff", "a", "--patch"]);
    let copy = world.out().join("copy");
    let done = Command::new("cp").arg("-a").arg(&base).arg(&copy).status().unwrap();
    assert!(done.success());
    std::fs::write(copy.join("patch"), &out.stdout).unwrap();
    let applied = Command::new("git").args(["apply", "patch"]).current_dir(&copy).output().unwrap();
    assert!(applied.status.success(), "{applied:?}\n{out}");
    std::fs::remove_file(copy.join("patch")).unwrap();
    // An empty directory is none to git.
    std::fs::create_dir_all(copy.join("src/inner")).unwrap();
    let columns = Columns { mtime: false, ..Columns::COPY };
    Tree::of(&mnt, columns).assert_same(&Tree::of(&copy, columns), "the branch and the patched copy");
    // Against a snapshot; and as a document.
    world.snapshot("a", "s");
    assert_eq!(world.cli(&["diff", "a@s", "a", "--patch"]).stdout, "");
    std::fs::write(mnt.join("new"), b"\0binary").unwrap();
    let text = world.cli(&["diff", "a@s", "a", "-p"]).stdout;
    assert_eq!(text, "diff --git a/new b/new\nBinary files a/new and b/new differ\n");
    let document = world.json(&["diff", "a@s", "a", "-p"].map(std::ffi::OsStr::new));
    assert_eq!(document["changes"][0]["patch"].as_str(), Some(text.as_str()));
    assert_eq!(document["modified"], 1);
}
