//! Garbage collection: how much it gives back in a second, and what programs on another branch notice of it.

use super::Options;
use super::load::io;
use super::report::{Amount, Report};
use crate::sys;
use crate::world::World;
use shm_transport::control::Collected;
use shm_transport::control::client::Client;
use std::path::Path;
use std::time::{Duration, Instant};

/// Snapshots that go.
const STATES: usize = 4;
/// Bytes of each file.
const BYTES: usize = 4096;
/// Files of one directory.
const WIDTH: u32 = 1000;
/// A collection takes no longer.
const LIMIT: Duration = Duration::from_mins(10);
/// Operations of a program without a collection beside it.
const QUIET: usize = 2000;

/// Writes every file anew.
fn fill(mnt: &Path, files: u32, state: usize) -> Result<(), String> {
    for n in 0..files {
        let dir = mnt.join(format!("d{}", n / WIDTH));
        if n % WIDTH == 0 {
            io("mkdir", std::fs::create_dir_all(&dir))?;
        }
        io("write", std::fs::write(dir.join(format!("f{n}")), [state as u8; BYTES]))?;
    }
    Ok(())
}

/// Makes, writes and looks at files until `over`; how long each took, in microseconds.
fn work(dir: &Path, over: impl Fn(usize) -> bool) -> Result<Vec<f64>, String> {
    io("mkdir", std::fs::create_dir(dir))?;
    let mut times = Vec::new();
    while !over(times.len()) {
        let path = dir.join(times.len().to_string());
        let begun = Instant::now();
        io("write", std::fs::write(&path, [b'w'; BYTES]))?;
        sys::stat(&path).map_err(|e| format!("stat: {e}"))?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    io("rm", std::fs::remove_dir_all(dir))?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn at(times: &[f64], share: f64) -> f64 {
    let index = (times.len() as f64 * share) as usize;
    times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Deletes the snapshots and collects at once, before the daemon begins to by itself. How long the collection took.
fn collect(socket: &Path) -> Result<(Collected, Duration), String> {
    let mut client = Client::connect(socket).map_err(|e| format!("daemon: {e}"))?;
    client.set_timeout(Some(LIMIT)).map_err(|e| format!("daemon: {e}"))?;
    for state in 0..STATES {
        let deleted = client.snapshot_delete("heavy", &format!("s{state}"), false);
        deleted.map_err(|e| format!("delete a snapshot: {e}"))?;
    }
    let begun = Instant::now();
    let told = client.gc(Vec::new(), false).map_err(|e| format!("gc: {e}"))?;
    Ok((told, begun.elapsed()))
}

/// Snapshots with every file in a version of its own go while a program works on another branch.
fn round(
    world: &World,
    options: &Options,
    round: u32,
    mounts: (&Path, &Path),
    report: &mut Report,
) -> Result<(), String> {
    let (heavy, other) = mounts;
    for state in 0..STATES {
        fill(heavy, options.files, state)?;
        world.snapshot("heavy", &format!("s{state}"));
    }
    fill(heavy, options.files, STATES)?;
    let alone = work(&other.join(format!("alone{round}")), |done| done >= QUIET)?;
    let socket = world.socket().to_owned();
    let gc = std::thread::spawn(move || collect(&socket));
    let beside = work(&other.join(format!("beside{round}")), |_| gc.is_finished())?;
    let (told, took) = gc.join().map_err(|_| "the collecting thread panicked")??;
    if told.left || told.contents == 0 {
        return Err(format!("not all was collected, or by somebody else: {told:?}"));
    }
    let (files, each_second) = (options.files, |count: u64| count as f64 / took.as_secs_f64());
    report.single("gc: records moved or dropped", "1/s", each_second(told.moved + told.dropped));
    report.single("gc: content files removed", "1/s", each_second(told.contents));
    report.single("gc: bytes given back", "MiB/s", each_second(told.bytes) / f64::from(1 << 20));
    report.single(&format!("gc of {STATES} snapshots of {files} files"), "ms", took.as_secs_f64() * 1e3);
    for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
        let name = format!("create, write, stat: {what}, beside gc");
        report.grown(&name, "µs", Amount::Few, at(&alone, share));
        report.grown(&name, "µs", Amount::Many, at(&beside, share));
    }
    Ok(())
}

/// A whole branch goes.
fn discard(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    let mnt = world.mount("whole", None);
    fill(&mnt, options.files, 0)?;
    world.umount(&mnt);
    let begun = Instant::now();
    world.cli(&["branch", "delete", "whole"]);
    let name = format!("branch delete of {} files", options.files);
    report.single(&name, "ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// All of it.
pub(super) fn measure(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    let (heavy, other) = (world.mount("heavy", None), world.mount("other", None));
    for n in 0..options.rounds {
        round(world, options, n, (&heavy, &other), report)?;
        // What the daemon still does for itself does not fall into the next round.
        std::thread::sleep(Duration::from_millis(500));
        discard(world, options, report)?;
    }
    for mnt in [&heavy, &other] {
        world.umount(mnt);
    }
    Ok(())
}
