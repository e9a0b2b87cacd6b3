//! `mount(8)`, `umount(8)` and fstab.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use harness::namespace::{Namespace, USER};
use harness::run::{Output, run};
use harness::world::COMMAND_LIMIT;
use harness::{World, procs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A base with one file; it lies outside of what a daemon may read by default.
fn base(world: &World, name: &str) -> PathBuf {
    let base = world.base(name);
    std::fs::write(base.join("file"), "host").unwrap();
    base
}

/// Waits until no frontend of an ended mount is left, then stops holder and daemon.
fn stop(world: &World, ns: &Namespace<'_>) {
    assert_eq!(ns.mounts().len(), 0, "{:?}", ns.mounts());
    let ended = procs::wait_for(Duration::from_secs(20), || world.frontend_pids().is_empty());
    assert!(ended, "frontends are left: {:?}", world.frontend_pids());
    world.cli(&["daemon", "stop"]);
}

#[test]
fn fstab_lines_mount_with_their_options() {
    let Some(world) = World::start("fstab_lines_mount") else { return };
    let ns = Namespace::start(&world);
    let plain = base(&world, "plain");
    let odd = base(&world, "a, b");
    let (a, b, c) = (world.mountpoint(), world.mountpoint(), world.dir().join("mnt/c d"));
    std::fs::create_dir(&c).unwrap();
    let common = format!("store={},socket={},allow_base={}", text(world.store()), text(world.socket()), text(&plain));
    ns.fstab(&format!(
        "# nobody's line\n\
         one {a} fuse.agentfs base={plain},{common},noauto,nofail,_netdev,x-systemd.requires=x.service,x-gvfs-hide,comment=c 0 0\n\
         two {b} fuse.agentfs base={plain},{common},ro,noatime,nodev,noallow_other 0 0\n\
         three {c} fuse.agentfs base={odd},{common},allow_base={odd},noexec,sync 0 0\n",
        a = text(&a),
        b = text(&b),
        c = text(&c).replace(' ', "\\040"),
        plain = text(&plain),
        odd = text(&odd).replace(',', "\\,").replace(' ', "\\040"),
    ));
    // A line with `noauto` is mounted by its directory, or by its branch; the others by `mount -a`.
    ns.run("mount", &[text(&a)]).success();
    ns.run("umount", &[text(&a)]).success();
    ns.run("mount", &["one"]).success();
    assert_eq!(ns.mounts().len(), 1);
    ns.run("mount", &["-a"]).success();
    let mounts = ns.mounts();
    let options = |branch: &str, at: &Path| {
        let found: Vec<_> = mounts.iter().filter(|m| m.source == branch && m.mountpoint == at).collect();
        assert_eq!(found.len(), 1, "{branch}: {mounts:?}");
        found[0].options.clone()
    };
    assert!(options("one", &a).starts_with("rw,"), "{mounts:?}");
    let two = options("two", &b);
    assert!(["ro,", "noatime", "nodev"].iter().all(|o| two.contains(o)), "{mounts:?}");
    assert!(options("three", &c).contains("noexec"), "{mounts:?}");
    let again = ns.run("mount", &["-a", "-v"]).success();
    assert!(again.says("already mounted"), "{again}");
    assert_eq!(ns.mounts().len(), 3, "mounting all again mounts nothing");
    // They are what the lines say.
    for at in [&a, &b, &c] {
        assert_eq!(ns.run("cat", &[text(&at.join("file"))]).success().stdout, "host");
    }
    assert!(ns.run("touch", &[text(&b.join("new"))]).clear_failure().says("read-only"));
    ns.run("touch", &[text(&a.join("new")), text(&c.join("new"))]).success();
    ns.run("cp", &["/bin/true", text(&c.join("program"))]).success();
    assert!(ns.run(text(&c.join("program")), &[]).clear_failure().says("permission denied"));
    // They outlive the death of daemon and frontends as every other mount does.
    world.kill_daemon();
    procs::kill_all(&world.frontend_pids());
    assert_eq!(ns.run("ls", &[text(&a)]).success().stdout, "file\nnew\n");
    ns.run("rm", &[text(&c.join("file"))]).success();
    // `umount` by directory, by branch, and with the helper's own name for the type.
    ns.run("umount", &[text(&a)]).success();
    ns.run("umount", &["two"]).success();
    ns.run("umount", &["-t", "fuse.agentfs", text(&c)]).success();
    assert_eq!(world.diff("one").kind("new"), Some("added"));
    assert_eq!(world.diff("two").total(), 0);
    assert_eq!(world.diff("three").kind("file"), Some("deleted"));
    stop(&world, &ns);
}

#[test]
fn what_cannot_be_mounted_is_told_and_nothing_is_mounted() {
    let Some(world) = World::start("what_cannot_be_mounted") else { return };
    let ns = Namespace::start(&world);
    let base = base(&world, "p");
    let at = world.mountpoint();
    let common = format!("store={},socket={}", text(world.store()), text(world.socket()));
    let whole = format!("{common},base={},allow_base={}", text(&base), text(&base));
    let mount = |branch: &str, at: &Path, options: &str, flags: &[&str]| {
        let mut args = flags.to_vec();
        args.extend(["-t", "fuse.agentfs", branch, text(at), "-o", options]);
        ns.run("mount", &args)
    };
    let refused = |out: Output, word: &str| {
        let out = out.clear_failure();
        assert!(out.says(word), "{word:?} is not said: {out}");
        assert_eq!(ns.mounts().len(), 0, "{out}");
    };
    refused(mount("b", &at, &format!("{whole},bases=/x"), &[]), "\"bases=/x\"");
    refused(mount("b", &at, &format!("{common},base=relative"), &[]), "absolute");
    refused(mount("nobody", &at, &common, &[]), "no branch \"nobody\"");
    refused(mount("b", &world.dir().join("missing"), &whole, &[]), "does not exist");
    refused(mount("b", &base, &whole, &[]), "inside");
    refused(mount("b", &at, &format!("{common},base=/no/such/base"), &[]), "/no/such/base");
    // Without `allow_base` a base elsewhere is refused.
    let elsewhere = world.out();
    refused(mount("c", &at, &format!("{common},base={}", text(&elsewhere)), &[]), "allow");
    // `-f` does everything but the mount, `-s` passes over unknown options, `-r` is `ro`.
    mount("b", &at, &whole, &["-f"]).success();
    assert_eq!(ns.mounts().len(), 0);
    mount("b", &at, &format!("{whole},bases=/x"), &["-s", "-r"]).success();
    ns.run("touch", &[text(&at.join("new"))]).clear_failure();
    ns.run("umount", &[text(&at)]).success();
    // A remount changes flags and nothing else; it is no second mount.
    mount("b", &at, &whole, &[]).success();
    let before = ns.mounts().len();
    ns.run("mount", &["-o", "remount,ro,noexec", text(&at)]).success();
    assert_eq!(ns.mounts().len(), before, "a remount mounts nothing");
    assert!(ns.mounts()[0].options.contains("noexec"), "{:?}", ns.mounts());
    assert!(ns.run("touch", &[text(&at.join("new"))]).clear_failure().says("read-only"));
    ns.run("mount", &["-o", "remount,rw", text(&at)]).success();
    ns.run("touch", &[text(&at.join("new"))]).success();
    let busy = format!("exec 5>{}; mount -o remount,ro {}", text(&at.join("held")), text(&at));
    assert!(ns.run("sh", &["-c", &busy]).clear_failure().says("open for writing"));
    ns.run("umount", &[text(&at)]).success();
    stop(&world, &ns);
}

/// As an init system does it: every line at once, the first of them to start the holder.
#[test]
fn lines_of_one_store_mount_side_by_side() {
    let Some(world) = World::start("lines_of_one_store") else { return };
    let ns = Namespace::start(&world);
    let lines: Vec<_> =
        (0..4).map(|n| (format!("b{n}"), base(&world, &format!("base{n}")), world.mountpoint())).collect();
    let started: Vec<_> = lines
        .iter()
        .map(|(branch, base, at)| {
            let (store, socket, base) = (text(world.store()), text(world.socket()), text(base));
            let mut command = ns.command("mount");
            command.args(["-t", "agentfs", branch, text(at), "-o"]);
            command.arg(format!("base={base},allow_base={base},store={store},socket={socket}"));
            world.spawn(&mut command)
        })
        .collect();
    for running in started {
        running.finish(COMMAND_LIMIT).success();
    }
    for (_, _, at) in &lines {
        assert_eq!(ns.run("cat", &[text(&at.join("file"))]).success().stdout, "host");
    }
    assert_eq!(world.processes("agentfs-fuse", Some("--hold")).len(), 1, "one holder");
    for (_, _, at) in &lines {
        ns.run("umount", &[text(at)]).success();
    }
    stop(&world, &ns);
}

/// A script waits for the end of a pipe that it left open for `mount`: the holder must not keep it.
#[test]
fn a_holder_that_mount_starts_keeps_nothing_open() {
    let Some(world) = World::start("a_holder_that_mount_starts") else { return };
    let ns = Namespace::start(&world);
    let (base, at) = (base(&world, "p"), world.mountpoint());
    let options =
        format!("base={0},allow_base={0},store={1},socket={2}", text(&base), text(world.store()), text(world.socket()));
    let script = "{ mount -t fuse.agentfs b \"$1\" -o \"$2\" 9>&1 >/dev/null 2>&1; echo mounted; } | cat";
    let mut command = ns.command("bash");
    let out = run(command.args(["-c", script, "script", text(&at), &options]), Duration::from_secs(30)).success();
    assert_eq!(out.stdout, "mounted\n");
    ns.run("umount", &[text(&at)]).success();
    stop(&world, &ns);
}

/// A store that somebody else has, as at boot when another system serves it: the reason is told at once.
#[test]
fn a_mount_whose_holder_cannot_live_fails_at_once_and_says_why() {
    let Some(world) = World::start("a_mount_whose_holder_cannot_live") else { return };
    let ns = Namespace::start(&world);
    let (base, at) = (base(&world, "p"), world.mountpoint());
    std::fs::create_dir_all(world.store()).unwrap();
    let lock = std::fs::File::create(world.store().join("lock")).unwrap();
    let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let options =
        format!("base={0},allow_base={0},store={1},socket={2}", text(&base), text(world.store()), text(world.socket()));
    let began = std::time::Instant::now();
    let out = ns.run("mount", &["-t", "fuse.agentfs", "b", text(&at), "-o", &options]).clear_failure();
    assert!(out.says("ended at once") && out.says("another process serves the store"), "{out}");
    assert!(began.elapsed() < Duration::from_secs(5), "told after {:?}", began.elapsed());
    assert_eq!(ns.mounts().len(), 0);
}

/// `user` in fstab: mount(8) gives its privilege up and our helper asks fusermount3.
#[test]
fn a_user_mounts_a_line_with_the_option_user() {
    let test = "a_user_mounts_a_line";
    let setuid = |program: &str| std::fs::metadata(program).is_ok_and(|found| found.permissions().mode() & 0o4000 != 0);
    if let Some(program) = ["/usr/bin/mount", "/usr/bin/umount", "/usr/bin/fusermount3"].iter().find(|p| !setuid(p)) {
        eprintln!("skipped: {test}: {program} is not set-user-id");
        return;
    }
    let Some(world) = World::start(test) else { return };
    let ns = Namespace::start(&world);
    let home = ns.home(USER);
    let as_user = |program: &str, args: &[&str]| run(ns.user_command(USER, &home, program).args(args), COMMAND_LIMIT);
    let (base, at) = (home.join("project"), home.join("at"));
    as_user("mkdir", &[text(&base), text(&at)]).success();
    as_user("touch", &[text(&base.join("file"))]).success();
    // mount(8) takes HOME out of the environment, so the line must name the store.
    let line = format!("mine {} fuse.agentfs base={},user,noauto", text(&at), text(&base));
    ns.fstab(&format!("{line} 0 0\n"));
    let out = as_user("mount", &[text(&at)]).clear_failure();
    assert!(out.says("store="), "{out}");
    let store = home.join("store");
    ns.fstab(&format!("{line},store={},allow_base={} 0 0\n", text(&store), text(&home)));
    as_user("mount", &[text(&at)]).success();
    let mounts = ns.mounts();
    assert!(mounts.len() == 1 && mounts[0].options.contains("nosuid"), "{mounts:?}");
    as_user("touch", &[text(&at.join("new"))]).success();
    assert_eq!(as_user("ls", &[text(&at)]).success().stdout, "file\nnew\n");
    assert_eq!(as_user("ls", &[text(&base)]).success().stdout, "file\n");
    as_user("umount", &[text(&at)]).success();
    assert_eq!(ns.mounts().len(), 0);
    let agentfs = ns.bins().join("agentfs");
    let ended = procs::wait_for(Duration::from_secs(20), || world.frontend_pids().is_empty());
    assert!(ended, "frontends are left");
    as_user(text(&agentfs), &["--store", text(&store), "daemon", "stop"]).success();
}
