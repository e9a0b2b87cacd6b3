//! Branches of a copy of their base: they show the directory as it was when they were made, whatever the host does to it.
//! Without this, an agent's build would see half of somebody's edit, and git would hash everything anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports a broken promise by panicking"
)]

use harness::small_disk::SmallDisk;
use harness::tree::{Columns, Tree};
use harness::{World, procs, sys};
use rustix::fs::{FileType, XattrFlags};
use std::ffi::OsStr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn json(world: &World, args: &[&str]) -> serde_json::Value {
    let args: Vec<&OsStr> = args.iter().map(|arg| OsStr::new(*arg)).collect();
    world.json(&args)
}

fn seal(world: &World, name: &str, base: &Path, how: &str) -> serde_json::Value {
    json(world, &["branch", "create", name, "--base", base.to_str().unwrap(), "--materialize", how])
}

/// The copies that the store has.
fn copies(world: &World) -> usize {
    std::fs::read_dir(world.store().join("copies")).map_or(0, Iterator::count)
}

/// What nothing needs is removed in the background.
#[track_caller]
fn await_copies(world: &World, count: usize) {
    let there = procs::wait_for(Duration::from_mins(1), || copies(world) == count);
    assert!(there, "{} copies instead of {count}", copies(world));
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}

fn put(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

fn sound(world: &World) {
    let report = json(world, &["fsck"]);
    assert_eq!((&report["errors"], &report["leftovers"]), (&0.into(), &0.into()), "{report}");
}

/// A checkout with all kinds of things.
fn project(world: &World) -> std::path::PathBuf {
    let base = world.base("project");
    for dir in ["src/deep/er", "empty", "doomed"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    for n in 0..40 {
        put(&base, &format!("src/f{n}"), &format!("text of {n}\n"));
    }
    put(&base, "src/deep/er/g", "deep");
    put(&base, "doomed/x", "x");
    put(&base, "edited", "before");
    put(&base, "replaced", "before");
    put(&base, "linked", "one file");
    sys::link(&base.join("linked"), &base.join("src/deep/link")).unwrap();
    sys::symlink(b"src/f1", &base.join("symlink")).unwrap();
    sys::mknod(&base.join("fifo"), FileType::Fifo, 0o600, 0).unwrap();
    sys::chmod(&base.join("src/f2"), 0o4751).unwrap();
    sys::lchown(&base.join("src/f3"), Some(1234), Some(4321)).unwrap();
    sys::setxattr(&base.join("src"), "user.of", b"a directory", XattrFlags::empty()).unwrap();
    sys::setxattr(&base.join("edited"), "user.of", b"a file", XattrFlags::empty()).unwrap();
    sys::utimens(&base.join("src/f4"), (1_000_000_000, 5), (1_100_000_000, 7)).unwrap();
    let sparse = std::fs::File::create(base.join("sparse")).unwrap();
    sparse.set_len(16 << 20).unwrap();
    sparse.write_all_at(b"end", (16 << 20) - 3).unwrap();
    world.program(&base, "git", &["init", "-q"]);
    world.program(&base, "git", &["add", "."]);
    world.program(&base, "git", &["commit", "-q", "-m", "first"]);
    base
}

/// Everything that a host does to a directory.
fn disturb(base: &Path) {
    put(base, "edited", "after, and longer");
    sys::chmod(&base.join("edited"), 0o600).unwrap();
    sys::setxattr(&base.join("src"), "user.of", b"something else", XattrFlags::empty()).unwrap();
    put(base, "new~", "after");
    sys::rename(&base.join("new~"), &base.join("replaced")).unwrap();
    std::fs::remove_dir_all(base.join("doomed")).unwrap();
    sys::rename(&base.join("src/deep"), &base.join("moved")).unwrap();
    sys::truncate(&base.join("sparse"), 5).unwrap();
    sys::unlink(&base.join("linked")).unwrap();
    sys::unlink(&base.join("symlink")).unwrap();
    put(base, "added", "by the host");
    // Numbers of what is gone come to be others'.
    for n in 0..20 {
        put(base, &format!("empty/{n}"), "new");
    }
}

#[test]
fn an_eager_branch_is_the_directory_of_then() {
    let Some(world) = World::start("an_eager_branch_is_the_directory_of_then") else { return };
    let base = project(&world);
    let then = Tree::of(&base, Columns::UNTOUCHED);
    let made = seal(&world, "b", &base, "eager");
    assert_eq!(made["copied"]["cloned"], false);
    assert_eq!(made["copied"]["changed"], 0);
    assert!(made["sealed"]["files"].as_u64().unwrap() > 47, "{made}");
    disturb(&base);
    let mnt = world.mount("b", None);
    let same = |what: &str, at: &Path| Tree::of(at, Columns::UNTOUCHED).assert_same(&then, what);
    same("after edits on the host", &mnt);
    // The index of then fits: no file's stat data are other than git noted.
    let stale = world.program(&mnt, "git", &["diff-files", "--name-only"]);
    assert_eq!(stale.stdout, "");
    assert_ne!(world.program(&base, "git", &["diff-files", "--name-only"]).stdout, "", "git sees what the host did");
    world.kill_daemon();
    // The original need not even be there.
    let away = base.with_file_name("away");
    sys::rename(&base, &away).unwrap();
    same("after a restart, without the original", &mnt);
    sys::rename(&away, &base).unwrap();
    world.umount(&mnt);
    sound(&world);

    // Snapshots, what is made of them, and what becomes of all after they are collected.
    for n in 0..4 {
        world.snapshot("b", &format!("s{n}"));
    }
    world.branch_from("child", "b@s1");
    for n in [0, 2, 3] {
        world.cli(&["snapshot", "delete", "--branch", "b", "--name", &format!("s{n}")]);
    }
    json(&world, &["gc"]);
    let mnt = world.mount("child", None);
    same("a branch of a snapshot, after a collection", &mnt);
    put(&mnt, "edited", "by the child");
    put(&mnt, "src/deep/link", "by the child as well");
    assert_eq!(
        (read(&mnt, "linked"), mnt.join("linked").metadata().unwrap().nlink()),
        ("by the child as well".into(), 2)
    );
    world.umount(&mnt);
    let paths = world.diff("child").by_path();
    assert_eq!(paths.keys().map(String::as_str).collect::<Vec<_>>(), ["edited", "linked", "src/deep/link"]);
    let patch = world.cli(&["diff", "child", "--patch"]);
    assert!(patch.says("-before") && patch.says("+by the child"), "{patch}");
    let refused = world.cli_fails(&["refresh", "b"]);
    assert!(refused.says("as it was"), "{refused}");
    world.cli(&["commit", "child", "--into-parent"]);
    let mnt = world.mount("b", None);
    assert_eq!(read(&mnt, "edited"), "by the child");
    world.umount(&mnt);
    world.cli(&["undo", "b", "--to", "@base"]);
    let mnt = world.mount("b", None);
    same("all taken back", &mnt);
    world.umount(&mnt);
    json(&world, &["gc"]);
    sound(&world);
    await_copies(&world, 1);
    world.cli(&["discard", "child"]);
    await_copies(&world, 1);
    world.cli(&["discard", "b"]);
    await_copies(&world, 0);
    sound(&world);
    world.assert_no_panics();
}

#[test]
fn a_commit_finds_what_became_of_the_original() {
    let Some(world) = World::start("a_commit_finds_what_became_of_the_original") else { return };
    let base = project(&world);
    seal(&world, "b", &base, "eager");
    let mnt = world.mount("b", None);
    for (name, text) in [("src/f1", "branch"), ("src/deep/er/g", "branch"), ("edited", "branch"), ("fresh", "branch")] {
        put(&mnt, name, text);
    }
    std::fs::remove_dir_all(mnt.join("doomed")).unwrap();
    sys::rename(&mnt.join("src/f5"), &mnt.join("empty/f5")).unwrap();
    put(&mnt, "both", "branch");
    world.snapshot("b", "before");
    world.umount(&mnt);
    // The host: one conflict in place, one by a replacement, one at a new name, and what is none.
    put(&base, "edited", "host");
    put(&base, "both", "host");
    put(&base, "src/f9", "host");
    sys::rename(&base.join("src/deep"), &base.join("src/elsewhere")).unwrap();
    put(&base, "doomed/later", "host");

    let refused = world.try_cli(&["commit", "b", "--json"]).code(10);
    for path in ["edited", "both", "doomed/later"] {
        assert!(refused.says(&format!("{path:?}")), "{path}: {refused}");
    }
    for path in ["src/f1", "src/f9", "fresh"] {
        assert!(!refused.says(&format!("{path:?}")), "{path}: {refused}");
    }
    assert_eq!(read(&base, "src/f1"), "text of 1\n", "nothing was applied");
    sys::unlink(&base.join("doomed/later")).unwrap();
    world.cli(&["commit", "b", "--ours=edited", "--theirs=both"]);
    let text = |name: &str| read(&base, name);
    assert_eq!(
        (text("src/f1"), text("src/elsewhere/er/g"), text("edited"), text("fresh"), text("both"), text("src/f9")),
        ("branch".into(), "branch".into(), "branch".into(), "branch".into(), "host".into(), "host".into())
    );
    assert!(!base.join("doomed").exists() && !base.join("src/f5").exists() && base.join("empty/f5").exists());

    // From here on the branch follows the directory, as one without a copy does.
    assert!(json(&world, &["branch", "show", "b"])["sealed"].is_null());
    assert_eq!(world.diff("b").total(), 0);
    let mnt = world.mount("b", None);
    assert_eq!((read(&mnt, "both"), read(&mnt, "src/f9")), ("host".into(), "host".into()));
    put(&mnt, "src/f1", "branch again");
    world.umount(&mnt);
    put(&base, "src/f2", "host again");
    world.cli(&["commit", "b"]);
    assert_eq!((text("src/f1"), text("src/f2")), ("branch again".into(), "host again".into()));

    // What was named before still shows the copy.
    for refused in [
        world.cli_fails(&["diff", "b@before", "b"]),
        world.cli_fails(&["undo", "b", "--to", "before"]),
        world.cli_fails(&["undo", "b", "--to", "before", "edited"]),
    ] {
        assert!(refused.says("base"), "{refused}");
    }
    world.branch_from("old", "b@before");
    let mnt = world.mount("old", None);
    assert_eq!((read(&mnt, "src/f1"), read(&mnt, "src/f9")), ("branch".into(), "text of 9\n".into()));
    assert!(mnt.join("src/deep/er").exists());
    world.umount(&mnt);
    world.cli_fails(&["commit", "old", "--into-parent"]);
    world.cli_fails(&["refresh", "old"]);
    await_copies(&world, 1);
    world.cli(&["discard", "old"]);
    world.cli(&["snapshot", "delete", "--branch", "b", "--name", "before"]);
    await_copies(&world, 0);
    sound(&world);
    world.assert_no_panics();
}

#[test]
fn commands_that_make_branches_make_them_of_copies() {
    let Some(world) = World::start("commands_that_make_branches_make_them_of_copies") else { return };
    let base = world.base("project");
    put(&base, "f", "then");
    let at = base.to_str().unwrap();
    let run = |args: &[&str], script: &str| {
        let all = [&["run", "--base", at, "--materialize", "eager"], args, &["--", "sh", "-c", script]].concat();
        world.try_cli(&all)
    };
    // The script changes the original by a way around its own mount.
    let host = world.dir().join("host-view");
    std::fs::create_dir(&host).unwrap();
    world.program(world.dir(), "mount", &["--bind", at, host.to_str().unwrap()]);
    let script = format!("echo now >{}/f; sleep 1.2; cat f", host.display());
    let out = run(&["--branch", "r"], &script).success();
    assert!(out.says("then") && !out.stdout.contains("now"), "{out}");
    world.program(world.dir(), "umount", &[host.to_str().unwrap()]);
    assert_eq!(read(&base, "f"), "now\n");
    await_copies(&world, 1);
    let again = run(&["--branch", "r"], "cat f").success();
    assert!(again.stdout.contains("then") && copies(&world) == 1, "used again, not copied again: {again}");
    run(&["--discard"], "cat f").success();
    await_copies(&world, 1);
    let mnt = world.mount_with("m", Some(&base), &["--materialize", "clone-eager"]);
    put(&base, "f", "later");
    assert_eq!(read(&mnt, "f"), "now\n");
    world.umount(&mnt);

    world.create_branch("lazy", Some(&base));
    let refused = run(&["--branch", "lazy"], "cat f").clear_failure();
    assert!(refused.says("exists and reads its base as it is"), "{refused}");
    world.cli_fails(&["branch", "create", "x", "--materialize", "eager"]).code(2);
    world.cli_fails(&["branch", "create", "x", "--from", "r", "--materialize", "eager"]).code(2);
    world.cli_fails(&["branch", "create", "x", "--base", at, "--require-clone"]).code(2);
    world.cli_fails(&["branch", "create", "r", "--base", at, "--materialize", "eager"]);
    await_copies(&world, 2);
    for name in ["r", "m"] {
        world.cli(&["discard", name]);
    }
    await_copies(&world, 0);
    world.assert_no_panics();
}

#[test]
fn a_copy_that_is_killed_leaves_nothing_that_stays() {
    const FILES: usize = 1500;
    let Some(world) = World::start("a_copy_that_is_killed") else { return };
    world.limit(Duration::from_secs(400));
    let base = world.base("project");
    for n in 0..FILES {
        put(&base, &format!("f{n}"), &n.to_string());
    }
    world.create_branch("other", Some(&base));
    let (mut killed, mut finished) = (0, 0);
    for n in 0..12_u64 {
        let name = format!("b{n}");
        let args = ["branch", "create", &name, "--base", base.to_str().unwrap(), "--materialize", "eager"];
        let mut command = world.agentfs(args);
        let running = world.spawn(&mut command);
        std::thread::sleep(Duration::from_millis(15 + n * n * 12));
        if n % 4 == 3 {
            // The daemon alone: the command goes on with the next one, or says what happened.
            world.kill_daemon();
        } else {
            procs::kill_all(&[running.pid()]);
        }
        running.finish(Duration::from_mins(1));
        if world.branches().contains(&name) {
            finished += 1;
            let mnt = world.mount(&name, None);
            assert_eq!(std::fs::read_dir(&mnt).unwrap().count(), FILES, "a branch is whole or not there");
            assert_eq!(read(&mnt, "f1499"), "1499");
            world.umount(&mnt);
        } else {
            killed += 1;
        }
    }
    assert!(killed > 0, "{finished} finished");
    seal(&world, "last", &base, "eager");
    // What was left over went with the next one.
    await_copies(&world, finished + 1);
    sound(&world);
    // Whatever a copy left, a start removes.
    std::fs::create_dir(world.store().join("copies/ruin")).unwrap();
    put(&world.store().join("copies/ruin"), "list", "cut");
    world.stop();
    world.cli(&["branch", "list"]);
    await_copies(&world, finished + 1);
    world.assert_no_panics();
}

#[test]
fn a_full_disk_leaves_no_copy() {
    let Some(outer) = World::start("a_full_disk_leaves_no_copy_outer") else { return };
    let disk = SmallDisk::new(&outer, 48, &[]);
    {
        let world = World::start_with("a_full_disk_leaves_no_copy", Some(&disk.path().join("store"))).unwrap();
        let base = world.base("project");
        for n in 0..10 {
            std::fs::write(base.join(format!("f{n}")), sys::pattern(n, 6 << 20)).unwrap();
        }
        world.create_branch("other", Some(&base));
        let at = base.to_str().unwrap();
        let out = world.cli_fails(&["branch", "create", "b", "--base", at, "--materialize", "clone-eager"]).code(28);
        assert!(out.says("No space left on device") && out.says("nothing was kept"), "{out}");
        assert_eq!((world.branches(), copies(&world)), (vec!["other".to_owned()], 0));
        let mnt = world.mount("other", None);
        std::fs::write(mnt.join("f0"), "there is room again").unwrap();
        world.umount(&mnt);
        sound(&world);
        world.assert_no_panics();
    }
    drop(disk);
}

/// Used bytes of a file system, with what is still in memory written out.
fn used(at: &Path) -> u64 {
    rustix::fs::syncfs(std::fs::File::open(at).unwrap()).unwrap();
    let stat = rustix::fs::statvfs(at).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

fn cloned_on(program: &str) {
    const SIZE: u64 = 64 << 20;
    let Some(outer) = World::start(&format!("a_clone_shares_its_blocks_{program}")) else { return };
    let Some(disk) = SmallDisk::sharing(&outer, program) else { return };
    {
        let world = World::start_below("a_clone_shares_its_blocks", disk.path(), None).unwrap();
        // Before the daemon, which would have to start afresh for it.
        let other = SmallDisk::new(&world, 16, &[]);
        let base = world.base("project");
        std::fs::write(base.join("big"), sys::pattern(1, SIZE as usize)).unwrap();
        for n in 0..50 {
            put(&base, &format!("f{n}"), &format!("small {n}"));
        }
        let then = Tree::of(&base, Columns::UNTOUCHED);
        world.cli(&["branch", "list"]);
        let before = used(disk.path());
        let at = base.to_str().unwrap();
        let made =
            json(&world, &["branch", "create", "b", "--base", at, "--materialize", "clone-eager", "--require-clone"]);
        let grown = used(disk.path()).saturating_sub(before);
        assert_eq!(made["copied"]["cloned"], true, "{made}");
        assert!(grown < SIZE / 8, "{grown} bytes more for a copy of {SIZE}");
        let ino = base.join("big").metadata().unwrap().ino();
        let extents = Command::new("filefrag").arg("-v").arg(base.join("big")).output().unwrap();
        let extents = String::from_utf8_lossy(&extents.stdout).into_owned();
        let (shared, all) = extents
            .lines()
            .filter(|line| line.contains("..") && line.contains(':'))
            .fold((0, 0), |(shared, all), line| (shared + usize::from(line.contains("shared")), all + 1));
        assert!(shared > 0 && shared == all, "{shared} of {all} extents of inode {ino} are shared:\n{extents}");
        std::fs::File::options().write(true).open(base.join("big")).unwrap().write_all_at(b"host", 1000).unwrap();
        let mnt = world.mount("b", None);
        Tree::of(&mnt, Columns::UNTOUCHED).assert_same(&then, "the clone");
        std::fs::File::options().write(true).open(mnt.join("big")).unwrap().write_all_at(b"branch", 5000).unwrap();
        let host = std::fs::read(base.join("big")).unwrap();
        assert_eq!(
            (&host[1000..1004], &host[5000..5006]),
            (b"host".as_slice(), &sys::pattern(1, SIZE as usize)[5000..5006])
        );
        world.umount(&mnt);

        // A base on another file system.
        put(other.path(), "f", "of another file system");
        let at = other.path().to_str().unwrap();
        let refused = world.cli_fails(&[
            "branch",
            "create",
            "o",
            "--base",
            at,
            "--materialize",
            "clone-eager",
            "--require-clone",
        ]);
        assert!(refused.says("cannot be cloned") && refused.says("different file systems"), "{refused}");
        assert_eq!((world.branches(), copies(&world)), (vec!["b".to_owned()], 1), "nothing of it stays");
        let out = world.cli(&["branch", "create", "o", "--base", at, "--materialize", "clone-eager"]);
        assert!(out.says("was copied, not cloned") && out.says("different file systems"), "{out}");
        assert_eq!(json(&world, &["branch", "show", "o"])["sealed"]["cloned"], false);
        let mnt = world.mount("o", None);
        assert_eq!(read(&mnt, "f"), "of another file system");
        world.umount(&mnt);
        for name in ["b", "o"] {
            world.cli(&["discard", name]);
        }
        sound(&world);
        world.assert_no_panics();
        world.stop();
        drop(other);
    }
    drop(disk);
}

#[test]
fn a_clone_shares_its_blocks_on_xfs() {
    cloned_on("mkfs.xfs");
}

#[test]
fn a_clone_shares_its_blocks_on_btrfs() {
    cloned_on("mkfs.btrfs");
}

#[test]
fn a_terminal_shows_how_far_the_copy_is() {
    let Some(world) = World::start("a_terminal_shows_how_far_the_copy_is") else { return };
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: a_terminal_shows_how_far_the_copy_is: no script");
        return;
    }
    let base = world.base("project");
    for n in 0..300 {
        put(&base, &format!("f{n}"), "text");
    }
    world.cli(&["branch", "list"]);
    let cli = world.bins().path("agentfs");
    let line = format!("{} branch create b --base {} --materialize eager", cli.display(), base.display());
    let out = world.program(world.dir(), "script", &["-q", "-e", "-c", &line, "/dev/null"]);
    assert!(out.stdout.contains('[') && out.stdout.contains(" of 300 files"), "{out}");
    assert!(out.stdout.contains("copied 300 files"), "{out}");
    let out = world.cli(&["branch", "create", "c", "--base", base.to_str().unwrap(), "--materialize", "eager"]);
    assert!(!out.says(" of 300 files"), "no bar where nobody looks: {out}");
}
