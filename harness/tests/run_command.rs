//! `agentfs run` as its user sees it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::run::{Output, run};
use harness::tree::Columns;
use harness::{Tree, World, procs};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// A small project of git and cargo with documentation.
fn project(world: &World, base: &Path) {
    std::fs::create_dir_all(base.join("src")).unwrap();
    std::fs::create_dir_all(base.join("docs/guide")).unwrap();
    std::fs::write(
        base.join("Cargo.toml"),
        "[package]\nname = \"scratch\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n",
    )
    .unwrap();
    std::fs::write(base.join("src/main.rs"), "fn main() { println!(\"hi\"); }\n").unwrap();
    std::fs::write(base.join(".gitignore"), "/target\n").unwrap();
    for name in ["docs/one.md", "docs/two.md", "docs/guide/three.md"] {
        std::fs::write(base.join(name), name).unwrap();
    }
    for args in [&["init", "-q", "-b", "main"][..], &["add", "."], &["commit", "-q", "-m", "first"]] {
        world.program(base, "git", args);
    }
}

/// Cargo and rustc as the test itself sees them, whatever HOME a world has.
fn toolchain(world: &World, command: &mut std::process::Command) {
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let or = |name: &str, dir: &str| std::env::var(name).unwrap_or_else(|_| format!("{home}/{dir}"));
    command.env("CARGO_HOME", or("CARGO_HOME", ".cargo")).env("RUSTUP_HOME", or("RUSTUP_HOME", ".rustup"));
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command.env("CARGO_NET_OFFLINE", "true").env("TMPDIR", world.out());
}

fn agent(world: &World, base: &Path, branch: &str, script: &str) -> Output {
    let base = base.to_str().unwrap();
    run(&mut world.agentfs(["run", "--base", base, "--branch", branch, "--", "bash", "-c", script]), LIMIT)
}

#[test]
fn the_story_word_for_word() {
    let Some(world) = World::start("the_story_word_for_word") else { return };
    let base = world.base("project");
    project(&world, &base);
    let before = Tree::of(&base, Columns::UNTOUCHED);
    let mut command = world.agentfs([
        "run",
        "--base",
        base.to_str().unwrap(),
        "--branch",
        "fix-1",
        "--",
        "bash",
        "-c",
        "git checkout -b x && cargo build && rm -rf docs",
    ]);
    toolchain(&world, &mut command);
    command.current_dir(&base);
    let out = run(&mut command, LIMIT).success();
    before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the host's directory");
    for path in ["docs/one.md", "docs/two.md", "docs/guide/three.md"] {
        assert!(out.stderr.contains(path), "the summary shows the deletion of {path}: {out}");
    }
    assert!(out.stderr.contains("added") && out.stderr.contains("deleted"), "counts: {out}");
    let diff = world.diff("fix-1");
    assert_eq!(diff.kind("docs"), Some("deleted"));
    assert_eq!(diff.kind("target/debug/scratch"), Some("added"), "the build was in the branch");
    assert_eq!(diff.kind(".git/HEAD"), Some("modified"));
    // Taken up again: the branch is as it was left, the build is a no-op.
    let mut command = world.agentfs([
        "run",
        "--base",
        base.to_str().unwrap(),
        "--branch",
        "fix-1",
        "--",
        "bash",
        "-c",
        "git rev-parse --abbrev-ref HEAD && test ! -e docs && cargo build 2>&1 && ./target/debug/scratch",
    ]);
    toolchain(&world, &mut command);
    command.current_dir(&base);
    let out = run(&mut command, LIMIT).success();
    assert_eq!(out.stdout.lines().next(), Some("x"));
    assert!(!out.stdout.contains("Compiling") && out.stdout.contains("Finished"), "the second build: {out}");
    assert!(out.stdout.ends_with("hi\n"));
    world.cli(&["commit", "fix-1"]);
    assert!(!base.join("docs").exists() && base.join("target/debug/scratch").exists());
    assert_eq!(world.program(&base, "git", &["rev-parse", "--abbrev-ref", "HEAD"]).stdout, "x\n");
    world.program(&base, "git", &["fsck", "--strict"]);
}

#[test]
fn exit_codes_and_signals_pass_through() {
    let Some(world) = World::start("exit_codes_and_signals_pass_through") else { return };
    let base = world.base("p");
    agent(&world, &base, "b", "exit 0").code(0);
    agent(&world, &base, "b", "exit 7").code(7);
    agent(&world, &base, "b", "exit 255").code(255);
    agent(&world, &base, "b", "kill -TERM $$").code(128 + 15);
    agent(&world, &base, "b", "kill -KILL $$").code(128 + 9);
    let out = run(
        &mut world.agentfs(["run", "--base", base.to_str().unwrap(), "--branch", "b", "--", "/no/such/program"]),
        LIMIT,
    );
    out.code(127);
    std::fs::write(base.join("notexec"), "").unwrap();
    let program = base.join("notexec");
    let out = run(
        &mut world.agentfs(["run", "--base", base.to_str().unwrap(), "--branch", "b", "--", program.to_str().unwrap()]),
        LIMIT,
    );
    out.code(126);
    // A signal to `agentfs run` reaches the command, which decides.
    let script = "trap 'echo got; exit 33' TERM; echo ready; while :; do sleep 0.05; done";
    let running = world.spawn(&mut world.agentfs([
        "run",
        "--base",
        base.to_str().unwrap(),
        "--branch",
        "b",
        "--",
        "bash",
        "-c",
        script,
    ]));
    assert!(procs::wait_for(Duration::from_secs(30), || running.stdout().contains("ready")), "the command starts");
    let pid = nix::unistd::Pid::from_raw(running.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let out = running.finish(Duration::from_secs(30)).code(33);
    assert!(out.stdout.contains("got"), "{out}");
    let ended = procs::wait_for(Duration::from_secs(10), || world.frontend_pids().is_empty());
    assert!(ended, "frontends of ended runs are left: {:?}", world.frontend_pids());
}

#[test]
fn the_branch_stands_at_the_base_path_and_nowhere_else() {
    let Some(world) = World::start("the_branch_stands_at_the_base_path") else { return };
    let base = world.base("p");
    std::fs::create_dir_all(base.join("sub")).unwrap();
    std::fs::write(base.join("sub/file"), "host").unwrap();
    let file = base.join("sub/file");
    let script = format!("pwd; echo branch > {}; cat sub/file; cat {}; ls -a", file.display(), file.display());
    let mut command =
        world.agentfs(["run", "--base", base.to_str().unwrap(), "--branch", "b", "--", "bash", "-c", &script]);
    let out = run(command.current_dir(&base), LIMIT).success();
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(lines, [base.to_str().unwrap(), "branch", "branch", ".", "..", "sub"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"host");
    // From a directory inside, the command is in the same one of the branch.
    let mut command =
        world.agentfs(["run", "--base", base.to_str().unwrap(), "--branch", "b", "--", "bash", "-c", "pwd; cat file"]);
    let out = run(command.current_dir(base.join("sub")), LIMIT).success();
    assert_eq!(out.stdout, format!("{}\nbranch\n", base.join("sub").display()));
    // From elsewhere, it begins in the root of the branch: a relative path never reaches the host.
    let mut command = world.agentfs(["run", "--base", base.to_str().unwrap(), "--branch", "b", "--", "pwd"]);
    let out = run(command.current_dir(world.out()), LIMIT).success();
    assert_eq!(out.stdout.trim(), base.to_str().unwrap());
    assert!(harness::mounts::below(world.dir()).is_empty(), "the mount is in the command's namespace only");
    // Deletions are never left out of the summary, however much else there is.
    for n in 0..30 {
        std::fs::write(base.join(format!("victim{n}")), "").unwrap();
    }
    let out = agent(
        &world,
        &base,
        "c",
        &format!("cd {} && rm -f victim* && for i in $(seq 500); do echo > a$i; done", base.display()),
    )
    .success();
    assert!(out.stderr.contains("500") && out.stderr.contains("30"), "counts: {out}");
    for n in 0..30 {
        assert!(out.stderr.contains(&format!("victim{n}")), "victim{n} is missing in the summary: {out}");
    }
}

#[test]
fn standard_streams_pass_through() {
    let Some(world) = World::start("standard_streams_pass_through") else { return };
    let base = world.base("p");
    let input = world.out().join("input");
    let data = harness::sys::pattern(4, 300_000);
    std::fs::File::create(&input).unwrap().write_all(&data).unwrap();
    let mut command = world.agentfs(["run", "--base", base.to_str().unwrap(), "--branch", "b", "--", "sha256sum"]);
    command.stdin(std::fs::File::open(&input).unwrap());
    let out = run(&mut command, LIMIT).success();
    assert_eq!(out.stdout, format!("{}  -\n", harness::sys::sha256(&data)), "only the command's output on stdout");
    let out = agent(&world, &base, "b", "echo out; echo err >&2").success();
    assert!(out.stdout == "out\n" && out.stderr.starts_with("err\n"), "{out}");
    assert!(!out.stderr.contains("panicked"));
}

#[test]
fn runs_side_by_side_and_nested_shells() {
    let Some(world) = World::start("runs_side_by_side") else { return };
    let base = world.base("p");
    std::fs::write(base.join("who"), "host").unwrap();
    let start = |branch: &str| {
        let script = format!(
            "cd {} && echo {branch} > who && for i in $(seq 100); do (echo $i; bash -c 'echo $$ > tmp.$$; mv tmp.$$ p.$$'); done > log; sleep 0.3; cat who; ls p.* | wc -l",
            base.display()
        );
        world.spawn(&mut world.agentfs([
            "run",
            "--base",
            base.to_str().unwrap(),
            "--branch",
            branch,
            "--",
            "bash",
            "-c",
            &script,
        ]))
    };
    let runs: Vec<_> = ["x", "y", "z"].into_iter().map(|b| (b, start(b))).collect();
    for (branch, running) in runs {
        let out = running.finish(LIMIT).success();
        assert_eq!(out.stdout, format!("{branch}\n100\n"), "{out}");
    }
    assert_eq!(std::fs::read(base.join("who")).unwrap(), b"host");
}

/// A command as user 1000 in a user namespace of its own, with a `/dev/fuse` that it may open, and no
/// privilege outside.
#[test]
fn an_unprivileged_user_runs_without_fusermount() {
    let Some(world) = World::start("an_unprivileged_user_runs") else { return };
    const UID: u32 = 1000;
    let bins: Vec<PathBuf> = harness::bins::NEEDED.iter().map(|n| world.bins().path(n)).collect();
    let bins = world.public_copies(&bins.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    let home = world.dir().join("home");
    let base = home.join("project");
    std::fs::create_dir_all(&base).unwrap();
    std::fs::write(base.join("file"), "host").unwrap();
    std::fs::create_dir(base.join("gone")).unwrap();
    std::fs::write(base.join("gone/f"), "x").unwrap();
    std::fs::create_dir(home.join("run")).unwrap();
    for path in
        [home.clone(), base.clone(), base.join("file"), base.join("gone"), base.join("gone/f"), home.join("run")]
    {
        harness::sys::lchown(&path, Some(UID), Some(UID)).unwrap();
    }
    std::fs::set_permissions(home.join("run"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let before = Tree::of(&base, Columns::UNTOUCHED);
    // In a mount namespace of its own the test gives everybody a /dev/fuse, then drops every privilege.
    let fuse = world.dir().join("fuse");
    let prelude = format!(
        "set -e; mknod {fuse} c 10 229; chmod 666 {fuse}; mount --bind {fuse} /dev/fuse; exec setpriv --reuid {UID} --regid {UID} --clear-groups --inh-caps=-all --bounding-set=-all \"$@\"",
        fuse = fuse.display()
    );
    let user = |args: &[&str]| {
        let mut command = world.command("unshare");
        command.args(["--mount", "--propagation", "slave", "bash", "-c", &prelude, "user"]);
        command.arg(bins.join("agentfs")).args(args).current_dir(&base);
        command.env_remove("AGENTFS_STORE").env_remove("AGENTFS_SOCKET").env_remove("AGENTFS_ALLOW_BASE");
        command.env("XDG_RUNTIME_DIR", home.join("run"));
        std::fs::remove_file(&fuse).ok();
        run(&mut command, LIMIT)
    };
    let base_arg = base.to_str().unwrap();
    let script = "id -u; cat file; echo branch > file; rm -rf gone; mkdir new; echo n > new/f; cat file; exit 5";
    let out = user(&["run", "--base", base_arg, "--branch", "u", "--", "bash", "-c", script]).code(5);
    assert_eq!(out.stdout, format!("{UID}\nhostbranch\n"), "{out}");
    assert!(out.stderr.contains("gone"), "the summary shows the deletion: {out}");
    before.assert_same(&Tree::of(&base, Columns::UNTOUCHED), "the host's directory");
    assert!(home.join(".local/share/agentfs").is_dir(), "the store of a user is in XDG's place");
    let out = user(&[
        "run",
        "--base",
        base_arg,
        "--branch",
        "u",
        "--",
        "bash",
        "-c",
        "cat file new/f; test ! -e gone; stat -c %u new",
    ]);
    assert_eq!(out.success().stdout, format!("branch\nn\n{UID}\n"));
    user(&["commit", "u"]).success();
    assert_eq!(std::fs::read(base.join("file")).unwrap(), b"branch\n");
    assert!(!base.join("gone").exists());
    user(&["daemon", "stop"]).success();
}
