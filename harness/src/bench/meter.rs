//! What a workload on a mount costs beside its time: requests, and the CPU time of who takes part.

use crate::procs;
use crate::world::World;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::ffi::OsStr;
use std::time::Duration;

/// Counted from some start on, or between two readings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// FUSE requests that the daemon answered.
    pub(super) requests: u64,
    /// CPU time of the workload's own processes.
    pub(super) client: Duration,
    /// CPU time of the frontends.
    pub(super) frontend: Duration,
    /// CPU time of the daemon.
    pub(super) daemon: Duration,
}

fn client() -> Result<Duration, String> {
    let mut micros = 0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who).map_err(|e| format!("getrusage: {e}"))?;
        micros += usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    }
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

fn requests(world: &World) -> u64 {
    let mounts = world.json(&[OsStr::new("mounts")]);
    mounts.as_array().into_iter().flatten().filter_map(|m| m["requests"].as_u64()).sum()
}

fn servers(world: &World) -> (Duration, Duration) {
    let of = |pids: &[i32]| pids.iter().filter_map(|pid| procs::cpu_time(*pid)).sum();
    (of(&world.frontend_pids()), of(&[world.daemon_pid()]))
}

/// Runs something and tells what it cost.
pub(super) fn measured(world: &World, work: impl FnOnce() -> Result<(), String>) -> Result<Cost, String> {
    // Asking is a program of its own: outside of what is counted as the client's.
    let before = requests(world);
    let (frontend, daemon) = servers(world);
    let begun = client()?;
    work()?;
    let client = client()?.saturating_sub(begun);
    let (frontend_end, daemon_end) = servers(world);
    Ok(Cost {
        requests: requests(world).saturating_sub(before),
        client,
        frontend: frontend_end.saturating_sub(frontend),
        daemon: daemon_end.saturating_sub(daemon),
    })
}
