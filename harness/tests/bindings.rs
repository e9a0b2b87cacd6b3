//! Processes that see different branches through one mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use harness::run::{Output, run};
use harness::world::COMMAND_LIMIT;
use harness::{World, procs, sys};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use shm_transport::control::Command;
use shm_transport::control::door::{Door, DoorError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A mount of the branch `main`, and the branches `left` and `right` of the same base.
fn divided(world: &World) -> PathBuf {
    let base = world.base("project");
    std::fs::create_dir_all(base.join("sub/deep")).unwrap();
    std::fs::write(base.join("file"), "base").unwrap();
    std::fs::write(base.join("sub/inner"), "base").unwrap();
    let mnt = world.mount("main", Some(&base));
    for branch in ["left", "right"] {
        world.create_branch(branch, Some(&base));
    }
    mnt
}

fn exec(world: &World, mnt: &Path, branch: &str, command: &[&str]) -> std::process::Command {
    let mut args = vec!["branch", "exec", "--mount", mnt.to_str().unwrap(), branch, "--"];
    args.extend(command);
    world.agentfs(args)
}

fn control_cli(world: &World, args: &[&str]) -> Output {
    let link = world.out().join("agentfs-control-cli");
    if !link.exists() {
        std::os::unix::fs::symlink(world.bins().path("agentfs"), &link).unwrap();
    }
    // No way to the socket is needed.
    run(world.command(link).env("AGENTFS_SOCKET", "/nowhere/sock").args(args), COMMAND_LIMIT)
}

fn shell(world: &World, mnt: &Path, branch: &str, script: &str) -> Output {
    run(exec(world, mnt, branch, &["sh", "-c", script]).current_dir(mnt), COMMAND_LIMIT)
}

#[track_caller]
fn says(out: Output, text: &str) {
    let out = out.success();
    assert_eq!(out.stdout.trim(), text, "{out}");
}

#[test]
fn a_bound_process_sees_its_branch_and_others_do_not() {
    let Some(world) = World::start("a_bound_process_sees_its_branch_and_others_do_not") else { return };
    let mnt = divided(&world);
    // All of this the kernel keeps when the first process is bound.
    std::fs::write(mnt.join("file"), "main").unwrap();
    std::fs::write(mnt.join("sub/moves"), "main").unwrap();
    std::fs::rename(mnt.join("sub/moves"), mnt.join("moved")).unwrap();
    std::fs::create_dir(mnt.join("sub/dir")).unwrap();
    std::fs::rename(mnt.join("sub/dir"), mnt.join("dir")).unwrap();
    assert!(!mnt.join("new").exists());
    assert_eq!(sys::readdir(&mnt).unwrap().len(), 4);
    says(shell(&world, &mnt, "left", "cat file; ls"), "basefile\nsub");
    says(
        shell(&world, &mnt, "left", "echo left >file; echo new >new; mkdir dir; echo in >dir/in; cat file new"),
        "left\nnew",
    );
    // Forked, executed, in the background, and left to others.
    says(shell(&world, &mnt, "left", "(sh -c 'cat file'; cat dir/in & wait)"), "left\nin");
    says(shell(&world, &mnt, "right", "cat file; ls; test ! -e new && echo none"), "basefile\nsub\nnone");
    // Nobody else saw any of it.
    assert_eq!(std::fs::read_to_string(mnt.join("file")).unwrap(), "main");
    assert_eq!(std::fs::read_to_string(mnt.join("moved")).unwrap(), "main");
    assert!(!mnt.join("new").exists() && !mnt.join("dir/in").exists());
    assert_eq!(world.diff("left").by_path().len(), 4);
    assert_eq!(world.diff("right").total(), 0);
    world.umount(&mnt);
    // The branches are whole, and free again.
    let at = world.mount("left", None);
    assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), "left\n");
    assert_eq!(std::fs::read_to_string(at.join("dir/in")).unwrap(), "in\n");
    let checked = world.json(&[std::ffi::OsStr::new("fsck")]);
    assert_eq!(checked["errors"], 0, "{checked}");
}

#[test]
fn what_crosses_branches_is_refused_as_between_file_systems() {
    let Some(world) = World::start("what_crosses_branches_is_refused_as_between_file_systems") else { return };
    let mnt = divided(&world);
    // Into the root no name is moved from below while processes see different ones; `mv` copies.
    let script = "echo x >sub/x; mv sub/x x && cat x && ls sub";
    says(shell(&world, &mnt, "left", script), "x\ndeep\ninner");
    // A directory that a process had before stays what it is.
    let script = "cd sub; exec \"$0\" branch exec --mount \"$1\" left -- sh -c 'cat /proc/self/cwd/inner; pwd'";
    let mut command = exec(&world, &mnt, "right", &["sh", "-c", script]);
    command.arg(world.bins().path("agentfs")).arg(&mnt).current_dir(&mnt);
    says(run(&mut command, COMMAND_LIMIT), &format!("base{}", mnt.join("sub").display()));
    world.cli_fails(&["branch", "exec", "--mount", mnt.to_str().unwrap(), "bogus", "--", "true"]).code(68);
    let none = world.try_cli(&["branch", "unbind", "--mount", mnt.to_str().unwrap(), "--pid", "1"]);
    assert_eq!(none.status.code(), Some(68), "{none}");
    // What is bound counts as mounted: here, and not anywhere else.
    let elsewhere = world.mountpoint();
    let out = world.try_cli(&["mount", "--branch", "left", elsewhere.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(75), "{out}");
    for command in [&["discard", "left"][..], &["branch", "delete", "left"], &["commit", "left"]] {
        let out = world.try_cli(command);
        assert!(out.status.code() == Some(75) && out.stderr.contains(mnt.to_str().unwrap()), "{out}");
    }
    let taken = world.mount("right2", None);
    let out = run(&mut exec(&world, &mnt, "right2", &["true"]), COMMAND_LIMIT);
    assert_eq!(out.status.code(), Some(75), "{out}");
    world.umount(&taken);
}

#[test]
fn a_binding_lives_as_long_as_its_process_and_longer_than_the_daemon() {
    let Some(world) = World::start("a_binding_lives_as_long_as_its_process_and_longer_than_the_daemon") else { return };
    let mnt = divided(&world);
    let at = mnt.to_str().unwrap();
    // A process that answers what it sees whenever it is asked.
    let ask = world.out().join("ask");
    let script = format!(
        "while :; do if test -e {0}; then cat file >{0}.new; rm {0}; mv {0}.new {0}.told; fi; sleep 0.02; done",
        ask.display()
    );
    let process = world.spawn(world.command("sh").args(["-c", &script]).current_dir(&mnt));
    let pid = process.pid().to_string();
    let sees = || {
        let told = ask.with_extension("told");
        std::fs::write(&ask, "").unwrap();
        assert!(procs::wait_for(Duration::from_secs(30), || told.exists()), "the process does not answer");
        let text = std::fs::read_to_string(&told).unwrap();
        std::fs::remove_file(&told).unwrap();
        text
    };
    std::fs::write(mnt.join("file"), "main").unwrap();
    assert_eq!(sees(), "main");
    shell(&world, &mnt, "left", "echo -n left >file").success();
    world.cli(&["branch", "bind", "--mount", at, "--pid", &pid, "left"]);
    assert_eq!(sees(), "left");
    for _ in 0..3 {
        world.kill_daemon();
        assert_eq!(sees(), "left");
        procs::kill_all(&world.frontend_pids());
        assert_eq!(std::fs::read_to_string(mnt.join("file")).unwrap(), "main");
        assert_eq!(sees(), "left");
    }
    for flag in ["ro", "rw"] {
        world.program(Path::new("/"), "mount", &["-i", "-o", &format!("remount,{flag}"), at]);
        assert_eq!((sees().as_str(), std::fs::read_to_string(mnt.join("file")).unwrap().as_str()), ("left", "main"));
    }
    assert_eq!(world.cli(&["branch", "list"]).stdout.matches(&format!("{at} (bound)")).count(), 1);
    assert!(world.cli(&["mounts"]).stdout.contains(&format!("{at}: shows left to process {pid}\n")));
    world.cli(&["branch", "bind", "--mount", at, "--pid", &pid, "right"]);
    assert_eq!(sees(), "base");
    world.cli(&["branch", "unbind", "--mount", at, "--pid", &pid]);
    assert_eq!(sees(), "main");
    control_cli(&world, &["--mount", at, "branch-bind", "--branch", "left", "--pid", &pid]).success();
    assert_eq!(sees(), "left");
    control_cli(&world, &["--mount", at, "branch-unbind", "--pid", &pid]).success();
    assert_eq!(sees(), "main");
    world.cli(&["branch", "bind", "--by-descent", "--mount", at, "--pid", &pid, "left"]);
    drop(process);
    // Who gets its number some time is nobody's.
    world.cli_fails(&["branch", "bind", "--mount", at, "--pid", &pid, "left"]);
    let told = world.cli(&["mounts"]).stdout;
    assert!(told.contains(&format!("{at}: shows left to no process any more\n")), "{told}");
    world.umount(&mnt);
    // All that was bound ended with the mount.
    world.cli(&["commit", "left"]);
    world.cli(&["discard", "right"]);
}

#[test]
fn two_processes_never_see_each_others_files() {
    let Some(world) = World::start("two_processes_never_see_each_others_files") else { return };
    world.limit(Duration::from_mins(10));
    let mnt = divided(&world);
    std::fs::write(mnt.join("same"), "main").unwrap();
    let rounds = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
    let harness = env!("CARGO_BIN_EXE_agentfs-harness");
    let mut running: Vec<_> = ["left", "right"]
        .into_iter()
        .map(|branch| {
            shell(&world, &mnt, branch, &format!("echo >only-{branch}")).success();
            let command = [harness, "probe", "same", mnt.to_str().unwrap(), branch, &rounds.to_string()];
            world.spawn(&mut exec(&world, &mnt, branch, &command))
        })
        .collect();
    let mut kills = 0;
    while running.iter_mut().any(|process| process.poll().is_none()) {
        std::thread::sleep(Duration::from_secs(3));
        // Somebody who is not bound looks as well.
        assert_eq!(std::fs::read_to_string(mnt.join("same")).unwrap(), "main");
        assert!(!mnt.join("dir").exists() && !mnt.join("made").exists());
        if running.iter_mut().any(|process| process.poll().is_none()) {
            world.kill_daemon();
            if kills % 2 == 1 {
                procs::kill_all(&world.frontend_pids());
            }
            kills += 1;
        }
    }
    for process in running {
        process.finish(COMMAND_LIMIT).success();
    }
    assert!(kills > 0, "it was over before the daemon was killed");
    for branch in ["left", "right"] {
        says(shell(&world, &mnt, branch, "cat same"), &format!("{branch} {}", rounds - 1));
    }
    eprintln!("2 processes wrote {rounds} times each, {kills} kills");
    world.assert_no_panics();
}

#[test]
fn the_first_lookup_after_a_bind_is_right_and_so_are_all_others_meanwhile() {
    let Some(world) = World::start("the_first_lookup_after_a_bind_is_right") else { return };
    let mnt = divided(&world);
    for branch in ["left", "right"] {
        let script = format!("echo {branch} >new; rm file; echo {branch} >sub/inner");
        let mut command = world.agentfs(["branch", "exec", "--by-descent", "--mount"]);
        command.arg(&mnt).args([branch, "--", "sh", "-c", &script]).current_dir(&mnt);
        run(&mut command, COMMAND_LIMIT).success();
    }
    std::fs::write(mnt.join("only"), "main").unwrap();
    for round in 0..4 {
        // Until nobody is bound, so that the kernel keeps names for a while again: the daemon finds the ended ones when it
        // is asked for something in the root, once a second.
        let ended = || !world.cli(&["--json", "mounts"]).stdout.contains("\"pid\"");
        assert!(procs::wait_for(Duration::from_secs(30), ended), "processes stay bound");
        let look = || {
            assert!(!mnt.join("new").exists(), "round {round}");
            assert_eq!(std::fs::read_to_string(mnt.join("only")).unwrap(), "main");
            assert_eq!(std::fs::read_to_string(mnt.join("file")).unwrap(), "base");
            assert_eq!(std::fs::read_to_string(mnt.join("sub/inner")).unwrap(), "base");
        };
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(2500) {
            look();
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut running: Vec<_> = ["left", "right"]
            .into_iter()
            .map(|branch| {
                let script = "cat new; test ! -e file && test ! -e only && cat sub/inner";
                let mut command = world.agentfs(["branch", "exec", "--by-descent", "--mount"]);
                command.arg(&mnt).args([branch, "--", "sh", "-c", script]);
                world.spawn(command.current_dir(&mnt))
            })
            .collect();
        let mut looks = 0;
        while running.iter_mut().any(|process| process.poll().is_none()) {
            look();
            looks += 1;
        }
        assert!(looks > 0);
        for (process, branch) in running.into_iter().zip(["left", "right"]) {
            says(process.finish(COMMAND_LIMIT), &format!("{branch}\n{branch}"));
        }
    }
}

/// Binds itself, and tells what it sees through what it had before, and through what it gets.
const BEFORE_AND_AFTER: &str = r#"
import os, subprocess, sys
agentfs, mnt = sys.argv[1:]
os.chdir(mnt + "/sub")
main = open("../file")
root = os.open("..", os.O_RDONLY)
listed = os.open("..", os.O_RDONLY)
path = os.open(".", os.O_PATH)
name = os.open("../file", os.O_PATH)
subprocess.check_call([agentfs, "branch", "bind", "--mount", mnt, "--pid", str(os.getpid()), "left"], stdout=subprocess.DEVNULL)
def read(path, dir=None):
    with open(os.open(path, os.O_RDONLY, dir_fd=dir)) as file:
        return file.read()
told = {
    "open file": main.read(),
    "O_PATH of a file": read("/proc/self/fd/%d" % name),
    "working directory": read("inner"),
    "O_PATH of a directory": read("inner", path),
    "listing of before": ",".join(sorted(os.listdir(listed))),
    "name below the root opened before": read("file", root),
    "from below to the root": read("../file"),
    "listing of now": ",".join(sorted(os.listdir(".."))),
    "path": read(mnt + "/file") + read(mnt + "/sub/inner"),
}
try:
    told["getcwd"] = os.getcwd() and "known"
except FileNotFoundError:
    told["getcwd"] = "lost"
os.chdir(mnt + "/sub")
told["after chdir"] = read("inner") + str(os.getcwd() == mnt + "/sub")
for line in told.items():
    print("%s: %s" % line)
"#;

#[test]
fn what_a_process_had_before_it_keeps() {
    let Some(world) = World::start("what_a_process_had_before_it_keeps") else { return };
    let mnt = divided(&world);
    shell(&world, &mnt, "left", "printf left >file; printf left >sub/inner; touch only-left").success();
    std::fs::write(mnt.join("file"), "main").unwrap();
    std::fs::write(mnt.join("sub/inner"), "main").unwrap();
    std::fs::write(mnt.join("only-main"), "").unwrap();
    let mut command = world.command("python3");
    command.args(["-c", BEFORE_AND_AFTER]).arg(world.bins().path("agentfs")).arg(&mnt);
    let wanted = [
        "open file: main",
        "O_PATH of a file: main",
        "working directory: main",
        "O_PATH of a directory: main",
        "listing of before: file,only-main,sub",
        "name below the root opened before: left",
        "from below to the root: left",
        "listing of now: file,only-left,sub",
        "path: leftleft",
        "getcwd: lost",
        "after chdir: leftTrue",
    ];
    says(run(&mut command, COMMAND_LIMIT), &wanted.join("\n"));
}

#[test]
fn descendants_are_found_by_group_or_by_descent() {
    let Some(world) = World::start("descendants_are_found_by_group_or_by_descent") else { return };
    let mnt = divided(&world);
    std::fs::write(mnt.join("file"), "main").unwrap();
    shell(&world, &mnt, "left", "printf left >file").success();
    let sleeping = world.spawn(world.command("sleep").arg("60"));
    let pid = sleeping.pid().to_string();
    let bound = world.cli(&["--json", "branch", "bind", "--mount", mnt.to_str().unwrap(), "--pid", &pid, "left"]);
    let groups = bound.stdout.contains("cgroup");
    let seen = |args: &[&str], script: &str| {
        let out = world.out().join("seen");
        let mut all = vec!["branch", "exec", "--mount", mnt.to_str().unwrap()];
        all.extend(args);
        all.extend(["left", "--", "sh", "-c", script, "sh", mnt.to_str().unwrap(), out.to_str().unwrap()]);
        run(world.agentfs(all).current_dir("/"), COMMAND_LIMIT).success();
        let told = || std::fs::read_to_string(&out).ok().filter(|text| text.ends_with('.'));
        assert!(procs::wait_for(Duration::from_secs(30), || told().is_some()), "nothing was told");
        let text = told().unwrap();
        std::fs::remove_file(&out).unwrap();
        text
    };
    // In a PID namespace of its own, of which the daemon's sees all.
    let inside = "unshare --pid --fork sh -c 'cat $1/file; printf .' sh $1 >$2.new && mv $2.new $2";
    // Left to init before any of them was seen, and after.
    let later = "(exec sh -c '(sleep 1.5; cat $1/file; printf .) &' sh $1 $2) >$2.new; mv $2.new $2";
    for args in [&[][..], &["--by-descent"]] {
        assert_eq!(seen(args, inside), "left.", "{args:?}");
    }
    let by_group = if groups { "left" } else { "main" };
    assert_eq!(seen(&[], later), format!("{by_group}."));
    assert_eq!(seen(&["--by-descent"], later), "main.");
    let seen_before =
        "(cat $1/file; (cat $1/file; sleep 1.5; cat $1/file; printf .) & sleep 0.5) >$2.new; mv $2.new $2";
    assert_eq!(seen(&["--by-descent"], seen_before), "leftleftleft.");
}

#[test]
fn who_may_not_is_not_bound() {
    let Some(world) = World::start("who_may_not_is_not_bound") else { return };
    let mnt = divided(&world);
    let door = Door::open(&mnt).unwrap();
    let bind = Command::BranchBind { branch: "left".into(), pid: Some(std::process::id()), cgroup: false };
    let refused = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setfsgid(Gid::from_raw(65534));
            setfsuid(Uid::from_raw(65534));
            door.call(bind.clone())
        });
        thread.join().unwrap()
    });
    assert!(matches!(refused, Err(DoorError::System { .. })), "{refused:?}");
    assert!(!world.cli(&["--json", "mounts"]).stdout.contains("left"));
    // Not by the socket, which has no mount.
    let out = world.try_cli(&["branch", "bind", "--mount", "/", "--pid", "1", "left"]);
    assert_eq!(out.status.code(), Some(68), "{out}");
}
