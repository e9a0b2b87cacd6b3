//! The daemon is killed and does not come back for a while: what the user is told, and what an operator's limit does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    reason = "a test reports a broken promise by panicking"
)]

use harness::{World, procs};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Kills the daemon, and has no other one serve the store until what this gives is dropped.
fn keep_down(world: &World) -> Flock<File> {
    let lock = File::options().read(true).write(true).open(world.store().join("lock")).unwrap();
    // Waits in the kernel's queue of the lock, and so has it before any successor looks.
    let waiting = std::thread::spawn(move || Flock::lock(lock, FlockArg::LockExclusive).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    world.kill_daemon();
    waiting.join().unwrap()
}

/// The line of `agentfs mounts` about a mountpoint, as data.
fn mount_of(world: &World, at: &Path) -> serde_json::Value {
    let out = world.cli(&["mounts", "--json"]).stdout;
    let list: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    let found = list.into_iter().find(|mount| mount["mountpoint"] == at.to_str().unwrap());
    found.unwrap_or_else(|| panic!("{} is not listed: {out}", at.display()))
}

#[test]
fn a_wait_is_shown_with_its_requests_and_its_length() {
    let Some(world) = World::start("a_wait_is_shown") else { return };
    let mnt = world.mount("b", None);
    std::fs::create_dir(mnt.join("d")).unwrap();
    assert_eq!(mount_of(&world, &mnt)["state"], "attached");
    let down = keep_down(&world);
    let mut command = world.command("sh");
    command.args(["-ec", "echo kept > \"$1/d/file\"; cat \"$1/d/file\"", "sh"]).arg(&mnt);
    let program = world.spawn(&mut command);
    let mut last = serde_json::Value::Null;
    let shown = procs::wait_for(Duration::from_secs(40), || {
        last = mount_of(&world, &mnt);
        last["requests_held"].as_u64() > Some(0) && last["reconnecting_seconds"].as_u64() >= Some(2)
    });
    assert!(shown, "{last}");
    assert_eq!(last["state"], "reconnecting");
    assert_eq!(last["given_up"], false);
    let text = world.cli(&["mounts"]).stdout;
    let told = text.split("reconnecting, ").nth(1).expect(&text);
    let wait = told.split("  ").next().unwrap();
    assert!(wait.contains(" held, for ") && wait.ends_with(" seconds"), "{text}");
    assert_eq!(wait.split(' ').next(), Some(last["requests_held"].to_string().as_str()), "{text}");
    let status = world.try_cli(&["status"]);
    assert!(status.says(" held, for "), "{status}");

    drop(down);
    program.finish(Duration::from_secs(60)).success();
    assert_eq!(std::fs::read(mnt.join("d/file")).unwrap(), b"kept\n");
    let last = mount_of(&world, &mnt);
    assert_eq!((&last["state"], &last["requests_held"]), (&"attached".into(), &serde_json::Value::Null));
}

#[test]
fn with_a_limit_requests_fail_and_none_of_them_is_run_later() {
    let Some(world) = World::start("with_a_limit") else { return };
    let patient = world.mount("patient", None);
    let limited = world.mount_with("limited", None, &["--give-up-after", "2"]);
    for mnt in [&patient, &limited] {
        std::fs::create_dir(mnt.join("d")).unwrap();
        std::fs::write(mnt.join("d/old"), "old").unwrap();
    }
    assert_eq!(mount_of(&world, &limited)["give_up_after_seconds"], 2);
    assert_eq!(mount_of(&world, &patient)["give_up_after_seconds"], serde_json::Value::Null);
    let change = |mnt: &Path| {
        let mut command = world.command("sh");
        command.args(["-c", "rm \"$1/d/old\" && mkdir \"$1/d/new\"", "sh"]).arg(mnt);
        world.spawn(&mut command)
    };
    // A change without a look-up before it.
    let old = File::open(limited.join("d/old")).unwrap();
    let mode = || std::fs::metadata(limited.join("d/old")).unwrap().permissions().mode() & 0o777;
    let before = mode();
    let down = keep_down(&world);
    let changing = std::thread::spawn(move || old.set_permissions(Permissions::from_mode(0o123)));
    let waits = change(&patient);
    let fails = change(&limited).finish(Duration::from_secs(60));
    assert!(!fails.status.success() && fails.says("Connection timed out"), "{fails}");
    let changed = changing.join().unwrap().unwrap_err();
    assert_eq!(changed.raw_os_error(), Some(nix::libc::ETIMEDOUT), "{changed}");
    let shown = mount_of(&world, &limited);
    assert_eq!((&shown["given_up"], &shown["state"]), (&true.into(), &"reconnecting".into()), "{shown}");
    assert!(world.cli(&["mounts"]).says("reconnecting, requests fail, for "));
    // The wait does not begin anew for what comes later, nor with another frontend.
    for frontend in world.frontend_pids() {
        procs::kill_all(&[frontend]);
        assert!(procs::wait_gone(frontend, Duration::from_secs(10)));
    }
    let again = change(&limited).finish(Duration::from_secs(60));
    assert!(!again.status.success() && again.says("Connection timed out"), "{again}");
    assert_eq!(mount_of(&world, &patient)["given_up"], false);

    drop(down);
    waits.finish(Duration::from_secs(60)).success();
    assert!(patient.join("d/new").is_dir() && !patient.join("d/old").exists());
    let serves = procs::wait_for(Duration::from_secs(40), || mount_of(&world, &limited)["state"] == "attached");
    assert!(serves, "{}", mount_of(&world, &limited));
    assert_eq!(mode(), before, "a request that had failed was run");
    assert_eq!(std::fs::read(limited.join("d/old")).unwrap(), b"old", "a request that had failed was run");
    assert!(!limited.join("d/new").exists(), "a request that had failed was run");
    std::fs::rename(limited.join("d/old"), limited.join("d/new")).unwrap();
    world.umount(&limited);
}

/// A process that was started with a mount namespace of its own keeps what was mounted then.
#[test]
fn unmounting_says_who_keeps_the_mount_alive_elsewhere() {
    let Some(world) = World::start("unmounting_says_who") else { return };
    let mnt = world.mount("b", None);
    std::fs::write(mnt.join("f"), "f").unwrap();
    let mut command = world.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", "echo in; exec sleep 600"]);
    let mut keeper = world.spawn(&mut command);
    assert!(procs::wait_for(Duration::from_secs(20), || keeper.poll().is_some() || keeper.stdout().contains("in")));
    let out = world.cli(&["umount", mnt.to_str().unwrap()]);
    assert!(out.says("another mount namespace") && out.says(&keeper.pid().to_string()), "{out}");
    assert_eq!(mount_of(&world, &mnt)["state"], "attached", "it lives on in there");
    procs::kill_all(&[keeper.pid()]);
    let gone = || !world.cli(&["mounts"]).says(mnt.to_str().unwrap());
    assert!(procs::wait_for(Duration::from_secs(40), gone), "{}", world.cli(&["mounts"]));
    drop(keeper.finish(Duration::from_secs(10)));
}
