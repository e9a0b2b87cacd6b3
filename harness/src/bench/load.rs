//! The workloads: each runs in one directory, on the host or on a mount, and tells its times.

use super::report::Report;
use crate::run::run;
use crate::sys;
use crate::world::World;
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(900);

/// What the workloads work on, prepared once outside of both directories.
pub(super) struct Inputs {
    /// A bare repository.
    pub(super) origin: PathBuf,
    /// An archive of its files.
    pub(super) archive: PathBuf,
    /// Files of the small-file workloads.
    pub(super) files: u32,
    /// Bytes of the sequential workloads, in MiB.
    pub(super) size_mib: u32,
}

/// How to make caches cold.
pub(super) type Chill<'a> = &'a dyn Fn() -> Result<(), String>;

fn io<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn tool(world: &World, dir: &Path, program: &str, args: &[&str]) -> Result<Duration, String> {
    let out = run(world.command(program).args(args).current_dir(dir), LIMIT);
    if out.status.success() { Ok(out.elapsed) } else { Err(out.to_string()) }
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

impl Inputs {
    /// Makes a repository of `files / 4` source files with a little history, and an archive of it.
    pub(super) fn prepare(world: &World, files: u32, size_mib: u32) -> Result<Self, String> {
        let work = world.out().join("work");
        for n in 0..files / 4 {
            let dir = work.join(format!("pkg{}/src{}", n % 40, n % 5));
            io("input", std::fs::create_dir_all(&dir))?;
            io(
                "input",
                std::fs::write(dir.join(format!("f{n}.rs")), sys::pattern(u64::from(n), 200 + n as usize % 12_000)),
            )?;
        }
        for args in [&["init", "-q", "-b", "main"][..], &["add", "."], &["commit", "-q", "-m", "all"]] {
            tool(world, &work, "git", args)?;
        }
        let (origin, archive) = (world.out().join("origin.git"), world.out().join("tree.tar"));
        tool(world, world.dir(), "git", &["clone", "-q", "--bare", text(&work)?, text(&origin)?])?;
        tool(world, world.dir(), "tar", &["-C", text(&work)?, "--exclude=.git", "-cf", text(&archive)?, "."])?;
        io("input", std::fs::remove_dir_all(&work))?;
        Ok(Self { origin, archive, files, size_mib })
    }

    /// Runs every workload once in `dir`, which is empty, and leaves it empty.
    pub(super) fn round(
        &self,
        world: &World,
        dir: &Path,
        mount: bool,
        chill: Chill<'_>,
        report: &mut Report,
    ) -> Result<(), String> {
        let mut note = |name: &str, time: Duration| report.pair(name, "ms", mount, time.as_secs_f64() * 1e3);
        let clone = dir.join("clone");
        note("git clone", tool(world, dir, "git", &["clone", "-q", text(&self.origin)?, text(&clone)?])?);
        // An index of the same second as the files makes git read them again.
        std::thread::sleep(Duration::from_millis(1100));
        tool(world, &clone, "git", &["update-index", "--force-write-index"])?;
        tool(world, &clone, "git", &["status", "--porcelain"])?;
        for _ in 0..3 {
            note("git status, warm", tool(world, &clone, "git", &["status", "--porcelain"])?);
        }
        chill()?;
        note("git status, cold", tool(world, &clone, "git", &["status", "--porcelain"])?);
        note("rm -rf of the clone", tool(world, dir, "rm", &["-rf", "clone"])?);
        let tree = dir.join("tree");
        io("mkdir", std::fs::create_dir(&tree))?;
        note("untar", tool(world, &tree, "tar", &["-xf", text(&self.archive)?])?);
        note("rm -rf", tool(world, dir, "rm", &["-rf", "tree"])?);
        self.small(dir, chill, &mut note)?;
        self.sequential(dir, chill, &mut note)
    }

    fn small(&self, dir: &Path, chill: Chill<'_>, note: &mut impl FnMut(&str, Duration)) -> Result<(), String> {
        let at = |n: u32| dir.join(format!("many/f{n}"));
        io("mkdir", std::fs::create_dir(dir.join("many")))?;
        let label = |what: &str| format!("{what} {} files", self.files);
        let timed = |work: &mut dyn FnMut(u32) -> Result<(), String>| -> Result<Duration, String> {
            let begun = Instant::now();
            (0..self.files).try_for_each(work)?;
            Ok(begun.elapsed())
        };
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fail = |e: sys::Errno| format!("small files: {e}");
        let time = timed(&mut |n| sys::open(&at(n), create, 0o644).map(drop).map_err(fail))?;
        note(&label("create"), time);
        note(&label("stat"), timed(&mut |n| sys::lstat(&at(n)).map(drop).map_err(fail))?);
        note(&label("unlink"), timed(&mut |n| sys::unlink(&at(n)).map_err(fail))?);
        let data = sys::pattern(1, 4096);
        note(&label("write 4 KiB,"), timed(&mut |n| io("write", std::fs::write(at(n), &data)))?);
        note(&label("read 4 KiB, warm,"), timed(&mut |n| io("read", std::fs::read(at(n)).map(drop)))?);
        chill()?;
        note(&label("read 4 KiB, cold,"), timed(&mut |n| io("read", std::fs::read(at(n)).map(drop)))?);
        io("rm", std::fs::remove_dir_all(dir.join("many")))
    }

    fn sequential(&self, dir: &Path, chill: Chill<'_>, note: &mut impl FnMut(&str, Duration)) -> Result<(), String> {
        let path = dir.join("big");
        let mut piece = sys::pattern(2, 1 << 20);
        let begun = Instant::now();
        let mut file = io("create", std::fs::File::create(&path))?;
        for _ in 0..self.size_mib {
            io("write", file.write_all(&piece))?;
        }
        drop(file);
        note(&format!("write {} MiB", self.size_mib), begun.elapsed());
        for (when, cold) in [("warm", false), ("cold", true)] {
            if cold {
                chill()?;
            }
            let begun = Instant::now();
            let mut file = io("open", std::fs::File::open(&path))?;
            for _ in 0..self.size_mib {
                io("read", file.read_exact(&mut piece))?;
            }
            note(&format!("read {} MiB, {when}", self.size_mib), begun.elapsed());
        }
        io("rm", std::fs::remove_file(&path))
    }
}

/// Median latency of attributes asked of the file system itself, not of a cache, in microseconds.
pub(super) fn getattr(path: &Path, calls: usize) -> Result<f64, String> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        // Without btime: that would be another request, which is not served.
        rustix::fs::statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)
            .map_err(|e| format!("statx: {e}"))?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times.get(calls / 2).map_or(0.0, |t| t.as_secs_f64() * 1e6))
}

/// Makes so many entries in directories of 1,000 files.
pub(super) fn plant(root: &Path, entries: u64) -> Result<(), String> {
    let mut made = 0;
    let mut dir_number = 0;
    while made < entries {
        let dir = root.join(format!("d{}/d{}", dir_number / 100, dir_number));
        io("base", std::fs::create_dir_all(&dir))?;
        dir_number += 1;
        made += 1;
        for n in 0..999.min(entries.saturating_sub(made)) {
            io("base", std::fs::File::create(dir.join(format!("file-{n}"))))?;
            made += 1;
        }
    }
    Ok(())
}

/// Lists and stats everything below; the number of entries.
pub(super) fn walk(root: &Path) -> Result<u64, String> {
    let mut count = 0;
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in io("walk", std::fs::read_dir(&dir))? {
            let path = io("walk", entry)?.path();
            count += 1;
            if io("walk", std::fs::symlink_metadata(&path))?.is_dir() {
                todo.push(path);
            }
        }
    }
    Ok(count)
}
