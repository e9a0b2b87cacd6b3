//! A moment in which nobody changes a mapped file of a branch: the programs that could are held still, and what they
//! left in memory is written out. A daemon cannot do that: stores into a mapping are no request, and `FIFREEZE` is not
//! for FUSE.

use crate::error::{CliError, Doing, Kind, Result};
use crate::mountinfo;
use nix::sys::stat::{fstat, major, minor};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::syncfs;
use serde::Serialize;
use shm_transport::control::MountInfo;
use shm_transport::mem::trace::{self, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a program may take to stop: a system call that it is in must end first.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Between two looks at threads that are to stop.
const NAP: Duration = Duration::from_micros(200);

/// A mount of the branch, wherever it is.
struct Place {
    /// As the kernel's lists of mounts spell it.
    device: String,
    root: File,
}

/// Programs that are still until this is dropped.
pub(crate) struct Still {
    places: Vec<Place>,
    /// Threads, and the signal that each is owed.
    threads: BTreeMap<i32, i32>,
    files: usize,
    drain: Duration,
    /// When the first thread was stopped.
    since: Instant,
}

/// What it took to hold programs still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Cost {
    /// Mapped files that were written out.
    pub(crate) files: usize,
    /// Writing out, before programs were stopped and afterwards.
    pub(crate) drain_micros: u64,
    /// Threads that were stopped.
    pub(crate) threads: usize,
    /// For how long.
    pub(crate) held_micros: u64,
}

impl Still {
    /// Holds the programs of these mounts still, and has the kernel write out what they changed in memory.
    pub(crate) fn hold(mounts: &[MountInfo]) -> Result<Self> {
        let mut it = Self {
            places: places(mounts)?,
            threads: BTreeMap::new(),
            files: 0,
            drain: Duration::ZERO,
            since: Instant::now(),
        };
        // Most of it while they run.
        it.write_out()?;
        it.since = Instant::now();
        while it.stop_more()? {}
        it.write_out()?;
        Ok(it)
    }

    /// Lets the programs go on.
    pub(crate) fn release(self) -> Cost {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let threads = self.threads.len();
        let held = if threads > 0 { self.since.elapsed() } else { Duration::ZERO };
        Cost { files: self.files, drain_micros: micros(self.drain), threads, held_micros: micros(held) }
    }

    /// Waits until the daemon has every page that was changed in memory.
    fn write_out(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.files = self.sync()?;
        self.drain += begun.elapsed();
        Ok(())
    }

    /// How many files were synced by themselves.
    fn sync(&self) -> Result<usize> {
        for place in &self.places {
            syncfs(&place.root).doing(|| "write out what programs changed in memory".into())?;
            // Some kernels do not wait for the daemon above. Requests reach it in order: when this one is answered, so
            // are those before it under way there.
            fstatvfs(&place.root).doing(|| "ask the daemon".into())?;
        }
        // Of pages in many places of a file the kernel keeps requests back, which others overtake: only the file's own sync
        // waits for all. Who may not open what a process has mapped has done without.
        let mut synced = BTreeSet::new();
        for process in processes() {
            let maps = std::fs::read(format!("/proc/{process}/maps")).unwrap_or_default();
            for line in maps.split(|b| *b == b'\n').filter(|line| self.is_shared(line)) {
                let text = String::from_utf8_lossy(line);
                let mut fields = text.split_ascii_whitespace();
                let (Some(range), Some(device), Some(inode)) = (fields.next(), fields.nth(2), fields.next()) else {
                    continue;
                };
                if synced.insert((device.to_owned(), inode.to_owned()))
                    && let Ok(file) = File::open(format!("/proc/{process}/map_files/{range}"))
                {
                    file.sync_data().doing(|| "write out what programs changed in memory".into())?;
                }
            }
        }
        Ok(synced.len())
    }

    fn is_shared(&self, line: &[u8]) -> bool {
        shared_mapping(line).is_some_and(|(major, minor)| {
            let device = format!("{major}:{minor}");
            self.places.iter().any(|place| place.device == device)
        })
    }

    /// Stops the threads that use a mapping and run; whether there were any.
    fn stop_more(&mut self) -> Result<bool> {
        let mut stopping = Vec::new();
        for process in processes() {
            if !self.maps(process) {
                continue;
            }
            for thread in threads_of(process) {
                if self.threads.contains_key(&thread) {
                    continue;
                }
                match trace::seize(thread).and_then(|()| trace::interrupt(thread)) {
                    Ok(()) => stopping.push((process, thread)),
                    // It ended.
                    Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => {}
                    Err(e) => return Err(refused(process, &e)),
                }
            }
        }
        let any = !stopping.is_empty();
        let deadline = Instant::now() + STOP_MAX;
        for (process, thread) in stopping {
            loop {
                match trace::look(thread).doing(|| format!("wait for process {process}"))? {
                    Stop::Still(signal) => {
                        self.threads.insert(thread, signal);
                        break;
                    }
                    Stop::Gone => break,
                    Stop::Running if Instant::now() > deadline => {
                        let why = format!("process {process} ({}) does not stop", name(process));
                        return Err(CliError::new(Kind::Busy, why)
                            .hint("it waits for something; try again, or do without --freeze"));
                    }
                    Stop::Running => std::thread::sleep(NAP),
                }
            }
        }
        Ok(any)
    }

    /// Whether a process shares memory with files of the branch. One that may not be looked at is not held.
    fn maps(&self, process: i32) -> bool {
        let Ok(maps) = std::fs::read(format!("/proc/{process}/maps")) else { return false };
        maps.split(|b| *b == b'\n').any(|line| self.is_shared(line))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        for (&thread, &signal) in &self.threads {
            // One that was killed meanwhile is not there any more; all others go on when this process ends.
            trace::release(thread, signal).ok();
        }
    }
}

/// The device of a line of `/proc/PID/maps` that shows a shared mapping:
/// `FROM-TO PERMISSIONS OFFSET MAJOR:MINOR INODE PATH`.
fn shared_mapping(line: &[u8]) -> Option<(u32, u32)> {
    let line = std::str::from_utf8(line.get(..line.len().min(100))?).ok().or_else(|| {
        // The path may be any bytes; what counts stands before it.
        let end = line.iter().position(|b| !b.is_ascii())?;
        std::str::from_utf8(line.get(..end)?).ok()
    })?;
    let mut fields = line.split(' ');
    let shared = fields.nth(1)?.ends_with('s');
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    shared.then_some((number(major)?, number(minor)?))
}

/// The mounts, by way of a process that has each.
fn places(mounts: &[MountInfo]) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for mount in mounts.iter().filter(|mount| !mount.read_only) {
        places.push(place(mount).ok_or_else(|| {
            let at = mount.mountpoint.display();
            CliError::new(Kind::Denied, format!("the mount on {at} is in a mount namespace that cannot be reached"))
                .hint("ask as the user who made it, or as root; or do without --freeze")
        })?);
    }
    Ok(places)
}

fn place(mount: &MountInfo) -> Option<Place> {
    let of_it = |found: &mountinfo::Mount| found.branch == mount.branch && found.mountpoint == mount.mountpoint;
    let mut seen: Vec<PathBuf> = Vec::new();
    for process in std::iter::once(std::process::id().cast_signed()).chain(processes()) {
        let proc = PathBuf::from(format!("/proc/{process}"));
        let Ok(namespace) = std::fs::read_link(proc.join("ns/mnt")) else { continue };
        if seen.contains(&namespace) {
            continue;
        }
        let Ok(list) = mountinfo::of(process) else { continue };
        seen.push(namespace);
        for found in list.iter().filter(|found| of_it(found)) {
            let below = found.mountpoint.strip_prefix("/").unwrap_or(Path::new(""));
            let Ok(root) = File::open(proc.join("root").join(below)) else { continue };
            // Something else may be mounted over it there.
            let device = fstat(&root).map(|stat| format!("{}:{}", major(stat.st_dev), minor(stat.st_dev)));
            if device.as_ref() == Ok(&found.device) {
                return Some(Place { device: found.device.clone(), root });
            }
        }
    }
    None
}

/// All other processes.
fn processes() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    numbers(Path::new("/proc")).into_iter().filter(|pid| *pid != own).collect()
}

fn threads_of(process: i32) -> Vec<i32> {
    numbers(&Path::new("/proc").join(process.to_string()).join("task"))
}

fn numbers(dir: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn name(process: i32) -> String {
    std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn refused(process: i32, why: &std::io::Error) -> CliError {
    let what = format!("process {process} ({}), which maps files of the branch, cannot be held: {why}", name(process));
    CliError::new(Kind::Denied, what)
        .hint("a debugger may have it, or you may not trace it; ask as root, or do without --freeze")
}

#[cfg(test)]
mod tests;
