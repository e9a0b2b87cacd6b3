//! Branches in depth: what an empty one costs, and what diff, commit and merge cost by the number of changes.

use super::report::Report;
use super::side::Side;
use super::{Options, load};
use crate::procs;
use crate::world::World;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Branches of which the mean is taken.
const EMPTY: u64 = 1000;
/// Bytes of a changed file.
const BYTES: usize = 256;
/// Files of one directory.
const WIDTH: u64 = 1000;

fn io<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Bytes on the disk of everything below.
fn on_disk(dir: &Path) -> Result<u64, String> {
    let mut bytes = 0;
    for entry in io("store", std::fs::read_dir(dir))? {
        let path = io("store", entry)?.path();
        // What is removed meanwhile takes nothing.
        let Ok(stat) = crate::sys::lstat(&path) else { continue };
        bytes += stat.st_blocks.unsigned_abs() * 512;
        if path.is_dir() && !path.is_symlink() {
            bytes += on_disk(&path)?;
        }
    }
    Ok(bytes)
}

/// Memory and disk of branches that nobody has written to, over the largest base.
fn empty(world: &World, options: &Options, base: &Path, report: &mut Report) -> Result<(), String> {
    world.create_branch("empty", Some(base));
    let memory = || procs::resident(world.daemon_pid()).unwrap_or_default();
    // A clean end leaves a checkpoint that has everything; the log's segments are allocated beforehand.
    let disk = || {
        world.stop();
        let bytes = on_disk(world.store());
        world.cli(&["daemon", "start"]);
        bytes
    };
    let disk_before = disk()?;
    let memory_before = memory();
    for n in 0..EMPTY {
        world.create_branch(&format!("empty-{n}"), Some(base));
    }
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / EMPTY as f64;
    report.single(&format!("memory per empty branch, of {EMPTY}"), "B", each(memory(), memory_before));
    for n in 0..options.rounds {
        let made = world.create_branch(&format!("one-more-{n}"), Some(base))["micros"].as_f64().ok_or("no micros")?;
        report.single(&format!("branch create beside {EMPTY} others, in the daemon"), "µs", made);
        let snapshot = world.json(&["snapshot", "create", "empty", &format!("s{n}")].map(OsStr::new));
        let micros = snapshot["micros"].as_f64().ok_or_else(|| format!("no micros in {snapshot}"))?;
        report.single(&format!("snapshot create beside {EMPTY} branches, in the daemon"), "µs", micros);
    }
    report.single(&format!("disk per empty branch, of {EMPTY}"), "B", each(disk()?, disk_before));
    Ok(())
}

/// Writes so many new files, 1,000 to a directory.
fn write(dir: &Path, changes: u64) -> Result<(), String> {
    for n in 0..changes {
        let below = dir.join(format!("new{}", n / WIDTH));
        if n % WIDTH == 0 {
            io("mkdir", std::fs::create_dir(&below))?;
        }
        io("write", std::fs::write(below.join(format!("f{n}")), [b'x'; BYTES]))?;
    }
    Ok(())
}

/// Diff, commit into the base and into a parent, of each number of changes, over the largest base.
fn changes(world: &World, options: &Options, base: &Path, report: &mut Report) -> Result<(), String> {
    for changes in &options.changes {
        let name = format!("changed-{changes}");
        let parent = format!("parent-{changes}");
        let child = format!("child-{changes}");
        world.create_branch(&parent, Some(base));
        world.branch_from(&child, &parent);
        for branch in [&name, &child] {
            let mnt = world.mount(branch, if branch == &name { Some(base) } else { None });
            write(&mnt, *changes)?;
            world.umount(&mnt);
        }
        for _ in 0..options.rounds {
            let begun = Instant::now();
            world.cli(&["diff", &name, "--stat"]);
            report.single(&format!("diff --stat of {changes} changes"), "ms", millis(begun.elapsed()));
        }
        let begun = Instant::now();
        world.cli(&["commit", &child, "--into-parent"]);
        report.single(&format!("commit of {changes} changes into the parent"), "ms", millis(begun.elapsed()));
        // The base's side is beside the same files written by hand, synced as a commit syncs them.
        let workload = format!("commit {changes} new files");
        let host = world.out().join(format!("committed-{changes}"));
        io("mkdir", std::fs::create_dir(&host))?;
        let begun = Instant::now();
        write(&host, *changes)?;
        rustix::fs::syncfs(io("open", std::fs::File::open(&host))?).map_err(|e| format!("syncfs: {e}"))?;
        report.sample(&workload, "ms", Side::Host, millis(begun.elapsed()));
        let begun = Instant::now();
        world.cli(&["commit", &name]);
        report.sample(&workload, "ms", Side::Mount, millis(begun.elapsed()));
        let begun = Instant::now();
        world.cli(&["commit", &name]);
        report.single(&format!("commit again after {changes} changes"), "ms", millis(begun.elapsed()));
        for dir in 0..changes.div_ceil(WIDTH) {
            io("rm", std::fs::remove_dir_all(base.join(format!("new{dir}"))))?;
        }
    }
    Ok(())
}

/// All of it.
pub(super) fn measure(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    let base = world.base("deep");
    load::plant(&base, options.entries.iter().copied().max().unwrap_or_default())?;
    empty(world, options, &base, report)?;
    changes(world, options, &base, report)
}
