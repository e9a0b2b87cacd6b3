//! A branch of a base, refreshed: what both changed is decided once, and the next commit does what was decided.
//! Without this, a user who settled a conflict would meet it again at the commit, or lose an edit that nobody saw.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "a test reports a broken promise by panicking"
)]

use harness::{World, sys};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Who is asked for in a case whose other side cannot win.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decided {
    Either,
    OnlyOurs,
    OnlyTheirs,
    /// There is no conflict.
    Nobody,
}
use Decided::{Either, Nobody, OnlyOurs, OnlyTheirs};

/// What happens in one directory of the base, which has `f` and `g`, `l` (a link of `g`) and `d` with `x` and `y`.
struct Case {
    name: &'static str,
    here: fn(&Path),
    there: fn(&Path),
    /// Paths in conflict, with the reason.
    conflicts: &'static [(&'static str, &'static str)],
    decided: Decided,
    /// What the base has after a commit, at the paths of interest.
    ours: &'static [(&'static str, &'static str)],
    theirs: &'static [(&'static str, &'static str)],
}

fn put(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

fn replace(dir: &Path, name: &str, text: &str) {
    put(dir, "new~", text);
    sys::rename(&dir.join("new~"), &dir.join(name)).unwrap();
}

fn remove(dir: &Path, name: &str) {
    std::fs::remove_file(dir.join(name)).unwrap();
}

fn remove_all(dir: &Path, name: &str) {
    std::fs::remove_dir_all(dir.join(name)).unwrap();
}

const BOTH: &str = "both modified";
const GONE_THERE: &str = "modified here, deleted in the base";
const GONE_HERE: &str = "deleted here, modified in the base";

const CASES: &[Case] = &[
    Case {
        name: "only-here",
        here: |d| put(d, "f", "branch"),
        there: |d| put(d, "g", "host"),
        conflicts: &[],
        decided: Nobody,
        ours: &[("f", "branch"), ("g", "host"), ("l", "host")],
        theirs: &[("f", "branch"), ("g", "host"), ("l", "host")],
    },
    Case {
        name: "edited-edited",
        here: |d| put(d, "f", "branch"),
        there: |d| put(d, "f", "the host's"),
        conflicts: &[("f", BOTH)],
        decided: Either,
        ours: &[("f", "branch")],
        theirs: &[("f", "the host's")],
    },
    Case {
        name: "edited-replaced",
        here: |d| put(d, "f", "branch"),
        there: |d| replace(d, "f", "the host's"),
        conflicts: &[("f", BOTH)],
        decided: Either,
        ours: &[("f", "branch")],
        theirs: &[("f", "the host's")],
    },
    Case {
        name: "edited-deleted",
        here: |d| put(d, "f", "branch"),
        there: |d| remove(d, "f"),
        conflicts: &[("f", GONE_THERE)],
        decided: Either,
        ours: &[("f", "branch")],
        theirs: &[("f", "")],
    },
    Case {
        name: "edited-renamed",
        here: |d| put(d, "f", "branch"),
        there: |d| sys::rename(&d.join("f"), &d.join("f2")).unwrap(),
        conflicts: &[("f", GONE_THERE)],
        decided: OnlyTheirs,
        ours: &[],
        theirs: &[("f", ""), ("f2", "branch")],
    },
    Case {
        name: "deleted-edited",
        here: |d| remove(d, "f"),
        there: |d| put(d, "f", "the host's"),
        conflicts: &[("f", GONE_HERE)],
        decided: Either,
        ours: &[("f", "")],
        theirs: &[("f", "the host's")],
    },
    Case {
        name: "deleted-replaced",
        here: |d| remove(d, "f"),
        there: |d| replace(d, "f", "the host's"),
        conflicts: &[("f", GONE_HERE)],
        decided: Either,
        ours: &[("f", "")],
        theirs: &[("f", "the host's")],
    },
    Case {
        name: "deleted-deleted",
        here: |d| remove(d, "f"),
        there: |d| remove(d, "f"),
        conflicts: &[],
        decided: Nobody,
        ours: &[("f", "")],
        theirs: &[("f", "")],
    },
    Case {
        name: "added-added",
        here: |d| put(d, "new", "branch"),
        there: |d| put(d, "new", "the host's"),
        conflicts: &[("new", "both added")],
        decided: Either,
        ours: &[("new", "branch")],
        theirs: &[("new", "the host's")],
    },
    Case {
        name: "added-added-same",
        here: |d| put(d, "new", "same"),
        there: |d| put(d, "new", "same"),
        conflicts: &[],
        decided: Nobody,
        ours: &[("new", "same")],
        theirs: &[("new", "same")],
    },
    Case {
        name: "edited-edited-same",
        here: |d| put(d, "f", "same"),
        there: |d| put(d, "f", "same"),
        conflicts: &[],
        decided: Nobody,
        ours: &[("f", "same")],
        theirs: &[("f", "same")],
    },
    Case {
        name: "mode-mode",
        here: |d| sys::chmod(&d.join("f"), 0o600).unwrap(),
        there: |d| sys::chmod(&d.join("f"), 0o640).unwrap(),
        conflicts: &[("f", BOTH)],
        decided: Either,
        ours: &[("f", "600:one")],
        theirs: &[("f", "640:one")],
    },
    Case {
        name: "directory-mode",
        here: |d| {
            sys::chmod(&d.join("d"), 0o700).unwrap();
            put(d, "d/added", "branch");
        },
        there: |d| sys::chmod(&d.join("d"), 0o750).unwrap(),
        conflicts: &[("d", BOTH)],
        decided: Either,
        ours: &[("d", "700:/"), ("d/added", "branch")],
        theirs: &[("d", "750:/"), ("d/added", "branch")],
    },
    Case {
        name: "linked",
        here: |d| put(d, "g", "branch"),
        there: |d| put(d, "l", "the host's"),
        conflicts: &[("g", BOTH), ("l", BOTH)],
        decided: Either,
        ours: &[("g", "branch"), ("l", "branch")],
        theirs: &[("g", "the host's"), ("l", "the host's")],
    },
    Case {
        name: "one-link-deleted",
        here: |d| remove(d, "l"),
        there: |d| put(d, "g", "the host's"),
        conflicts: &[("l", GONE_HERE)],
        decided: Either,
        ours: &[("g", "the host's"), ("l", "")],
        theirs: &[("g", "the host's"), ("l", "the host's")],
    },
    Case {
        name: "retyped-edited",
        here: |d| {
            remove(d, "f");
            std::fs::create_dir(d.join("f")).unwrap();
            put(d, "f/in", "branch");
        },
        there: |d| put(d, "f", "the host's"),
        conflicts: &[("f", BOTH)],
        decided: Either,
        ours: &[("f/in", "branch")],
        theirs: &[("f", "the host's")],
    },
    Case {
        name: "directory-deleted-added",
        here: |d| remove_all(d, "d"),
        there: |d| put(d, "d/new", "the host's"),
        conflicts: &[("d/new", "deleted here, added in the base")],
        decided: OnlyOurs,
        ours: &[("d", "")],
        theirs: &[],
    },
    Case {
        name: "directory-deleted-edited",
        here: |d| remove_all(d, "d"),
        there: |d| put(d, "d/x", "the host's"),
        conflicts: &[("d/x", GONE_HERE)],
        decided: OnlyOurs,
        ours: &[("d", "")],
        theirs: &[],
    },
    Case {
        name: "directory-made-anew",
        here: |d| {
            remove_all(d, "d");
            std::fs::create_dir(d.join("d")).unwrap();
            put(d, "d/mine", "branch");
        },
        there: |d| put(d, "d/x", "the host's"),
        conflicts: &[("d/x", GONE_HERE)],
        decided: Either,
        ours: &[("d/x", ""), ("d/y", ""), ("d/mine", "branch")],
        theirs: &[("d/x", "the host's"), ("d/y", ""), ("d/mine", "branch")],
    },
    Case {
        name: "edited-in-a-directory-deleted",
        here: |d| put(d, "d/x", "branch"),
        there: |d| remove_all(d, "d"),
        conflicts: &[("d/x", GONE_THERE)],
        decided: OnlyTheirs,
        ours: &[],
        theirs: &[("d", "")],
    },
    Case {
        name: "moved-and-edited",
        here: |d| {
            sys::rename(&d.join("f"), &d.join("h")).unwrap();
            put(d, "h", "branch");
        },
        there: |d| put(d, "f", "the host's"),
        conflicts: &[("f", GONE_HERE), ("h", BOTH)],
        decided: OnlyOurs,
        ours: &[("f", ""), ("h", "branch")],
        theirs: &[],
    },
    Case {
        name: "directory-moved",
        here: |d| sys::rename(&d.join("d"), &d.join("e")).unwrap(),
        there: |d| put(d, "d/x", "the host's"),
        conflicts: &[],
        decided: Nobody,
        ours: &[("d", ""), ("e/x", "the host's"), ("e/y", "y")],
        theirs: &[("d", ""), ("e/x", "the host's"), ("e/y", "y")],
    },
];

/// A base with a directory for every case, what the branch does there, and then what the host does.
fn world(name: &str) -> Option<(World, std::path::PathBuf)> {
    let world = World::start(name)?;
    let base = world.base("project");
    for case in CASES {
        let dir = base.join(case.name);
        std::fs::create_dir_all(dir.join("d")).unwrap();
        for (file, text) in [("f", "one"), ("g", "two"), ("d/x", "x"), ("d/y", "y")] {
            put(&dir, file, text);
            sys::utimens(&dir.join(file), (1_600_000_000, 0), (1_600_000_000, 7)).unwrap();
        }
        sys::link(&dir.join("g"), &dir.join("l")).unwrap();
    }
    let mnt = world.mount("b", Some(&base));
    for case in CASES {
        (case.here)(&mnt.join(case.name));
    }
    world.umount(&mnt);
    for case in CASES {
        (case.there)(&base.join(case.name));
    }
    Some((world, base))
}

fn expected() -> BTreeMap<String, String> {
    let of = |case: &Case| {
        let name = case.name;
        case.conflicts
            .iter()
            .map(move |(path, reason)| (format!("{name}/{path}"), (*reason).to_owned()))
            .collect::<Vec<_>>()
    };
    CASES.iter().flat_map(of).collect()
}

fn conflicts(world: &World, args: &[&str]) -> BTreeMap<String, String> {
    let mut args = args.to_vec();
    args.push("--json");
    let out = world.try_cli(&args);
    let answer: serde_json::Value = serde_json::from_str(out.stdout.trim()).unwrap_or_else(|e| panic!("{e}: {out}"));
    let list = answer["conflicts"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    list.iter().map(|c| (text(&c["path"]), text(&c["reason"]))).collect()
}

#[track_caller]
fn check(base: &Path, case: &Case, outcome: &[(&str, &str)]) {
    for (path, wanted) in outcome {
        let at = base.join(case.name).join(path);
        let found = match std::fs::symlink_metadata(&at) {
            Err(_) => String::new(),
            Ok(meta) => {
                let text = if meta.is_dir() { "/".to_owned() } else { std::fs::read_to_string(&at).unwrap() };
                match wanted.split_once(':') {
                    Some(_) => format!("{:o}:{text}", meta.permissions().mode() & 0o7777),
                    None => text,
                }
            }
        };
        assert_eq!(found, *wanted, "{}/{path}", case.name);
    }
}

#[test]
fn without_a_decision_every_conflict_is_named_and_nothing_is_done() {
    let Some((world, _base)) = world("refresh_names_conflicts") else { return };
    assert_eq!(conflicts(&world, &["refresh", "b"]), expected());
    let out = world.cli_fails(&["refresh", "b"]).code(10);
    assert!(out.says("conflict: edited-edited/f: both modified"), "{out}");
    assert_eq!(conflicts(&world, &["refresh", "b", "--dry-run"]), expected());
    assert_eq!(conflicts(&world, &["commit", "b", "--dry-run"]), expected(), "the same as of a commit");
    assert!(!world.cli(&["snapshot", "list", "b"]).says("before-refresh"));
    // One side cannot have everything; it says so, and nothing is done.
    for side in ["--ours", "--theirs"] {
        let left = conflicts(&world, &["refresh", "b", side]);
        assert!(!left.is_empty() && left.len() < expected().len(), "{side}: {left:?}");
    }
    assert_eq!(conflicts(&world, &["refresh", "b"]), expected());
    world.cli(&["fsck"]);
}

/// One side everywhere, but where only the other can win.
fn decide(world: &World, base: &Path, ours: bool) {
    let mut args = vec!["refresh".to_owned(), "b".into(), if ours { "--ours" } else { "--theirs" }.into()];
    for case in CASES {
        match case.decided {
            OnlyOurs if !ours => args.push(format!("--ours={}", case.name)),
            OnlyTheirs if ours => args.push(format!("--theirs={}", case.name)),
            Either | OnlyOurs | OnlyTheirs | Nobody => {}
        }
    }
    let mut dry = args.clone();
    dry.push("--dry-run".into());
    let told = world.cli(&dry);
    assert!(told.says("would"), "{told}");
    assert_eq!(conflicts(world, &["refresh", "b"]), expected(), "a dry run does nothing");
    let before = world.diff("b");
    let told = world.cli(&args);
    assert!(told.says("b@before-refresh-1"), "{told}");
    world.cli(&["fsck"]);
    assert!(world.cli(&["refresh", "b"]).says("nothing to do"));
    // The way back: as before, conflicts and all. And forth.
    world.cli(&["undo", "b", "--to", "before-refresh-1"]);
    assert_eq!(world.diff("b").changes, before.changes);
    assert_eq!(
        conflicts(world, &["commit", "b", "--dry-run"]),
        expected(),
        "no edit of the host is forgotten by an undo"
    );
    world.cli(&["undo", "b", "--to", "before-undo-1"]);
    // A daemon that starts again knows it too.
    world.kill_daemon();
    world.cli(&["commit", "b"]);
    for case in CASES {
        let ours = if ours { case.decided != OnlyTheirs } else { matches!(case.decided, OnlyOurs) };
        check(base, case, if ours { case.ours } else { case.theirs });
    }
    world.cli(&["fsck"]);
    world.cli(&["snapshot", "delete", "--branch", "b", "--name", "before-refresh-1"]);
    world.cli(&["fsck"]);
    world.assert_no_panics();
}

#[test]
fn where_the_branch_wins_the_next_commit_replaces_what_the_base_has() {
    let Some((world, base)) = world("refresh_ours") else { return };
    decide(&world, &base, true);
}

#[test]
fn where_the_base_wins_it_shows_through() {
    let Some((world, base)) = world("refresh_theirs") else { return };
    decide(&world, &base, false);
}

#[test]
fn what_the_host_does_after_a_refresh_is_a_conflict_again() {
    let Some(world) = World::start("refresh_then_edit") else { return };
    let base = world.base("project");
    for name in ["kept", "replaced", "dropped", "deleted"] {
        put(&base, name, "one");
    }
    let mnt = world.mount("b", Some(&base));
    for name in ["kept", "replaced", "dropped"] {
        put(&mnt, name, "branch");
    }
    remove(&mnt, "deleted");
    world.umount(&mnt);
    for name in ["kept", "dropped", "deleted"] {
        put(&base, name, "the host's");
    }
    replace(&base, "replaced", "the host's");
    world.cli(&["refresh", "b", "--ours", "--theirs=dropped"]);
    for name in ["kept", "replaced", "dropped", "deleted"] {
        put(&base, name, "the host's second");
    }
    let found = conflicts(&world, &["commit", "b"]);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["deleted", "kept", "replaced"]);
    // What was dropped follows the base, and its next change has a pre-image of then.
    let mnt = world.mount("b", None);
    assert_eq!(std::fs::read_to_string(mnt.join("dropped")).unwrap(), "the host's second");
    put(&mnt, "dropped", "branch again");
    world.umount(&mnt);
    assert!(!conflicts(&world, &["commit", "b", "--dry-run"]).contains_key("dropped"));
    put(&base, "dropped", "the host's third");
    assert!(conflicts(&world, &["commit", "b", "--dry-run"]).contains_key("dropped"));
    world.cli(&["refresh", "b", "--ours"]);
    world.cli(&["commit", "b"]);
    for (name, text) in [("kept", "branch"), ("replaced", "branch"), ("dropped", "branch again")] {
        assert_eq!(std::fs::read_to_string(base.join(name)).unwrap(), text);
    }
    assert!(!base.join("deleted").exists());
    world.cli(&["fsck"]);
}

#[test]
fn branches_made_before_a_refresh_keep_their_conflicts() {
    let Some(world) = World::start("refresh_and_children") else { return };
    let base = world.base("project");
    put(&base, "f", "one");
    let mnt = world.mount("b", Some(&base));
    put(&mnt, "f", "branch");
    world.umount(&mnt);
    world.branch_from("child", "b");
    put(&base, "f", "the host's");
    world.cli(&["refresh", "b", "--ours"]);
    assert_eq!(conflicts(&world, &["commit", "child", "--dry-run"]).len(), 1, "the child saw the base of before");
    world.branch_from("later", "b");
    assert!(conflicts(&world, &["commit", "later", "--dry-run"]).is_empty());
    world.cli(&["fsck"]);
    // A mounted branch is only looked at.
    let mnt = world.mount("b", None);
    world.cli(&["refresh", "b", "--dry-run"]);
    let out = world.cli_fails(&["refresh", "b"]);
    assert!(out.says("mounted"), "{out}");
    world.umount(&mnt);
}
