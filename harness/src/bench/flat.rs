//! What must not grow with branches and snapshots: lookups, listings and creates in a directory that one branch changed,
//! beside the same in one that a thousand branches, or a thousand snapshots of one branch, changed.

use super::Options;
use super::load::io;
use super::report::{Amount, Report};
use crate::sys;
use crate::world::World;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Directories that all of them change.
const DIRS: [&str; 3] = ["d0", "d1", "d2"];
/// Files of each.
const FILES: u64 = 1000;
/// Creates and listings of one turn.
const CREATES: u32 = 400;
const LISTINGS: u32 = 40;

/// A branch to be measured.
struct Case {
    branch: String,
    mnt: PathBuf,
    /// What it has many of.
    many: Option<&'static str>,
}

fn base(world: &World, name: &str) -> Result<PathBuf, String> {
    let base = world.base(name);
    for dir in DIRS {
        io("base", std::fs::create_dir(base.join(dir)))?;
        for n in 0..FILES {
            io("base", std::fs::write(base.join(dir).join(format!("file-{n}")), [b'x'; 100]))?;
        }
    }
    Ok(base)
}

/// In each directory a file of the base is changed, and a new one takes a name that leads elsewhere from then on.
fn change(root: &Path, text: &str) -> Result<(), String> {
    for dir in DIRS {
        let dir = root.join(dir);
        io("change", std::fs::write(dir.join("file-7"), text))?;
        io("change", std::fs::write(dir.join("new"), text))?;
        io("change", std::fs::rename(dir.join("new"), dir.join("touched")))?;
    }
    Ok(())
}

/// The same by the processes of a shell.
const CHANGE: &str = "for d in d0 d1 d2; do echo $0 > $d/file-7; echo $0 > $d/new; mv $d/new $d/touched; done";

/// Changed, with one snapshot, and changed again: what each case has in the end.
fn settle(world: &World, branch: &str, mnt: &Path) -> Result<(), String> {
    change(mnt, "before")?;
    world.snapshot(branch, "last");
    change(mnt, "after")
}

fn alone(world: &World) -> Result<Case, String> {
    let base = base(world, "flat-alone")?;
    let mnt = world.mount("alone", Some(&base));
    settle(world, "alone", &mnt)?;
    Ok(Case { branch: "alone".into(), mnt, many: None })
}

fn among_siblings(world: &World, versions: u64) -> Result<Case, String> {
    let base = base(world, "flat-siblings")?;
    // Half of them are older than the one that is measured.
    let branch = format!("sibling-{}", versions / 2);
    (0..=versions).for_each(|n| drop(world.create_branch(&format!("sibling-{n}"), Some(&base))));
    let through = world.mount("through", Some(&base));
    let at = through.display().to_string();
    for n in (0..=versions).filter(|n| *n != versions / 2) {
        let (name, text) = (format!("sibling-{n}"), format!("{n}"));
        let mut command =
            world.agentfs(["branch", "exec", "--by-descent", "--mount", &at, &name, "--", "sh", "-ec", CHANGE, &text]);
        let out = crate::run::run(command.current_dir(&through), Duration::from_mins(1));
        if !out.status.success() {
            return Err(out.to_string());
        }
    }
    world.umount(&through);
    let mnt = world.mount(&branch, None);
    settle(world, &branch, &mnt)?;
    Ok(Case { branch, mnt, many: Some("branches") })
}

fn above_snapshots(world: &World, versions: u64) -> Result<Case, String> {
    let base = base(world, "flat-snapshots")?;
    let mnt = world.mount("snapped", Some(&base));
    for n in 0..versions {
        change(&mnt, &n.to_string())?;
        world.snapshot("snapped", &format!("s{n}"));
    }
    settle(world, "snapped", &mnt)?;
    Ok(Case { branch: "snapped".into(), mnt, many: Some("snapshots") })
}

/// Microseconds each.
fn mean(begun: Instant, count: u64) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn listed(dir: &Path) -> Result<u64, String> {
    let mut count = 0;
    for entry in io("list", std::fs::read_dir(dir))? {
        io("list", entry)?;
        count += 1;
    }
    Ok(count)
}

/// Microseconds of a lookup, of one that finds nothing, of a create and of a listing.
fn turn(world: &World, case: &Case, round: u32) -> Result<[(&'static str, f64); 4], String> {
    // Nothing that the kernel keeps.
    world.remount(&case.branch, &case.mnt);
    let dir = case.mnt.join("d0");
    let ask = |path: &Path| rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
    ask(&dir).map_err(|e| format!("stat: {e}"))?;
    let paths: Vec<_> = (0..FILES).map(|n| dir.join(format!("file-{n}"))).collect();
    let begun = Instant::now();
    for path in &paths {
        ask(path).map_err(|e| format!("lookup: {e}"))?;
    }
    let lookup = mean(begun, FILES);
    let paths: Vec<_> = (0..FILES).map(|n| dir.join(format!("none-{n}"))).collect();
    let begun = Instant::now();
    if paths.iter().any(|path| ask(path).is_ok()) {
        return Err("a name is there that nobody made".into());
    }
    let missing = mean(begun, FILES);
    let made: Vec<_> = (0..CREATES).map(|n| dir.join(format!("made-{round}-{n}"))).collect();
    let begun = Instant::now();
    for path in &made {
        drop(io("create", std::fs::File::create_new(path))?);
    }
    let create = mean(begun, CREATES.into());
    for path in &made {
        sys::unlink(path).map_err(|e| format!("unlink: {e}"))?;
    }
    let mut listing = Duration::ZERO;
    for _ in 0..LISTINGS {
        // What the kernel kept of the directory is old then.
        let other = dir.join("other");
        io("create", std::fs::write(&other, ""))?;
        sys::unlink(&other).map_err(|e| format!("unlink: {e}"))?;
        let begun = Instant::now();
        let count = listed(&dir)?;
        listing += begun.elapsed();
        if count != FILES + 1 {
            return Err(format!("{count} names are listed"));
        }
    }
    let list = listing.as_secs_f64() * 1e6 / f64::from(LISTINGS);
    Ok([("lookup", lookup), ("lookup of no name", missing), ("create", create), ("listing of 1,001 names", list)])
}

/// All of it.
pub(super) fn measure(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    let versions = options.versions;
    let mut cases = [alone(world)?, among_siblings(world, versions)?, above_snapshots(world, versions)?];
    let many: Vec<_> = cases.iter().filter_map(|case| case.many).collect();
    for round in 0..options.rounds {
        for case in &cases {
            for (what, micros) in turn(world, case, round)? {
                for many in &many {
                    let name = format!("{what}, beside {versions} {many}");
                    match case.many {
                        None => report.grown(&name, "µs", Amount::Few, micros),
                        Some(own) if own == *many => report.grown(&name, "µs", Amount::Many, micros),
                        Some(_) => {}
                    }
                }
            }
        }
        // Who goes first changes from round to round.
        cases.rotate_left(1);
    }
    for case in &cases {
        world.umount(&case.mnt);
    }
    Ok(())
}
