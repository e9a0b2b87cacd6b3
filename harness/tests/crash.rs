//! Programs on a mount see a pause, never an error, when the daemon or the frontend is killed: nothing
//! that was acknowledged is lost, nothing is done twice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

mod churner;

use churner::Churner;
use harness::probe::Model;
use harness::{World, procs, sys};
use rustix::fs::OFlags;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn overlay(world: &World) -> PathBuf {
    let base = world.base("p");
    for n in 0..50 {
        std::fs::write(base.join(format!("base{n}")), sys::pattern(n, 2000)).unwrap();
    }
    world.mount("b", Some(&base))
}

#[track_caller]
fn check_whole(world: &World, mnt: &Path, churned: &[(PathBuf, Model)]) {
    for (dir, model) in churned {
        model.assert_holds(dir, "at the end");
    }
    world.remount("b", mnt);
    for (dir, model) in churned {
        model.assert_holds(dir, "after a remount");
    }
    world.stop();
    world.mount_at("b", None, &[], mnt);
    for (dir, model) in churned {
        model.assert_holds(dir, "after a stop and start");
    }
    world.assert_no_panics();
}

#[test]
fn killing_the_daemon_under_a_writing_program_is_not_seen() {
    let Some(world) = World::start("killing_the_daemon") else { return };
    world.limit(Duration::from_secs(400));
    let mnt = overlay(&world);
    let mut churners = [Churner::start(&world, &mnt.join("one"), 11), Churner::start(&world, &mnt.join("two"), 22)];
    let mut pids = vec![world.daemon_pid()];
    for round in 0..12 {
        for churner in &mut churners {
            churner.await_more(30, &format!("before kill {round}"));
        }
        // Not always at the same point of a request's life.
        std::thread::sleep(Duration::from_micros(round * 733 % 5000));
        world.kill_daemon();
        for churner in &mut churners {
            churner.await_more(20, &format!("after kill {round}"));
        }
        pids.push(world.daemon_pid());
    }
    pids.dedup();
    assert_eq!(pids.len(), 13, "each kill had a new daemon: {pids:?}");
    let churned: Vec<_> = churners.into_iter().map(Churner::finish).collect();
    let done: u64 = churned.iter().map(|(_, m)| m.operations).sum();
    eprintln!("{done} operations through 12 kills");
    check_whole(&world, &mnt, &churned);
}

#[test]
fn killing_the_frontend_under_a_writing_program_is_not_seen() {
    let Some(world) = World::start("killing_the_frontend") else { return };
    world.limit(Duration::from_secs(400));
    let mnt = overlay(&world);
    let mut churner = Churner::start(&world, &mnt.join("one"), 33);
    for round in 0..8 {
        churner.await_more(30, &format!("before kill {round}"));
        std::thread::sleep(Duration::from_micros(round * 733 % 5000));
        let pids = world.frontend_pids();
        assert_eq!(pids.len(), 1, "one mount has one frontend");
        procs::kill_all(&pids);
        churner.await_more(20, &format!("after kill {round}"));
        assert_ne!(world.frontend_pids(), pids);
    }
    let churned = vec![churner.finish()];
    check_whole(&world, &mnt, &churned);
}

#[test]
fn killing_both_in_turn_and_together_is_not_seen() {
    let Some(world) = World::start("killing_both") else { return };
    world.limit(Duration::from_secs(400));
    let mnt = overlay(&world);
    let mut churner = Churner::start(&world, &mnt.join("one"), 44);
    for round in 0..8 {
        churner.await_more(25, &format!("before kill {round}"));
        let mut pids = world.frontend_pids();
        if round % 3 != 1 {
            pids.push(world.daemon_pid());
        }
        if round % 3 == 2 {
            pids.reverse();
        }
        procs::kill_all(&pids);
        churner.await_more(15, &format!("after kill {round}"));
    }
    let churned = vec![churner.finish()];
    check_whole(&world, &mnt, &churned);
}

#[test]
fn a_daemon_that_dies_as_soon_as_it_starts_comes_up_in_the_end() {
    let Some(world) = World::start("a_daemon_that_dies_as_soon_as_it_starts") else { return };
    let mnt = overlay(&world);
    let mut churner = Churner::start(&world, &mnt.join("one"), 55);
    churner.await_more(50, "at the start");
    for _ in 0..6 {
        world.kill_daemon();
    }
    churner.await_more(50, "after six deaths in a row");
    let churned = vec![churner.finish()];
    check_whole(&world, &mnt, &churned);
}

#[test]
fn open_files_mappings_and_directories_live_on() {
    let Some(world) = World::start("open_files_live_on") else { return };
    let mnt = overlay(&world);
    let mut appender = std::fs::File::create(mnt.join("log")).unwrap();
    let orphan = sys::open(&mnt.join("orphan"), OFlags::RDWR | OFlags::CREATE, 0o600).unwrap();
    orphan.write_all_at(b"only by descriptor", 0).unwrap();
    sys::unlink(&mnt.join("orphan")).unwrap();
    let reader = sys::open(&mnt.join("base3"), OFlags::RDONLY, 0).unwrap();
    let dir = sys::open(&mnt, OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    let locked = sys::open(&mnt.join("base4"), OFlags::RDWR, 0).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for n in 0..6_u8 {
        if n % 2 == 0 {
            world.kill_daemon();
        } else {
            procs::kill_all(&world.frontend_pids());
        }
        appender.write_all(&[b'0' + n; 10]).unwrap();
        orphan.write_all_at(&[b'a' + n], 0).unwrap();
        let mut data = [0; 18];
        orphan.read_exact_at(&mut data, 0).unwrap();
        assert_eq!((data[0], &data[1..]), (b'a' + n, &b"nly by descriptor"[..]));
        let mut data = vec![0; 2000];
        reader.read_exact_at(&mut data, 0).unwrap();
        assert_eq!(data, sys::pattern(3, 2000));
        rustix::fs::statat(&dir, "log", rustix::fs::AtFlags::empty()).unwrap();
        let other = sys::open(&mnt.join("base4"), OFlags::RDWR, 0).unwrap();
        let lock = rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        sys::expect_errno(lock, sys::Errno::AGAIN, "a lock held through the crash");
    }
    assert_eq!(std::fs::read(mnt.join("log")).unwrap().len(), 60);
    assert_eq!(
        std::fs::read_to_string(mnt.join("log")).unwrap(),
        "0000000000111111111122222222223333333333444444444455555555555".get(..60).unwrap()
    );
}

#[test]
fn nothing_acknowledged_is_lost_when_all_processes_die() {
    let Some(world) = World::start("nothing_acknowledged_is_lost") else { return };
    world.allow_leaks();
    let mnt = overlay(&world);
    let mut churner = Churner::start(&world, &mnt.join("one"), 66);
    churner.await_more(300, "at the start");
    let (_, model) = churner.finish();
    // Holder first, so that nobody restarts the others: the mount dies, the store must not.
    let pids: Vec<i32> =
        std::iter::once(world.holder_pid()).chain(world.frontend_pids()).chain([world.daemon_pid()]).collect();
    procs::kill_all(&pids);
    for pid in pids {
        assert!(procs::wait_gone(pid, Duration::from_secs(10)));
    }
    harness::mounts::force_unmount(&mnt);
    let again = world.mount("b", None);
    model.assert_holds(&again.join("one"), "after the death of everything");
    assert!(world.status()["recoveries"].as_u64().is_some_and(|n| n > 0), "{}", world.status());
    std::fs::write(again.join("one/writable"), "yes").unwrap();
}

#[test]
fn the_user_is_told_while_the_daemon_is_away() {
    let Some(world) = World::start("the_user_is_told") else { return };
    let mnt = overlay(&world);
    let daemon = world.daemon_pid();
    let pid = nix::unistd::Pid::from_raw(daemon);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    // `status` does not need an answer of the daemon.
    let out = world.try_cli(&["status"]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert!(out.says(&daemon.to_string()) || out.status.code() != Some(0), "status of a stuck daemon: {out}");
    assert_eq!(std::fs::read(mnt.join("base1")).unwrap(), sys::pattern(1, 2000));
}

/// The daemon has no descriptor for a file that is merely open: with a few hundred it serves thousands, also as one that
/// was started anew and finds them open.
#[test]
fn thousands_of_open_files_need_few_descriptors_of_the_daemon() {
    let Some(world) = World::start("thousands_of_open_files") else { return };
    world.limit(Duration::from_secs(400));
    let mnt = world.mount("b", None);
    // What the holder may have open is what the next daemon may.
    let holder = world.holder_pid().to_string();
    let limited = std::process::Command::new("prlimit").args(["--pid", &holder, "--nofile=300:300"]).status();
    assert!(limited.unwrap().success());
    world.kill_daemon();
    std::fs::write(mnt.join("there"), "again").unwrap();
    let pid = world.daemon_pid().to_string();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let of_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(of_files.contains(" 300 "), "{of_files}");
    let script = r#"
        ulimit -n 4000; mkdir d; cd d
        for i in $(seq 3000); do exec {fd}<>f$i; fds="$fds $fd"; done
        for fd in $fds; do echo one >&$fd; done
        rm f?00
        kill -9 $1
        for fd in $fds; do echo two >&$fd; done
        cat $(printf '/proc/self/fd/%s ' $fds) >../all
        cat f* | grep -c two"#;
    let out = world.program(&mnt, "bash", &["-ec", script, "bash", &pid]);
    assert_eq!(out.stdout, "2991\n", "{out}");
    let all = std::fs::read_to_string(mnt.join("all")).unwrap();
    assert_eq!(all.matches("one\ntwo\n").count(), 3000);
    assert_ne!(world.daemon_pid().to_string(), pid);
    world.umount(&mnt);
    world.assert_no_panics();
}
