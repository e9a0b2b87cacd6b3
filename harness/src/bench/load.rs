//! What the workloads work on, and what they are made of.

use crate::run::run;
use crate::sys;
use crate::world::World;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(900);
/// Modules of the program that is built.
const MODULES: usize = 40;

/// Prepared once, outside of all sides' directories.
pub(super) struct Inputs {
    /// A bare repository.
    pub(super) origin: PathBuf,
    /// An archive of its files.
    pub(super) archive: PathBuf,
    /// The compiler, where there is one.
    pub(super) cargo: Option<Cargo>,
    /// Files of the small-file workloads.
    pub(super) files: u32,
    /// Bytes of the sequential workloads, in MiB.
    pub(super) size_mib: u32,
}

/// How to run cargo although `HOME` is another one.
#[derive(Debug, Clone)]
pub(super) struct Cargo(Vec<(&'static str, PathBuf)>);

impl Cargo {
    fn find(world: &World) -> Option<Self> {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        let of = |name, below: &str| {
            let dir = std::env::var_os(name).map_or_else(|| home.join(below), PathBuf::from);
            dir.is_dir().then_some((name, dir))
        };
        let cargo = Self([of("RUSTUP_HOME", ".rustup"), of("CARGO_HOME", ".cargo")].into_iter().flatten().collect());
        let answers = cargo.command(world).arg("--version").output().is_ok_and(|out| out.status.success());
        if !answers {
            eprintln!("without `cargo build`: there is no cargo");
        }
        answers.then_some(cargo)
    }

    fn command(&self, world: &World) -> std::process::Command {
        let mut command = world.command("cargo");
        command.envs(self.0.iter().map(|(name, dir)| (name, dir))).env_remove("CARGO_TARGET_DIR");
        command
    }

    /// Builds the program in a directory, where the results go too.
    pub(super) fn build(&self, world: &World, dir: &Path) -> Result<(), String> {
        succeed(self.command(world).args(["build", "-q", "--offline"]).current_dir(dir))
    }
}

pub(super) fn io<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn succeed(command: &mut std::process::Command) -> Result<(), String> {
    let out = run(command, LIMIT);
    if out.status.success() { Ok(()) } else { Err(out.to_string()) }
}

pub(super) fn tool(world: &World, dir: &Path, program: &str, args: &[&str]) -> Result<(), String> {
    succeed(world.command(program).args(args).current_dir(dir))
}

pub(super) fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

/// Runs a `git grep` that must find nothing.
pub(super) fn finds_nothing(world: &World, dir: &Path, args: &[&str]) -> Result<(), String> {
    let out = run(world.command("git").args(args).current_dir(dir), LIMIT);
    if out.status.code() == Some(1) { Ok(()) } else { Err(out.to_string()) }
}

/// Gives a work tree an index that makes `git status` read no file.
pub(super) fn settle_index(world: &World, tree: &Path) -> Result<(), String> {
    // An index of the same second as the files makes git read them again.
    std::thread::sleep(Duration::from_millis(1100));
    tool(world, tree, "git", &["update-index", "--force-write-index"])?;
    tool(world, tree, "git", &["status", "--porcelain"])
}

/// A program of many small modules and nothing from elsewhere.
pub(super) fn small_crate(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir.join("src"))?;
    let manifest = "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    std::fs::write(dir.join("Cargo.toml"), manifest)?;
    let mut main = String::new();
    for n in 0..MODULES {
        main.push_str(&format!("mod m{n};\n"));
        let module = format!("pub fn value() -> u64 {{\n    (0..{n}u64).map(|v| v * v).sum()\n}}\n");
        std::fs::write(dir.join(format!("src/m{n}.rs")), module)?;
    }
    main.push_str("fn main() {\n");
    (0..MODULES).for_each(|n| main.push_str(&format!("    println!(\"{{}}\", m{n}::value());\n")));
    main.push_str("}\n");
    std::fs::write(dir.join("src/main.rs"), main)
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
        Ok(Self { origin, archive, cargo: Cargo::find(world), files, size_mib })
    }

    /// Fills what a branch is made of: a work tree in `repo`, and `plain` files, which the rounds append to.
    pub(super) fn fill_base(&self, world: &World, dir: &Path, plain: u32) -> Result<(), String> {
        let repo = dir.join("repo");
        tool(world, dir, "git", &["clone", "-q", text(&self.origin)?, text(&repo)?])?;
        settle_index(world, &repo)?;
        io("plain", std::fs::create_dir(dir.join("plain")))?;
        (0..plain).try_for_each(|n| {
            io("plain", std::fs::write(dir.join(format!("plain/f{n}")), sys::pattern(u64::from(n), 16 << 10)))
        })
    }
}

/// Median latency of attributes asked of the file system itself, not of a cache, in microseconds.
pub(super) fn getattr(path: &Path, calls: usize) -> Result<f64, String> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        // Without birth time, which another kind of request asks for.
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

/// Lists everything below and asks for the attributes of each, as programs in C do or, with birth times, as those in Rust and
/// Node; the number of entries.
pub(super) fn walk(root: &Path, birth_times: bool) -> Result<u64, String> {
    let mut count = 0;
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in io("walk", std::fs::read_dir(&dir))? {
            let path = io("walk", entry)?.path();
            count += 1;
            let is_dir = if birth_times {
                io("walk", std::fs::symlink_metadata(&path))?.is_dir()
            } else {
                let stat = sys::lstat(&path).map_err(|e| format!("walk: {e}"))?;
                rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
            };
            if is_dir {
                todo.push(path);
            }
        }
    }
    Ok(count)
}
