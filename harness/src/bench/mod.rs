//! A branch mount beside the host directory, on one fresh file system.
//!
//! Base, store and the host's own directory lie on one ext4 image over a loop device in `/dev/shm`;
//! the two sides take turns within each round, so that a drift of the machine meets both.

mod image;
mod load;
mod report;
mod safety;
mod scale;

use crate::world::World;
use image::Image;
use load::Inputs;
use report::Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds of every workload.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Sizes of the bases over which branches are made.
    #[arg(long, value_delimiter = ',', default_value = "100,10000,1000000")]
    pub entries: Vec<u64>,
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
    /// Only these parts: `load`, `branch`, `walk`, `start`, `safety`.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Write the results as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
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
    let most = options.entries.iter().sum::<u64>() + options.walk + u64::from(options.files) * 8;
    let image = Image::new(options.image_gib, most + 500_000)?;
    let mut report = Report::default();
    let result = measure(options, image.path(), &stop, &mut report);
    println!("{}", report.text());
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report.json()).map_err(|e| e.to_string())?;
        std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    result
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
    let mnt = world.mount("work", Some(&base));
    let remount = || {
        world.remount("work", &mnt);
        drop_caches()
    };
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        // Which side goes first changes from round to round.
        for mount in [round % 2 == 1, round % 2 == 0] {
            go_on()?;
            if mount {
                inputs.round(world, &mnt, true, &remount, report)?;
            } else {
                inputs.round(world, &host, false, &drop_caches, report)?;
            }
        }
    }
    world.umount(&mnt);
    Ok(())
}
