//! A private installation of the product for one test.

mod client;
mod logs;

pub use client::{Change, Changes};

use crate::bins::{Bins, NEEDED};
use crate::run::{Output, Running, WORLD_DIR, run};
use crate::watchdog::Watchdog;
use crate::{mounts, procs};
use std::cell::Cell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Limit of one command.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Limit of a whole test, unless [`World::limit`] says otherwise.
pub const TEST_LIMIT: Duration = Duration::from_secs(180);

/// A private temporary directory with a store, a socket, a place for bases (`host/`) and mountpoints
/// (`mnt/`). When it is dropped, its mounts are taken away, its processes ended, and anything that
/// does not go by itself is a failure of the test.
#[derive(Debug)]
pub struct World {
    name: String,
    dir: PathBuf,
    store: PathBuf,
    socket: PathBuf,
    bins: Bins,
    watchdog: Watchdog,
    mountpoints: Cell<u32>,
    leaks_allowed: Cell<bool>,
    _temp: tempfile::TempDir,
}

/// Why real mounts cannot be tested here, if they cannot.
pub fn why_not() -> Option<&'static str> {
    if !Path::new("/dev/fuse").exists() {
        return Some("/dev/fuse is missing");
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    None
}

impl World {
    /// A world, or `None` after saying why real mounts cannot be tested on this machine. Missing binaries
    /// are no reason to skip: that panics.
    #[track_caller]
    pub fn start(name: &str) -> Option<Self> {
        Self::start_with(name, None)
    }

    /// The same with the store at a place of the test's choice.
    #[track_caller]
    pub fn start_with(name: &str, store: Option<&Path>) -> Option<Self> {
        Self::start_below(name, &std::env::temp_dir(), store)
    }

    /// The same with everything below a given directory.
    #[track_caller]
    pub fn start_below(name: &str, parent: &Path, store: Option<&Path>) -> Option<Self> {
        if let Some(reason) = why_not() {
            eprintln!("skipped: {name}: {reason}");
            return None;
        }
        let bins = Bins::find().unwrap_or_else(|e| panic!("{e}"));
        let temp = tempfile::Builder::new().prefix("afs-").tempdir_in(parent).expect("a temporary directory");
        let dir = temp.path().to_path_buf();
        let store = store.map_or_else(|| dir.join("store"), Path::to_path_buf);
        let socket = dir.join("sock");
        for sub in ["host", "mnt", "home", "out"] {
            std::fs::create_dir(dir.join(sub)).expect("a directory of the world");
        }
        // Unprivileged programs of a test must reach their mounts.
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let watchdog = Watchdog::start(name.to_owned(), dir.clone(), TEST_LIMIT);
        Some(Self {
            name: name.to_owned(),
            dir,
            store,
            socket,
            bins,
            watchdog,
            mountpoints: Cell::new(0),
            leaks_allowed: Cell::new(false),
            _temp: temp,
        })
    }

    /// The same with an installation of its own, whose programs the test may replace.
    #[track_caller]
    pub fn start_installed(name: &str) -> Option<Self> {
        let mut world = Self::start(name)?;
        let built: Vec<PathBuf> = NEEDED.iter().map(|name| world.bins.path(name)).collect();
        world.bins = Bins::in_dir(world.public_copies(&built.iter().map(PathBuf::as_path).collect::<Vec<_>>()));
        Some(world)
    }

    /// Gives the test this long from now.
    pub fn limit(&self, limit: Duration) {
        self.watchdog.extend(limit);
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Its daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The binaries.
    pub fn bins(&self) -> &Bins {
        &self.bins
    }

    /// A directory for what a test keeps outside of any base and mount.
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// A new, empty directory below the allowed prefix, to be a base.
    #[track_caller]
    pub fn base(&self, name: &str) -> PathBuf {
        let base = self.dir.join("host").join(name);
        std::fs::create_dir_all(&base).expect("a base directory");
        base
    }

    /// A new, empty directory to mount on.
    #[track_caller]
    pub fn mountpoint(&self) -> PathBuf {
        let n = self.mountpoints.get() + 1;
        self.mountpoints.set(n);
        let path = self.dir.join(format!("mnt/m{n}"));
        std::fs::create_dir(&path).expect("a mountpoint");
        path
    }

    /// Any command with the environment of this world.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("AGENTFS_STORE", &self.store)
            .env("AGENTFS_SOCKET", &self.socket)
            .env("AGENTFS_ALLOW_BASE", self.dir.join("host"))
            .env(WORLD_DIR, &self.dir)
            .env("HOME", self.dir.join("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "Harness")
            .env("GIT_AUTHOR_EMAIL", "harness@localhost")
            .env("GIT_COMMITTER_NAME", "Harness")
            .env("GIT_COMMITTER_EMAIL", "harness@localhost")
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("XDG_DATA_HOME")
            .stdin(std::process::Stdio::null());
        command
    }

    /// The `agentfs` command with the environment of this world.
    pub fn agentfs<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.command(self.bins.path("agentfs"));
        command.args(args);
        command
    }

    /// Runs `agentfs` to its end, whatever that is.
    #[track_caller]
    pub fn try_cli<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(&mut self.agentfs(args), COMMAND_LIMIT)
    }

    /// Runs `agentfs`, which must succeed.
    #[track_caller]
    pub fn cli<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.try_cli(args).success()
    }

    /// Runs `agentfs`, which must fail with a message.
    #[track_caller]
    pub fn cli_fails<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.try_cli(args).clear_failure()
    }

    /// Runs a program with the environment of this world in a directory; it must succeed.
    #[track_caller]
    pub fn program(&self, dir: &Path, program: &str, args: &[&str]) -> Output {
        self.try_program(dir, program, args).success()
    }

    /// Runs a program with the environment of this world in a directory.
    #[track_caller]
    pub fn try_program(&self, dir: &Path, program: &str, args: &[&str]) -> Output {
        run(self.command(program).args(args).current_dir(dir), COMMAND_LIMIT)
    }

    /// Copies executables to a place that every user can reach (the build's own directory may lie below a
    /// home); the directory of the copies.
    #[track_caller]
    pub fn public_copies(&self, executables: &[&Path]) -> PathBuf {
        let dir = self.dir.join("bin");
        std::fs::create_dir_all(&dir).expect("a directory for executables");
        for from in executables {
            let to = dir.join(from.file_name().expect("a file name"));
            if !to.exists() {
                std::fs::copy(from, &to).unwrap_or_else(|e| panic!("cannot copy {}: {e}", from.display()));
            }
        }
        dir
    }

    /// Starts a command that the test ends itself.
    #[track_caller]
    pub fn spawn(&self, command: &mut Command) -> Running {
        Running::start(command)
    }

    /// Living processes of this world with this executable name and, if given, this argument.
    pub fn processes(&self, name: &str, arg: Option<&str>) -> Vec<procs::Process> {
        let mut found = procs::below(&self.dir);
        found.retain(|p| p.name == name && arg.is_none_or(|a| p.has_arg(a)));
        found
    }

    /// Process id of the daemon, waiting a little for it.
    #[track_caller]
    pub fn daemon_pid(&self) -> i32 {
        self.one("agentfsd", None)
    }

    /// Process id of the holder.
    #[track_caller]
    pub fn holder_pid(&self) -> i32 {
        self.one("agentfs-fuse", Some("--hold"))
    }

    /// Process ids of the frontends.
    pub fn frontend_pids(&self) -> Vec<i32> {
        self.processes("agentfs-fuse", Some("--serve")).iter().map(|p| p.pid).collect()
    }

    #[track_caller]
    fn one(&self, name: &str, arg: Option<&str>) -> i32 {
        let mut pids = Vec::new();
        procs::wait_for(Duration::from_secs(20), || {
            pids = self.processes(name, arg).iter().map(|p| p.pid).collect();
            pids.len() == 1
        });
        assert_eq!(pids.len(), 1, "one {name} {arg:?} should run:\n{}", procs::describe(&self.dir));
        pids[0]
    }

    /// Kills the daemon with SIGKILL; its id.
    #[track_caller]
    pub fn kill_daemon(&self) -> i32 {
        let pid = self.daemon_pid();
        procs::kill_all(&[pid]);
        assert!(procs::wait_gone(pid, Duration::from_secs(10)), "daemon {pid} survives SIGKILL");
        pid
    }

    /// Unmounts everything and stops daemon and holder, as a user would.
    #[track_caller]
    pub fn stop(&self) {
        for m in mounts::below(&self.dir.join("mnt")) {
            if m.fstype.starts_with("fuse") {
                self.umount(&m.mountpoint);
            }
        }
        self.cli(&["daemon", "stop"]);
        let gone = procs::wait_for(Duration::from_secs(20), || {
            self.processes("agentfsd", None).is_empty() && self.processes("agentfs-fuse", None).is_empty()
        });
        assert!(gone, "processes are left after `daemon stop`:\n{}", procs::describe(&self.dir));
    }

    /// For tests that leave a mess on purpose: clean up, but do not fail for it.
    pub fn allow_leaks(&self) {
        self.leaks_allowed.set(true);
    }

    fn clean_up(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let running = !self.processes("agentfs-fuse", None).is_empty();
        for m in mounts::below(&self.dir) {
            let ended = m.fstype.starts_with("fuse")
                && running
                && run(&mut self.agentfs([OsStr::new("umount"), m.mountpoint.as_os_str()]), Duration::from_secs(20))
                    .status
                    .success();
            if !ended || mounts::is_mounted(&m.mountpoint) {
                if m.fstype.starts_with("fuse") {
                    complaints.push(format!("{} does not unmount", m.mountpoint.display()));
                    mounts::abort_connection(m.minor);
                }
                mounts::force_unmount(&m.mountpoint);
            }
        }
        if running {
            // A mount that was taken down just now is still the holder's until its frontend has ended.
            let mut out = run(&mut self.agentfs(["daemon", "stop"]), Duration::from_secs(20));
            for _ in 0..20 {
                if out.status.success() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(250));
                out = run(&mut self.agentfs(["daemon", "stop"]), Duration::from_secs(20));
            }
            if !out.status.success() {
                complaints.push(format!("the daemon does not stop: {out}"));
            }
        }
        if !procs::wait_for(Duration::from_secs(10), || procs::below(&self.dir).is_empty()) {
            complaints.push(format!("processes are left:\n{}", procs::describe(&self.dir)));
        }
        complaints
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        let clean = std::panic::AssertUnwindSafe(|| if self.watchdog.fired() { Vec::new() } else { self.clean_up() });
        let complaints = if failing {
            eprintln!("--- {} failed; processes:\n{}", self.name, procs::describe(&self.dir));
            logs::print(&self.store, &self.dir);
            std::panic::catch_unwind(clean).unwrap_or_default()
        } else {
            std::panic::catch_unwind(clean).unwrap_or_else(|_| vec!["cleaning up panicked".to_owned()])
        };
        let pids: Vec<i32> = procs::below(&self.dir).iter().map(|p| p.pid).collect();
        if !pids.is_empty() {
            mounts::abort_below(&self.dir, &pids);
            procs::kill_all(&pids);
        }
        for m in mounts::below(&self.dir) {
            mounts::force_unmount(&m.mountpoint);
        }
        if !failing && !complaints.is_empty() && !self.leaks_allowed.get() {
            logs::print(&self.store, &self.dir);
            panic!("{} leaves something behind: {}", self.name, complaints.join("; "));
        }
        assert!(failing || !self.watchdog.fired(), "{} was ended by its watchdog", self.name);
    }
}
