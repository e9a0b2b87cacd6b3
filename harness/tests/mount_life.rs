//! Mounting again and again, several at once, and where it cannot be; programs that run out of what they may have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use harness::run::{Output, run};
use harness::world::COMMAND_LIMIT;
use harness::{World, mounts, procs};
use std::path::Path;
use std::time::Duration;

/// What a process holds open, by kind: descriptors in all, and regions of shared memory.
fn held(pid: i32) -> (usize, usize) {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return (0, 0) };
    let links: Vec<_> = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
    (links.len(), links.iter().filter(|link| link.to_string_lossy().starts_with("/memfd:")).count())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_hundred_mounts_leave_nothing_behind() {
    let Some(world) = World::start("a_hundred_mounts") else { return };
    world.limit(Duration::from_mins(5));
    let at = world.mountpoint();
    let cycle = |n: u32| {
        world.mount_at("b", None, &[], &at);
        let file = at.join("file");
        if n > 0 {
            assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}", n - 1));
        }
        std::fs::write(&file, n.to_string()).unwrap();
        world.umount(&at);
    };
    (0..3).for_each(cycle);
    let ended = || procs::wait_for(Duration::from_secs(20), || world.frontend_pids().is_empty());
    assert!(ended(), "frontends are left: {:?}", world.frontend_pids());
    let pids = [world.daemon_pid(), world.holder_pid()];
    let before = pids.map(held);
    (3..103).for_each(cycle);
    assert!(ended(), "frontends are left: {:?}", world.frontend_pids());
    assert_eq!([world.daemon_pid(), world.holder_pid()], pids, "daemon and holder are the same");
    let as_before = procs::wait_for(Duration::from_secs(10), || {
        pids.map(held).iter().zip(&before).all(|(now, before)| now.0 <= before.0 && now.1 <= before.1)
    });
    assert!(as_before, "descriptors and memfds of daemon and holder: {:?}, before: {before:?}", pids.map(held));
    assert_eq!(mounts::below(world.dir()).len(), 0);
    assert_eq!(procs::below(world.dir()).len(), 2, "{}", procs::describe(world.dir()));
    world.assert_no_panics();
}

#[test]
fn eight_mounts_at_once() {
    let Some(world) = World::start("eight_mounts_at_once") else { return };
    let points: Vec<_> = (0..8).map(|_| world.mountpoint()).collect();
    for round in 0..3 {
        let running: Vec<_> = points
            .iter()
            .enumerate()
            .map(|(n, at)| world.spawn(&mut world.agentfs(["mount", "--branch", &format!("b{n}"), text(at)])))
            .collect();
        for mount in running {
            mount.finish(COMMAND_LIMIT).success();
        }
        for (n, at) in points.iter().enumerate() {
            assert!(mounts::is_mounted(at), "{}", at.display());
            let file = at.join(format!("of-{n}"));
            assert_eq!(file.exists(), round > 0);
            std::fs::write(file, "x").unwrap();
        }
        let running: Vec<_> = points.iter().map(|at| world.spawn(&mut world.agentfs(["umount", text(at)]))).collect();
        for umount in running {
            umount.finish(COMMAND_LIMIT).success();
        }
        assert_eq!(mounts::below(&world.dir().join("mnt")).len(), 0);
    }
    for n in 0..8 {
        let diff = world.diff(&format!("b{n}"));
        assert_eq!(diff.of_kind("added"), [format!("of-{n}").as_str()]);
    }
}

#[test]
fn a_mount_that_cannot_be_says_what_to_do() {
    let Some(world) = World::start("a_mount_that_cannot_be") else { return };
    let at = world.mountpoint();
    let told = |out: &Output, words: &[&str]| {
        assert!(words.iter().all(|word| out.says(word)), "{words:?} is not said: {out}");
    };
    let refused = |at: &Path, branch: &str, words: &[&str]| {
        let out = world.cli_fails(&["mount", "--branch", branch, text(at)]);
        told(&out, words);
    };
    refused(&world.dir().join("missing"), "b", &["does not exist", "mkdir "]);
    let file = world.out().join("file");
    std::fs::write(&file, "").unwrap();
    refused(&file, "b", &["not a directory"]);
    world.mount_at("b", None, &[], &at);
    refused(&world.mountpoint(), "b", &["mounted"]);
    // Without the device, in a namespace that has none.
    let other = world.mountpoint();
    let script = "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && exec \"$@\"";
    let mut command = world.command("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(world.bins().path("agentfs")).args(["mount", "--branch", "c", text(&other)]);
    let out = run(&mut command, COMMAND_LIMIT).clear_failure();
    told(&out, &["/dev/fuse", "modprobe fuse"]);
    assert_eq!(mounts::below(&world.dir().join("mnt")).len(), 1, "only the first is mounted");
    world.umount(&at);
}

#[test]
fn programs_at_their_limits_are_told_and_go_on() {
    let Some(world) = World::start("programs_at_their_limits") else { return };
    let at = world.mount("b", None);
    let shell = |script: &str| run(world.command("bash").args(["-c", script]).current_dir(&at), COMMAND_LIMIT);
    // Descriptors run out, are given back, and serve again.
    let out = shell(
        "ulimit -n 40; n=0; while eval \"exec {fd}>f$n\" 2>/dev/null; do n=$((n+1)); fds=\"$fds $fd\"; done; \
         for fd in $fds; do eval \"exec $fd>&-\"; done; echo \"$n opened\"; echo after >after; cat after",
    );
    let opened: usize = out.stdout.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{out}"));
    assert!((20..40).contains(&opened), "{out}");
    assert!(out.stdout.ends_with("opened\nafter\n"), "{out}");
    // A file's size is capped; what fits is there.
    let out = shell("trap '' XFSZ; ulimit -f 8; dd if=/dev/zero of=big bs=1000 count=20; stat -c %s big");
    assert!(out.says("file too large"), "{out}");
    assert!(out.stdout.ends_with("8192\n"), "{out}");
    let out = shell("dd if=/dev/zero of=big bs=1000 count=20 2>/dev/null; stat -c %s big").success();
    assert_eq!(out.stdout, "20000\n");
    world.umount(&at);
    world.assert_no_panics();
}
