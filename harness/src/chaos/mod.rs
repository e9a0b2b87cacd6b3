//! `agentfs-harness chaos`: real programs work on several mounts while the daemon, the frontends or both
//! are killed; none of them may see more than a pause.

mod aftermath;
mod arena;
mod census;
mod clock;
mod control;
mod journal;
mod killer;
mod pauses;
mod point;
mod random;
mod report;
#[cfg(test)]
mod tests;
mod verdict;
pub mod workloads;

use crate::world::{World, why_not};
use arena::Arena;
use census::Census;
pub use control::Control;
use killer::{Kill, Killer, Victim};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use verdict::Hits;
pub use verdict::{Verdict, Violation};
use workloads::Kind;

/// Longest wait for an answer before it counts as a hang.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest wait for all workloads to end, and for a check.
const END_MAX: Duration = Duration::from_secs(240);

/// Kill the daemon, the frontends or both while real programs work on the mounts, and check that they see
/// a pause and nothing else. Exits with 0 only if nothing at all was wrong.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Kill for so many minutes (default 2, unless --kills is given).
    #[arg(long, conflicts_with = "kills")]
    pub minutes: Option<f64>,
    /// Kill so many times.
    #[arg(long)]
    pub kills: Option<usize>,
    /// Seed of all choices; a new one unless given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many branches are mounted.
    #[arg(long, default_value_t = 2)]
    pub mounts: usize,
    /// Which programs run on each mount.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::defaults())]
    pub workloads: Vec<Kind>,
    /// Who is killed.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Victim::Daemon, Victim::Frontend, Victim::Both])]
    pub victims: Vec<Victim>,
    /// Hold every second victim up at a named point of a request's life before it is killed (needs strace).
    #[arg(long)]
    pub points: bool,
    /// Milliseconds between two kills, on average.
    #[arg(long, default_value_t = 1000)]
    pub every: u64,
    /// Directory below which everything is put; the system's temporary directory unless given.
    #[arg(long)]
    pub scratch: Option<PathBuf>,
    /// Keep the store, its logs and the journals.
    #[arg(long)]
    pub keep: bool,
    /// Print the verdict as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The command that makes the same choices again.
    fn again(&self, seed: u64) -> String {
        let names = |list: &mut dyn Iterator<Item = &'static str>| list.collect::<Vec<_>>().join(",");
        let length = match (self.kills, self.minutes) {
            (Some(kills), _) => format!("--kills {kills}"),
            (None, minutes) => format!("--minutes {}", minutes.unwrap_or(2.0)),
        };
        format!(
            "agentfs-harness chaos {length} --seed {seed} --mounts {} --workloads {} --victims {} --every {}{}",
            self.mounts,
            names(&mut self.workloads.iter().map(|k| k.name())),
            names(&mut self.victims.iter().map(|v| v.name())),
            self.every,
            if self.points { " --points" } else { "" }
        )
    }
}

/// Runs it and prints the verdict.
///
/// # Errors
/// It could not be run, or there were violations.
#[expect(clippy::print_stdout, reason = "its output is the purpose of a command")]
pub fn run(options: &Options) -> Result<(), String> {
    let verdict = judge(options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&verdict).map_err(|e| e.to_string())?);
    } else {
        print!("{}", report::text(&verdict));
    }
    match verdict.violations.len() {
        0 if verdict.interrupted => Err("interrupted; nothing was wrong until then".into()),
        0 => Ok(()),
        n => Err(format!("{n} violations")),
    }
}

/// Runs it.
///
/// # Errors
/// It could not be run.
pub fn judge(options: &Options) -> Result<Verdict, String> {
    if let Some(reason) = why_not() {
        return Err(format!("cannot run: {reason}"));
    }
    let seed = options.seed.unwrap_or_else(|| clock::now() % 1_000_000);
    eprintln!("chaos: {}", options.again(seed));
    let mut skipped = BTreeMap::new();
    let mut kinds = Vec::new();
    for kind in options.workloads.iter().copied() {
        match kind.why_not() {
            Some(reason) => drop(skipped.insert(kind.name().to_owned(), reason)),
            None if kinds.contains(&kind) => {}
            None => kinds.push(kind),
        }
    }
    let no_points = point::why_not().filter(|_| options.points);
    skipped.extend(no_points.clone().map(|reason| ("points".to_owned(), reason)));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|e| format!("cannot receive signals: {e}"))?;
    }
    let scratch = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let world = World::start_below("chaos", &scratch, None).ok_or("real mounts cannot be tested here")?;
    world.allow_leaks(); // They are violations of their own here.
    world.limit(limit(options));
    let mut arena = Arena::set_up(world, options.mounts.max(1), &kinds, seed)?;
    let before = Census::take(&arena.world);
    arena.start()?;
    let begun = Instant::now();
    let every = Duration::from_millis(options.every);
    let mut killer = Killer::new(seed, options.victims.clone(), every);
    if options.points && no_points.is_none() {
        let commands = arena.controls(Kind::Branches);
        if commands.is_empty() {
            let why = "the workload branches, which gives the commands, does not run".to_owned();
            skipped.insert("points of commands".to_owned(), why);
        }
        killer.aim(commands);
    }
    let (kills, mut violations) = kill_until_over(options, &mut killer, &mut arena, &stop);
    violations.extend(arena.finish(END_MAX));
    let seconds = begun.elapsed().as_secs_f64();
    let mut operations = BTreeMap::new();
    for job in &arena.jobs {
        *operations.entry(job.kind.name().to_owned()).or_insert(0) += job.place.control.operations();
    }
    violations.extend(aftermath::check(&mut arena, &before, END_MAX));
    let aims = killer.aims();
    violations.extend(aims.list().filter_map(missed));
    let mut by_victim = BTreeMap::new();
    for kill in &kills {
        *by_victim.entry(kill.victim.name().to_owned()).or_insert(0) += 1;
    }
    let verdict = Verdict {
        seed,
        reproduce: options.again(seed),
        interrupted: stop.load(Ordering::Relaxed),
        seconds,
        mounts: options.mounts.max(1),
        kills: by_victim,
        points: aims.list().map(|(name, aimed, hit)| (name.to_owned(), Hits { aimed, hit })).collect(),
        operations,
        skipped,
        pauses: pauses::measure(&kills, &arena.controls(Kind::Pulse)),
        violations: violations.into_iter().map(|v| Violation::with_events(v.clone(), v.events, &kills)).collect(),
    };
    if options.keep {
        let kept = scratch.join(format!("chaos-{seed}-{}", std::process::id()));
        std::fs::rename(arena.world.dir(), &kept).map_err(|e| format!("cannot keep the directory: {e}"))?;
        eprintln!("chaos: kept in {}", kept.display());
    }
    Ok(verdict)
}

/// The whole run must have ended after this long.
fn limit(options: &Options) -> Duration {
    let kills = options.kills.map_or(0, |n| n as u64 * (options.every + 2000) / 1000);
    let minutes = options.minutes.unwrap_or(2.0).max(0.0) * 60.0;
    Duration::from_secs(kills + minutes as u64) + 4 * END_MAX
}

/// Bytes that must be free: less, and others on this machine would see it too.
const ROOM_MIN: u64 = 4 << 30;

/// Bytes that are free where a directory lies; as good as endless if that cannot be told.
fn room(dir: &std::path::Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// So many kills that aim at a point must hit it once.
const AIMED_MIN: usize = 25;

/// A point that was never hit although it was aimed at often enough: what it is there to prove is not proved.
fn missed((name, aimed, hit): (&'static str, usize, usize)) -> Option<Violation> {
    let never = hit == 0 && aimed >= AIMED_MIN;
    never.then(|| Violation::new("points", format!("{aimed} kills aimed at a point that none hit: {name}")))
}

/// Kills; what was killed, and what was wrong meanwhile.
fn kill_until_over(
    options: &Options,
    killer: &mut Killer,
    arena: &mut Arena,
    stop: &AtomicBool,
) -> (Vec<Kill>, Vec<Violation>) {
    let (mut kills, mut violations) = (Vec::new(), Vec::new());
    if let Err(hang) = await_answers(arena, clock::now()) {
        violations.push(hang);
        return (kills, violations);
    }
    let end = Instant::now() + Duration::from_secs_f64(options.minutes.unwrap_or(2.0).max(0.0) * 60.0);
    let over = |kills: &Vec<Kill>| match options.kills {
        _ if stop.load(Ordering::Relaxed) => true,
        Some(n) => kills.len() >= n,
        None => Instant::now() >= end,
    };
    while !over(&kills) && !arena.jobs.is_empty() {
        let next = killer.next_kill(kills.is_empty());
        if let (false, Some(last)) = (next.at_once, kills.last().map(|k: &Kill| k.at))
            && let Err(hang) = await_answers(arena, last)
        {
            violations.push(hang);
            break;
        }
        std::thread::sleep(next.after);
        match killer.kill(&arena.world, next.victim) {
            Some(kill) => {
                note(arena, &kill);
                kills.push(kill);
            }
            None => {
                violations.push(Violation::new(next.victim.name(), "it does not run, and is not restarted"));
                break;
            }
        }
        if room(arena.world.dir()) < ROOM_MIN {
            let what =
                "the disk is nearly full: the run ends before its programs see that; --scratch names another one";
            violations.push(Violation::new("disk", what));
            break;
        }
        let wrong = arena.look();
        for v in &wrong {
            eprintln!("chaos: after {} kills: {}: {}", kills.len(), v.place, v.what);
        }
        violations.extend(wrong);
        if kills.len().is_multiple_of(50) {
            eprintln!("chaos: {} kills, {} violations", kills.len(), violations.len());
        }
    }
    let hang = kills.last().and_then(|last| await_answers(arena, last.at).err());
    violations.extend(hang);
    (kills, violations)
}

/// Writes a kill down beside the journals.
fn note(arena: &Arena, kill: &Kill) {
    let path = arena.world.out().join("kills");
    let file = std::fs::File::options().append(true).create(true).open(path);
    if let Err(e) = file.and_then(|mut f| writeln!(f, "{}", kill.event())) {
        eprintln!("chaos: cannot write a kill down: {e}");
    }
}

/// Waits until every mount has answered an operation that began after `since`.
fn await_answers(arena: &mut Arena, since: u64) -> Result<(), Violation> {
    let end = Instant::now() + ANSWER_MAX;
    loop {
        let silent = arena.jobs.iter_mut().find(|job| {
            job.kind == Kind::Pulse
                && !job.is_broken()
                && job.place.control.last_pulse().is_none_or(|(begun, _)| begun < since)
        });
        let Some(job) = silent else { return Ok(()) };
        if let Some(violation) = job.look() {
            return Err(violation);
        }
        if Instant::now() > end {
            return Err(job.give_up(&format!("no answer within {ANSWER_MAX:?} of a kill")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
