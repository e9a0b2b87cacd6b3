#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

use super::hunks::hunks;
use super::name::{Side, quoted};
use super::patch;
use shm_transport::control::escape::escape;
use shm_transport::control::{Change, ChangeKind, Source};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

#[test]
fn hunks_have_three_lines_around() {
    let old: String = (1..=20).map(|n| format!("{n}\n")).collect();
    let new = old.replace("10\n", "ten\n");
    let text = String::from_utf8(hunks(old.as_bytes(), new.as_bytes())).unwrap();
    assert_eq!(text, "@@ -7,7 +7,7 @@\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n");
    assert_eq!(hunks(b"", b"a\n"), b"@@ -0,0 +1 @@\n+a\n");
    assert_eq!(hunks(b"a", b""), b"@@ -1 +0,0 @@\n-a\n\\ No newline at end of file\n");
}

#[test]
fn names_are_quoted_where_git_needs_it() {
    assert_eq!(quoted(Side::Old, b"d/x y"), "a/d/x y");
    assert_eq!(quoted(Side::New, "d/ä".as_bytes()), "b/d/ä");
    assert_eq!(quoted(Side::Bare, b"a\"b\\c\n\xff"), r#""a\"b\\c\012\377""#);
}

fn source(dir: &Path, name: &str, text: &[u8], mode: u32) -> Source {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    Source {
        mode: 0o100000 | mode,
        size: text.len() as u64,
        path: Some(escape(path.as_os_str().as_bytes())),
        target: None,
    }
}

fn change(path: &str, kind: ChangeKind, old: Option<Source>, new: Option<Source>) -> Change {
    let object = "file".into();
    let size = 0;
    Change { path: path.into(), kind, object, metadata_only: false, size, from: None, edited: false, old, new }
}

/// What git makes of a tree is what the patch says.
#[test]
fn git_applies_it() {
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("skipped: git_applies_it: git is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, bytes) = (dir.path().join("tree"), dir.path().join("bytes"));
    for path in [&tree, &bytes] {
        std::fs::create_dir(path).unwrap();
    }
    let old = b"one\ntwo\nthree\n";
    for name in ["edited", "gone", "mode", "before name"] {
        std::fs::write(tree.join(name), old).unwrap();
    }
    std::os::unix::fs::symlink("old", tree.join("link")).unwrap();
    let link = |target: &str| Some(Source { mode: 0o120777, size: 0, path: None, target: Some(target.into()) });
    let before = || Some(source(&bytes, "old", old, 0o644));
    let mut moved = change("after name", ChangeKind::Renamed, before(), before());
    moved.from = Some("before name".into());
    let changes = [
        change("edited", ChangeKind::Modified, before(), Some(source(&bytes, "e", b"one\n2\nthree", 0o644))),
        change("gone", ChangeKind::Deleted, before(), None),
        change("mode", ChangeKind::Modified, before(), Some(source(&bytes, "m", old, 0o755))),
        moved,
        change("new \\\\ one", ChangeKind::Added, None, Some(source(&bytes, "n", b"\xff text\n", 0o600))),
        change("empty", ChangeKind::Added, None, Some(source(&bytes, "z", b"", 0o600))),
        change("link", ChangeKind::Modified, link("old"), link("new")),
        Change { object: "dir".into(), ..change("dir", ChangeKind::Added, None, None) },
    ];
    let text: Vec<u8> = changes.iter().flat_map(|c| patch(c, &format!("A  {}\n", c.path))).collect();
    std::fs::write(dir.path().join("patch"), &text).unwrap();
    let applied = Command::new("git").args(["apply", "../patch"]).current_dir(&tree).output().unwrap();
    assert!(applied.status.success(), "{applied:?}\n{}", String::from_utf8(text.clone()).unwrap_or_default());
    let read = |name: &str| std::fs::read(tree.join(name)).unwrap();
    assert_eq!(read("edited"), b"one\n2\nthree");
    assert!(!tree.join("gone").exists() && !tree.join("before name").exists());
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&tree.join("mode").metadata().unwrap()) & 0o100, 0o100);
    assert_eq!(read("after name"), old);
    assert_eq!(read("new \\ one"), b"\xff text\n");
    assert_eq!(read("empty"), b"");
    assert_eq!(std::fs::read_link(tree.join("link")).unwrap(), Path::new("new"));
}

#[test]
fn what_is_no_text_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (source(dir.path(), "o", b"a\0b", 0o644), source(dir.path(), "n", b"text", 0o644));
    let binary = patch(&change("x", ChangeKind::Modified, Some(old.clone()), Some(new.clone())), "M  x\n");
    assert_eq!(binary, b"diff --git a/x b/x\nBinary files a/x and b/x differ\n");
    let large = Source { size: super::SIZE_MAX + 1, ..new.clone() };
    let text = patch(&change("x", ChangeKind::Modified, Some(old.clone()), Some(large)), "M  x\n");
    assert!(text.ends_with(b"too large to show\n"));
    let missing = Source { path: Some("/nowhere/at/all".into()), ..new };
    let text = patch(&change("x", ChangeKind::Modified, Some(old.clone()), Some(missing)), "M  x\n");
    assert!(String::from_utf8(text).unwrap().contains("cannot be compared"));
    // Only what a patch cannot say: the line of the list.
    assert_eq!(patch(&change("x", ChangeKind::Modified, Some(old.clone()), Some(old)), "m  x\n"), b"m  x\n");
}
