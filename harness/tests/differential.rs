//! Random operations have the same results on a branch as on tmpfs: errno, bytes, attributes, listings;
//! also after a remount, in a snapshot taken on the way, and in the base after a commit.
//!
//! `AGENTFS_DIFF_CASES` and `AGENTFS_DIFF_OPS` raise the number of sequences and their length.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::differential::{Executor, HELD, Listing, NAMES, Op, Where, walk};
use harness::world::Changes;
use harness::{World, sys};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use rustix::fs::XattrFlags;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn place() -> impl Strategy<Value = Where> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => prop::collection::vec(name.clone(), 1),
        4 => prop::collection::vec(name.clone(), 2),
        2 => prop::collection::vec(name, 3),
    ]
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0_u32..5000, 1 => 0_u32..40_000, 1 => Just(4096_u32), 1 => Just(0_u32)]
}

fn length() -> impl Strategy<Value = u16> {
    prop_oneof![3 => 1_u16..3000, 1 => Just(4096_u16), 1 => 1_u16..40_000]
}

fn operation() -> impl Strategy<Value = Op> {
    let mode = prop::sample::select(vec![0o644_u32, 0o600, 0o755, 0o400, 0o4755, 0o2770, 0o1777]);
    let slot = 0..HELD;
    let id = prop::option::of(prop::sample::select(vec![0_u32, 1000, 65534]));
    let content = prop_oneof![
        3 => (place(), mode.clone(), any::<bool>()).prop_map(|(p, m, x)| Op::Create(p, m, x)),
        4 => (place(), offset(), length()).prop_map(|(p, a, l)| Op::Write(p, a, l)),
        2 => (place(), length()).prop_map(|(p, l)| Op::Append(p, l)),
        3 => (place(), offset(), length()).prop_map(|(p, a, l)| Op::Read(p, a, l)),
        2 => (place(), offset()).prop_map(|(p, s)| Op::Truncate(p, s)),
        1 => place().prop_map(Op::OpenTrunc),
        1 => (place(), offset(), length(), 0_u32..3).prop_map(|(p, a, l, m)| Op::Fallocate(p, a, l, m)),
        1 => (place(), place(), offset(), length()).prop_map(|(a, b, o, l)| Op::Copy(a, b, o, l)),
        1 => place().prop_map(Op::Fsync),
    ];
    let names = prop_oneof![
        3 => place().prop_map(Op::Unlink),
        3 => (place(), mode.clone()).prop_map(|(p, m)| Op::Mkdir(p, m)),
        2 => place().prop_map(Op::Rmdir),
        5 => (place(), place(), prop_oneof![4 => Just(0_u32), 1 => Just(1), 1 => Just(2)])
            .prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        2 => (place(), place()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => (place(), place(), any::<bool>()).prop_map(|(a, b, moved)| Op::Twin(a, b, moved)),
        2 => (place(), place()).prop_map(|(a, b)| Op::Symlink(a, b)),
        1 => place().prop_map(Op::Readlink),
        1 => place().prop_map(Op::Fifo),
        2 => place().prop_map(Op::Readdir),
        2 => place().prop_map(Op::Stat),
    ];
    let attributes = prop_oneof![
        2 => (place(), mode).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (place(), id.clone(), id).prop_map(|(p, u, g)| Op::Chown(p, u, g)),
        2 => (place(), -1000_i64..1_300_000_000, 0_u32..1_000_000_000).prop_map(|(p, s, n)| Op::Utimens(p, s, n)),
        2 => (place(), 0_usize..3, 0_u16..500, 0_u32..3).prop_map(|(p, n, l, f)| Op::SetXattr(p, n, l, f)),
        1 => (place(), 0_usize..3).prop_map(|(p, n)| Op::GetXattr(p, n)),
        1 => place().prop_map(Op::ListXattr),
        1 => (place(), 0_usize..3).prop_map(|(p, n)| Op::RemoveXattr(p, n)),
    ];
    let held = prop_oneof![
        3 => (slot.clone(), place()).prop_map(|(s, p)| Op::Hold(s, p)),
        2 => (slot.clone(), offset(), length()).prop_map(|(s, a, l)| Op::HeldWrite(s, a, l)),
        2 => (slot.clone(), offset(), length()).prop_map(|(s, a, l)| Op::HeldRead(s, a, l)),
        1 => slot.clone().prop_map(Op::HeldStat),
        1 => (slot.clone(), offset()).prop_map(|(s, n)| Op::HeldTruncate(s, n)),
        1 => slot.prop_map(Op::Release),
    ];
    prop_oneof![5 => content, 6 => names, 3 => attributes, 2 => held]
}

/// The same small tree in the base and in the reference.
fn plant(root: &Path) {
    let p = |name: &str| root.join(name);
    std::fs::create_dir_all(p("a/c/b")).unwrap();
    std::fs::create_dir_all(p("c/a")).unwrap();
    std::fs::write(p("a/a"), sys::pattern(1, 10_000)).unwrap();
    std::fs::write(p("a/b"), "").unwrap();
    std::fs::write(p("a/c/d"), sys::pattern(2, 5000)).unwrap();
    std::fs::write(p("a/c/b/a"), "deep").unwrap();
    std::fs::write(p("b"), sys::pattern(3, 30_000)).unwrap();
    sys::link(&p("b"), &p("c/b")).unwrap();
    sys::link(&p("b"), &p("a/d")).unwrap();
    sys::symlink(b"a/a", &p("d")).unwrap();
    sys::symlink(b"a", &p("c/c")).unwrap();
    sys::setxattr(&p("a/a"), "user.one", b"base", XattrFlags::empty()).unwrap();
    sys::chmod(&p("b"), 0o4711).unwrap();
    for (n, path) in ["a/a", "a/b", "a/c/d", "a/c/b/a", "b", "d", "c/c", "a/c/b", "a/c", "c/a", "c", "a", "."]
        .into_iter()
        .enumerate()
    {
        let time = (1_000_000_000 + n as i64, n as i64);
        sys::utimens(&p(path), time, time).unwrap();
    }
}

struct Case<'a> {
    world: &'a World,
    branch: String,
    base: Option<PathBuf>,
    mnt: PathBuf,
    reference: PathBuf,
}

fn agree(what: &str, found: &str, expected: &str, history: &str) -> Result<(), TestCaseError> {
    if found == expected {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("{what}\n  branch: {found}\n  tmpfs:  {expected}\nafter:\n{history}")))
}

fn agree_all(what: &str, found: &Listing, expected: &Listing, history: &str) -> Result<(), TestCaseError> {
    for (path, text) in expected {
        let found = found.get(path).map_or("(missing)", String::as_str);
        agree(&format!("{what}: {}", path.display()), found, text, history)?;
    }
    for (path, text) in found {
        if !expected.contains_key(path) {
            agree(&format!("{what}: {}", path.display()), text, "(missing)", history)?;
        }
    }
    Ok(())
}

/// The text of an entry without one of its properties.
fn without(text: &str, property: &str) -> String {
    match text.split_once(&format!(" {property} ")) {
        Some((head, tail)) => format!("{head} {}", tail.split_once(' ').map_or("", |(_, rest)| rest)),
        None => text.to_owned(),
    }
}

/// What a commit brings: everything but the times of directories, and of files and links that hold what
/// the base has (`before`): made anew with what it held, a file is not changed.
fn committed(listing: &Listing, before: &Listing) -> Listing {
    let content = |text: &str| {
        let file = text.split_once(" sha ").and_then(|(_, rest)| rest.split(' ').next());
        let link = || text.split_once(" -> ").and_then(|(_, rest)| rest.split(')').next());
        file.or_else(link).map(str::to_owned)
    };
    let held: std::collections::BTreeSet<_> = before.values().filter_map(|text| content(text)).collect();
    let cut = |text: &String| {
        if text.starts_with("Directory") || content(text).is_some_and(|c| held.contains(&c)) {
            without(text, "mtime")
        } else {
            text.clone()
        }
    };
    listing.iter().map(|(path, text)| (path.clone(), cut(text))).collect()
}

/// The paths that are in one listing only, or of another kind.
fn check_diff(diff: &Changes, before: &Listing, after: &Listing, history: &str) -> Result<(), TestCaseError> {
    let kind = |text: &str| text.split(' ').next().unwrap_or("").to_owned();
    let mut expected = std::collections::BTreeMap::new();
    for (path, text) in after {
        let name = path.strip_prefix(".").unwrap_or(path).display().to_string();
        match before.get(path) {
            None => drop(expected.insert(name, "added")),
            Some(old) if kind(old) != kind(text) => drop(expected.insert(name, "retyped")),
            Some(old) if old != text && kind(text) != "Directory" => drop(expected.insert(name, "modified")),
            Some(_) => {}
        }
    }
    for path in before.keys().filter(|p| !after.contains_key(*p)) {
        expected.insert(path.strip_prefix(".").unwrap_or(path).display().to_string(), "deleted");
    }
    // What is new where something else was moved away from, whatever it looks like.
    let in_its_place = |path: &str| diff.kind(path) == Some("added") && diff.is_moved(path, false);
    for (path, kind) in &expected {
        if in_its_place(path) {
            continue;
        }
        let optional = *kind == "modified";
        // What came along with a directory may have been changed, too.
        let along = diff.kind(path).is_none_or(|found| ["renamed", "modified", "deleted"].contains(&found));
        if along && diff.is_moved(path, *kind != "deleted") {
            continue;
        }
        let found = diff.kind(path).unwrap_or("(nothing)");
        if !(optional && found == "(nothing)" && same_file(path, before, after)) {
            agree(&format!("diff: {path:?}"), found, kind, history)?;
        }
    }
    for change in diff.changes.iter().filter(|c| c.kind != "modified") {
        if let Some(from) = &change.from {
            let there = |listing: &Listing, path: &str| {
                if listing.contains_key(&Path::new(".").join(path)) { "there" } else { "missing" }
            };
            agree(&format!("before: {from:?}"), there(before, from), "there", history)?;
            agree(&format!("after: {:?}", change.path), there(after, &change.path), "there", history)?;
            continue;
        }
        if in_its_place(&change.path) || change.kind == "deleted" && diff.is_moved(&change.path, true) {
            continue;
        }
        let wanted = expected.get(&change.path).copied().unwrap_or("(nothing)");
        agree(&format!("diff: {:?}", change.path), &change.kind, wanted, history)?;
    }
    Ok(())
}

/// Whether a path differs by what alone is no change: a link more or less, or the time of writing the
/// bytes that were there.
fn same_file(path: &str, before: &Listing, after: &Listing) -> bool {
    let strip = |listing: &Listing| {
        let text = listing.get(&Path::new(".").join(path)).map_or("", String::as_str);
        without(&without(text, "nlink"), "mtime")
    };
    strip(before) == strip(after)
}

impl Case<'_> {
    fn run(&mut self, ops: &[Op], snapshot_at: usize) -> Result<(), TestCaseError> {
        let begin = self.base.as_ref().map_or_else(|| walk(&self.reference), |base| walk(base));
        let mut branch = Executor::new(&self.mnt);
        let mut reference = Executor::new(&self.reference);
        let mut history = String::new();
        let mut frozen = None;
        for (n, op) in ops.iter().enumerate() {
            if n == snapshot_at {
                self.world.snapshot(&self.branch, "s");
                frozen = Some(walk(&self.reference));
                history.push_str("  (snapshot)\n");
            }
            let (found, expected) = (branch.run(op), reference.run(op));
            history.push_str(&format!("  {op:?} = {}\n", expected.lines().next().unwrap_or("")));
            agree(&format!("operation {n}: {op:?}"), &found, &expected, &history)?;
        }
        branch.release();
        reference.release();
        let end = walk(&self.reference);
        agree_all("at the end", &walk(&self.mnt), &end, &history)?;
        self.world.remount(&self.branch, &self.mnt);
        agree_all("after a remount", &walk(&self.mnt), &end, &history)?;
        if let Some(frozen) = frozen {
            let name = format!("{}-s", self.branch);
            self.world.branch_from(&name, &format!("{}@s", self.branch));
            let at = self.world.mount(&name, None);
            let found = walk(&at);
            self.world.umount(&at);
            agree_all("the snapshot", &found, &frozen, &history)?;
        }
        self.world.umount(&self.mnt);
        check_diff(&self.world.diff(&self.branch), &begin, &end, &history)?;
        if let Some(base) = &self.base {
            self.world.cli(&["commit", &self.branch]);
            agree_all("after a commit", &committed(&walk(base), &begin), &committed(&end, &begin), &history)?;
            let left = self.world.diff(&self.branch);
            agree("diff after a commit", &format!("{:?}", left.changes), "[]", &history)?;
        }
        Ok(())
    }
}

fn differential(name: &str, with_base: bool) {
    let Some(world) = World::start(name) else { return };
    let tmpfs = world.dir().join("tmpfs");
    std::fs::create_dir(&tmpfs).unwrap();
    world.program(world.dir(), "mount", &["-t", "tmpfs", "tmpfs", tmpfs.to_str().unwrap()]);
    let cases = setting("AGENTFS_DIFF_CASES", 12);
    let longest = setting("AGENTFS_DIFF_OPS", 80);
    let serial = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: cases as u32,
        max_shrink_iters: 150,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        source_file: Some(file!()),
        ..Config::default()
    });
    let strategy = (prop::collection::vec(operation(), 10..longest.max(11)), 0_usize..120);
    let result = runner.run(&strategy, |(ops, snapshot_at)| {
        world.limit(Duration::from_secs(120));
        let n = serial.replace(serial.get() + 1);
        let reference = tmpfs.join(format!("r{n}"));
        std::fs::create_dir(&reference).unwrap();
        let base = with_base.then(|| world.base(&format!("p{n}")));
        if let Some(base) = &base {
            plant(&reference);
            plant(base);
        }
        let branch = format!("b{n}");
        let mnt = world.mount(&branch, base.as_deref());
        if base.is_none() {
            // Both roots begin with the same attributes.
            for root in [&reference, &mnt] {
                sys::chmod(root, 0o755).unwrap();
                sys::utimens(root, (1, 0), (1, 0)).unwrap();
            }
        }
        let mut case = Case { world: &world, branch, base, mnt: mnt.clone(), reference: reference.clone() };
        let result = case.run(&ops, snapshot_at);
        if harness::mounts::is_mounted(&mnt) {
            world.umount(&mnt);
        }
        std::fs::remove_dir_all(&reference).unwrap();
        result
    });
    world.program(world.dir(), "umount", &[tmpfs.to_str().unwrap()]);
    if let Err(e) = result {
        panic!("{e}");
    }
    world.assert_no_panics();
}

#[test]
fn a_branch_over_a_base_behaves_like_tmpfs() {
    differential("a_branch_over_a_base_behaves_like_tmpfs", true);
}

#[test]
fn a_branch_without_a_base_behaves_like_tmpfs() {
    differential("a_branch_without_a_base_behaves_like_tmpfs", false);
}

/// The comparison itself: two directories of one kind agree over any operations, and a planted
/// difference is found.
#[test]
fn the_comparison_agrees_with_itself_and_finds_a_difference() {
    if harness::world::why_not().is_some() {
        eprintln!("skipped: the comparison needs root for owners and trusted attributes");
        return;
    }
    let place = std::env::var_os("AGENTFS_DIFF_SELF").map_or_else(std::env::temp_dir, PathBuf::from);
    let one = tempfile::tempdir().unwrap();
    let two = tempfile::tempdir_in(place).unwrap();
    let mut runner = TestRunner::new(Config { cases: 20, failure_persistence: None, ..Config::default() });
    let result = runner.run(&prop::collection::vec(operation(), 10..100), |ops| {
        for root in [one.path(), two.path()] {
            std::fs::remove_dir_all(root).unwrap();
            std::fs::create_dir(root).unwrap();
            plant(root);
        }
        let (mut a, mut b) = (Executor::new(one.path()), Executor::new(two.path()));
        for op in &ops {
            agree(&format!("{op:?}"), &a.run(op), &b.run(op), "")?;
        }
        agree_all("at the end", &walk(one.path()), &walk(two.path()), "")
    });
    if let Err(e) = result {
        panic!("{e}");
    }
    std::fs::write(two.path().join("extra"), "").unwrap();
    assert!(agree_all("", &walk(one.path()), &walk(two.path()), "").is_err());
}
