//! Holder, mounter and frontend as real processes; the daemon is this test: programs on the mount see
//! no error while frontends are killed and daemons come and go. Needs root and /dev/fuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod treefs;
mod world;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_transport::control::{Answer, ErrorCode};
use std::fs;
use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use world::{World, can_mount, open_files, ticks, wait_for, zombies_of};

/// Writes, lists, renames and removes in a loop, and reports the first thing that is not right.
const BUSY: &str = "cd $1; mkdir -p w; i=0
while [ ! -e stop ] && [ $i -lt 100000 ]; do
  i=$((i+1)); f=w/f$((i % 7))
  echo $i > $f; read -r got < $f; [ \"$got\" = $i ]
  mv $f w/g; [ ! -e $f ]; ls w > /dev/null; rm w/g; mkdir w/d; rmdir w/d
done; echo $i";

#[test]
fn programs_survive_killed_frontends_and_daemons() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let output = world.mount("good");
    assert!(output.status.success(), "{output:?}\n{}", world.log());
    assert!(world.is_mounted());
    world.succeed("echo kept > $1/kept");
    let busy = world.shell(BUSY).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut killed = 0;
    for round in 0..12 {
        thread::sleep(Duration::from_millis(60));
        if round % 3 == 2 {
            world.fake.away.store(true, Ordering::SeqCst);
            world.fake.die();
            thread::sleep(Duration::from_millis(80));
            world.fake.away.store(false, Ordering::SeqCst);
        } else {
            let pid = world.frontend();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            killed += 1;
            wait_for("another frontend adopts", || world.frontend() != pid);
        }
        if round % 4 == 3 {
            // Both at once.
            let pid = world.frontend();
            world.fake.die();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            killed += 1;
        }
    }
    let attaches = world.fake.attaches.load(Ordering::SeqCst);
    world.succeed("touch $1/stop");
    let output = busy.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", world.log());
    let turns: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(turns > 2, "only {turns} turns");
    // Some are killed before they have attached.
    assert!(attaches > killed / 2, "{attaches} attaches after {killed} kills");
    assert_eq!(world.fake.fs.ran_twice(), 0);
    assert_eq!(world.succeed("cat $1/kept"), "kept\n");

    let refused = world.client().stop(false).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Busy);
    let detaches = world.fake.detaches.load(Ordering::SeqCst);
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    assert_eq!(world.fake.detaches.load(Ordering::SeqCst), detaches + 1);
    world.client().stop(false).unwrap();
}

#[test]
fn an_open_file_outlives_its_frontend() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount("good").status.success());
    let script = "cd $1; exec 3> file; echo one >&3; : > /proc/self/fd/9; read go <&8; echo two >&3; cat file";
    let (dir, mnt) = (world.dir.path(), world.mnt());
    let fifo = |name: &str| {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    };
    let (ready, go) = (fifo("ready"), fifo("go"));
    let script = format!("exec 8<> {} 9<> {}; {script}", go.display(), ready.display());
    let script = script.replace(": > /proc/self/fd/9", "echo >&9");
    let child = Command::new("timeout")
        .args(["-s", "KILL", "60", "sh", "-ec", &script, "sh"])
        .arg(&mnt)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(fs::File::open(&ready).unwrap()).read_line(&mut line).unwrap();
    let pid = world.frontend();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    fs::write(&go, "go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", world.log());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "one\ntwo\n");
    let held = world.client().mounts().unwrap();
    assert_eq!(held[0].restarts, 1);
}

#[test]
fn a_mount_that_the_daemon_refuses_does_not_stay() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let output = world.mount("missing");
    assert!(!output.status.success());
    let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
    let Answer::Error(failure) = answer else { panic!("{answer:?}") };
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::NotFound, "no branch is called missing"));
    assert!(!world.is_mounted());
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
}

#[test]
fn a_dead_daemon_is_started_again_and_a_second_holder_is_refused() {
    let world = World::new();
    let first = world.client().ping().unwrap().daemon_pid.unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let mut pong = world.client().ping().unwrap();
    wait_for("another daemon", || {
        pong = world.client().ping().unwrap();
        pong.daemon_pid.is_some_and(|pid| pid != first) && pong.daemon_ready
    });
    assert_eq!(pong.daemon_restarts, 1);
    let second = World::program(world.dir.path()).arg("--hold").output().unwrap();
    assert!(!second.status.success());
    let err = String::from_utf8(second.stderr).unwrap();
    assert!(err.contains("a holder runs already"), "{err}");
    let refused = world.client().allow_base(Path::new("relative")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Usage);
    world.client().stop(false).unwrap();
    wait_for("the daemon is gone", || kill(Pid::from_raw(pong.daemon_pid.unwrap()), None).is_err());
}

#[test]
fn a_mount_in_a_namespace_of_its_own_ends_with_it() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let script = "\"$2\" --store \"$3\" --socket \"$4\" --mount --branch good --mountpoint \"$1\"
        cd \"$1\"; echo inside > f; grep inside f; grep \"$1\" /proc/self/mounts";
    let dir = world.dir.path();
    let inside = |flags: &str| {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "30", "unshare", flags, "sh", "-ec", script, "sh"]).arg(world.mnt());
        command.arg(dir.join("bin/agentfs-fuse")).arg(dir.join("store")).arg(world.socket());
        command.stdin(Stdio::null()).output().unwrap()
    };
    // With privilege, and as the root of a user namespace, where mount(2) is allowed too.
    for flags in ["-m", "-rm"] {
        let output = inside(flags);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success(), "{flags}: {output:?}");
        assert!(text.starts_with("inside\n") && text.contains("fuse.agentfs"), "{flags}: {text}");
        assert!(!world.is_mounted());
        wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    }
    assert!(world.fake.detaches.load(Ordering::SeqCst) >= 2);
}

#[test]
fn more_requests_than_slots_wait_quietly_for_a_daemon() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount("good").status.success());
    // Each in a directory of its own: the kernel lets one program at a time change a directory.
    world.succeed("cd $1; for i in $(seq 90); do mkdir m$i; done");
    let script = "cd $1; test -d .; echo; while [ ! -e $2 ]; do sleep 0.02; done
        for i in $(seq 90); do mkdir m$i/d & done; wait; ls -d m*/d | wc -l";
    let go = world.dir.path().join("go");
    let mut waiting = Command::new("timeout")
        .args(["-s", "KILL", "60", "bash", "-ec", script, "bash"])
        .args([world.mnt(), go.clone()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(waiting.stdout.take().unwrap());
    let mut line = String::new();
    // Once it is in the directory, its children need nothing of the daemon before their own request.
    said.read_line(&mut line).unwrap();
    world.fake.away.store(true, Ordering::SeqCst);
    world.fake.die();
    fs::write(&go, "").unwrap();
    thread::sleep(Duration::from_millis(700));
    let pid = world.frontend();
    let before = ticks(pid);
    thread::sleep(Duration::from_secs(1));
    let used = ticks(pid) - before;
    assert!(used <= 10, "{used} ticks while waiting");
    assert!(world.log().lines().all(|line| !line.contains("ERROR")), "{}", world.log());
    // Each frontend that takes over finds every slot but one in use, and leaves that one to its successor.
    for round in 1..=3 {
        let pid = world.frontend();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_for("another frontend adopts", || world.frontend() != pid);
        wait_for("it finds them", || world.log().matches("under way requests=63").count() == round);
        // Time to take one more than it should, if it would.
        thread::sleep(Duration::from_millis(200));
    }
    world.fake.away.store(false, Ordering::SeqCst);
    assert!(waiting.wait().unwrap().success());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "\n90\n");
    assert_eq!(world.fake.fs.ran_twice(), 0);
}

/// No daemon answers for longer than a frontend waits with the news.
#[test]
fn a_daemon_that_comes_back_late_is_told_of_a_mount_that_ended_meanwhile() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount("good").status.success());
    let pid = world.frontend();
    world.fake.away.store(true, Ordering::SeqCst);
    world.fake.die();
    // umount(8) looks at the place first, and nobody would answer it.
    nix::mount::umount2(&world.mnt(), nix::mount::MntFlags::UMOUNT_NOFOLLOW).unwrap();
    wait_for("the frontend ends", || kill(Pid::from_raw(pid), None).is_err());
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    assert_eq!(world.fake.detaches.load(Ordering::SeqCst), 0);
    world.fake.away.store(false, Ordering::SeqCst);
    wait_for("the daemon is told", || world.fake.detaches.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_hundred_reconnects_and_mounts_leave_nothing_open() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let holder = world.holder.id().cast_signed();
    let before = open_files(holder).len();
    for _ in 0..100 {
        assert!(world.mount("good").status.success());
        assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    }
    wait_for("the holder forgets the mounts", || world.client().mounts().unwrap().is_empty());
    wait_for("the holder closes what was theirs", || open_files(holder).len() <= before);
    wait_for("the holder waits for its children", || zombies_of(holder) == 0);

    assert!(world.mount("good").status.success());
    world.succeed("touch $1/a");
    let pid = world.frontend();
    let before = open_files(pid).len();
    for round in 0..100 {
        let attaches = world.fake.attaches.load(Ordering::SeqCst);
        world.fake.die();
        wait_for("it attaches again", || world.fake.attaches.load(Ordering::SeqCst) > attaches);
        if round % 10 == 0 {
            world.succeed("touch $1/a; ls $1");
        }
    }
    world.succeed("touch $1/a");
    assert_eq!(world.frontend(), pid);
    assert!(open_files(pid).len() <= before, "{:?}", open_files(pid));
}

#[test]
fn a_daemon_that_leaves_at_once_is_not_tried_without_a_pause() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount("good").status.success());
    world.fake.fickle.store(true, Ordering::SeqCst);
    world.fake.die();
    thread::sleep(Duration::from_secs(1));
    let (attaches, pid) = (world.fake.attaches.load(Ordering::SeqCst), world.frontend());
    let before = ticks(pid);
    thread::sleep(Duration::from_secs(2));
    let more = world.fake.attaches.load(Ordering::SeqCst) - attaches;
    assert!((1..=20).contains(&more), "{more} attaches in two seconds");
    assert!(ticks(pid) - before <= 20, "{} ticks", ticks(pid) - before);
    world.fake.fickle.store(false, Ordering::SeqCst);
    world.succeed("echo there > $1/f; grep there $1/f");
}
