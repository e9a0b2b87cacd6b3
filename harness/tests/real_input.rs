//! git, cargo, npm, SQLite and tar on a branch of a real project.
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
use harness::tree::Columns;
use harness::{Tree, World, sys};
use rustix::fs::{FileType, XattrFlags};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn on_path(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|d| d.join(program).is_file())
}

fn missing(test: &str, program: &str) -> bool {
    if !on_path(program) {
        eprintln!("skipped: {test}: {program} is not installed");
    }
    !on_path(program)
}

/// A repository of 1,500 files in 60 directories with 12 commits, as a clone, its index fresh.
fn repository(world: &World) -> PathBuf {
    let origin = world.out().join("origin");
    std::fs::create_dir(&origin).unwrap();
    world.program(&origin, "git", &["init", "-q", "-b", "main"]);
    for n in 0..1500_u64 {
        let dir = origin.join(format!("pkg{}/src{}", n % 20, n % 3));
        std::fs::create_dir_all(&dir).unwrap();
        let mut body = format!("// file {n}\n");
        for line in 0..(n % 120) {
            writeln!(body, "fn f{line}_{n}() -> u64 {{ {} }}", line * n).unwrap();
        }
        std::fs::write(dir.join(format!("f{n}.rs")), body).unwrap();
    }
    sys::symlink(b"pkg0/src0", &origin.join("first")).unwrap();
    std::fs::write(origin.join("run.sh"), "#!/bin/sh\n").unwrap();
    sys::chmod(&origin.join("run.sh"), 0o755).unwrap();
    world.program(&origin, "git", &["add", "."]);
    world.program(&origin, "git", &["commit", "-q", "-m", "commit 0"]);
    for commit in 1..12_u64 {
        for n in (commit..1500).step_by(37) {
            let file = origin.join(format!("pkg{}/src{}/f{n}.rs", n % 20, n % 3));
            std::fs::write(&file, format!("// changed in {commit}\n")).unwrap();
        }
        world.program(&origin, "git", &["commit", "-q", "-a", "-m", &format!("commit {commit}")]);
        if commit == 6 {
            world.program(&origin, "git", &["branch", "older"]);
        }
    }
    let clone = world.base("clone");
    world.program(world.dir(), "git", &["clone", "-q", text(&origin), text(&clone)]);
    world.program(&clone, "git", &["branch", "-q", "older", "origin/older"]);
    // An index written in the same second as the files would make git read them again.
    std::thread::sleep(Duration::from_millis(1100));
    world.program(&clone, "git", &["update-index", "--force-write-index"]);
    world.program(&clone, "git", &["status", "--porcelain"]);
    clone
}

#[test]
fn the_first_git_status_opens_no_file_and_git_works_on() {
    let Some(world) = World::start("the_first_git_status") else { return };
    world.limit(Duration::from_secs(400));
    let base = repository(&world);
    let before = Tree::of(&base, Columns::UNTOUCHED);
    let mnt = world.mount("b", Some(&base));
    // Without a refresh of the index, `diff-files` names every file whose inode data differ.
    let stale = world.program(&mnt, "git", &["diff-files", "--name-only"]);
    assert_eq!(stale.stdout, "", "the index is not valid on the branch");
    if on_path("strace") {
        world.remount("b", &mnt);
        let trace = world.out().join("trace");
        let mut command = world.command("strace");
        command.args(["-f", "-e", "trace=open,openat", "-o", text(&trace), "git", "status", "--porcelain"]);
        let out = run(command.current_dir(&mnt), LIMIT).success();
        assert_eq!(out.stdout, "");
        let opens = std::fs::read_to_string(&trace).unwrap();
        let files: Vec<&str> = opens.lines().filter(|l| l.contains(".rs\"")).collect();
        assert!(files.is_empty(), "git status opened {} files, e.g. {:?}", files.len(), files.first());
    }
    assert_eq!(world.program(&mnt, "git", &["status", "--porcelain"]).stdout, "");
    world.program(&mnt, "git", &["checkout", "-q", "older"]);
    assert_eq!(world.program(&mnt, "git", &["status", "--porcelain"]).stdout, "");
    world.program(&mnt, "git", &["checkout", "-q", "-b", "work", "main"]);
    std::fs::write(mnt.join("pkg1/src1/f1.rs"), "edited\n").unwrap();
    std::fs::remove_file(mnt.join("pkg2/src2/f2.rs")).unwrap();
    std::fs::write(mnt.join("new.rs"), "new\n").unwrap();
    world.program(&mnt, "git", &["add", "-A"]);
    world.program(&mnt, "git", &["commit", "-q", "-m", "on the branch"]);
    world.program(&mnt, "git", &["rebase", "-q", "older"]);
    world.program(&mnt, "git", &["gc", "-q", "--prune=now"]);
    let fsck = world.program(&mnt, "git", &["fsck", "--full", "--strict"]);
    assert!(!fsck.says("error") && !fsck.says("missing") && !fsck.says("corrupt"), "{fsck}");
    let head = world.program(&mnt, "git", &["rev-parse", "HEAD"]).stdout;
    world.remount("b", &mnt);
    world.program(&mnt, "git", &["fsck", "--full", "--strict"]);
    assert_eq!(world.program(&mnt, "git", &["status", "--porcelain"]).stdout, "");
    before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the base");
    // Cloning from a branch, and taking it all back.
    let copy = mnt.join("copy");
    world.program(&mnt, "git", &["clone", "-q", "--no-hardlinks", ".", text(&copy)]);
    std::fs::remove_dir_all(&copy).unwrap();
    // A file that was rewritten with the bytes it had is no change: its time stays the base's.
    let committed = Columns { mtime: false, ..Columns::COPY };
    let branch = Tree::of(&mnt, committed);
    world.umount(&mnt);
    world.cli(&["commit", "b"]);
    // Before git looks at the base and writes its index anew.
    branch.assert_same(&Tree::of(&base, committed), "branch and committed base");
    assert_eq!(world.program(&base, "git", &["rev-parse", "HEAD"]).stdout, head);
    assert_eq!(world.program(&base, "git", &["status", "--porcelain"]).stdout, "");
    world.program(&base, "git", &["fsck", "--full", "--strict"]);
}

fn cargo(world: &World, dir: &Path) -> Command {
    let mut command = world.command("cargo");
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let or = |name: &str, sub: &str| std::env::var(name).unwrap_or_else(|_| format!("{home}/{sub}"));
    command.env("CARGO_HOME", or("CARGO_HOME", ".cargo")).env("RUSTUP_HOME", or("RUSTUP_HOME", ".rustup"));
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_BUILD_JOBS"] {
        command.env_remove(name);
    }
    command.env("CARGO_NET_OFFLINE", "true").current_dir(dir);
    command
}

#[test]
fn a_second_cargo_build_is_a_no_op() {
    let Some(world) = World::start("a_second_cargo_build") else { return };
    world.limit(Duration::from_secs(400));
    let base = world.base("workspace");
    let members = ["core", "util", "app"];
    std::fs::write(base.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"core\", \"util\", \"app\"]\n")
        .unwrap();
    for (n, member) in members.into_iter().enumerate() {
        std::fs::create_dir_all(base.join(member).join("src")).unwrap();
        let mut manifest =
            format!("[package]\nname = \"demo-{member}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n");
        for dependency in &members[..n] {
            writeln!(manifest, "demo-{dependency} = {{ path = \"../{dependency}\" }}").unwrap();
        }
        std::fs::write(base.join(member).join("Cargo.toml"), manifest).unwrap();
        let (file, body) = if member == "app" {
            ("main.rs", "fn main() { println!(\"{}\", demo_core::n() + demo_util::n()); }\n")
        } else {
            (
                "lib.rs",
                "/// A number.\npub fn n() -> u32 { 21 }\n#[cfg(test)]\nmod tests { #[test] fn it() { assert_eq!(super::n(), 21); } }\n",
            )
        };
        std::fs::write(base.join(member).join("src").join(file), body).unwrap();
    }
    let mnt = world.mount("b", Some(&base));
    let first = run(cargo(&world, &mnt).args(["build"]), LIMIT).success();
    assert!(first.stderr.contains("Compiling demo-app"), "{first}");
    for when in ["at once", "after a remount", "after kill -9 of the daemon"] {
        let again = run(cargo(&world, &mnt).args(["build"]), LIMIT).success();
        assert!(!again.stderr.contains("Compiling"), "{when}: {again}");
        if when == "at once" {
            world.remount("b", &mnt);
        } else {
            world.kill_daemon();
        }
    }
    let out = run(cargo(&world, &mnt).args(["run", "-q"]), LIMIT).success();
    assert_eq!(out.stdout, "42\n");
    std::fs::write(mnt.join("util/src/lib.rs"), "/// A number.\npub fn n() -> u32 { 22 }\n").unwrap();
    let out = run(cargo(&world, &mnt).args(["run"]), LIMIT).success();
    assert!(
        out.stdout == "43\n"
            && out.stderr.contains("Compiling demo-util")
            && !out.stderr.contains("Compiling demo-core"),
        "{out}"
    );
    run(cargo(&world, &mnt).args(["test", "-q", "-p", "demo-core"]), LIMIT).success();
    assert!(!base.join("target").exists());
}

/// The workspace that this test stands in, built twice on a branch: minutes of compiling.
#[test]
#[ignore = "compiles this workspace; run with --ignored"]
fn this_workspace_builds_twice() {
    let Some(world) = World::start("this_workspace_builds_twice") else { return };
    world.limit(Duration::from_secs(1800));
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let base = world.base("agentfs");
    let copy = format!("tar -C {} --exclude=./target -cf - . | tar -C {} -xf -", text(here), text(&base));
    world.program(here, "sh", &["-c", &copy]);
    let mnt = world.mount("b", Some(&base));
    let limit = Duration::from_secs(1500);
    let first = run(cargo(&world, &mnt).args(["build", "--workspace", "--locked"]), limit).success();
    assert!(first.stderr.contains("Compiling"), "{first}");
    eprintln!("first build: {:?}", first.elapsed);
    let again = run(cargo(&world, &mnt).args(["build", "--workspace", "--locked"]), limit).success();
    assert!(!again.stderr.contains("Compiling"), "{again}");
    eprintln!("second build: {:?}", again.elapsed);
    assert!(!base.join("target").exists());
}

/// Packages of more than 1,000 files, with dependencies and with programs in `node_modules/.bin`.
const PACKAGES: &str =
    r#"{"name":"x","version":"1.0.0","dependencies":{"express":"4.18.2","lodash":"4.17.21","rimraf":"3.0.2"}}"#;

#[test]
fn npm_installs_packages_of_1000_files() {
    let test = "npm_installs_packages_of_1000_files";
    if missing(test, "npm") {
        return;
    }
    let Some(world) = World::start(test) else { return };
    world.limit(Duration::from_secs(400));
    let npm = |dir: &Path, what: &str| {
        let mut command = world.command("npm");
        command.args([
            what,
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--prefer-offline",
            "--fetch-retries=1",
        ]);
        run(command.env("npm_config_cache", world.out().join("npm")).current_dir(dir), LIMIT)
    };
    let host = world.base("host");
    std::fs::write(host.join("package.json"), PACKAGES).unwrap();
    let out = npm(&host, "install");
    if !out.status.success() {
        let registry = ["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "E403", "E404"];
        assert!(registry.iter().any(|code| out.says(code)), "{out}");
        eprintln!("skipped: {test}: the registry cannot be reached: {}", out.stderr.lines().next().unwrap_or(""));
        return;
    }
    let columns = Columns { owner: true, nlink: true, ..Columns::CONTENT };
    let expected = Tree::of(&host, columns);
    assert!(expected.entries.len() > 1000, "{} files", expected.entries.len());
    let works = |dir: &Path| {
        let script = "require('express')(); console.log(require('lodash').chunk([1,2,3,4],2).length)";
        assert_eq!(world.program(dir, "node", &["-e", script]).stdout, "2\n");
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        world.program(dir, "./node_modules/.bin/rimraf", &["a"]);
        assert!(!dir.join("a").exists());
    };
    // From nothing: installed, installed again, installed afresh, each as on the host.
    let base = world.base("p");
    std::fs::write(base.join("package.json"), PACKAGES).unwrap();
    let mnt = world.mount("b", Some(&base));
    for what in ["install", "install", "ci"] {
        npm(&mnt, what).success();
        expected.assert_same(&Tree::of(&mnt, columns), &format!("host and branch after npm {what}"));
    }
    world.remount("b", &mnt);
    expected.assert_same(&Tree::of(&mnt, columns), "host and branch after a remount");
    works(&mnt);
    assert!(npm(&mnt, "install").success().says("up to date"));
    world.umount(&mnt);
    assert_eq!(sys::names(&base).len(), 1, "the base");
    world.cli(&["commit", "b"]);
    expected.assert_same(&Tree::of(&base, columns), "host and committed base");
    works(&base);
    // Over what the base has installed: `npm ci` deletes all of it and makes it anew.
    let before = Tree::of(&host, Columns::UNTOUCHED);
    let over = world.mount("over", Some(&host));
    assert!(npm(&over, "install").success().says("up to date"));
    npm(&over, "ci").success();
    expected.assert_same(&Tree::of(&over, columns), "host and branch over it");
    works(&over);
    std::fs::remove_dir_all(over.join("node_modules")).unwrap();
    before.assert_same(&Tree::of(&host, Columns::UNTOUCHED), "the base");
}

const SQLITE: &str = r"
import os, sqlite3, subprocess, sys
path, role = sys.argv[1], sys.argv[2]
def connect():
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    assert db.execute('pragma journal_mode=wal').fetchone()[0] == 'wal', 'no WAL'
    return db
if role == 'main':
    db = connect()
    db.execute('create table t (who text, n integer, body blob)')
    workers = [subprocess.Popen([sys.executable, __file__ if '__file__' in globals() else '-', path, w]) for w in ('one', 'two')]
    last = 0
    while any(w.poll() is None for w in workers):
        n = db.execute('select count(*) from t').fetchone()[0]
        assert n >= last, 'rows vanish'
        last = n
    assert all(w.returncode == 0 for w in workers)
    assert db.execute('select count(*), count(distinct who || n) from t').fetchone() == (400, 400)
    assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'
    db.execute('pragma wal_checkpoint(truncate)')
    print('ok')
else:
    db = connect()
    for n in range(200):
        db.execute('begin immediate')
        db.execute('insert into t values (?, ?, ?)', (role, n, os.urandom(300)))
        db.execute('commit')
";

#[test]
fn sqlite_in_wal_mode_with_two_processes() {
    let test = "sqlite_in_wal_mode_with_two_processes";
    if missing(test, "python3") {
        return;
    }
    let Some(world) = World::start(test) else { return };
    let mnt = world.mount("b", None);
    let script = world.out().join("wal.py");
    std::fs::write(&script, SQLITE).unwrap();
    if !world.try_program(&mnt, "python3", &["-c", "import sqlite3"]).status.success() {
        eprintln!("skipped: {test}: python3 has no sqlite3");
        return;
    }
    let db = mnt.join("test.db");
    let out = run(world.command("python3").args([text(&script), text(&db), "main"]).current_dir(&mnt), LIMIT).success();
    assert_eq!(out.stdout, "ok\n");
    world.remount("b", &mnt);
    let check = "import sqlite3,sys; d=sqlite3.connect(sys.argv[1]); print(d.execute('pragma integrity_check').fetchone()[0], d.execute('select count(*) from t').fetchone()[0])";
    assert_eq!(world.program(&mnt, "python3", &["-c", check, text(&db)]).stdout, "ok 400\n");
}

#[test]
fn tar_out_and_in_is_identical() {
    let Some(world) = World::start("tar_out_and_in_is_identical") else { return };
    let source = world.out().join("source");
    std::fs::create_dir_all(source.join("d/e")).unwrap();
    for n in 0..200_u64 {
        let path = source.join(format!("d/f{n}"));
        std::fs::write(&path, sys::pattern(n, (n * n) as usize)).unwrap();
        sys::lchown(&path, Some(n as u32), Some(n as u32 + 1)).unwrap();
        sys::chmod(&path, 0o400 + (n as u32 & 0o377)).unwrap();
        if n % 10 == 0 {
            sys::setxattr(&path, "user.n", n.to_string().as_bytes(), XattrFlags::empty()).unwrap();
            sys::link(&path, &source.join(format!("d/e/hard{n}"))).unwrap();
        }
        sys::utimens(&path, (1_000_000, 0), (1_000_000_000 + n as i64, 1_000_000 * n as i64)).unwrap();
    }
    sys::chmod(&source.join("d/f7"), 0o6755).unwrap();
    sys::symlink(b"../d/f1", &source.join("d/e/link")).unwrap();
    sys::mknod(&source.join("fifo"), FileType::Fifo, 0o640, 0).unwrap();
    sys::utimens(&source.join("d/e"), (5, 5), (1_200_000_000, 5)).unwrap();
    let columns = Columns { dir_mtime: true, ..Columns::COPY };
    sys::utimens(&source.join("d"), (5, 5), (1_200_000_001, 5)).unwrap();
    sys::utimens(&source, (5, 5), (1_200_000_002, 5)).unwrap();
    let expected = Tree::of(&source, columns);
    let pack = ["--xattrs", "--xattrs-include=*", "--format=posix", "--numeric-owner", "-cf"];
    let unpack = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"];
    let tar = |options: &[&str], archive: &Path, dir: &Path, what: &[&str]| {
        let mut args = options.to_vec();
        args.extend([text(archive), "-C", text(dir)]);
        args.extend(what);
        world.program(world.dir(), "tar", &args);
    };
    let (first, second) = (world.out().join("1.tar"), world.out().join("2.tar"));
    tar(&pack, &first, &source, &["."]);
    let mnt = world.mount("b", None);
    tar(&unpack, &first, &mnt, &[]);
    expected.assert_same(&Tree::of(&mnt, columns), "unpacked on the branch");
    world.remount("b", &mnt);
    expected.assert_same(&Tree::of(&mnt, columns), "after a remount");
    tar(&pack, &second, &mnt, &["."]);
    let back = world.out().join("back");
    std::fs::create_dir(&back).unwrap();
    tar(&unpack, &second, &back, &[]);
    expected.assert_same(&Tree::of(&back, columns), "packed on the branch, unpacked on the host");
    // The same through copy-up: a base unpacked over itself on a branch.
    let base = world.base("p");
    tar(&unpack, &first, &base, &[]);
    let over = world.mount("over", Some(&base));
    tar(&unpack, &first, &over, &[]);
    expected.assert_same(&Tree::of(&over, columns), "unpacked over a base");
    expected.assert_same(&Tree::of(&base, columns), "the base");
}
