//! The workloads: one side runs them all in its turn, in a directory over a prepared base.

use super::load::{self, Inputs, io, text, tool};
use super::meter;
use super::report::Report;
use super::side::Side;
use crate::sys;
use crate::world::World;
use rustix::fs::OFlags;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Writes at random places of the big file.
const RANDOM_WRITES: u64 = 5000;
/// Writes that are synced.
const SYNCED_WRITES: u32 = 200;
/// Files of the base that are appended to in each round.
pub(super) const APPENDED: u32 = 200;
/// Threads that write at a time.
const WRITERS: u32 = 4;

/// One side, its directory, and how to make its caches cold.
pub(super) struct Turn<'a> {
    pub(super) world: &'a World,
    pub(super) inputs: &'a Inputs,
    pub(super) side: Side,
    pub(super) dir: PathBuf,
    pub(super) round: u32,
    pub(super) chill: &'a dyn Fn() -> Result<(), String>,
    pub(super) report: &'a mut Report,
}

impl Turn<'_> {
    /// Runs every workload once, and leaves the directory as it was but for the files that were appended to.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.on_the_base()?;
        self.new_trees()?;
        self.small_files()?;
        self.big_file()?;
        self.synced()
    }

    fn time(&mut self, name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let mut took = None;
        let timed = || {
            let begun = Instant::now();
            let result = work();
            took = Some(begun.elapsed());
            result.map_err(|e| format!("{name}: {e}"))
        };
        if self.side == Side::Mount {
            let cost = meter::measured(self.world, timed)?;
            self.report.cost(name, "ms", &cost);
        } else {
            timed()?;
        }
        let millis = took.unwrap_or_default().as_secs_f64() * 1e3;
        self.report.sample(name, "ms", self.side, millis);
        Ok(())
    }

    fn tool(&mut self, name: &str, dir: &Path, program: &str, args: &[&str]) -> Result<(), String> {
        let world = self.world;
        self.time(name, || tool(world, dir, program, args))
    }

    /// What an agent finds: a work tree in the base.
    fn on_the_base(&mut self) -> Result<(), String> {
        let repo = self.dir.join("repo");
        (self.chill)()?;
        self.tool("base: git status, cold", &repo, "git", &["status", "--porcelain"])?;
        for _ in 0..3 {
            self.tool("base: git status, warm", &repo, "git", &["status", "--porcelain"])?;
        }
        // The pattern is in no file: all of them are read.
        let grep = ["grep", "-q", "-e", "found-nowhere", "--or", "-e", "nor-this"];
        let world = self.world;
        (self.chill)()?;
        for name in ["base: git grep, cold", "base: git grep, warm"] {
            self.time(name, || load::finds_nothing(world, &repo, &grep))?;
        }
        let dir = self.dir.clone();
        self.time("base: walk and lstat, warm", || load::walk(&dir, false).map(drop))?;
        let first = self.round * APPENDED;
        self.time(&format!("base: append to {APPENDED} files"), || {
            (first..first + APPENDED).try_for_each(|n| {
                let mut file =
                    io("open", std::fs::OpenOptions::new().append(true).open(dir.join(format!("plain/f{n}"))))?;
                io("append", file.write_all(b"x"))
            })
        })
    }

    fn new_trees(&mut self) -> Result<(), String> {
        let (dir, clone, tree, copy) =
            (self.dir.clone(), self.dir.join("clone"), self.dir.join("tree"), self.dir.join("copy"));
        let (origin, archive) = (self.inputs.origin.clone(), self.inputs.archive.clone());
        self.tool("git clone", &dir, "git", &["clone", "-q", text(&origin)?, text(&clone)?])?;
        load::settle_index(self.world, &clone)?;
        for _ in 0..3 {
            self.tool("git status, warm", &clone, "git", &["status", "--porcelain"])?;
        }
        (self.chill)()?;
        self.tool("git status, cold", &clone, "git", &["status", "--porcelain"])?;
        self.tool("rm -rf of the clone", &dir, "rm", &["-rf", "clone"])?;
        io("mkdir", std::fs::create_dir(&tree))?;
        self.tool("untar", &tree, "tar", &["-xf", text(&archive)?])?;
        self.tool("cp -a", &dir, "cp", &["-a", text(&tree)?, text(&copy)?])?;
        self.tool("rm -rf", &dir, "rm", &["-rf", "tree"])?;
        tool(self.world, &dir, "rm", &["-rf", "copy"])?;
        if let Some(cargo) = self.inputs.cargo.clone() {
            let krate = dir.join("crate");
            io("crate", load::small_crate(&krate))?;
            let world = self.world;
            self.time("cargo build", || cargo.build(world, &krate))?;
            tool(self.world, &dir, "rm", &["-rf", "crate"])?;
        }
        Ok(())
    }

    fn small_files(&mut self) -> Result<(), String> {
        let many = self.dir.join("many");
        let files = self.inputs.files;
        let at = |n: u32| many.join(format!("f{n}"));
        io("mkdir", std::fs::create_dir(&many))?;
        let label = |what: &str| format!("{what} {files} files");
        let each = |work: &dyn Fn(u32) -> Result<(), String>| (0..files).try_for_each(work);
        let fail = |e: sys::Errno| e.to_string();
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        self.time(&label("create"), || each(&|n| sys::open(&at(n), create, 0o644).map(drop).map_err(fail)))?;
        self.time(&label("lstat, warm,"), || each(&|n| sys::lstat(&at(n)).map(drop).map_err(fail)))?;
        self.time(&label("open and close"), || {
            each(&|n| sys::open(&at(n), OFlags::RDONLY, 0).map(drop).map_err(fail))
        })?;
        self.time(&label("list and lstat, warm,"), || load::walk(&many, false).map(drop))?;
        (self.chill)()?;
        self.time(&label("list and lstat, cold,"), || load::walk(&many, false).map(drop))?;
        let other = |n: u32| many.join(format!("g{n}"));
        self.time(&label("rename"), || each(&|n| sys::rename(&at(n), &other(n)).map_err(fail)))?;
        self.time(&format!("look up {files} missing names"), || {
            each(&|n| match sys::lstat(&many.join(format!("missing-{n}"))) {
                Err(sys::Errno::NOENT) => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })?;
        self.time(&label("unlink"), || each(&|n| sys::unlink(&other(n)).map_err(fail)))?;
        let data = sys::pattern(1, 4096);
        self.time(&label("write 4 KiB,"), || each(&|n| io("write", std::fs::write(at(n), &data))))?;
        self.time(&label("read 4 KiB, warm,"), || each(&|n| io("read", std::fs::read(at(n)).map(drop))))?;
        (self.chill)()?;
        self.time(&label("read 4 KiB, cold,"), || each(&|n| io("read", std::fs::read(at(n)).map(drop))))?;
        io("rm", std::fs::remove_dir_all(&many))
    }

    fn big_file(&mut self) -> Result<(), String> {
        let path = self.dir.join("big");
        let mib = self.inputs.size_mib;
        let mut piece = sys::pattern(2, 1 << 20);
        self.time(&format!("write {mib} MiB"), || {
            let mut file = io("create", std::fs::File::create(&path))?;
            (0..mib).try_for_each(|_| io("write", file.write_all(&piece)))
        })?;
        for cold in [false, true] {
            if cold {
                (self.chill)()?;
            }
            self.time(&format!("read {mib} MiB, {}", if cold { "cold" } else { "warm" }), || {
                let mut file = io("open", std::fs::File::open(&path))?;
                (0..mib).try_for_each(|_| io("read", file.read_exact(&mut piece)))
            })?;
        }
        let block = sys::pattern(3, 4096);
        self.time(&format!("write 4 KiB at random, {RANDOM_WRITES} times"), || {
            let file = io("open", std::fs::OpenOptions::new().write(true).open(&path))?;
            let blocks = u64::from(mib) * 256;
            // Multiplying by an odd number visits the blocks in an order without locality.
            (0..RANDOM_WRITES).try_for_each(|n| {
                io("write", file.write_all_at(&block, n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % blocks * 4096))
            })
        })?;
        io("rm", std::fs::remove_file(&path))?;
        let dir = self.dir.clone();
        self.time(&format!("write {mib} MiB by {WRITERS}"), || {
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..WRITERS)
                    .map(|n| {
                        let (dir, piece) = (&dir, &piece);
                        scope.spawn(move || {
                            let mut file = io("create", std::fs::File::create(dir.join(format!("part{n}"))))?;
                            (0..mib / WRITERS).try_for_each(|_| io("write", file.write_all(piece)))
                        })
                    })
                    .collect();
                writers.into_iter().try_for_each(|w| w.join().map_err(|_| "a writer panicked".to_owned())?)
            })
        })?;
        (0..WRITERS).try_for_each(|n| io("rm", std::fs::remove_file(dir.join(format!("part{n}")))))
    }

    fn synced(&mut self) -> Result<(), String> {
        let path = self.dir.join("synced");
        let block = sys::pattern(4, 4096);
        self.time(&format!("write 4 KiB and fsync, {SYNCED_WRITES} times"), || {
            let mut file = io("create", std::fs::File::create(&path))?;
            (0..SYNCED_WRITES).try_for_each(|_| {
                io("write", file.write_all(&block))?;
                io("fsync", file.sync_all())
            })
        })?;
        io("rm", std::fs::remove_file(&path))
    }
}
