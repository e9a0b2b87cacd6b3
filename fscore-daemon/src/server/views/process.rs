//! Who asks: processes, their ancestors and control groups, from `/proc`.

use std::fs;

/// More ancestors than this no process has that is not made to have them.
const ANCESTORS_MAX: usize = 256;

/// One process for ever: its number may be given out again, but not with the same start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// In ticks since the host's start.
    pub(super) start: u64,
    parent: u32,
}

impl Process {
    /// A living process, by the number of its first thread.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // Its name stands in parentheses, and may hold anything.
        let after = stat.get(stat.iter().rposition(|b| *b == b')')? + 2..)?;
        let mut fields = std::str::from_utf8(after).ok()?.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        // The 22nd field of the line.
        let start = fields.nth(17)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, start, parent })
    }

    /// The process of one of its threads.
    pub(super) fn of_thread(tid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        Self::of(field(&status, "Tgid:")?.parse().ok()?)
    }

    /// The process that started it, or that it was left to.
    fn parent(&self) -> Option<Self> {
        if self.parent == 0 { None } else { Self::of(self.parent) }
    }

    /// Itself and its ancestors, the nearest first.
    pub(super) fn line(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), Self::parent).take(ANCESTORS_MAX)
    }

    /// Its real user id.
    pub(super) fn user(&self) -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        field(&status, "Uid:")?.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Its control group in the unified hierarchy.
    pub(super) fn cgroup(&self) -> Option<Vec<u8>> {
        cgroup(&self.pid.to_string())
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn cgroup(pid: &str) -> Option<Vec<u8>> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"0::")).map(<[u8]>::to_vec)
}

/// Whether a control group is another one, or below it.
pub(super) fn is_within(cgroup: &[u8], outer: &[u8]) -> bool {
    cgroup.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Control groups of all living processes.
pub(super) fn all_cgroups() -> Vec<Vec<u8>> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit())).filter_map(|pid| cgroup(&pid)).collect()
}
