//! A mount that does without what newer kernels have: `--without`, by which an old kernel is tried out, too.
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
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use world::{World, can_mount, wait_for};

const ALL: &[&str] = &[
    "--without=resend",
    "--without=killpriv",
    "-owithout=explicit-inval,without=cache-symlinks",
    "--without=parallel-dirops",
    "--without=readdirplus",
    "--without=atomic-o-trunc",
];

#[test]
fn an_unknown_feature_is_refused() {
    let world = World::new();
    let output = world.mount_with("good", &["--without=speed"]);
    let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
    let Answer::Error(failure) = answer else { panic!("{answer:?}") };
    assert_eq!(failure.code, ErrorCode::Usage);
    assert!(failure.hint.unwrap().contains("resend"));
    assert!(!world.is_mounted());
}

#[test]
fn a_mount_without_any_of_them_works_and_says_what_it_lacks() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let output = world.mount_with("good", ALL);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("without resend (Linux 6.9)"), "{output:?}");
    let without = &world.client().mounts().unwrap()[0].without;
    assert_eq!(without.len(), 7, "{without:?}");
    assert!(without[0].starts_with("resend (Linux 6.9): "), "{without:?}");
    let script = "cd $1; mkdir d; echo hello > d/a; ln -s a d/l; ls -l d > /dev/null; echo over > d/a; cat d/l
        head -c 3000000 /dev/zero > big; cat big | wc -c; mv d/a d/b; rm d/l; ls d; rm -r d big; ls";
    assert_eq!(world.succeed(script), "over\n3000000\nb\n");
}

#[test]
fn without_resends_deaths_cost_no_request_that_was_passed_on() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount_with("good", &["--without", "resend"]).status.success());
    world.succeed("cd $1; for i in $(seq 40); do mkdir m$i; done");
    // The death of the daemon needs no resends.
    for _ in 0..3 {
        world.fake.away.store(true, Ordering::SeqCst);
        world.fake.die();
        let program = world.shell("echo on > $1/on; rm $1/on").spawn().unwrap();
        thread::sleep(Duration::from_millis(50));
        world.fake.away.store(false, Ordering::SeqCst);
        assert!(program.wait_with_output().unwrap().status.success());
    }
    // Frontends that die with requests in their slots: the next one answers them as they were.
    let before = world.log().matches("requests of a former frontend are under way").count();
    world.fake.away.store(true, Ordering::SeqCst);
    world.fake.die();
    let script = "cd $1; for i in $(seq 40); do mkdir m$i/d & done; for job in $(jobs -p); do wait $job; done";
    let program = world.shell(script).stderr(Stdio::piped()).spawn().unwrap();
    for round in 1..=3 {
        let requests = || world.log().matches("under way requests=").count();
        thread::sleep(Duration::from_millis(300));
        let pid = world.frontend();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_for("another frontend adopts", || requests() == before + round);
    }
    assert!(world.log().contains("requests cannot be resent"), "{}", world.log());
    world.fake.away.store(false, Ordering::SeqCst);
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", world.log());
    assert_eq!(world.succeed("ls -d $1/m*/d | wc -l"), "40\n");
    assert_eq!(world.fake.fs.ran_twice(), 0);
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
}
