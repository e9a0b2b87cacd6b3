//! The command line.

pub(crate) mod checkpoint;
pub(crate) mod materialize;
pub(crate) mod merge;
pub(crate) mod quota;
pub(crate) mod snapshot;

use clap::{Args, Parser, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Instant, private, writable branches of a directory, one for each agent.
///
/// A branch shows a whole directory (the base) as it is, untracked files and build output included, and
/// keeps every change to itself. Making one copies nothing. The daemon and its holder are started when a
/// command needs them.
#[derive(Debug, Parser)]
#[command(
    name = "agentfs",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  agentfs run --base ~/project --branch fix-1 -- bash -c 'cargo test && rm -rf docs'
  agentfs diff fix-1
  agentfs commit fix-1 --dry-run
  agentfs commit fix-1            take the changes into ~/project
  agentfs discard fix-1           or throw them away

`agentfs COMMAND --help` tells more; `agentfs help exit-codes` lists the exit codes."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The store directory [env: AGENTFS_STORE] [default: /var/lib/agentfs for root, else $XDG_DATA_HOME/agentfs]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,
    /// The daemon's socket [env: AGENTFS_SOCKET] [default: below the store if one is given, else in the run directory]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
    /// Answer with JSON on standard output, errors with JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Global {
    /// What the command line leaves open the environment may say. Not read by the parser, which would name these
    /// options in the usage of every command when they are set.
    #[must_use]
    pub(crate) fn or_environment(self) -> Self {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            store: self.store.or_else(|| named("AGENTFS_STORE")),
            socket: self.socket.or_else(|| named("AGENTFS_SOCKET")),
            json: self.json,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Run),
    Mount(Mount),
    Umount(Umount),
    /// List the mounts
    Mounts,
    /// Show the state of daemon, branches and mounts; also while the daemon is down or busy
    Status,
    /// Start, stop and look at the daemon
    #[command(subcommand)]
    Daemon(Daemon),
    /// Make, list and delete branches
    #[command(subcommand)]
    Branch(Branch),
    /// Make, list and delete snapshots
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    Checkpoint(checkpoint::Checkpoint),
    Diff(Diff),
    Commit(Commit),
    Refresh(merge::Refresh),
    Undo(merge::Undo),
    Discard(Discard),
    Fsck(Fsck),
    Gc(Gc),
    /// Print a script that completes this command's arguments in a shell
    #[command(after_help = "Example:\n  agentfs completions bash > ~/.local/share/bash-completion/completions/agentfs")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Explain a command, or the exit codes with `exit-codes`
    Help {
        /// A command, or `exit-codes`
        topic: Vec<String>,
    },
    /// Become the holder, with nothing inherited but the standard streams.
    #[command(hide = true, name = "internal-hold")]
    InternalHold {
        /// The holder's program and arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// Run a command on a branch that lies at the base directory's own path
///
/// The branch is made if there is none of that name, else used as it was left. The command runs in a
/// mount namespace of its own, in which the branch is mounted over the base directory, so that absolute
/// paths and build caches hold; nobody else sees it. Standard streams, terminal, signals and exit code
/// are the command's own. A summary of the branch's changes follows on standard error.
///
/// Started inside the base directory, the command begins in the same directory of the branch. Started
/// elsewhere, it begins in the root of the branch. Only the base directory is isolated: what the command
/// writes elsewhere it writes on the host.
///
/// Without --base, a branch that exists keeps its base. A new branch then begins empty; such a branch
/// is mounted on a fresh temporary directory, in which the command begins.
///
/// The command finds the mounted directory in AGENTFS_ROOT and the branch in AGENTFS_BRANCH. No privilege
/// is needed where user namespaces are allowed.
#[derive(Debug, Args)]
#[command(override_usage = "agentfs run [--base DIR] [--branch NAME] [OPTIONS] -- CMD [ARG]...")]
#[command(after_help = "\
Examples:
  agentfs run --base ~/project --branch fix-1 -- bash -c 'git checkout -b x && cargo build && rm -rf docs'
  agentfs run --branch fix-1 -- git status         go on with the branch
  agentfs run --base . --discard -- make test      try something, keep nothing
  agentfs run --branch fix-1 --checkpoint 5m -- ./agent
  agentfs run --branch scratch -- bash             an empty directory")]
pub(crate) struct Run {
    /// The base directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) base: Option<PathBuf>,
    /// The branch [default: a new one, named run-TIME-PID]
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// Nobody edits the base while the branch lives: it is cached for longer
    #[arg(long)]
    pub(crate) frozen: bool,
    #[command(flatten)]
    pub(crate) materialize: materialize::Materialize,
    #[command(flatten)]
    pub(crate) quota: quota::Quota,
    #[command(flatten)]
    pub(crate) checkpoints: checkpoint::Checkpoints,
    /// Mount options, as in fstab (repeatable): entry_timeout=, attr_timeout=, negative_timeout=, direct_io, writeback_cache,
    /// max_write=, max_background=, without= and others
    #[arg(short = 'o', value_name = "OPTIONS", env = "AGENTFS_MOUNT_OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Do not print the summary of changes
    #[arg(long)]
    pub(crate) no_summary: bool,
    /// Keep the branch afterwards (the default)
    #[arg(long, conflicts_with = "discard")]
    pub(crate) keep: bool,
    /// Delete the branch with its changes afterwards
    #[arg(long)]
    pub(crate) discard: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// Mount a branch on a directory
///
/// The branch is made if there is none of that name. The mount outlives this command, the daemon and the
/// mount's own process; it ends with `agentfs umount`. The directory must lie outside the base; to work
/// at the base's own path use `agentfs run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentfs mount --base ~/project --branch fix-2 /mnt/a
  agentfs mount --branch fix-2 --ro /mnt/look")]
pub(crate) struct Mount {
    /// The base directory, for a branch to be made
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) base: Option<PathBuf>,
    /// The branch
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: String,
    /// Nobody edits the base while the branch lives: it is cached for longer
    #[arg(long)]
    pub(crate) frozen: bool,
    #[command(flatten)]
    pub(crate) materialize: materialize::Materialize,
    #[command(flatten)]
    pub(crate) quota: quota::Quota,
    /// Nothing can be changed through this mount
    #[arg(long, visible_alias = "read-only")]
    pub(crate) ro: bool,
    /// Let other users enter (root's mounts always do; needs user_allow_other in /etc/fuse.conf)
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// When the daemon has been away for so long, requests fail with ETIMEDOUT; without it they wait for ever
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) give_up_after: Option<u32>,
    /// Mount options, as in fstab (repeatable): entry_timeout=, attr_timeout=, negative_timeout=, direct_io, writeback_cache,
    /// max_write=, max_background=, without= and others
    #[arg(short = 'o', value_name = "OPTIONS", env = "AGENTFS_MOUNT_OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Where to mount it
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub(crate) mountpoint: PathBuf,
}

/// Unmount a branch
///
/// Refused while a program uses the mount. The branch and its changes stay.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentfs umount /mnt/a\n  agentfs umount --lazy /mnt/a")]
pub(crate) struct Umount {
    /// Unmount even while it is used: programs on it get errors
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Take it out of sight now; it ends when the last program leaves it
    #[arg(long, short)]
    pub(crate) lazy: bool,
    /// Where it is mounted
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub(crate) mountpoint: PathBuf,
}

/// Commands about the daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Daemon {
    /// Start holder and daemon, for hosts without an init system that does
    #[command(after_help = "Example:\n  agentfs daemon start --allow-base /data/projects")]
    Start {
        /// Bases may lie below this directory (repeatable) [default: your home; for root /home, /root, /srv, /opt]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        allow_base: Vec<PathBuf>,
        /// Stay in the foreground and become the holder, for process supervisors
        #[arg(long)]
        foreground: bool,
    },
    /// Stop daemon and holder; refused while branches are mounted
    Stop {
        /// Unmount everything first
        #[arg(long)]
        force: bool,
    },
    /// Replace daemon and frontends by the programs that are installed now; mounts live on
    ///
    /// Programs on the mounts pause for a moment. A build that does not fit the store and the mounts is refused, and what
    /// runs goes on.
    Upgrade,
    /// Show the state of daemon and holder
    Status,
}

/// Commands about branches.
#[derive(Debug, Subcommand)]
pub(crate) enum Branch {
    /// Make a branch; takes no time and no space, however large the base is, unless --materialize asks for a copy
    #[command(after_help = "\
Examples:
  agentfs branch create fix-1 --base ~/project
  agentfs branch create fix-2 --from fix-1           from its present state
  agentfs branch create fix-3 --from fix-1@tested    from a snapshot
  agentfs branch create scratch                      begins empty
  agentfs branch create still --base ~/project --materialize clone-eager
  agentfs branch create fix-4 --base ~/project --quota-bytes 10G --quota-inodes 100k")]
    Create {
        /// Its name
        name: String,
        /// The base directory
        #[arg(long, value_name = "DIR", conflicts_with = "from", value_hint = ValueHint::DirPath)]
        base: Option<PathBuf>,
        /// A branch (its present state), BRANCH@SNAPSHOT, or a snapshot's name where only one has it
        #[arg(long, value_name = "SNAPSHOT-OR-BRANCH")]
        from: Option<String>,
        /// Nobody edits the base while branches of it live: it is cached for longer
        #[arg(long)]
        frozen: bool,
        #[command(flatten)]
        materialize: materialize::Materialize,
        #[command(flatten)]
        quota: quota::Quota,
    },
    /// Show or set what a branch may hold of its own
    ///
    /// Bytes are those of the files that the branch wrote or copied up, in blocks of 4 KiB and with their holes; inodes
    /// are the files, directories and links that it made. What its snapshots keep counts too. Programs that want more
    /// get EDQUOT; df on a mount of the branch shows both.
    #[command(after_help = "\
Examples:
  agentfs branch quota fix-1
  agentfs branch quota fix-1 --bytes 10G --inodes 100k
  agentfs branch quota fix-1 --bytes none")]
    Quota {
        /// The branch
        #[arg(value_name = "BRANCH")]
        name: String,
        #[command(flatten)]
        quota: quota::NewQuota,
    },
    /// List the branches
    #[command(after_help = "Examples:\n  agentfs branch list\n  agentfs branch list --tree")]
    List {
        /// Each below the one it was made from, with its changes, its own data, its age and its owner
        #[arg(long)]
        tree: bool,
    },
    /// Show one branch
    Show {
        /// Its name
        name: String,
    },
    /// Show a process and its descendants another branch through a mount
    ///
    /// Everything that they look up from the mount's root on is the branch's. What they have open, and a directory that
    /// they work in, stays what it is. The binding ends with the process. It is by a control group where one can be made,
    /// else by the process's descent. `agentfs run --branch` gives a command a mount of its own, which is better in every
    /// way but that it is another mount.
    #[command(after_help = "Example:\n  agentfs branch bind --pid $$ --mount /mnt/a fix-2")]
    Bind {
        /// The process, as the daemon numbers it
        #[arg(long, value_name = "PID")]
        pid: u32,
        /// Make no control group: let the process's descent decide
        #[arg(long)]
        by_descent: bool,
        /// The mount [default: the one around the working directory]
        #[arg(long, value_name = "MNT", value_hint = ValueHint::DirPath)]
        mount: Option<PathBuf>,
        /// The branch
        #[arg(value_name = "BRANCH")]
        branch: String,
    },
    /// Let a process see the mounted branch again
    Unbind {
        /// The process, as the daemon numbers it
        #[arg(long, value_name = "PID")]
        pid: u32,
        /// The mount [default: the one around the working directory]
        #[arg(long, value_name = "MNT", value_hint = ValueHint::DirPath)]
        mount: Option<PathBuf>,
    },
    /// Run a command that sees another branch through a mount
    #[command(after_help = "Example:\n  agentfs branch exec --mount /mnt/a fix-2 -- ls /mnt/a")]
    Exec {
        /// The mount [default: the one around the working directory]
        #[arg(long, value_name = "MNT", value_hint = ValueHint::DirPath)]
        mount: Option<PathBuf>,
        /// Make no control group: let the process's descent decide
        #[arg(long)]
        by_descent: bool,
        /// The branch
        #[arg(value_name = "BRANCH")]
        branch: String,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
        command: Vec<OsString>,
    },
    /// Delete a branch with its changes and snapshots; refused while it is mounted
    Delete {
        /// Its name
        name: String,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
}

/// List what a branch changed against its base, or what differs between two states
///
/// A state is a branch, BRANCH@SNAPSHOT, a snapshot's name where only one branch has it, or @base for the base of
/// the other one. `diff A B` says what B has and A has not.
///
/// One line for each path: A added, M modified (m: only its attributes), D deleted, T became another kind, R renamed
/// (RM: and modified). Bytes that are not UTF-8 stand as \xNN, a backslash as \\.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  agentfs diff fix-1\n  agentfs diff fix-1 --stat\n  agentfs diff fix-1 --patch\n  \
agentfs diff fix-1@tested fix-1    since a snapshot\n  agentfs diff fix-1 fix-2           one branch against another\n  \
agentfs diff fix-1 --json"
)]
pub(crate) struct Diff {
    /// The branch; with NEW the old state
    #[arg(value_name = "BRANCH")]
    pub(crate) of: String,
    /// The new state
    #[arg(value_name = "NEW")]
    pub(crate) to: Option<String>,
    /// Only the counts
    #[arg(long)]
    pub(crate) stat: bool,
    /// The changed lines, as a patch for git apply; what a patch cannot say stands in it as a line of the list
    #[arg(long, short, conflicts_with = "stat")]
    pub(crate) patch: bool,
    /// At most so many paths (the counts are always whole)
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// Take a branch's changes into its base directory, or into the branch it was made from
///
/// All or nothing: paths that changed in the base since the branch first changed them are conflicts; with
/// any of them nothing is applied, they are listed, and the exit code is 10. --ours and --theirs decide who wins
/// instead. The branch must not be mounted. It goes on afterwards, without changes.
///
/// With --into-parent it is the branch it was made from that gets the changes; that must not be mounted either.
///
/// The changes are applied with your own rights. A commit that is interrupted, even by a crash of the
/// host, is finished or taken back by the next `agentfs commit`, `status`, `run` or `mount`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentfs commit fix-1 --dry-run
  agentfs commit fix-1
  agentfs commit fix-1 --ours=src --theirs=Cargo.lock
  agentfs commit fix-2 --into-parent")]
pub(crate) struct Commit {
    /// The branch
    #[arg(value_name = "BRANCH")]
    pub(crate) branch: String,
    /// Into the branch that it was made from, not into the base
    #[arg(long)]
    pub(crate) into_parent: bool,
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) sides: merge::Sides,
}

/// Throw a branch away, with its changes and snapshots
///
/// Refused while it is mounted, unless --force unmounts it first. The base is not touched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentfs discard fix-1 --dry-run\n  agentfs discard fix-1")]
pub(crate) struct Discard {
    /// The branch
    #[arg(value_name = "BRANCH")]
    pub(crate) branch: String,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Unmount it first
    #[arg(long)]
    pub(crate) force: bool,
}

/// Check the store
///
/// Every record, its place among the others, and every content file. While the daemon runs it checks its own
/// store, which nobody has to wait for; else the log and the checkpoint are checked too. Exit code 0 says that
/// there is no error (leftovers are none), 74 that there is one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentfs fsck\n  agentfs fsck --store /mnt/copy-of-store --repair")]
pub(crate) struct Fsck {
    /// Mend what can be mended without a loss; the daemon must not run
    #[arg(long)]
    pub(crate) repair: bool,
}

/// Give back what deleted branches and snapshots left
///
/// Removes states that nothing reaches, and folds those that nobody refers to any more into what continues them. No
/// branch and no snapshot changes. The daemon does so by itself after each deletion; this waits for it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentfs gc --dry-run\n  agentfs gc fix-1")]
pub(crate) struct Gc {
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only these branches
    #[arg(value_name = "BRANCH")]
    pub(crate) branches: Vec<String>,
}

#[cfg(test)]
mod tests;
