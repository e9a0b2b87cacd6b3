//! `agentfs mount` by a user without privilege, through fusermount3.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use harness::namespace::{Namespace, USER};
use harness::run::{Output, run};
use harness::tree::Columns;
use harness::world::COMMAND_LIMIT;
use harness::{Tree, World, procs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Why this cannot be tested here, if it cannot; said.
fn skipped(test: &str) -> bool {
    let setuid = std::fs::metadata("/usr/bin/fusermount3").is_ok_and(|f| f.permissions().mode() & 0o4000 != 0);
    if !setuid {
        eprintln!("skipped: {test}: no fusermount3 that is set-user-id");
    }
    !setuid
}

/// A user with a project.
struct User<'w> {
    world: &'w World,
    ns: &'w Namespace<'w>,
    home: PathBuf,
    base: PathBuf,
}

impl<'w> User<'w> {
    fn new(world: &'w World, ns: &'w Namespace<'w>) -> Self {
        let home = ns.home(USER);
        let user = Self { world, ns, base: home.join("project"), home };
        user.sh("mkdir -p project/src a b; echo host > project/file; echo x > project/src/gone").success();
        user
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        run(self.ns.user_command(USER, &self.home, program).args(args), COMMAND_LIMIT)
    }

    fn agentfs(&self, args: &[&str]) -> Output {
        self.run(text(&self.ns.bins().join("agentfs")), args)
    }

    fn sh(&self, script: &str) -> Output {
        self.run("bash", &["-c", &format!("cd {} && {script}", text(&self.home))])
    }

    fn mount(&self, branch: &str, at: &str, options: &[&str]) -> Output {
        let at = self.home.join(at);
        let mut args = vec!["mount", "--base", text(&self.base), "--branch", branch, text(&at)];
        args.extend(options);
        self.agentfs(&args)
    }

    fn stop(&self) {
        let ended = procs::wait_for(Duration::from_secs(20), || self.world.frontend_pids().is_empty());
        assert!(ended, "frontends are left: {:?}", self.world.frontend_pids());
        self.agentfs(&["daemon", "stop"]).success();
    }
}

#[test]
fn a_user_mounts_works_and_unmounts() {
    let test = "a_user_mounts_works";
    if skipped(test) {
        return;
    }
    let Some(world) = World::start(test) else { return };
    let ns = Namespace::start(&world);
    let user = User::new(&world, &ns);
    let before = Tree::of(&user.base, Columns::UNTOUCHED);
    user.mount("x", "a", &[]).success();
    user.mount("y", "b", &["--ro"]).success();
    let mounts = ns.mounts();
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    assert!(mounts.iter().all(|m| m.options.contains("nosuid") && m.options.contains("nodev")), "{mounts:?}");
    let out = user.sh("cd a; cat file; echo branch > file; rm -r src; mkdir new; echo n > new/f; stat -c %u:%a new/f");
    assert_eq!(out.success().stdout, format!("host\n{USER}:644\n"));
    assert!(user.sh("echo x > b/file").clear_failure().says("read-only"));
    // Nobody else may enter, root included.
    let out = ns.run("ls", &[text(&user.home.join("a"))]).clear_failure();
    assert!(out.says("permission denied"), "{out}");
    // Nothing is lost and nobody sees an error when the processes die.
    for process in world.processes("agentfsd", None).into_iter().chain(world.processes("agentfs-fuse", Some("--serve")))
    {
        procs::kill_all(&[process.pid]);
    }
    assert_eq!(user.sh("cat a/file a/new/f b/file; ls a").success().stdout, "branch\nn\nhost\nfile\nnew\n");
    // Unmounted by agentfs, and by fusermount3.
    let mut command = ns.user_command(USER, &user.home, "bash");
    command.args(["-c", "cd \"$1\"; echo in; exec sleep 60", "bash", text(&user.home.join("a"))]);
    let sleeper = world.spawn(&mut command);
    assert!(procs::wait_for(COMMAND_LIMIT, || sleeper.stdout() == "in\n"), "a program on the mount");
    let busy = user.agentfs(&["umount", text(&user.home.join("a"))]).clear_failure();
    assert!(busy.says("in use"), "{busy}");
    drop(sleeper);
    user.agentfs(&["umount", text(&user.home.join("a"))]).success();
    user.run("fusermount3", &["-u", text(&user.home.join("b"))]).success();
    assert_eq!(ns.mounts().len(), 0);
    before.assert_same(&Tree::of(&user.base, Columns::UNTOUCHED), "the base");
    let diff = user.agentfs(&["diff", "x"]).success();
    assert!(diff.says("src/gone") && diff.says("new/f"), "{diff}");
    user.agentfs(&["commit", "x"]).success();
    assert_eq!(user.sh("cat project/file; ls project").success().stdout, "branch\nfile\nnew\n");
    assert!(user.home.join(".local/share/agentfs").is_dir(), "the store of a user is in XDG's place");
    user.stop();
}

#[test]
fn what_a_user_may_not_do_is_told() {
    let test = "what_a_user_may_not_do";
    if skipped(test) {
        return;
    }
    let Some(world) = World::start(test) else { return };
    let ns = Namespace::start(&world);
    let user = User::new(&world, &ns);
    let conf = world.dir().join("fuse.conf");
    std::fs::write(&conf, "# nothing\n").unwrap();
    ns.run("bash", &["-c", &format!("touch /etc/fuse.conf; mount --bind {} /etc/fuse.conf", text(&conf))]).success();
    let out = user.mount("x", "a", &["--allow-other"]).clear_failure();
    assert!(out.says("user_allow_other") && out.says("/etc/fuse.conf"), "{out}");
    assert_eq!(ns.mounts().len(), 0, "{out}");
    std::fs::write(&conf, "user_allow_other\n").unwrap();
    user.mount("x", "a", &["--allow-other"]).success();
    assert_eq!(ns.run("cat", &[text(&user.home.join("a/file"))]).success().stdout, "host\n");
    user.agentfs(&["umount", text(&user.home.join("a"))]).success();
    // A directory of somebody else.
    let foreign = world.mountpoint();
    let out = user.agentfs(&["mount", "--branch", "x", text(&foreign)]).code(77);
    assert!(out.says(text(&foreign)), "{out}");
    // A base that the user cannot read.
    let closed = world.out().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let at = user.home.join("a");
    let out = user.agentfs(&["mount", "--base", text(&closed), "--branch", "z", text(&at)]).clear_failure();
    assert!(out.says(text(&closed)), "{out}");
    // Containers often run a user without a name, whom fusermount3 refuses.
    std::fs::write(world.out().join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    ns.run("mount", &["--bind", text(&world.out().join("passwd")), "/etc/passwd"]).success();
    let out = user.mount("x", "a", &[]).clear_failure();
    assert!(out.says("/etc/passwd"), "{out}");
    ns.run("umount", &["/etc/passwd"]).success();
    // No device, and no fusermount3.
    ns.run("chmod", &["600", "/dev/fuse"]).success();
    let out = user.mount("x", "a", &[]).clear_failure();
    assert!(out.says("/dev/fuse"), "{out}");
    ns.run("chmod", &["666", "/dev/fuse"]).success();
    let agentfs = ns.bins().join("agentfs");
    let mount = [text(&agentfs), "mount", "--branch", "x", text(&at)];
    let out = user.run("env", &[&["FUSERMOUNT_PATH=/no/such/program"], &mount[..]].concat()).clear_failure();
    assert!(out.says("install the package fuse3"), "{out}");
    assert_eq!(ns.mounts().len(), 0);
    user.stop();
}

/// As an init system ends a session: by signals to its processes, the holder among them.
#[test]
fn a_holder_that_is_told_to_end_leaves_no_dead_mount() {
    let test = "a_holder_that_is_told_to_end";
    if skipped(test) {
        return;
    }
    let Some(world) = World::start(test) else { return };
    let ns = Namespace::start(&world);
    let user = User::new(&world, &ns);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        user.mount("x", "a", &[]).success();
        user.mount("y", "b", &[]).success();
        // One mount is in use, by a program that writes.
        let script = format!("cd a; echo {signal} >state; while echo x >>log; do :; done 2>/dev/null; exit 0");
        let mut command = ns.user_command(USER, &user.home, "bash");
        command.args(["-c", &format!("cd ~; {script}")]);
        let writer = world.spawn(&mut command);
        assert!(procs::wait_for(COMMAND_LIMIT, || user.sh("test -s a/log").status.success()), "it writes");
        let holder = world.holder_pid();
        kill(Pid::from_raw(holder), signal).unwrap();
        assert!(
            procs::wait_gone(holder, Duration::from_secs(20)),
            "the holder stays:\n{}",
            procs::describe(world.dir())
        );
        assert_eq!(ns.mounts().len(), 0, "{:?}", ns.mounts());
        assert_eq!(user.sh("ls -A a b").success().stdout, "a:\n\nb:\n", "the mountpoints are plain directories");
        writer.finish(COMMAND_LIMIT).success();
        let left = [world.processes("agentfsd", None), world.processes("agentfs-fuse", None)].concat();
        assert!(left.is_empty(), "{left:?}");
        user.mount("x", "a", &[]).success();
        assert_eq!(user.sh("cat a/state").success().stdout, format!("{signal}\n"));
        user.agentfs(&["umount", text(&user.home.join("a"))]).success();
    }
    user.stop();
}

/// The fusermount of libfuse 2 from Debian's package `fuse`, which cannot be installed beside `fuse3`; set-user-id in the
/// world's directory. `None` after saying why there is none.
fn fusermount_of_libfuse_2(world: &World, test: &str) -> Option<PathBuf> {
    let script = "apt-get -q download fuse && dpkg-deb -x fuse_2*.deb fuse2 && chmod 4755 fuse2/bin/fusermount";
    let out = run(world.command("sh").args(["-c", script]).current_dir(world.out()), COMMAND_LIMIT);
    if !out.status.success() {
        eprintln!("skipped: {test}: cannot get Debian's package fuse: {out}");
        return None;
    }
    Some(world.out().join("fuse2/bin/fusermount"))
}

#[test]
fn fusermount_of_libfuse_2_and_of_libfuse_3_mount_and_unmount() {
    let test = "fusermount_of_libfuse_2_and_3";
    if skipped(test) {
        return;
    }
    let Some(world) = World::start(test) else { return };
    let Some(older) = fusermount_of_libfuse_2(&world, test) else { return };
    let ns = Namespace::start(&world);
    let user = User::new(&world, &ns);
    for (round, program) in ["fusermount3", text(&older)].into_iter().enumerate() {
        if round > 0 {
            // From now on that is the only one there is.
            ns.run("mount", &["--bind", text(&older), "/usr/bin/fusermount3"]).success();
            let version = ns.run("fusermount3", &["-V"]).success();
            assert!(version.says("version: 2."), "{version}");
        }
        user.mount("x", "a", &[]).success();
        assert_eq!(ns.mounts().len(), 1, "{program}");
        assert!(ns.mounts()[0].options.contains("nosuid"), "{:?}", ns.mounts());
        user.sh(&format!("cat a/file && echo {round} >>a/rounds && cat a/rounds")).success();
        user.sh(&format!("{program} -u a")).success();
        assert_eq!(ns.mounts().len(), 0, "{program}");
        user.mount("x", "a", &[]).success();
        let rounds = user.sh("cat a/rounds").success().stdout;
        assert_eq!(rounds.lines().count(), round + 1, "{rounds}");
        user.agentfs(&["umount", text(&user.home.join("a"))]).success();
        assert_eq!(ns.mounts().len(), 0, "{program}");
    }
    user.stop();
}
