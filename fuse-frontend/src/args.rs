//! The command line of `agentfs-fuse`.

use clap::{ArgGroup, Parser};
use std::path::PathBuf;

/// The mount process of AgentFS: started by `agentfs`, not by hand.
#[derive(Debug, Parser)]
#[command(name = "agentfs-fuse", version, group(ArgGroup::new("mode").required(true)))]
pub(crate) struct Args {
    /// Mount a branch and hand the mount to the holder.
    #[arg(long, group = "mode", requires = "branch", requires = "mountpoint")]
    pub(crate) mount: bool,
    /// Keep the daemon running and the mounts alive.
    #[arg(long, group = "mode")]
    pub(crate) hold: bool,
    /// Serve one mount whose descriptors come over the socket that is standard input.
    #[arg(long, group = "mode")]
    pub(crate) serve: bool,
    /// Mount and serve a branch as the unit agentfs-mount@NAME of systemd.
    #[arg(long, group = "mode", value_name = "NAME")]
    pub(crate) unit: Option<String>,
    /// Print what this build speaks as JSON.
    #[arg(long, group = "mode")]
    pub(crate) versions: bool,
    /// With --unit: unmount, if the unit is to stop and not to start again.
    #[arg(long, requires = "unit")]
    pub(crate) stop: bool,

    /// The store directory.
    #[arg(long, value_name = "DIR", env = "AGENTFS_STORE")]
    pub(crate) store: Option<PathBuf>,
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", env = "AGENTFS_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// With --hold: bases may lie below this directory (repeatable).
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_base: Vec<PathBuf>,

    /// The branch.
    #[arg(long)]
    pub(crate) branch: Option<String>,
    /// Where to mount it.
    #[arg(long, value_name = "DIR")]
    pub(crate) mountpoint: Option<PathBuf>,
    /// Refuse a mountpoint at, inside or around this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) apart_from: Option<PathBuf>,
    /// Nothing can be changed through this mount.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Other users may enter; root's mounts always let them.
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Do without this feature of the kernel (repeatable): resend, killpriv, explicit-inval, cache-symlinks,
    /// parallel-dirops, readdirplus, atomic-o-trunc.
    #[arg(long, value_name = "FEATURE")]
    pub(crate) without: Vec<String>,
    /// Options as in fstab (repeatable).
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Requests that can be under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=1024))]
    pub(crate) slots: u32,
    /// Answer with one JSON line on standard output: {"ok":…} or {"error":…}.
    #[arg(long)]
    pub(crate) json: bool,
    /// With --serve: the session, for people who look at the process list.
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
}
