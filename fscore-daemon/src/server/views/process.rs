//! Who asks: processes, their ancestors and control groups, from `/proc`.

use std::fs;
use std::io;

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
    /// A living process, by the number of its first thread; none if there is none. An error says nothing of it.
    pub(super) fn of(pid: u32) -> io::Result<Option<Self>> {
        Ok(there(fs::read(format!("/proc/{pid}/stat")))?.and_then(|stat| Self::parse(pid, &stat)))
    }

    /// From the kernel's line about it.
    pub(super) fn parse(pid: u32, stat: &[u8]) -> Option<Self> {
        // Its name stands in parentheses, and may hold anything.
        let after = stat.get(stat.iter().rposition(|b| *b == b')')? + 2..)?;
        let mut fields = std::str::from_utf8(after).ok()?.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        // The 20th and the 22nd field of the line.
        let threads: u32 = fields.nth(15)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        // The first thread may end before the others.
        (!matches!(state, "Z" | "X") || threads > 1).then_some(Self { pid, start, parent })
    }

    /// The process of one of its threads.
    pub(super) fn of_thread(tid: u32) -> io::Result<Option<Self>> {
        let status = there(fs::read_to_string(format!("/proc/{tid}/status")))?.unwrap_or_default();
        field(&status, "Tgid:").and_then(|tgid| tgid.parse().ok()).map_or(Ok(None), Self::of)
    }

    /// The process that started it, or that it was left to.
    fn parent(&self) -> Option<Self> {
        if self.parent == 0 { None } else { Self::of(self.parent).ok().flatten() }
    }

    /// Itself and its ancestors, the nearest first.
    pub(super) fn line(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), Self::parent).take(ANCESTORS_MAX)
    }

    /// Its user, if it is no other's in part.
    pub(super) fn user(&self) -> Option<u32> {
        only(field(&fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?, "Uid:")?)
    }

    /// Its control group in the unified hierarchy.
    pub(super) fn cgroup(&self) -> Option<Vec<u8>> {
        cgroup(&self.pid.to_string())
    }
}

/// Whether the numbers of processes that a process knows are the ones that we know.
pub(super) fn is_of_our_namespace(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_numbered_once(&status))
}

/// Whether a process has one number only: in namespaces below it has others.
pub(super) fn is_numbered_once(status: &str) -> bool {
    field(status, "NSpid:").is_none_or(|numbers| numbers.split_ascii_whitespace().count() == 1)
}

/// The user id of a line with several, if they are one.
pub(super) fn only(ids: &str) -> Option<u32> {
    let mut ids = ids.split_ascii_whitespace();
    let first = ids.next()?;
    ids.all(|id| id == first).then(|| first.parse().ok())?
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn cgroup(pid: &str) -> Option<Vec<u8>> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    unified(&text)
}

fn unified(text: &[u8]) -> Option<Vec<u8>> {
    text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"0::")).map(<[u8]>::to_vec)
}

/// Whether a control group is another one, or below it.
pub(super) fn is_within(cgroup: &[u8], outer: &[u8]) -> bool {
    cgroup.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Control groups of all living processes. One that is empty may have got a process while this looked elsewhere.
pub(super) fn all_cgroups() -> io::Result<Vec<Vec<u8>>> {
    let mut groups = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        // One that ended and waits for its parent still has its group.
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && Process::of(pid)?.is_some()
        {
            let text = there(fs::read(format!("/proc/{pid}/cgroup")))?.unwrap_or_default();
            groups.extend(unified(&text));
        }
    }
    Ok(groups)
}

/// What was read of a process, or nothing if there is none any more.
fn there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}
