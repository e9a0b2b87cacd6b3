//! `agentfs-harness fsx`: fsx of crates.io on a branch, in each way of doing input and output, also while snapshots
//! and branches are taken of it.

use super::tool::Tool;
use crate::results::{Outcome, Results};
use crate::world::{World, why_not};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOOL: Tool = Tool { name: "fsx", version: "0.3.2" };

/// Operations in a second at least, beside a minute for the rest: each store through a mapping is followed by a sync, and a
/// busy disk takes long for one. A hang is found all the same.
const PER_SECOND: u64 = 50;

/// Lines of fsx that are kept for a failure's sake.
const TAIL: usize = 2000;

/// A way of doing input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Reads and writes through the page cache.
    Cached,
    /// Mostly through shared mappings.
    Mmap,
    /// With fsync and fdatasync, closing and opening again, and pages thrown away in between.
    Sync,
    /// With holes, allocation and copies between ranges.
    Ranges,
    /// The same with `direct_io`: every read and write is a request.
    Direct,
    /// The same with `writeback_cache`: the kernel writes back when it likes.
    Writeback,
    /// All of it, while snapshots and branches are taken.
    Snapshots,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Mmap => "mmap",
            Self::Sync => "sync",
            Self::Ranges => "ranges",
            Self::Direct => "direct",
            Self::Writeback => "writeback",
            Self::Snapshots => "snapshots",
        }
    }

    /// Options of the mount.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Direct => &["-o", "direct_io"],
            Self::Writeback => &["-o", "writeback_cache"],
            Self::Cached | Self::Mmap | Self::Sync | Self::Ranges | Self::Snapshots => &[],
        }
    }

    fn weights(self) -> &'static str {
        match self {
            Self::Cached => "read = 10\nwrite = 10\nmapread = 0\nmapwrite = 0\ntruncate = 2\nclose_open = 1\n",
            Self::Mmap => "read = 2\nwrite = 2\nmapread = 10\nmapwrite = 10\ntruncate = 2\nclose_open = 1\n",
            Self::Sync => {
                "read = 10\nwrite = 10\nmapread = 5\nmapwrite = 5\ntruncate = 2\nfsync = 1\nfdatasync = 1\n\
                 close_open = 3\ninvalidate = 2\nposix_fadvise = 2\n"
            }
            Self::Ranges | Self::Direct | Self::Writeback | Self::Snapshots => {
                "read = 10\nwrite = 10\nmapread = 5\nmapwrite = 5\ntruncate = 3\nposix_fallocate = 3\npunch_hole = 3\n\
                 sendfile = 3\ncopy_file_range = 3\nclose_open = 1\nfsync = 0.1\n"
            }
        }
    }
}

/// Run fsx on a branch in each mode; fails at the first byte that differs.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Operations in each mode.
    #[arg(long, default_value_t = 20_000)]
    pub ops: u64,
    /// Seed of all choices; a new one unless given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Which modes.
    #[arg(long, value_enum, value_delimiter = ',',
          default_values_t = [Mode::Cached, Mode::Mmap, Mode::Sync, Mode::Ranges, Mode::Direct, Mode::Writeback,
                              Mode::Snapshots])]
    pub modes: Vec<Mode>,
    /// In the mode `snapshots`: operations between two.
    #[arg(long, default_value_t = 1000)]
    pub every: u64,
    /// Where the results go.
    #[arg(long, default_value = "logs")]
    pub logs: PathBuf,
}

/// Runs it.
///
/// # Errors
/// It could not be run, or something differed.
#[expect(clippy::print_stdout, reason = "its output is the purpose of a command")]
pub fn run(options: &Options) -> Result<(), String> {
    if let Some(reason) = why_not() {
        return Err(format!("cannot run: {reason}"));
    }
    let tool = TOOL.find()?;
    let seed = options.seed.unwrap_or_else(|| {
        clock_gettime(ClockId::CLOCK_REALTIME).map_or(1, |t| (t.tv_sec() ^ t.tv_nsec()).cast_unsigned() % 1_000_000)
    });
    let mut results = Results::begin("fsx", &options.logs)?;
    let world = World::start("fsx").ok_or("no world")?;
    let one = Duration::from_secs(60 + options.ops / PER_SECOND);
    world.limit(one * (options.modes.len() as u32 + 1));
    for mode in &options.modes {
        let job = Job { tool: &tool, world: &world, mode: *mode, seed, options, logs: results.dir().to_owned(), one };
        let begun = Instant::now();
        let (outcome, why, snapshots) = match job.run() {
            Ok(snapshots) => (Outcome::Passed, String::new(), snapshots),
            Err(why) => (Outcome::Failed, why, 0),
        };
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{:10} {}: {} operations, seed {seed}, {seconds:.1} s{}",
            mode.name(),
            outcome.name(),
            options.ops,
            if snapshots > 0 { format!(", {snapshots} snapshots") } else { String::new() }
        );
        let more = [
            ("operations", json!(options.ops)),
            ("seed", json!(seed)),
            ("snapshots", json!(snapshots)),
            ("why", json!(why)),
        ];
        results.record(mode.name(), outcome, &more)?;
    }
    world.assert_no_panics();
    let summary = results.finish(&[
        ("version", TOOL.version.into()),
        ("seed", seed.into()),
        ("operations_per_mode", options.ops.into()),
    ])?;
    println!("{}", summary.path.display());
    if summary.failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", summary.failed.join(", "))) }
}

struct Job<'a> {
    tool: &'a Path,
    world: &'a World,
    mode: Mode,
    seed: u64,
    options: &'a Options,
    logs: PathBuf,
    one: Duration,
}

impl Job<'_> {
    /// How many snapshots were taken.
    fn run(&self) -> Result<u64, String> {
        let name = format!("fsx-{}", self.mode.name());
        let mount = self.world.mount_with(&name, None, self.mode.options());
        let config = self.world.out().join("fsx.toml");
        let text = format!("flen = 262144\n[opsize]\nmin = 0\nmax = 65536\n[weights]\n{}", self.mode.weights());
        std::fs::write(&config, text).map_err(|e| format!("cannot write the configuration: {e}"))?;
        let log = File::create(self.logs.join(format!("{}.log", self.mode.name()))).map_err(|e| e.to_string())?;
        let mut command = self.world.command(self.tool);
        command.arg("-f").arg(&config).args(["-N", &self.options.ops.to_string(), "-S", &self.seed.to_string()]);
        command.arg("-P").arg(&self.logs).arg(mount.join("file"));
        let snapshots = if self.mode == Mode::Snapshots {
            self.watched(&mut command, &name, log)?
        } else {
            command.stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
            let mut child = command.spawn().map_err(|e| format!("cannot start fsx: {e}"))?;
            let end = Instant::now() + self.one;
            let status = loop {
                if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                    break status;
                }
                if Instant::now() > end {
                    child.kill().map_err(|e| e.to_string())?;
                    drop(child.wait());
                    return Err(format!("not done after {:?}", self.one));
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            if !status.success() {
                return Err(format!("{status}, see {}.log", self.mode.name()));
            }
            0
        };
        self.world.umount(&mount);
        Ok(snapshots)
    }

    /// fsx says a line for each operation; every so many of them it waits for us at a full pipe while a snapshot
    /// and a branch of it are made. What the branch shows is what the file is then or a moment later.
    fn watched(&self, command: &mut Command, name: &str, mut log: File) -> Result<u64, String> {
        command.arg("-v").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("cannot start fsx: {e}"))?;
        let said = child.stderr.take().ok_or("no pipe")?;
        let (mut taken, mut kept) = (0, std::collections::VecDeque::new());
        for (n, line) in BufReader::new(said).split(b'\n').enumerate() {
            let line = line.map_err(|e| format!("cannot read what fsx says: {e}"))?;
            if kept.len() == TAIL {
                kept.pop_front();
            }
            kept.push_back(line);
            if (n as u64 + 1).is_multiple_of(self.options.every) {
                taken += 1;
                self.world.snapshot(name, &format!("s{taken}"));
                self.world.branch_from(&format!("{name}-{taken}"), &format!("{name}@s{taken}"));
            }
        }
        let status = child.wait().map_err(|e| e.to_string())?;
        for line in kept {
            log.write_all(&line).and_then(|()| log.write_all(b"\n")).map_err(|e| e.to_string())?;
        }
        if !status.success() {
            return Err(format!("{status}, see snapshots.log"));
        }
        if taken == 0 { Err("no snapshot was taken".into()) } else { Ok(taken) }
    }
}
