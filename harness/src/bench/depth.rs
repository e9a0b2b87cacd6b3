//! Branches in depth: what an empty one costs, and what diff, commit and merge cost by the number of changes.

use super::report::Report;
use super::side::Side;
use super::{Options, load};
use crate::procs;
use crate::world::World;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Files that are open at a snapshot.
const OPEN: usize = 100;
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

/// What a create took, in the daemon and as a command.
fn timed(report: &mut Report, what: &str, told: &serde_json::Value, took: Duration) -> Result<(), String> {
    let micros = told["micros"].as_f64().ok_or_else(|| format!("no micros in {told}"))?;
    report.single(&format!("{what}, in the daemon"), "µs", micros);
    report.single(&format!("{what}, the command"), "ms", millis(took));
    Ok(())
}

fn snapshot(world: &World, name: &str, options: &[&str]) -> (serde_json::Value, Duration) {
    let args: Vec<&OsStr> = ["snapshot", "create", "--branch", "empty", "--name", name]
        .iter()
        .chain(options)
        .map(|arg| OsStr::new(*arg))
        .collect();
    let begun = Instant::now();
    let told = world.json(&args);
    (told, begun.elapsed())
}

/// Maps files, changes a page of each, says so, and waits until its standard input ends.
const MAPPED: &str = "
import mmap, os, sys
maps = [mmap.mmap(os.open(path, os.O_RDWR), 4096) for path in sys.argv[1:]]
for line in sys.stdin:
    for map in maps:
        map[0] = ord('m')
    print('changed', flush=True)
";

/// Snapshots while files are open that were just written, by system calls and by memory.
fn open_files(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    let mnt = world.mount("empty", None);
    let paths: Vec<_> = (0..OPEN).map(|n| mnt.join(format!("open-{n}"))).collect();
    let files: Vec<File> = io("open", paths.iter().map(File::create_new).collect())?;
    let mut command = world.command("python3");
    command.args(["-c", MAPPED]).args(&paths).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut mapper = command.spawn().map_err(|e| eprintln!("without mapped files: python3: {e}")).ok();
    for n in 0..options.rounds {
        for file in &files {
            io("write", file.write_all_at(&[b'w'; 4096], 0))?;
        }
        let (taken, took) = snapshot(world, &format!("open{n}"), &[]);
        timed(report, &format!("snapshot create with {OPEN} files open and written"), &taken, took)?;
        let Some(mapper) = &mut mapper else { continue };
        let (Some(asks), Some(says)) = (&mut mapper.stdin, &mut mapper.stdout) else { continue };
        io("ask for changes by memory", asks.write_all(b"change\n"))?;
        io("wait for changes by memory", says.read_exact(&mut [0; b"changed\n".len()]))?;
        let (taken, took) = snapshot(world, &format!("mapped{n}"), &["--freeze"]);
        timed(report, &format!("snapshot create --freeze with {OPEN} mapped files"), &taken, took)?;
        let held = |key: &str| taken["frozen"][key].as_f64().ok_or_else(|| format!("no {key} in {taken}"));
        report.single("the same: draining, per mapped file", "µs", held("drain_micros")? / held("files")?.max(1.0));
        report.single("the same: programs stand still", "ms", held("held_micros")? / 1e3);
    }
    if let Some(mut mapper) = mapper {
        drop(mapper.stdin.take());
        io("end of the mapping program", mapper.wait())?;
    }
    drop(files);
    world.umount(&mnt);
    Ok(())
}

/// Memory and disk of branches that nobody has written to, over the largest base.
fn empty(world: &World, options: &Options, base: &Path, report: &mut Report) -> Result<(), String> {
    let count = options.empty;
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
    for n in 0..count {
        world.create_branch(&format!("empty-{n}"), Some(base));
    }
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / count as f64;
    report.single(&format!("memory per empty branch, of {count}"), "B", each(memory(), memory_before));
    for n in 0..options.rounds {
        let begun = Instant::now();
        let made = world.create_branch(&format!("one-more-{n}"), Some(base));
        let took = begun.elapsed();
        timed(report, &format!("branch create beside {count} others"), &made, took)?;
        let (taken, took) = snapshot(world, &format!("s{n}"), &[]);
        timed(report, &format!("snapshot create beside {count} branches"), &taken, took)?;
    }
    open_files(world, options, report)?;
    report.single(&format!("disk per empty branch, of {count}"), "B", each(disk()?, disk_before));
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
        // Beside the same files written by hand, synced as a commit syncs them.
        let host = world.out().join(format!("committed-{changes}"));
        io("mkdir", std::fs::create_dir(&host))?;
        let begun = Instant::now();
        write(&host, *changes)?;
        rustix::fs::syncfs(io("open", File::open(&host))?).map_err(|e| format!("syncfs: {e}"))?;
        let by_hand = millis(begun.elapsed());
        let (workload, into_parent) =
            (format!("commit {changes} new files"), format!("commit {changes} new files into the parent"));
        for workload in [&workload, &into_parent] {
            report.sample(workload, "ms", Side::Host, by_hand);
        }
        let begun = Instant::now();
        world.cli(&["commit", &child, "--into-parent"]);
        report.sample(&into_parent, "ms", Side::Mount, millis(begun.elapsed()));
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
