//! Processes that see different branches through one mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use harness::run::{Output, run};
use harness::world::COMMAND_LIMIT;
use harness::{World, procs, sys};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    assert_eq!(world.try_cli(&["discard", "left"]).status.code(), Some(75));
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
        "while :; do if test -e {0}; then cat file >{0}.new; mv {0}.new {0}.told; rm {0}; fi; sleep 0.02; done",
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
        assert_eq!(std::fs::read_to_string(mnt.join("file")).unwrap(), "main");
    }
    world.cli(&["branch", "bind", "--mount", at, "--pid", &pid, "right"]);
    assert_eq!(sees(), "base");
    world.cli(&["branch", "unbind", "--mount", at, "--pid", &pid]);
    assert_eq!(sees(), "main");
    drop(process);
    // Who gets its number some time is nobody's.
    world.cli_fails(&["branch", "bind", "--mount", at, "--pid", &pid, "left"]);
}

#[test]
fn two_processes_never_see_each_others_files() {
    let Some(world) = World::start("two_processes_never_see_each_others_files") else { return };
    world.limit(Duration::from_mins(10));
    let mnt = divided(&world);
    std::fs::write(mnt.join("same"), "main").unwrap();
    let harness = env!("CARGO_BIN_EXE_agentfs-harness");
    let mut running: Vec<_> = ["left", "right"]
        .into_iter()
        .map(|branch| {
            shell(&world, &mnt, branch, &format!("echo >only-{branch}")).success();
            let command = [harness, "probe", "same", mnt.to_str().unwrap(), branch, "10000"];
            world.spawn(&mut exec(&world, &mnt, branch, &command))
        })
        .collect();
    let mut kills = 0;
    while running.iter_mut().any(|process| process.poll().is_none()) {
        std::thread::sleep(Duration::from_secs(6));
        // Somebody who is not bound looks as well.
        assert_eq!(std::fs::read_to_string(mnt.join("same")).unwrap(), "main");
        assert!(!mnt.join("dir").exists() && !mnt.join("made").exists());
        if running.iter_mut().any(|process| process.poll().is_none()) {
            world.kill_daemon();
            kills += 1;
        }
    }
    for process in running {
        process.finish(COMMAND_LIMIT).success();
    }
    assert!(kills > 0, "it was over before the daemon was killed");
    for branch in ["left", "right"] {
        says(shell(&world, &mnt, branch, "cat same"), &format!("{branch} 9999"));
    }
    world.assert_no_panics();
}
