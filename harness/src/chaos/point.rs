//! The named points at which a process can be made to die: of a request's life, of the daemon's work for a command,
//! and of its start. strace holds the process up at the system calls that mark a point; it is killed, and the point
//! counted, when a thread of it is seen to stand there.

use super::control::Control;
use super::killer::Victim;
use super::random::Random;
use crate::procs;
use crate::world::World;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long each call that marks a point is held up, in microseconds.
const HELD_US: u32 = 20_000;
/// How long strace takes to have every thread in its hand, in microseconds.
const ATTACH_US: usize = 50_000;
/// How long a process is waited for at a point.
const STANDS_MAX: Duration = Duration::from_millis(400);
/// The same for what happens seldom: a file that is renamed or removed.
const SELDOM_MAX: Duration = Duration::from_millis(2500);
/// The same for a command of the workload `branches`.
const COMMAND_MAX: Duration = Duration::from_secs(6);
/// A process that was seen at a point is let go on for less than this, in microseconds.
const MORE_US_MAX: usize = 200_000;
/// So is the daemon in a command, in which its writes are held up.
const COMMAND_US_MAX: usize = 60_000;
/// And a daemon that starts; half of the time it is let go on for much less.
const RECOVERY_US_MAX: [usize; 2] = [60_000, 12_000];

/// What marks a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// A thread stands before (`delay_enter`) or after (`delay_exit`) one of these calls.
    Call { side: &'static str, calls: &'static [(&'static str, libc::c_long)], seldom: bool },
    /// The daemon is asked for this command of `agentfs` and has not answered.
    Command(&'static str),
    /// The daemon has been started and does not serve yet.
    Start,
    /// The same, and a thread of it stands before one of these calls.
    Opening { calls: &'static [(&'static str, libc::c_long)] },
    /// A thread stands before one of these calls, after the daemon has been killed.
    Lonely { calls: &'static [(&'static str, libc::c_long)] },
}

/// One point.
#[derive(Debug)]
pub(super) struct Point {
    /// Its name.
    pub(super) name: &'static str,
    victim: Victim,
    mark: Mark,
}

const BEFORE: &str = "delay_enter";
const AFTER: &str = "delay_exit";

macro_rules! calls {
    ($($name:ident),+) => {
        &[$((stringify!($name), nix::libc::$name)),+]
    };
}

const fn daemon(name: &'static str, mark: Mark) -> Point {
    Point { name, victim: Victim::Daemon, mark }
}

const fn frontend(name: &'static str, mark: Mark) -> Point {
    Point { name, victim: Victim::Frontend, mark }
}

const fn call(side: &'static str, calls: &'static [(&'static str, libc::c_long)]) -> Mark {
    Mark::Call { side, calls, seldom: false }
}

const fn seldom(side: &'static str, calls: &'static [(&'static str, libc::c_long)]) -> Mark {
    Mark::Call { side, calls, seldom: true }
}

const POINTS: [Point; 17] = [
    daemon(
        "daemon: request taken, batch or bytes not written",
        call(BEFORE, calls!(SYS_pwrite64, SYS_writev, SYS_pwritev)),
    ),
    daemon("daemon: batch or bytes written, not completed", call(AFTER, calls!(SYS_pwrite64, SYS_pwritev))),
    daemon("daemon: content file made, batch not written", call(AFTER, calls!(SYS_openat, SYS_openat2))),
    daemon("daemon: batch written, content file not yet removed", seldom(BEFORE, calls!(SYS_unlinkat, SYS_unlink))),
    daemon("daemon: in the midst of a sync", seldom(BEFORE, calls!(SYS_fsync, SYS_fdatasync, SYS_syncfs))),
    daemon(
        "daemon: first log segment of a start not yet renamed",
        Mark::Opening { calls: calls!(SYS_rename, SYS_renameat, SYS_renameat2) },
    ),
    daemon("daemon: completed, frontend not woken", call(BEFORE, calls!(SYS_write))),
    daemon("daemon: during a snapshot", Mark::Command("snapshot create")),
    daemon("daemon: while a branch is made of a snapshot", Mark::Command("branch create")),
    daemon("daemon: during a commit", Mark::Command("commit")),
    daemon("daemon: while a branch or snapshot is deleted", Mark::Command("delete")),
    daemon("daemon: during a recovery", Mark::Start),
    frontend("frontend: request read, not submitted", call(AFTER, calls!(SYS_readv))),
    frontend("frontend: lookup count raised, reply not written", call(AFTER, calls!(SYS_pwrite64))),
    frontend(
        "frontend: submitted and daemon not woken, or reply not written",
        call(BEFORE, calls!(SYS_write, SYS_writev)),
    ),
    frontend("frontend: reply written, slot not freed", call(AFTER, calls!(SYS_write, SYS_writev))),
    frontend("frontend: reconnecting", Mark::Lonely { calls: calls!(SYS_connect, SYS_sendmsg) }),
];

/// Why no process can be held up here, if so.
pub(super) fn why_not() -> Option<String> {
    let works = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    (!works.is_ok_and(|s| s.success())).then(|| "strace is not installed".into())
}

/// Of how many kills each point was the aim, and how many met their victim there.
#[derive(Debug, Default, Clone)]
pub(super) struct Aims(Vec<(&'static Point, usize, usize)>);

impl Aims {
    /// The points at which these victims can die, when there are commands or not.
    pub(super) fn new(victims: &[Victim], commands: bool) -> Self {
        let has = |victim| victims.contains(&victim) || victims.contains(&Victim::Both);
        let fits = |p: &&Point| has(p.victim) && (commands || !matches!(p.mark, Mark::Command(_)));
        Self(POINTS.iter().filter(fits).map(|p| (p, 0, 0)).collect())
    }

    /// One of the victim's that were the aim of the fewest kills.
    pub(super) fn choose(&mut self, random: &mut Random, victim: Victim) -> Option<&'static Point> {
        let fits = |p: &Point| victim == Victim::Both || p.victim == victim;
        let fewest = self.0.iter().filter(|(p, ..)| fits(p)).map(|(_, tries, _)| *tries).min()?;
        let mut least: Vec<_> = self.0.iter_mut().filter(|(p, tries, _)| fits(p) && *tries == fewest).collect();
        let at = random.below(least.len());
        let (point, tries, _) = least.get_mut(at)?;
        *tries += 1;
        Some(point)
    }

    /// A victim died there.
    pub(super) fn hit(&mut self, name: &str) {
        for (point, _, hits) in &mut self.0 {
            *hits += usize::from(point.name == name);
        }
    }

    /// Name, how often it was the aim, how often it was hit.
    pub(super) fn list(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        self.0.iter().map(|(point, tries, hits)| (point.name, *tries, *hits))
    }
}

impl Point {
    /// Whether it is one of the daemon's.
    pub(super) fn is_daemons(&self) -> bool {
        self.victim == Victim::Daemon
    }

    /// Whether it is one of a daemon that starts: the one that runs must die first.
    pub(super) fn is_start(&self) -> bool {
        matches!(self.mark, Mark::Start | Mark::Opening { .. })
    }

    /// Waits until `pid` stands at this point. While what it answers is kept, it is held up; whether it stands there is
    /// told too. `commands` are the control directories of those who give commands.
    pub(super) fn await_there(
        &self,
        world: &World,
        pid: i32,
        commands: &[Control],
        random: &mut Random,
    ) -> (Option<Held>, bool) {
        match self.mark {
            Mark::Call { side, calls, seldom } => {
                let held = hold(pid, side, calls);
                let limit = if seldom { SELDOM_MAX } else { STANDS_MAX };
                let seen = procs::wait_for(limit, || stands(pid, calls));
                if seen && !seldom {
                    // The first one is a poor choice: it is the one whose turn it was when the hold began.
                    sleep(random.below(MORE_US_MAX));
                }
                let there = seen && wait_briefly(|| stands(pid, calls));
                (held, there)
            }
            Mark::Lonely { calls } => {
                let held = hold(pid, BEFORE, calls);
                sleep(ATTACH_US);
                let daemons: Vec<i32> = world.processes("agentfsd", None).iter().map(|p| p.pid).collect();
                procs::kill_all(&daemons);
                (held, procs::wait_for(SELDOM_MAX, || stands(pid, calls)))
            }
            Mark::Command(wanted) => {
                let doing = |what: &str| commands.iter().any(|c| c.doing().is_some_and(|d| d.contains(what)));
                let want = |what: &str| commands.iter().for_each(|c| drop(c.want(what)));
                // Most commands are over before strace has the daemon in its hand: the next one waits for that.
                want(wanted);
                let soon = procs::wait_for(COMMAND_MAX, || doing(Control::SOON));
                want("");
                let held = if soon { hold(pid, BEFORE, calls!(SYS_pwrite64, SYS_pwritev)) } else { None };
                if soon && procs::wait_for(SELDOM_MAX, || doing(wanted) && !doing(Control::SOON)) {
                    sleep(random.below(COMMAND_US_MAX));
                }
                (held, soon && doing(wanted))
            }
            Mark::Start => {
                let limit = RECOVERY_US_MAX[random.below(RECOVERY_US_MAX.len())];
                sleep(random.below(limit));
                (None, procs::alive(pid) && !serves(world.socket()))
            }
            Mark::Opening { calls } => {
                // A start is over sooner than strace is there: it is stopped until then.
                let process = Pid::from_raw(pid);
                kill(process, Signal::SIGSTOP).ok();
                let held = hold(pid, BEFORE, calls);
                sleep(ATTACH_US);
                kill(process, Signal::SIGCONT).ok();
                (held, procs::wait_for(SELDOM_MAX, || stands(pid, calls)))
            }
        }
    }
}

/// Holds up a process at calls until the answer is dropped.
fn hold(pid: i32, side: &str, calls: &[(&str, libc::c_long)]) -> Option<Held> {
    let names: Vec<&str> = calls.iter().filter_map(|(name, _)| name.strip_prefix("SYS_")).collect();
    let names = names.join(",");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={names}")]);
    command.args(["-e", &format!("inject={names}:{side}={HELD_US}"), "-p", &pid.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok().map(Held)
}

/// Whether a thread is held up at one of these calls.
fn stands(pid: i32, calls: &[(&str, libc::c_long)]) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|task| {
        let call = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        let Some(number) = call.split(' ').next().and_then(|n| n.parse::<libc::c_long>().ok()) else { return false };
        calls.iter().any(|(_, n)| *n == number) && is_stopped(&task.path())
    })
}

fn is_stopped(task: &Path) -> bool {
    let stat = std::fs::read(task.join("stat")).unwrap_or_default();
    let at = stat.iter().rposition(|b| *b == b')').unwrap_or(0);
    stat.get(at + 2) == Some(&b't')
}

fn serves(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn sleep(us: usize) {
    std::thread::sleep(Duration::from_micros(us as u64));
}

/// Looks again and again, closer than [`procs::wait_for`] does.
fn wait_briefly(ready: impl Fn() -> bool) -> bool {
    (0..100).any(|_| {
        let is = ready();
        if !is {
            sleep(500);
        }
        is
    })
}

/// A process that is held up.
#[derive(Debug)]
pub(super) struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // It ends with the process that it holds up; what is left is told to go, and its end awaited.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
