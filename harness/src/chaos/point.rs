//! The named points of a request's life at which a process can be made to die. strace holds the process up
//! before or after a system call that marks the point, so that it is nearly always there; then it is killed.

use super::killer::Victim;
use super::random::Random;
use std::process::{Child, Command, Stdio};

/// How long each such call is held up, in microseconds.
const HELD_US: u32 = 20_000;

/// One point.
#[derive(Debug)]
pub(super) struct Point {
    /// Its name.
    pub(super) name: &'static str,
    victim: Victim,
    calls: &'static str,
    /// Whether the process stands before or after the call.
    side: &'static str,
}

const fn point(victim: Victim, name: &'static str, side: &'static str, calls: &'static str) -> Point {
    Point { name, victim, calls, side }
}

const BEFORE: &str = "delay_enter";
const AFTER: &str = "delay_exit";

const POINTS: [Point; 12] = [
    point(Victim::Daemon, "daemon: request taken, batch or bytes not written", BEFORE, "pwrite64,writev,pwritev"),
    point(Victim::Daemon, "daemon: batch or bytes written, not completed", AFTER, "pwrite64,pwritev"),
    point(Victim::Daemon, "daemon: content file made, batch not written", AFTER, "openat,openat2"),
    point(Victim::Daemon, "daemon: batch written, content file not yet removed", BEFORE, "unlinkat,unlink"),
    point(Victim::Daemon, "daemon: in the midst of a sync", BEFORE, "fsync,fdatasync,syncfs"),
    point(Victim::Daemon, "daemon: log segment or checkpoint not yet renamed", BEFORE, "rename,renameat,renameat2"),
    point(Victim::Daemon, "daemon: completed, frontend not woken", BEFORE, "write"),
    point(Victim::Frontend, "frontend: request read, not submitted", AFTER, "readv"),
    point(Victim::Frontend, "frontend: lookup count raised, reply not written", AFTER, "pwrite64"),
    point(Victim::Frontend, "frontend: submitted and daemon not woken, or reply not written", BEFORE, "write,writev"),
    point(Victim::Frontend, "frontend: reply written, slot not freed", AFTER, "write,writev"),
    point(Victim::Frontend, "frontend: reconnecting", BEFORE, "connect,sendmsg"),
];

/// Why no process can be held up here, if so.
pub(super) fn why_not() -> Option<String> {
    let works = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    (!works.is_ok_and(|s| s.success())).then(|| "strace is not installed".into())
}

/// A point of a victim's life.
pub(super) fn choose(random: &mut Random, victim: Victim) -> &'static Point {
    let of_victim: Vec<&Point> = POINTS.iter().filter(|p| victim == Victim::Both || p.victim == victim).collect();
    of_victim[random.below(of_victim.len())]
}

impl Point {
    /// Whether it is one of the daemon's.
    pub(super) fn is_daemons(&self) -> bool {
        self.victim == Victim::Daemon
    }

    /// Holds up a process at this point until the answer is dropped.
    pub(super) fn hold(&self, pid: i32) -> Option<Held> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={}", self.calls)]);
        command.args(["-e", &format!("inject={}:{}={HELD_US}", self.calls, self.side), "-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok().map(Held)
    }
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
