//! The holder as a real process, in bad company: garbage, races, deaths, and children that do not live.
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
use shm_transport::control::holder::{Client, socket_path};
use shm_transport::control::line::LineStream;
use shm_transport::control::{Answer, ErrorCode};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use world::{World, can_mount, open_files, ticks, wait_for, zombies_of};

fn kill_and_wait(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("it is gone", || !Path::new(&format!("/proc/{pid}/exe")).exists());
}

fn install(from: &Path, to: &Path) {
    assert!(Command::new("install").args(["-m", "755"]).arg(from).arg(to).status().unwrap().success());
}

#[test]
fn garbage_is_answered_or_ended_and_nothing_of_it_stays() {
    let world = World::new();
    let holder = world.holder.id().cast_signed();
    let before = open_files(holder).len();
    let socket = socket_path(&world.socket());
    let ask = |line: &[u8], fds: usize| {
        let stream = UnixStream::connect(&socket).unwrap();
        let file = File::open("/dev/null").unwrap();
        let beside = vec![file.as_fd(); fds];
        shm_transport::mem::fds::send(stream.as_fd(), line, &beside).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut lines = LineStream::new(stream);
        lines.read().ok().flatten().map(|line| line.parse::<Answer>().unwrap())
    };
    let adopt = br#"{"v":1,"op":"adopt-mount","session":1,"branch":"b","mountpoint":"/m"}"#;
    let adopt = [&adopt[..], b"\n"].concat();
    for (line, fds) in [
        (&b"\n"[..], 0),
        (b"\xff\xfe\n", 3),
        (b"{\"v\":1}\n", 0),
        (b"{\"v\":1,\"op\":\"dance\"}\n", 5),
        (b"{\"v\":7,\"op\":\"ping\"}\n", 0),
        (&adopt, 0),
        (&adopt, 4),
        (&adopt, 5),
        (&adopt, 70),
    ] {
        let answer = ask(line, fds);
        assert!(matches!(answer, Some(Answer::Error(_))), "{answer:?}");
    }
    assert!(ask(b"half a line", 1).is_none());
    let mut long = UnixStream::connect(&socket).unwrap();
    // As much as it takes; then it hangs up.
    let chunk = vec![b'x'; 65536];
    for _ in 0..64 {
        if long.write_all(&chunk).is_err() {
            break;
        }
    }
    assert!(matches!(long.read(&mut [0; 1]), Ok(0) | Err(_)));
    drop(long);
    assert!(world.client().mounts().unwrap().is_empty());
    wait_for("nothing of it is open", || open_files(holder).len() <= before);
    wait_for("no child is left", || zombies_of(holder) == 0);
}

#[test]
fn of_many_holders_that_start_at_once_one_stays() {
    let mut world = World::new();
    let pid = world.holder.id().cast_signed();
    world.client().stop(true).unwrap();
    world.holder.wait().unwrap();
    let mut started: Vec<_> = (0..6).map(|_| World::hold(world.dir.path())).collect();
    wait_for("one listens", || Client::connect(&world.socket()).is_ok());
    wait_for("all others end", || {
        started.retain_mut(|child| child.try_wait().unwrap().is_none());
        started.len() == 1
    });
    world.holder = started.pop().unwrap();
    world.await_holder();
    assert_ne!(world.holder.id().cast_signed(), pid);
    assert!(world.log().contains("a holder runs already"), "{}", world.log());
}

#[test]
fn a_new_mount_outlives_the_death_of_its_first_frontend() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let program = world.dir.path().join("bin/agentfs-fuse");
    let (real, died) = (world.dir.path().join("bin/real"), world.dir.path().join("died"));
    install(&program, &real);
    let script = world.dir.path().join("mortal.sh");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --serve ] && mkdir {} 2>/dev/null && kill -9 $$\nexec {} \"$@\"\n",
        died.display(),
        real.display()
    );
    fs::write(&script, text).unwrap();
    install(&script, &program);
    world.client().upgrade().unwrap();
    world.await_holder();
    let mounted = world.mount("good");
    assert!(mounted.status.success(), "{mounted:?}");
    assert!(died.exists());
    world.succeed("echo there > $1/f; grep there $1/f");
    assert_eq!(zombies_of(world.holder.id().cast_signed()), 0);
}

#[test]
fn an_upgrade_leaves_a_new_frontend_that_waits_to_be_let_in_alone() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    world.await_holder();
    assert!(world.mount("good").status.success());
    let old = world.frontend();
    let upgraded = world.client().upgrade().unwrap();
    assert_eq!((upgraded.frontends, upgraded.later), (0, vec![world.mnt()]));
    assert_ne!(world.frontend(), old);
    let held = world.client().mounts().unwrap().remove(0);
    assert_eq!((held.restarts, held.trouble), (0, None));
    world.succeed("echo there > $1/f; grep there $1/f");
}

#[test]
fn a_frontend_that_cannot_live_is_told_and_not_started_without_a_pause() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let program = world.dir.path().join("bin/agentfs-fuse");
    let (real, broken) = (world.dir.path().join("bin/real"), world.dir.path().join("broken"));
    install(&program, &real);
    let script = world.dir.path().join("sickly.sh");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --serve ] && [ -e {} ] && exit 9\nexec {} \"$@\"\n",
        broken.display(),
        real.display()
    );
    fs::write(&script, text).unwrap();
    install(&script, &program);
    world.client().upgrade().unwrap();
    world.await_holder();
    assert!(world.mount("good").status.success());
    assert_eq!(world.client().mounts().unwrap()[0].trouble, None);
    fs::write(&broken, "").unwrap();
    kill(Pid::from_raw(world.frontend()), Signal::SIGKILL).unwrap();
    let held = || world.client().mounts().unwrap().remove(0);
    wait_for("the holder says so", || held().trouble.is_some());
    let trouble = held().trouble.unwrap();
    assert!(trouble.contains("times in a row") && trouble.contains("exit status: 9"), "{trouble}");
    assert!(world.log().contains("ERROR") && world.log().contains("dies again and again"), "{}", world.log());
    let holder = world.holder.id().cast_signed();
    let (restarts, used) = (held().restarts, ticks(holder));
    thread::sleep(Duration::from_secs(2));
    let more = held().restarts - restarts;
    assert!((1..=8).contains(&more), "{more} starts in two seconds");
    assert!(ticks(holder) - used <= 20);
    assert_eq!(zombies_of(holder), 0);
    // What was wrong is repaired: it goes on by itself.
    fs::remove_file(&broken).unwrap();
    world.succeed("echo there > $1/f; grep there $1/f");
    wait_for("nothing is wrong any more", || held().trouble.is_none());

    // Unmounted while no frontend lives that could see it.
    fs::write(&broken, "").unwrap();
    kill(Pid::from_raw(world.frontend()), Signal::SIGKILL).unwrap();
    wait_for("the holder says so", || held().trouble.is_some());
    let detaches = world.fake.detaches.load(Ordering::SeqCst);
    // As `agentfs umount` does it: umount(8) would look at the mount first, which nobody serves.
    nix::mount::umount2(&world.mnt(), nix::mount::MntFlags::UMOUNT_NOFOLLOW).unwrap();
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    wait_for("the daemon is told", || world.fake.detaches.load(Ordering::SeqCst) == detaches + 1);
}

#[test]
fn when_the_holder_and_then_everything_is_killed_the_mount_ends_and_can_be_made_again() {
    if !can_mount() {
        return;
    }
    let mut world = World::new();
    assert!(world.mount("good").status.success());
    let (frontend, stand_in) = (world.frontend(), world.fake.stand_in.load(Ordering::SeqCst));
    world.holder.kill().unwrap();
    world.holder.wait().unwrap();
    // Mounts are served on, through the death of the daemon, too.
    world.fake.die();
    world.succeed("echo on > $1/f; grep on $1/f");
    kill_and_wait(frontend);
    let mut output = world.shell("stat $1/f").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("endpoint is not connected"), "{output:?}");
    // The daemon has the store still: the next holder ends it and starts its own.
    world.holder = World::hold(world.dir.path());
    world.await_holder();
    assert_ne!(world.fake.stand_in.load(Ordering::SeqCst), stand_in);
    assert!(world.log().contains("a daemon without a holder"), "{}", world.log());
    // What is left of the mount is named, with what to do.
    output = world.mount("good");
    let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
    let Answer::Error(failure) = answer else { panic!("{answer:?}") };
    assert_eq!(failure.code, ErrorCode::Busy);
    assert!(failure.hint.unwrap().contains("umount"));
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    assert!(world.mount("good").status.success());
    world.succeed("grep on $1/f");
}

#[test]
fn a_frontend_whose_holder_died_ends_with_its_mount() {
    if !can_mount() {
        return;
    }
    let mut world = World::new();
    assert!(world.mount("good").status.success());
    let frontend = world.frontend();
    world.holder.kill().unwrap();
    world.holder.wait().unwrap();
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    wait_for("it is gone", || !Path::new(&format!("/proc/{frontend}/exe")).exists());
    assert_eq!(world.fake.detaches.load(Ordering::SeqCst), 1);
    kill_and_wait(world.fake.stand_in.load(Ordering::SeqCst));
}

#[test]
fn what_the_starter_left_open_stays_with_nobody_else() {
    if !can_mount() {
        return;
    }
    let mut world = World::new();
    world.client().stop(true).unwrap();
    world.holder.wait().unwrap();
    let dir = world.dir.path();
    let marker = dir.join("marker");
    fs::write(&marker, "").unwrap();
    let marks = |pid: i32| open_files(pid).contains(&marker);
    // Started by hand with a descriptor too many: it does not get further.
    let script = "exec 7< \"$1\"; shift; exec \"$@\"";
    let spawn = |program: &str, args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&marker).arg(dir.join("bin").join(program)).args(args);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let (store, socket) = (dir.join("store"), dir.join("sock"));
    let args = ["--hold", "--store", store.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
    world.holder = spawn("agentfs-fuse", &args).spawn().unwrap();
    world.await_holder();
    assert!(marks(world.holder.id().cast_signed()));
    assert!(world.mount("good").status.success());
    assert!(!marks(world.fake.stand_in.load(Ordering::SeqCst)));
    assert!(!marks(world.frontend()));
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    world.client().stop(false).unwrap();
    world.holder.wait().unwrap();

    // Started by the mount helper: not even the holder has it.
    std::os::unix::fs::symlink("agentfs-fuse", dir.join("bin/mount.fuse.agentfs")).unwrap();
    let options = format!("store={},socket={}", store.display(), socket.display());
    let status = spawn("mount.fuse.agentfs", &["good", world.mnt().to_str().unwrap(), "-o", &options]).status();
    assert!(status.unwrap().success());
    let pong = world.client().ping().unwrap();
    assert!(!marks(pong.pid) && !marks(pong.daemon_pid.unwrap()) && !marks(world.frontend()));
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    world.client().stop(false).unwrap();
    wait_for("it is gone", || !Path::new(&format!("/proc/{}/exe", pong.pid)).exists());
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap().trim().to_owned()
}

fn capabilities(pid: i32) -> Vec<u64> {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    sets.iter().map(|key| u64::from_str_radix(&status(pid, key), 16).unwrap()).collect()
}

#[test]
fn a_frontend_keeps_no_privilege_and_no_socket_of_its_holder() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount("good").status.success());
    let pid = world.frontend();
    assert_eq!(capabilities(pid), [0; 5]);
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap(), Path::new("/dev/null"));
    // The one to the holder is closed right after the holder has had the answer that it waited for.
    wait_for("only the connection to the daemon and a pair for signals are left", || {
        open_files(pid).iter().filter(|link| link.to_str().unwrap().starts_with("socket:")).count() == 3
    });
    // Without any it serves, reconnects and is succeeded as before.
    world.fake.die();
    world.succeed("echo there > $1/f; grep there $1/f");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    world.succeed("grep there $1/f");
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
}

#[test]
fn a_socket_behind_a_closed_directory_stays_within_reach() {
    if !can_mount() {
        return;
    }
    // As root serves a store in the home of somebody.
    let home = tempfile::Builder::new().prefix("agentfs-front-").tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(12345), Some(12345)).unwrap();
    fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let world = World::in_dir(tempfile::Builder::new().prefix("in").tempdir_in(home.path()).unwrap());
    assert!(world.mount("good").status.success());
    let only_search = 1 << 2;
    assert_eq!(capabilities(world.frontend()), [0, only_search, only_search, 0, 0]);
    world.fake.die();
    world.succeed("echo there > $1/f; grep there $1/f");
}

/// A store that is removed and made again left its holder and daemon behind for ever, and the old holder took the
/// new one's socket with it when it ended at last.
#[test]
fn a_holder_that_nobody_can_reach_ends_and_leaves_the_name_to_its_successor() {
    let mut world = World::new();
    let socket = socket_path(&world.socket());
    fs::remove_file(&socket).unwrap();
    let _successor = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // Looked at whenever it wakes, and once a minute.
    kill(Pid::from_raw(world.holder.id().cast_signed()), Signal::SIGCHLD).unwrap();
    wait_for("it ends", || world.holder.try_wait().unwrap().is_some());
    assert!(fs::symlink_metadata(&socket).is_ok(), "the socket of another holder is gone");
}

#[test]
fn a_holder_that_nobody_can_reach_stays_for_its_mounts() {
    if !can_mount() {
        return;
    }
    let mut world = World::new();
    assert!(world.mount("good").status.success());
    fs::remove_file(socket_path(&world.socket())).unwrap();
    kill(Pid::from_raw(world.holder.id().cast_signed()), Signal::SIGCHLD).unwrap();
    thread::sleep(Duration::from_millis(300));
    world.succeed("echo there > $1/f; grep there $1/f");
    assert!(world.holder.try_wait().unwrap().is_none(), "it left its mount");
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    // The frontend's end wakes it.
    wait_for("it ends", || world.holder.try_wait().unwrap().is_some());
}
