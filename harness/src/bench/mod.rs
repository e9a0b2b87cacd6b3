//! A branch mount beside the host directory and beside other file systems, all on one fresh ext4.
//!
//! Base, store, the host's own directory and the layers of the others lie on one image over a loop device in `/dev/shm`;
//! the sides take turns within each round, so that a drift of the machine meets all of them.

mod depth;
mod flat;
mod gc;
mod image;
mod load;
mod meter;
mod report;
mod safety;
mod scale;
mod side;
mod turn;

use crate::world::World;
use image::Image;
use load::Inputs;
use report::Report;
use side::{Peer, Side};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use turn::Turn;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds of every workload.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Sizes of the bases over which branches are made.
    #[arg(long, value_delimiter = ',', default_value = "100,10000,1000000")]
    pub entries: Vec<u64>,
    /// Numbers of changes that are compared, committed and merged.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,100000")]
    pub changes: Vec<u64>,
    /// Files of the small-file workloads.
    #[arg(long, default_value_t = 10_000)]
    pub files: u32,
    /// Size of the sequential workloads, in MiB.
    #[arg(long, default_value_t = 1024)]
    pub size_mib: u32,
    /// Entries of the tree that is walked.
    #[arg(long, default_value_t = 100_000)]
    pub walk: u64,
    /// Size of the image, in GiB.
    #[arg(long, default_value_t = 8)]
    pub image_gib: u64,
    /// Branches without changes, of which the mean is taken.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub empty: u64,
    /// Branches, and snapshots of one branch, that all changed the same directories.
    #[arg(long, default_value_t = 1000)]
    pub versions: u64,
    /// Only these parts: `load`, `branch`, `depth` (which has `flat`, `changes` and `gc`), `walk`, `start`, `safety`.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Also run the workloads on overlayfs, fuse-overlayfs, and what `--passthrough-hp` names.
    #[arg(long)]
    pub peers: bool,
    /// Where libfuse's example `passthrough_hp` is.
    #[arg(long, value_name = "PROGRAM", requires = "peers")]
    pub passthrough_hp: Option<PathBuf>,
    /// Write the results as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Fail if a workload's ratio of mount to host is worse than in this file, which an earlier run wrote by `--json`.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// How many times the ratio of the baseline is still as good.
    #[arg(long, default_value_t = 1.5, requires = "baseline")]
    pub tolerance: f64,
}

/// Measures, prints, and cleans up, also on failure or when told to stop.
#[expect(clippy::print_stdout, reason = "the results are the purpose of the command")]
pub fn run(options: &Options) -> Result<(), String> {
    if let Some(reason) = crate::world::why_not() {
        return Err(format!("cannot measure real mounts: {reason}"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Noticed between workloads: the guards then clean up as on any failure.
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|e| format!("signals: {e}"))?;
    }
    let most = options.entries.iter().sum::<u64>()
        + options.entries.iter().max().unwrap_or(&0)
        + options.changes.iter().sum::<u64>() * 4
        + options.walk
        + u64::from(options.files) * 8
        + options.versions * 20;
    let image = Image::new(options.image_gib, most + 500_000)?;
    let mut report = Report::default();
    let result = measure(options, image.path(), &stop, &mut report);
    println!("{}", report.text());
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report.json()).map_err(|e| e.to_string())?;
        std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    result?;
    options.baseline.as_deref().map_or(Ok(()), |path| gate(&report, path, options.tolerance))
}

fn gate(report: &Report, baseline: &Path, tolerance: f64) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", baseline.display());
    let text = std::fs::read_to_string(baseline).map_err(|e| failed(&e))?;
    let earlier = serde_json::from_str(&text).map_err(|e| failed(&e))?;
    let worse = report.worse_than(&earlier, tolerance).map_err(|e| failed(&e))?;
    if worse.is_empty() { Ok(()) } else { Err(format!("slower than the baseline:\n  {}", worse.join("\n  "))) }
}

fn measure(options: &Options, image: &Path, stop: &AtomicBool, report: &mut Report) -> Result<(), String> {
    let Some(world) = World::start_below("bench", image, None) else { return Ok(()) };
    world.limit(Duration::from_secs(4 * 3600));
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|o| o == part);
    let go_on = || if stop.load(Ordering::Relaxed) { Err("stopped by a signal".to_owned()) } else { Ok(()) };
    if wanted("load") {
        eprintln!("preparing");
        workloads(options, &world, &go_on, report)?;
    }
    if wanted("walk") {
        eprintln!("walking {} entries", options.walk);
        scale::walk(&world, options, report)?;
        go_on()?;
    }
    if wanted("branch") {
        eprintln!("branches over {:?} entries", options.entries);
        scale::branches(&world, options, report)?;
        go_on()?;
    }
    if wanted("depth") || wanted("changes") {
        eprintln!("many branches, many changes");
        depth::measure(&world, options, report)?;
        go_on()?;
    }
    if wanted("depth") || wanted("flat") {
        eprintln!("beside {} branches and snapshots", options.versions);
        flat::measure(&world, options, report)?;
        go_on()?;
    }
    if wanted("depth") || wanted("gc") {
        eprintln!("garbage");
        gc::measure(&world, options, report)?;
        go_on()?;
    }
    if wanted("start") {
        eprintln!("starts");
        scale::start(&world, options, report)?;
        go_on()?;
    }
    if wanted("safety") {
        eprintln!("reply records and the sandbox");
        safety::replies(&world, options, report)?;
        go_on()?;
        safety::sandbox(&world, options, report)?;
    }
    Ok(())
}

fn drop_caches() -> Result<(), String> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| format!("drop_caches: {e}"))
}

fn workloads(
    options: &Options,
    world: &World,
    go_on: &dyn Fn() -> Result<(), String>,
    report: &mut Report,
) -> Result<(), String> {
    let inputs = Inputs::prepare(world, options.files, options.size_mib)?;
    let host = world.out().join("host");
    std::fs::create_dir(&host).map_err(|e| format!("host: {e}"))?;
    let base = world.base("work");
    for dir in [&host, &base] {
        inputs.fill_base(world, dir, turn::APPENDED * options.rounds)?;
    }
    let mnt = world.mount("work", Some(&base));
    let peers = if options.peers {
        Peer::all(&base, &world.out().join("peers"), options.passthrough_hp.as_deref())?
    } else {
        Vec::new()
    };
    let mut sides: Vec<(Side, Option<&Peer>)> = vec![(Side::Host, None), (Side::Mount, None)];
    sides.extend(peers.iter().map(|peer| (peer.side, Some(peer))));
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for (side, peer) in &sides {
            go_on()?;
            let chill = || {
                match (side, peer) {
                    (Side::Mount, _) => world.remount("work", &mnt),
                    (_, Some(peer)) => peer.remount()?,
                    _ => {}
                }
                drop_caches()
            };
            let dir = match side {
                Side::Host => host.clone(),
                Side::Mount => mnt.clone(),
                _ => peer.map(Peer::mountpoint).unwrap_or_default(),
            };
            let turn = Turn { world, inputs: &inputs, side: *side, dir, round, chill: &chill, report: &mut *report };
            { turn }.run().map_err(|e| format!("{}: {e}", side.name()))?;
        }
        // Who goes first changes from round to round.
        sides.rotate_left(1);
    }
    drop(peers);
    world.umount(&mnt);
    Ok(())
}
