//! What must not grow: making a branch, memory, starting.

use super::report::Report;
use super::side::Side;
use super::{Options, load};
use crate::world::World;
use crate::{procs, sys};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const MIB: f64 = 1024.0 * 1024.0;
const BRANCHES: usize = 20;

/// Making branches over bases of several sizes.
pub(super) fn branches(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    for entries in &options.entries {
        let base = world.base(&format!("base{entries}"));
        load::plant(&base, *entries)?;
        for n in 0..BRANCHES {
            let begun = Instant::now();
            let info = world.create_branch(&format!("e{entries}-{n}"), Some(&base));
            let elapsed = begun.elapsed();
            let micros = info["micros"].as_f64().ok_or_else(|| format!("no micros in {info}"))?;
            report.single(&format!("branch create, {entries} entries, in the daemon"), "µs", micros);
            let millis = elapsed.as_secs_f64() * 1e3;
            report.single(&format!("branch create, {entries} entries, the command"), "ms", millis);
        }
        let begun = Instant::now();
        world.snapshot(&format!("e{entries}-0"), "s");
        report.single(
            &format!("snapshot create, {entries} entries, the command"),
            "ms",
            begun.elapsed().as_secs_f64() * 1e3,
        );
    }
    Ok(())
}

fn memory(world: &World, when: &str, report: &mut Report) {
    let frontends = world.frontend_pids();
    for (name, pids) in
        [("daemon", vec![world.daemon_pid()]), ("frontend", frontends), ("holder", vec![world.holder_pid()])]
    {
        for pid in pids {
            if let Some(bytes) = procs::resident(pid) {
                report.single(&format!("memory of the {name}, {when}"), "MiB", bytes as f64 / MIB);
            }
        }
    }
}

/// Resident memory, idle and after a walk.
pub(super) fn walk(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    let base = world.base("walked");
    load::plant(&base, options.walk)?;
    let mnt = world.mount("walker", Some(&base));
    memory(world, "idle", report);
    for birth_times in [false, true] {
        let how = if birth_times { ", birth times too" } else { "" };
        let name = format!("walk {} entries, cold{how}", options.walk);
        let mut found = Vec::new();
        world.remount("walker", &mnt);
        for (side, dir) in [(Side::Host, &base), (Side::Mount, &mnt)] {
            super::drop_caches()?;
            let begun = Instant::now();
            found.push(load::walk(dir, birth_times)?);
            report.sample(&name, "ms", side, begun.elapsed().as_secs_f64() * 1e3);
        }
        if found.first() != found.last() {
            return Err(format!("host and mount show different numbers of entries: {found:?}"));
        }
    }
    memory(world, &format!("after walking {} entries", options.walk), report);
    // A file of a lazy base: its attributes are asked of the daemon, and of the host by it.
    let (lazy, own) = (mnt.join("d0/d0/file-1"), mnt.join("own"));
    std::fs::write(&own, "x").map_err(|e| format!("own: {e}"))?;
    for _ in 0..options.rounds {
        report.sample("GETATTR of a base file", "µs", Side::Host, load::getattr(&base.join("d0/d0/file-1"), 5000)?);
        report.sample("GETATTR of a base file", "µs", Side::Mount, load::getattr(&lazy, 5000)?);
        report.single("GETATTR of a file of the branch", "µs", load::getattr(&own, 5000)?);
    }
    Ok(())
}

/// Asks the daemon for its state by hand; false while nobody answers.
fn answers(world: &World, not: i32) -> bool {
    let Ok(mut stream) = UnixStream::connect(world.socket()) else { return false };
    if stream.set_read_timeout(Some(Duration::from_secs(5))).is_err() {
        return false;
    }
    if stream.write_all(b"{\"v\":1,\"op\":\"status\"}\n").is_err() {
        return false;
    }
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).is_err() {
        return false;
    }
    let status: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    status["ok"]["pid"].as_i64().is_some_and(|pid| pid != i64::from(not))
}

fn until_ready(world: &World, not: i32) -> Result<Duration, String> {
    let begun = Instant::now();
    while !answers(world, not) {
        if begun.elapsed() > Duration::from_secs(120) {
            return Err("the daemon does not come up within 120 s".into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(begun.elapsed())
}

/// How long a start takes, clean and after `kill -9`, and the pause that a program sees.
pub(super) fn start(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    // A store with something in it: files of the branch, not of its base.
    let mnt = world.mount("filled", None);
    for n in 0..options.files {
        std::fs::write(mnt.join(format!("f{n}")), "x").map_err(|e| format!("fill: {e}"))?;
    }
    let status = world.status();
    for _ in 0..options.rounds.max(3) {
        let pid = world.kill_daemon();
        let begun = Instant::now();
        sys::stat(&mnt.join("f0")).map_err(|e| format!("stat: {e}"))?;
        let getattr = load::getattr(&mnt.join("f1"), 1);
        getattr?;
        report.single("pause of a program at kill -9 of the daemon", "ms", begun.elapsed().as_secs_f64() * 1e3);
        until_ready(world, pid)?;
        // Let the holder forget this death: its back-off is for daemons that die at once.
        std::thread::sleep(Duration::from_millis(1200));
        let pid = world.kill_daemon();
        let time = until_ready(world, pid)?;
        report.single("kill -9 to the next daemon ready", "ms", time.as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(1200));
    }
    world.stop();
    for _ in 0..options.rounds.max(3) {
        let begun = Instant::now();
        world.cli(&["daemon", "start"]);
        report.single("daemon start to ready, the command", "ms", begun.elapsed().as_secs_f64() * 1e3);
        world.stop();
    }
    drop(status);
    Ok(())
}
