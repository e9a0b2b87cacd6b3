//! A mount namespace for a test, with a mount helper in `/sbin`, an `/etc/fstab` and a `/dev/fuse` of its own.

use crate::bins::NEEDED;
use crate::mounts::{self, Mount};
use crate::procs;
use crate::run::{Output, Running, run};
use crate::world::{COMMAND_LIMIT, World};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A user without privilege. The system knows its name in a [`Namespace`]; fusermount3 and mount(8) ask for it.
pub const USER: u32 = 54321;

/// Run in the new namespace: `$1` is a scratch directory, `$2` the directory of the programs, `$3` a user.
const PRELUDE: &str = r#"
set -eu
mkdir "$1/host-sbin" "$1/sbin"
sbin="$(realpath /sbin)"
mount --bind "$sbin" "$1/host-sbin"
ln -s "$1"/host-sbin/* "$1/sbin/"
ln -sf "$2/agentfs-fuse" "$1/sbin/mount.fuse.agentfs"
ln -sf "$2/agentfs-fuse" "$1/sbin/mount.agentfs"
mount --bind "$1/sbin" "$sbin"
touch /etc/fstab "$1/fstab"
mount --bind "$1/fstab" /etc/fstab
{ cat /etc/passwd; echo "harness:x:$3:$3::/:/bin/sh"; } > "$1/passwd"
mount --bind "$1/passwd" /etc/passwd
mknod "$1/fuse" c 10 229
chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse
echo ready
exec sleep 600
"#;

/// The namespace. What is mounted in it goes with it, unless a holder was started in it and lives.
#[derive(Debug)]
pub struct Namespace<'w> {
    world: &'w World,
    keeper: Running,
    dir: PathBuf,
    bins: PathBuf,
}

impl<'w> Namespace<'w> {
    /// Unmounts of the host come through, so that nobody's mount is kept alive in here.
    #[track_caller]
    pub fn start(world: &'w World) -> Self {
        let built: Vec<PathBuf> = NEEDED.iter().map(|name| world.bins().path(name)).collect();
        let bins = world.public_copies(&built.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        let dir = world.dir().join("namespace");
        std::fs::create_dir(&dir).expect("a scratch directory");
        let mut command = world.command("unshare");
        command.args(["--mount", "--propagation", "slave", "bash", "-c", PRELUDE, "prelude"]);
        command.args([&dir, &bins]).arg(USER.to_string());
        let mut keeper = world.spawn(&mut command);
        // It says so, or ends.
        procs::wait_for(COMMAND_LIMIT, || keeper.stdout().contains("ready") || keeper.poll().is_some());
        if !keeper.stdout().contains("ready") {
            let out = keeper.finish(Duration::from_secs(1));
            panic!("the namespace is not set up: {out}");
        }
        Self { world, keeper, dir, bins }
    }

    /// Directory of the programs, which everybody can reach.
    pub fn bins(&self) -> &Path {
        &self.bins
    }

    /// Writes `/etc/fstab`.
    #[track_caller]
    pub fn fstab(&self, text: &str) {
        std::fs::write(self.dir.join("fstab"), text).expect("fstab");
    }

    /// A program in here, as root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.world.command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.pid())).arg("--").arg(program);
        command
    }

    /// A program in here as a user without privilege ([`USER`], or one without a name), whose home is `home`. Nothing of the world's environment
    /// but its directory.
    pub fn user_command(&self, uid: u32, home: &Path, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups", "--inh-caps=-all"]);
        command.arg("--").arg(program);
        for name in ["AGENTFS_STORE", "AGENTFS_SOCKET", "AGENTFS_ALLOW_BASE"] {
            command.env_remove(name);
        }
        command.env("HOME", home).env("XDG_RUNTIME_DIR", home.join("run"));
        command
    }

    /// Makes a home for a user, with its `run`.
    #[track_caller]
    pub fn home(&self, uid: u32) -> PathBuf {
        let home = self.world.dir().join("home").join(format!("user{uid}"));
        for dir in [home.clone(), home.join("run")] {
            std::fs::create_dir(&dir).expect("a home");
            std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).expect("chmod");
            std::os::unix::fs::chown(&dir, Some(uid), Some(uid)).expect("chown");
        }
        home
    }

    /// Runs a program in here as root.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        run(self.command(program).args(args), COMMAND_LIMIT)
    }

    /// The branches that are mounted in here.
    pub fn mounts(&self) -> Vec<Mount> {
        let mut found = mounts::of_process(&self.keeper.pid().to_string());
        found.retain(|m| m.fstype == "fuse.agentfs" && m.mountpoint.starts_with(self.world.dir()));
        found
    }
}
