//! Garbage is collected beside programs that work, and gives its space back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::World;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn json(world: &World, args: &[&str]) -> serde_json::Value {
    let args: Vec<&OsStr> = args.iter().map(|arg| OsStr::new(*arg)).collect();
    world.json(&args)
}

fn contents(world: &World) -> usize {
    let walk = |dir: &Path| -> Vec<_> { std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let files = |dir: &Path| walk(dir).iter().flat_map(|dir| walk(dir)).flat_map(|dir| walk(&dir)).count();
    files(&world.store().join("contents"))
}

/// Writes, reads back, removes and lists until it is told to stop; how many rounds.
fn work(mnt: &Path, worker: usize, over: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        let dir = mnt.join(format!("w{worker}"));
        std::fs::create_dir_all(&dir).unwrap();
        for n in 0..10 {
            let (path, text) = (dir.join(format!("f{n}")), format!("{worker} {rounds} {n}"));
            std::fs::write(&path, &text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::rename(dir.join("f0"), dir.join("f1")).unwrap();
        std::fs::remove_file(dir.join("f2")).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["f1", "f3", "f4", "f5", "f6", "f7", "f8", "f9"]);
        assert_eq!(std::fs::read_to_string(dir.join("f1")).unwrap(), format!("{worker} {rounds} 0"));
        assert_eq!(std::fs::read_to_string(dir.join("f9")).unwrap(), format!("{worker} {rounds} 9"));
        rounds += 1;
    }
    rounds
}

#[test]
fn programs_work_on_while_what_was_forgotten_is_folded() {
    let Some(world) = World::start("programs_work_on_while_folded") else { return };
    let base = world.base("project");
    std::fs::write(base.join("top"), "of the base").unwrap();
    let mnt = world.mount("b", Some(&base));
    std::fs::write(mnt.join("kept"), "kept").unwrap();
    let over = AtomicBool::new(false);
    let rounds: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|n| {
                scope.spawn({
                    let (mnt, over) = (&mnt, &over);
                    move || work(mnt, n, over)
                })
            })
            .collect();
        for n in 0..12 {
            world.snapshot("b", &format!("s{n}"));
            if n % 3 == 2 {
                world.cli(&["branch", "create", &format!("c{n}"), "--from", "b"]);
                world.cli(&["branch", "delete", &format!("c{n}")]);
            }
            if n > 1 {
                world.cli(&["snapshot", "delete", "--branch", "b", "--name", &format!("s{}", n - 2)]);
            }
            if n % 4 == 3 {
                json(&world, &["gc"]);
            }
        }
        over.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(rounds > 10, "{rounds} rounds");
    for n in [10, 11] {
        world.cli(&["snapshot", "delete", "--branch", "b", "--name", &format!("s{n}")]);
    }
    let told = json(&world, &["gc", "b"]);
    assert_eq!(told["left"], false, "{told}");
    assert_eq!(json(&world, &["fsck"])["errors"], 0);
    assert_eq!(std::fs::read_to_string(mnt.join("kept")).unwrap(), "kept");
    assert_eq!(std::fs::read_to_string(mnt.join("top")).unwrap(), "of the base");
    let epochs = world.status()["gc"]["epochs"].as_u64().unwrap();
    assert!(epochs <= 2, "{epochs} states of one branch without snapshots");
    // Eight files of each worker, and one.
    assert_eq!(contents(&world), 17);
    world.assert_no_panics();
}

/// The daemon does it without being asked, also when it was killed in between.
#[test]
fn the_daemon_collects_by_itself() {
    let Some(world) = World::start("the_daemon_collects_by_itself") else { return };
    let mnt = world.mount("b", None);
    for n in 0..20 {
        std::fs::write(mnt.join("file"), format!("{n}")).unwrap();
        world.snapshot("b", &format!("s{n}"));
    }
    assert_eq!(contents(&world), 20);
    for n in 0..20 {
        world.cli(&["snapshot", "delete", "--branch", "b", "--name", &format!("s{n}")]);
        if n == 10 {
            world.kill_daemon();
        }
    }
    let begun = Instant::now();
    loop {
        let gc = world.status()["gc"].clone();
        if gc["epochs"] == 1 && contents(&world) == 1 {
            assert!(gc["folded"].as_u64().unwrap() > 0, "{gc}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{gc}, {} content files", contents(&world));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::read_to_string(mnt.join("file")).unwrap(), "19");
    assert_eq!(json(&world, &["fsck"])["errors"], 0);
}
