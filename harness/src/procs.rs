//! Processes of one world, found by a directory that stands in their command line or environment.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its executable's file name.
    pub name: String,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
}

impl Process {
    /// Whether one argument is exactly this.
    pub fn has_arg(&self, arg: impl AsRef<[u8]>) -> bool {
        self.args.iter().any(|a| a == arg.as_ref())
    }
}

fn read(pid: i32) -> Option<Process> {
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let args: Vec<Vec<u8>> =
        cmdline.strip_suffix(b"\0").unwrap_or(&cmdline).split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = exe.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
    Some(Process { pid, name, args })
}

/// Ids of all processes.
pub fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// Living processes other than this one whose command line or environment names something below `dir`.
pub fn below(dir: &Path) -> Vec<Process> {
    let needle = dir.as_os_str().as_bytes();
    let own = Pid::this().as_raw();
    all()
        .into_iter()
        .filter(|pid| *pid != own && alive(*pid))
        .filter(|pid| {
            ["cmdline", "environ"].iter().any(|file| {
                let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                text.windows(needle.len()).any(|w| w == needle)
            })
        })
        .filter_map(read)
        .collect()
}

/// Whether the process exists and is not a zombie. Its first thread may be one while others still have its files open.
pub fn alive(pid: i32) -> bool {
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state(pid).is_some_and(|s| s != 'Z' && s != 'X' || threads() > 1)
}

/// The one-letter state of `/proc/PID/stat`.
pub fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let at = stat.iter().rposition(|b| *b == b')')?;
    stat.get(at + 2).map(|b| char::from(*b))
}

/// The process group of a process.
pub fn group(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let at = stat.iter().rposition(|b| *b == b')')?;
    std::str::from_utf8(&stat[at + 2..]).ok()?.split(' ').nth(2)?.parse().ok()
}

/// Kills processes with SIGKILL, by id.
pub fn kill_all(pids: &[i32]) {
    for pid in pids {
        // A process that is gone already is what we want.
        kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
    }
}

/// Waits until the process is gone; false if it still lives after `limit`.
pub fn wait_gone(pid: i32, limit: Duration) -> bool {
    wait_for(limit, || !alive(pid))
}

/// Polls until `ready` holds; false if it does not within `limit`.
pub fn wait_for(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Resident memory, in bytes.
pub fn resident(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// CPU time that a process has used, in the kernel and outside.
pub fn cpu_time(pid: i32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; `utime` and `stime` are the 12th and 13th field after it.
    let ticks: u64 =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??.unsigned_abs();
    Some(Duration::from_millis(ticks * 1000 / per_second.max(1)))
}

/// The processes of [`below`], for messages.
pub fn describe(dir: &Path) -> String {
    below(dir)
        .iter()
        .map(|p| {
            let line = p.args.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>().join(" ");
            let wchan = std::fs::read_to_string(format!("/proc/{}/wchan", p.pid)).unwrap_or_default();
            format!("  {} [{}] {wchan}: {line}\n", p.pid, state(p.pid).unwrap_or('?'))
        })
        .collect()
}

/// Target of `/proc/PID/fd/*` for all descriptors that lead below a path.
pub fn descriptors_below(pid: i32, dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|e| std::fs::read_link(e.path()).ok()).filter(|p| p.starts_with(dir)).collect()
}
