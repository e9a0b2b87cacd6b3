//! A commit that cannot be done leaves the base as it was; what can be done is done whole, whatever it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    reason = "a test reports a broken promise by panicking"
)]

use harness::namespace::{Namespace, USER};
use harness::run::{Output, run};
use harness::small_disk::SmallDisk;
use harness::tree::Columns;
use harness::{Tree, World, procs, sys};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What must be the same after a commit that was not done. Directories get other times in between.
const KEPT: Columns = Columns { dir_mtime: false, ctime: false, ..Columns::UNTOUCHED };

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Works on a branch of a base, at a mount.
fn work(world: &World, branch: &str, base: &Path, change: impl FnOnce(&Path)) {
    let at = world.mount(branch, Some(base));
    change(&at);
    world.umount(&at);
}

/// Commits, which must fail with this code and leave everything as it was.
fn refused(world: &World, branch: &str, base: &Path, code: i32) -> Output {
    let (before, root) = (Tree::of(base, KEPT), std::fs::metadata(base).unwrap());
    let changes = world.diff(branch).by_path();
    let out = world.cli_fails(&["commit", branch]).code(code);
    before.assert_same(&Tree::of(base, KEPT), &format!("the base after {out}"));
    assert_eq!(world.diff(branch).by_path(), changes, "the branch after {out}");
    assert!(out.stderr.contains("nothing was committed") && out.stderr.contains("hint: "), "{out}");
    assert_eq!(std::fs::metadata(base).unwrap().ino(), root.ino());
    out
}

fn small(base: &Path) {
    std::fs::create_dir_all(base.join("d")).unwrap();
    std::fs::write(base.join("a"), "a").unwrap();
    std::fs::write(base.join("d/k"), sys::pattern(1, 1 << 20)).unwrap();
}

fn change_small(mnt: &Path) {
    std::fs::write(mnt.join("a"), "b").unwrap();
    std::fs::write(mnt.join("new"), "new").unwrap();
    std::fs::remove_file(mnt.join("d/k")).unwrap();
}

#[test]
fn no_room_for_what_is_new() {
    let Some(world) = World::start("no_room_for_what_is_new") else { return };
    let disk = SmallDisk::new(&world, 16, &[]);
    let base = disk.path().join("base");
    std::fs::create_dir(&base).unwrap();
    small(&base);
    sys::utimens(&base, (1, 1), (1_000_000_000, 5)).unwrap();
    work(&world, "b", &base, |mnt| {
        change_small(mnt);
        std::fs::write(mnt.join("big"), sys::pattern(2, 9 << 20)).unwrap();
        std::fs::write(mnt.join("big2"), sys::pattern(3, 9 << 20)).unwrap();
    });
    refused(&world, "b", &base, 28);
    let root = std::fs::metadata(&base).unwrap();
    assert_eq!((root.mtime(), root.mtime_nsec()), (1_000_000_000, 5), "nothing was staged in the end");
    // With one of them less it fits.
    work(&world, "b", &base, |mnt| std::fs::remove_file(mnt.join("big2")).unwrap());
    world.cli(&["commit", "b"]);
    assert_eq!(std::fs::read(base.join("big")).unwrap(), sys::pattern(2, 9 << 20));
    world.stop();
    drop(disk);
}

#[test]
fn no_inode_left_in_the_middle() {
    let Some(world) = World::start("no_inode_left_in_the_middle") else { return };
    let disk = SmallDisk::new(&world, 16, &["-N", "64"]);
    let base = disk.path().join("base");
    std::fs::create_dir(&base).unwrap();
    small(&base);
    work(&world, "b", &base, |mnt| {
        change_small(mnt);
        (0..80).for_each(|n| std::fs::write(mnt.join(format!("n{n}")), "n").unwrap());
    });
    refused(&world, "b", &base, 28);
    world.stop();
    drop(disk);
}

#[test]
fn no_room_for_a_name_while_steps_are_done() {
    let Some(world) = World::start("no_room_for_a_name") else { return };
    let disk = SmallDisk::new(&world, 16, &["-b", "1024"]);
    let base = disk.path().join("base");
    std::fs::create_dir_all(base.join("d")).unwrap();
    std::fs::write(base.join("a"), "a").unwrap();
    // Staged is everything in one directory; a name of 255 bytes each needs further blocks of another.
    let names: Vec<String> = (0..40).map(|n| format!("{n:0>255}")).collect();
    work(&world, "b", &base, |mnt| {
        std::fs::write(mnt.join("a"), "b").unwrap();
        for name in &names {
            sys::mknod(&mnt.join("d").join(name), rustix::fs::FileType::Fifo, 0o600, 0).unwrap();
        }
    });
    let room = |left: u64| {
        let filler = std::fs::File::create(disk.path().join("filler")).unwrap();
        let stat = nix::sys::statvfs::statvfs(disk.path()).unwrap();
        let size = (stat.blocks_available() - left) * 1024;
        rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, size).unwrap();
    };
    // Room for the staging directory and its names, but for few blocks more.
    let mut in_apply = false;
    for left in [8, 9, 10, 11, 12, 13, 14, 16] {
        room(left);
        let before = Tree::of(&base, KEPT);
        let out = world.try_cli(&["commit", "b"]);
        if out.status.success() {
            break;
        }
        let out = out.clear_failure().code(28);
        in_apply |= out.stderr.contains("put into place");
        before.assert_same(&Tree::of(&base, KEPT), &format!("the base after {out}"));
    }
    assert!(in_apply, "the disk was never full in the middle of the steps");
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    world.try_cli(&["commit", "b"]);
    assert_eq!(sys::names(&base.join("d")), names);
    world.stop();
    drop(disk);
}

#[test]
fn what_the_base_does_not_let_anybody_change() {
    let Some(world) = World::start("what_the_base_does_not_let") else { return };
    let disk = SmallDisk::new(&world, 16, &[]);
    let base = disk.path().join("base");
    std::fs::create_dir_all(base.join("gone/deep")).unwrap();
    small(&base);
    std::fs::write(base.join("gone/deep/f"), "f").unwrap();
    work(&world, "b", &base, |mnt| {
        change_small(mnt);
        std::fs::remove_dir_all(mnt.join("gone")).unwrap();
    });
    world.program(world.dir(), "mount", &["-o", "remount,ro", text(disk.path())]);
    let out = refused(&world, "b", &base, 77);
    assert!(out.stderr.contains("mounted read-only"), "{out}");
    world.program(world.dir(), "mount", &["-o", "remount,rw", text(disk.path())]);
    // The last ones would only be found when what was replaced is thrown away: too late to put it back.
    for (flag, path) in
        [("i", ""), ("i", "a"), ("a", "a"), ("i", "d"), ("i", "gone/deep/f"), ("a", "gone/deep/f"), ("i", "gone/deep")]
    {
        let path = base.join(path);
        world.program(world.dir(), "chattr", &[&format!("+{flag}"), text(&path)]);
        let out = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| refused(&world, "b", &base, 77)));
        world.program(world.dir(), "chattr", &[&format!("-{flag}"), text(&path)]);
        out.unwrap_or_else(|e| std::panic::resume_unwind(e));
    }
    world.cli(&["commit", "b"]);
    assert_eq!(sys::names(&base), ["a", "d", "new"]);
    world.stop();
    drop(disk);
}

#[test]
fn mounts_in_the_base_are_left_alone() {
    let Some(world) = World::start("mounts_in_the_base") else { return };
    let base = world.base("p");
    small(&base);
    let other = world.out().join("other");
    for dir in [base.join("bound"), base.join("disk"), other.clone()] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(other.join("theirs"), "x").unwrap();
    std::fs::write(base.join("disk/under"), "under").unwrap();
    world.program(world.dir(), "mount", &["--bind", text(&other), text(&base.join("bound"))]);
    world.program(world.dir(), "mount", &["-t", "tmpfs", "none", text(&base.join("disk"))]);
    std::fs::write(base.join("disk/top"), "top").unwrap();
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change<'_>; 4] = [
        ("in", &|mnt| std::fs::write(mnt.join("disk/under"), "changed").unwrap()),
        ("new", &|mnt| std::fs::write(mnt.join("bound/new"), "new").unwrap()),
        ("rmdir", &|mnt| std::fs::remove_dir(mnt.join("bound")).unwrap()),
        ("mv", &|mnt| std::fs::rename(mnt.join("disk"), mnt.join("moved")).unwrap()),
    ];
    for (branch, change) in changes {
        work(&world, branch, &base, |mnt| {
            change_small(mnt);
            change(mnt);
        });
        let before = Tree::of(&base, KEPT);
        let out = world.cli_fails(&["commit", branch]);
        assert!(out.stderr.contains("mounted"), "it says what is in the way: {out}");
        before.assert_same(&Tree::of(&base, KEPT), &format!("the base after {out}"));
        world.cli(&["discard", branch]);
    }
    // What has nothing to do with them is committed.
    work(&world, "apart", &base, change_small);
    world.cli(&["commit", "apart"]);
    assert_eq!(sys::names(&base.join("disk")), ["top"]);
    for at in ["bound", "disk"] {
        nix::mount::umount2(&base.join(at), nix::mount::MntFlags::empty()).unwrap();
    }
    assert_eq!(std::fs::read(base.join("disk/under")).unwrap(), b"under");
}

#[test]
fn a_base_of_somebody_else() {
    let Some(world) = World::start("a_base_of_somebody_else") else { return };
    let namespace = Namespace::start(&world);
    let home = namespace.home(USER);
    let base = home.join("theirs");
    for dir in ["d", "mine", "mine/foreign"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    for file in ["f", "mine/m", "mine/foreign/x"] {
        std::fs::write(base.join(file), file).unwrap();
    }
    for own in ["mine", "mine/m"] {
        sys::lchown(&base.join(own), Some(USER), Some(USER)).unwrap();
    }
    let at = home.join("mnt");
    std::fs::create_dir(&at).unwrap();
    sys::lchown(&at, Some(USER), Some(USER)).unwrap();
    let program = namespace.bins().join("agentfs");
    let user = |args: &[&str]| {
        run(namespace.user_command(USER, &home, text(&program)).args(args), harness::world::COMMAND_LIMIT)
    };
    let shell = |script: &str| {
        let mut command = namespace.user_command(USER, &home, "bash");
        run(command.args(["-ec", &format!("cd {} && {script}", at.display())]), harness::world::COMMAND_LIMIT)
    };
    let on_branch = |branch: &str, script: &str| {
        user(&["mount", "--base", text(&base), "--branch", branch, text(&at)]).success();
        let out = shell(script);
        user(&["umount", text(&at)]).success();
        out
    };
    // The branch grants no more than the base would.
    on_branch("b", "! echo x > f && ! touch new && ! rm d && echo y > mine/m && echo n > mine/n").success();
    let refused = |mode: u32, path: &str| {
        sys::chmod(&base.join(path), mode).unwrap();
        let before = Tree::of(&base, KEPT);
        let out = user(&["commit", "b"]).clear_failure().code(77);
        before.assert_same(&Tree::of(&base, KEPT), &format!("the base after {out}"));
        out
    };
    assert!(refused(0o755, "").stderr.contains("write access"));
    sys::chmod(&base, 0o777).unwrap();
    user(&["commit", "b"]).success();
    assert_eq!(std::fs::read(base.join("mine/m")).unwrap(), b"y\n");
    // What lies in a directory of somebody else can be removed where that lets one.
    sys::chmod(&base.join("mine/foreign"), 0o777).unwrap();
    on_branch("b", "rm -r mine").success();
    user(&["commit", "b"]).success();
    assert_eq!(sys::names(&base), ["d", "f"]);
    user(&["daemon", "stop"]).success();
}

#[test]
fn everything_about_a_file_is_carried() {
    let Some(world) = World::start("everything_about_a_file") else { return };
    let base = world.base("p");
    std::fs::create_dir(base.join("dir")).unwrap();
    for name in ["old", "tool", "hard"] {
        std::fs::copy("/bin/true", base.join(name)).unwrap();
    }
    sys::link(&base.join("hard"), &base.join("dir/hard")).unwrap();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".as_slice();
    let other = b"\x01\0\0\x02\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0".as_slice();
    let set = |path: &Path, value: &[u8]| {
        sys::setxattr(path, "security.capability", value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set(&base.join("old"), capability);
    sys::chmod(&base.join("tool"), 0o6755).unwrap();
    let long = "n".repeat(255);
    let odd: [&[u8]; 5] = [b"two\nlines", b"not \xff\xfe utf-8", b"back\\slash \x1b[31m", b" ", long.as_bytes()];
    let at = world.mount("b", Some(&base));
    for name in odd {
        std::fs::write(at.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    std::fs::copy("/bin/true", at.join("capable")).unwrap();
    set(&at.join("capable"), capability);
    set(&at.join("old"), other);
    std::fs::copy("/bin/true", at.join("setuid")).unwrap();
    sys::lchown(&at.join("setuid"), Some(12), Some(34)).unwrap();
    sys::chmod(&at.join("setuid"), 0o6711).unwrap();
    sys::lchown(&at.join("tool"), Some(12), Some(34)).unwrap();
    sys::chmod(&at.join("tool"), 0o4711).unwrap();
    let sparse = std::fs::File::create(at.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"in the middle", 500_000_000).unwrap();
    drop(sparse);
    sys::link(&at.join("hard"), &at.join("dir/third")).unwrap();
    std::fs::OpenOptions::new().append(true).open(at.join("dir/hard")).and_then(|f| f.write_all_at(b"!", 9)).unwrap();
    std::fs::create_dir_all(at.join("made/inner")).unwrap();
    std::fs::write(at.join("made/inner/f"), "f").unwrap();
    sys::chmod(&at.join("made/inner"), 0o3777).unwrap();
    sys::utimens(&at.join("made/inner"), (1, 2), (3, 4)).unwrap();
    sys::utimens(&at.join("made"), (5, 6), (7, 8)).unwrap();
    let carried = Columns { dir_mtime: false, ..Columns::COPY };
    let shown = Tree::of(&at, carried);
    world.umount(&at);
    world.cli(&["commit", "b"]);
    shown.assert_same(&Tree::of(&base, carried), "the base and the branch");
    assert!(std::fs::metadata(base.join("sparse")).unwrap().blocks() < 1024, "a sparse file stays sparse");
    assert_eq!(std::fs::metadata(base.join("hard")).unwrap().nlink(), 3);
    assert_eq!(std::fs::metadata(base.join("setuid")).unwrap().mode() & 0o7777, 0o6711);
    for (dir, time) in [("made", (7, 8)), ("made/inner", (3, 4))] {
        let meta = std::fs::metadata(base.join(dir)).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), time, "{dir}");
    }
    // A second time there is nothing to do, and nothing is done.
    let before = Tree::of(&base, Columns::UNTOUCHED);
    assert!(world.cli(&["commit", "b"]).stdout.contains("nothing to commit"));
    before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the base after a second commit");
}

#[test]
fn the_roots_time_moves_only_with_a_name_in_the_root() {
    let Some(world) = World::start("the_roots_time") else { return };
    let base = world.base("p");
    small(&base);
    let time = || std::fs::metadata(&base).map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
    sys::utimens(&base, (1, 1), (1_000_000_000, 5)).unwrap();
    work(&world, "b", &base, |mnt| {
        std::fs::write(mnt.join("d/k"), "k").unwrap();
        std::fs::write(mnt.join("d/new"), "new").unwrap();
    });
    world.cli(&["commit", "b"]);
    assert_eq!(std::fs::read(base.join("d/k")).unwrap(), b"k");
    assert_eq!(time(), (1_000_000_000, 5));
    work(&world, "b", &base, |mnt| std::fs::write(mnt.join("new"), "new").unwrap());
    world.cli(&["commit", "b"]);
    assert!(time().0 > 1_600_000_000, "a name came into the root");
}

#[test]
fn paths_longer_than_the_kernel_takes() {
    let Some(world) = World::start("paths_longer_than_the_kernel_takes") else { return };
    let base = world.base("p");
    let dig = |root: &Path, word: &str| {
        let name = "d".repeat(250);
        let script = format!(
            "cd {} && for i in $(seq 20); do mkdir -p {name}; cd ./{name}; done; echo {word} > file",
            root.display()
        );
        world.program(world.dir(), "bash", &["-c", &script]);
    };
    dig(&base, "base");
    work(&world, "b", &base, |mnt| {
        dig(mnt, "branch");
        std::fs::create_dir(mnt.join("second")).unwrap();
        dig(&mnt.join("second"), "new");
    });
    assert_eq!(world.diff("b").added, 22);
    world.cli(&["commit", "b"]);
    let read = |root: &Path| {
        let script = format!("cd {}; for i in $(seq 20); do cd ./d*; done; cat file", root.display());
        world.program(world.dir(), "bash", &["-c", &script]).stdout
    };
    assert_eq!((read(&base), read(&base.join("second"))), ("branch\n".into(), "new\n".into()));
    work(&world, "b", &base, |mnt| drop(world.program(mnt, "rm", &["-r", &"d".repeat(250), "second"])));
    world.cli(&["commit", "b"]);
    assert!(sys::names(&base).is_empty());
}

/// The states before and after are told apart by every path.
#[test]
fn an_interrupted_commit_is_finished_or_taken_back() {
    let Some(world) = World::start("an_interrupted_commit") else { return };
    world.limit(Duration::from_secs(600));
    let base = world.base("p");
    std::fs::create_dir(base.join("d")).unwrap();
    (0..1200).for_each(|n| std::fs::write(base.join(format!("d/{n}")), "old").unwrap());
    let columns = Columns::CONTENT;
    let mut round = 0;
    let (mut finished, mut taken_back) = (0, 0);
    let began = Instant::now();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        for part in 1..=8_u64 {
            round += 1;
            let before = Tree::of(&base, columns);
            let at = world.mount("b", Some(&base));
            for n in 0..1200 {
                std::fs::write(at.join(format!("d/{n}")), format!("round {round}")).unwrap();
            }
            std::fs::write(at.join("round"), round.to_string()).unwrap();
            let after = Tree::of(&at, columns);
            world.umount(&at);
            let job = world.spawn(&mut world.agentfs(["commit", "b"]));
            std::thread::sleep(Duration::from_millis(60 * part));
            killpg(Pid::from_raw(job.pid()), signal).ok();
            job.finish(Duration::from_secs(60));
            world.cli(&["status"]);
            let now = Tree::of(&base, columns);
            assert!(!sys::names(&base).iter().any(|n| n.starts_with(".agentfs")), "{:?}", sys::names(&base));
            if now == after {
                finished += 1;
                assert_eq!(world.diff("b").total(), 0);
            } else {
                now.assert_same(&before, &format!("the base in round {round}, neither before nor after"));
                taken_back += 1;
                world.cli(&["commit", "b"]);
                Tree::of(&base, columns).assert_same(&after, "the base, committed again");
            }
        }
    }
    assert!(finished + taken_back > 0, "some round ran in {:?}", began.elapsed());
    world.assert_no_panics();
}

#[test]
fn a_hundred_thousand_changes() {
    let Some(world) = World::start("a_hundred_thousand_changes") else { return };
    world.limit(Duration::from_secs(1500));
    let base = world.base("p");
    let at = world.mount("b", Some(&base));
    for dir in 0..100 {
        std::fs::create_dir(at.join(format!("d{dir}"))).unwrap();
        (0..1000).for_each(|n| std::fs::write(at.join(format!("d{dir}/{n}")), "x").unwrap());
    }
    world.umount(&at);
    let mut job = world.spawn(&mut world.agentfs(["commit", "b"]));
    let (mut most, began) = (0, Instant::now());
    while job.poll().is_none() {
        most = most.max(procs::resident(job.pid()).unwrap_or_default());
        assert!(began.elapsed() < Duration::from_secs(900), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = job.finish(Duration::from_secs(1)).success();
    assert!(out.stdout.contains("100100 added"), "{out}");
    assert!(most < 512 << 20, "{} MiB at most, in {:?}", most >> 20, began.elapsed());
    assert!(most < 512 << 20, "the command needs {most} bytes of memory");
    let counts: usize = (0..100).map(|dir| sys::names(&base.join(format!("d{dir}"))).len()).sum();
    assert_eq!(counts, 100_000);
}

/// Every document of a command is one object or list, and names the version of its form.
#[test]
fn every_command_answers_with_one_json_document() {
    let Some(world) = World::start("every_command_answers_with_json") else { return };
    let base = world.base("p");
    small(&base);
    let at: PathBuf = world.mountpoint();
    let (base_text, at_text) = (text(&base), text(&at));
    let commands: [&[&str]; 21] = [
        &["daemon", "start"],
        &["daemon", "status"],
        &["branch", "create", "b", "--base", base_text],
        &["branch", "list"],
        &["branch", "show", "b"],
        &["mount", "--branch", "b", at_text],
        &["mounts"],
        &["status"],
        &["umount", at_text],
        &["diff", "b"],
        &["diff", "b", "--stat"],
        &["snapshot", "create", "--branch", "b", "--name", "s"],
        &["snapshot", "list"],
        &["snapshot", "list", "b"],
        &["snapshot", "delete", "--branch", "b", "--name", "s"],
        &["commit", "b", "--dry-run"],
        &["commit", "b"],
        &["discard", "b", "--dry-run"],
        &["discard", "b"],
        &["branch", "create", "c"],
        &["branch", "delete", "c"],
    ];
    let whole = |line: &str, out: &str| {
        let value: serde_json::Value =
            serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{line}: {e}: {out}"));
        let parts = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for part in parts {
            assert_eq!(part["schema_version"], 1, "{line}: {part}");
        }
        value
    };
    for args in commands {
        let out = world.cli(&[args, &["--json"]].concat());
        assert!(out.stderr.is_empty(), "{out}");
        whole(&out.line, &out.stdout);
    }
    let out = world.cli(&["run", "--json", "--base", base_text, "--branch", "r", "--", "echo", "of the command"]);
    assert_eq!(out.stdout, "of the command\n");
    assert_eq!(whole(&out.line, &out.stderr)["run"]["exit_code"], 0);
    for args in [&["diff", "none"][..], &["none"], &["commit"]] {
        let out = world.cli_fails(&[args, &["--json"]].concat());
        assert!(out.stdout.is_empty(), "{out}");
        let value = whole(&out.line, &out.stderr);
        assert_eq!(value["error"]["exit_code"].as_i64(), out.status.code().map(i64::from), "{out}");
    }
    whole("daemon stop", &world.cli(&["daemon", "stop", "--json"]).stdout);
}

#[test]
fn hints_name_commands_that_work() {
    let Some(world) = World::start("hints_name_commands_that_work") else { return };
    let base = world.base("p");
    world.program(&base, "git", &["init", "-q"]);
    let run_args = |script: &'static str| {
        ["run", "--base", text(&base), "--branch", "b", "--", "bash", "-c", script].map(str::to_owned)
    };
    // What is to be known of a base is told when its branch is made, and not each time.
    let first = run(&mut world.agentfs(run_args("true")), harness::world::COMMAND_LIMIT).success();
    assert!(first.stderr.contains("live git checkout"), "{first}");
    let second = run(&mut world.agentfs(run_args("true")), harness::world::COMMAND_LIMIT).success();
    assert!(!second.stderr.contains("live git checkout"), "{second}");
    // The hint about snapshots is a command line that works.
    let out = world.cli_fails(&["snapshot", "delete", "--branch", "b", "--name", "none"]).code(68);
    let hint = out.stderr.split('`').nth(1).unwrap_or_else(|| panic!("no command: {out}")).to_owned();
    world.cli(&hint.split(' ').skip(1).collect::<Vec<_>>());
    // A mount of a run cannot be unmounted from here, and nobody is told to.
    let job = world.spawn(&mut world.agentfs(run_args("echo ready; exec sleep 60")));
    assert!(procs::wait_for(Duration::from_secs(30), || job.stdout().contains("ready")));
    let at = world.mountpoint();
    for args in [
        &["mount", "--branch", "b", text(&at)][..],
        &["run", "--branch", "b", "--", "true"],
        &["commit", "b"],
        &["discard", "b"],
    ] {
        let out = world.cli_fails(args).code(75);
        assert!(out.stderr.contains("agentfs run") && !out.stderr.contains("agentfs umount"), "{out}");
    }
    killpg(Pid::from_raw(job.pid()), Signal::SIGTERM).unwrap();
    job.finish(Duration::from_secs(30));
    // A refused mount leaves nothing behind that would keep the daemon from stopping.
    world.cli(&["daemon", "stop"]);
    // Usage does not tell of options that the environment sets.
    let out = world.cli_fails(&["diff"]).code(2);
    assert!(out.stderr.contains("Usage: agentfs diff") && !out.stderr.contains("--store"), "{out}");
}

#[test]
fn a_base_with_inode_numbers_above_all_others() {
    let Some(world) = World::start("a_base_with_inode_numbers_above") else { return };
    let [lower, layers, merged] = ["lower", "layers", "merged"].map(|name| world.base(name));
    for fs in [&lower, &layers] {
        world.program(world.dir(), "mount", &["-t", "tmpfs", "none", text(fs)]);
    }
    std::fs::create_dir_all(lower.join("project/d")).unwrap();
    std::fs::write(lower.join("project/d/f"), "host").unwrap();
    for dir in ["upper", "work"] {
        std::fs::create_dir(layers.join(dir)).unwrap();
    }
    let options = format!(
        "xino=on,lowerdir={},upperdir={},workdir={}",
        lower.display(),
        layers.join("upper").display(),
        layers.join("work").display()
    );
    let out = world.try_program(world.dir(), "mount", &["-t", "overlay", "-o", &options, "none", text(&merged)]);
    let base = merged.join("project");
    let large = out.status.success() && std::fs::metadata(&base).unwrap().ino() >= 1 << 52;
    if large {
        work(&world, "b", &base, |mnt| {
            assert_eq!(std::fs::read(mnt.join("d/f")).unwrap(), b"host");
            std::fs::write(mnt.join("d/f"), "branch").unwrap();
            std::fs::write(mnt.join("new"), "new").unwrap();
            std::fs::set_permissions(mnt, std::fs::Permissions::from_mode(0o750)).unwrap();
        });
        world.cli(&["commit", "b"]);
        assert_eq!(std::fs::read(base.join("d/f")).unwrap(), b"branch");
        assert_eq!(std::fs::metadata(&base).unwrap().mode() & 0o7777, 0o750);
        // Mounted anew, as after a reboot, it is the same base: its branches go on.
        world.stop();
        nix::mount::umount2(&merged, nix::mount::MntFlags::empty()).unwrap();
        world.program(world.dir(), "mount", &["-t", "overlay", "-o", &options, "none", text(&merged)]);
        work(&world, "b", &base, |mnt| assert_eq!(std::fs::read(mnt.join("new")).unwrap(), b"new"));
        work(&world, "c", &base, |mnt| assert_eq!(std::fs::read(mnt.join("d/f")).unwrap(), b"branch"));
        world.stop();
    } else {
        eprintln!("skipped: a_base_with_inode_numbers_above: no overlayfs with xino: {out}");
    }
    for fs in [&merged, &layers, &lower] {
        nix::mount::umount2(fs, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}
