//! `agentfs daemon upgrade`: the programs that are installed take the place of those that run, and programs on the mounts
//! see a pause. What does not fit, or does not live, changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    reason = "a test reports a broken promise by panicking"
)]

mod churner;

use churner::Churner;
use harness::run::run;
use harness::world::COMMAND_LIMIT;
use harness::{World, procs, sys};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MARK: &[u8] = b"new build";

/// Puts a file in the place of an installed program, as `install` does.
fn install(world: &World, name: &str, content: &[u8]) {
    let path = world.bins().path(name);
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&new, &path).unwrap();
}

/// Another build that differs in nothing.
fn new_build(world: &World, name: &str, original: &[u8], round: u8) {
    install(world, name, &[original, &[b'0' + round], MARK].concat());
}

fn is_of_round(pid: i32, round: u8) -> bool {
    std::fs::read(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with(&[&[b'0' + round], MARK].concat()))
}

/// A program that says `versions` of itself, and does nothing else than to fail.
fn fake(versions: &str) -> Vec<u8> {
    format!("#!/bin/sh\n[ \"$1\" = --versions ] && echo '{versions}' && exit 0\nexit 9\n").into_bytes()
}

fn versions(world: &World, name: &str) -> String {
    run(world.command(world.bins().path(name)).arg("--versions"), COMMAND_LIMIT).success().stdout.trim().to_owned()
}

fn original(world: &World, name: &str) -> Vec<u8> {
    std::fs::read(world.bins().path(name)).unwrap()
}

fn base(world: &World) -> PathBuf {
    let base = world.base("p");
    for n in 0..50 {
        std::fs::write(base.join(format!("base{n}")), sys::pattern(n, 2000)).unwrap();
    }
    base
}

/// The longest time that one small change of a file took while `what` ran.
fn longest<T>(file: &Path, what: impl FnOnce() -> T) -> (Duration, T) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let timed = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::fs::write(file, "x").unwrap();
                longest = longest.max(began.elapsed());
            }
            longest
        });
        let done = what();
        over.store(true, Ordering::Relaxed);
        (timed.join().unwrap(), done)
    })
}

fn pids(world: &World) -> Vec<i32> {
    let mut pids = world.frontend_pids();
    pids.sort_unstable();
    pids.push(world.daemon_pid());
    pids
}

#[test]
fn an_upgrade_under_load_is_a_pause_and_no_error() {
    let Some(world) = World::start_installed("an_upgrade_under_load") else { return };
    world.limit(Duration::from_secs(400));
    let originals = ["agentfsd", "agentfs-fuse"].map(|name| (name, original(&world, name)));
    let base = base(&world);
    let mnt = world.mount("b", Some(&base));
    // A kernel that cannot resend loses what a killed frontend had read: this one must not be killed.
    world.create_branch("c", Some(&base));
    let old_kernel = world.mountpoint();
    let mut mounter = world.command(world.bins().path("agentfs-fuse"));
    mounter.args(["--mount", "--without", "resend", "--branch", "c", "--mountpoint"]).arg(&old_kernel);
    run(&mut mounter, COMMAND_LIMIT).success();
    let holder = world.holder_pid();
    let mut churners =
        [Churner::start(&world, &mnt.join("one"), 71), Churner::start(&world, &old_kernel.join("two"), 72)];
    for round in 0..5 {
        for churner in &mut churners {
            churner.await_more(30, &format!("before upgrade {round}"));
        }
        let before = pids(&world);
        for (name, original) in &originals {
            new_build(&world, name, original, round);
        }
        let (pause, said) = longest(&mnt.join("timed"), || world.cli(&["daemon", "upgrade", "--json"]).stdout);
        eprintln!("upgrade {round}: longest change {pause:?}; {}", said.trim());
        let after = pids(&world);
        assert!(before.iter().all(|pid| !after.contains(pid)), "all are replaced: {before:?} {after:?}");
        assert!(after.iter().all(|pid| is_of_round(*pid, round)), "by what was installed");
        let said: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
        assert_eq!((&said["frontends"], said["later"].as_array()), (&2.into(), None), "{said}");
        assert_eq!(said["daemon_pid"].as_i64(), after.last().map(|pid| i64::from(*pid)), "{said}");
        for churner in &mut churners {
            churner.await_more(20, &format!("after upgrade {round}"));
        }
    }
    assert_eq!(world.holder_pid(), holder);
    assert_eq!(world.status()["recoveries"], 0, "each daemon ended in order: {}", world.status());
    for churner in churners {
        let (dir, model) = churner.finish();
        model.assert_holds(&dir, "at the end");
    }
    let log = std::fs::read_to_string(world.store().join("log/holder.log")).unwrap();
    assert!(!log.contains("ESTALE") || log.contains("lost=0") && !log.contains("lost=1"), "{log}");
    world.assert_no_panics();
}

#[test]
fn a_build_that_does_not_fit_is_refused_and_never_started() {
    let Some(world) = World::start_installed("a_build_that_does_not_fit") else { return };
    world.limit(Duration::from_secs(300));
    let originals = ["agentfsd", "agentfs-fuse"].map(|name| (name, original(&world, name)));
    let mnt = world.mount("b", Some(&base(&world)));
    let mut churner = Churner::start(&world, &mnt.join("one"), 73);
    churner.await_more(30, "at the start");
    let (daemon, frontend) = (versions(&world, "agentfsd"), versions(&world, "agentfs-fuse"));
    // The same with one number that is one too high.
    let changed = |from: &str, key: &str| {
        let mut said: serde_json::Value = serde_json::from_str(from).unwrap();
        let next = said[key].as_u64().unwrap() + 1;
        said[key] = next.into();
        (fake(&said.to_string()), format!("{next} instead of {}", next - 1))
    };
    let broken = |content: &[u8]| (content.to_vec(), String::from("cannot be used"));
    let before = pids(&world);
    for (name, (content, words), what) in [
        ("agentfsd", changed(&daemon, "store"), "store format"),
        ("agentfsd", changed(&daemon, "region"), "version of the region"),
        ("agentfs-fuse", changed(&frontend, "control"), "version of the control protocol"),
        ("agentfs-fuse", changed(&frontend, "holder"), "version of the holder's protocol"),
        ("agentfs-fuse", broken(&fake("1.0")), "its versions are not understood"),
        ("agentfsd", broken(b"#!/bin/sh\nexit 9\n"), "asked for its versions"),
    ] {
        install(&world, name, &content);
        let out = world.cli_fails(&["daemon", "upgrade"]);
        assert!(out.says(&words) && out.says(what) && out.says("goes on serving"), "{what}: {out}");
        assert_eq!(out.status.code(), Some(76), "{words}: {out}");
        assert_eq!(pids(&world), before, "{words}: nothing was touched");
        churner.await_more(10, what);
        for (name, original) in &originals {
            install(&world, name, original);
        }
    }
    // Whoever dies now comes back as what it was.
    install(&world, "agentfsd", &changed(&daemon, "store").0);
    install(&world, "agentfs-fuse", &changed(&frontend, "region").0);
    for round in 0..3 {
        procs::kill_all(&pids(&world));
        churner.await_more(20, &format!("after death {round} beside a build that does not fit"));
    }
    for (name, original) in &originals {
        install(&world, name, original);
    }
    world.cli(&["daemon", "upgrade"]);
    churner.await_more(20, "at the end");
    let (dir, model) = churner.finish();
    model.assert_holds(&dir, "at the end");
    world.assert_no_panics();
}

#[test]
fn a_build_that_fits_and_does_not_live_makes_place_for_the_one_before() {
    let Some(world) = World::start_installed("a_build_that_does_not_live") else { return };
    world.limit(Duration::from_secs(300));
    let mnt = world.mount("b", Some(&base(&world)));
    let mut churner = Churner::start(&world, &mnt.join("one"), 74);
    for name in ["agentfsd", "agentfs-fuse"] {
        churner.await_more(30, name);
        let (good, said) = (original(&world, name), versions(&world, name));
        install(&world, name, &fake(&said));
        let (pause, out) = longest(&mnt.join("timed"), || world.cli_fails(&["daemon", "upgrade"]));
        eprintln!("{name}: longest change {pause:?}; {out}");
        assert!(out.says("does not serve") && out.says("one before"), "{out}");
        assert_eq!(out.status.code(), Some(76), "{out}");
        churner.await_more(20, &format!("after a {name} that does not live"));
        procs::kill_all(&pids(&world));
        churner.await_more(20, "after another death");
        install(&world, name, &good);
    }
    world.cli(&["daemon", "upgrade"]);
    churner.await_more(20, "at the end");
    let (dir, model) = churner.finish();
    model.assert_holds(&dir, "at the end");
    world.assert_no_panics();
}

#[test]
fn without_a_holder_there_is_nothing_to_upgrade() {
    let Some(world) = World::start_installed("without_a_holder") else { return };
    let out = world.cli_fails(&["daemon", "upgrade"]);
    assert!(out.says("no holder runs") && out.says("agentfs daemon start"), "{out}");
}
