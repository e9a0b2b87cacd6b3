//! The command line of `agentfsd` and what follows from it.

use clap::Parser;
use shm_transport::control::paths::{Environment, PathError, Paths};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Where bases may lie when root runs the daemon and nothing else is said.
const ROOT_BASES: [&str; 4] = ["/home", "/root", "/srv", "/opt"];

/// The AgentFS daemon of one store: keeps branches and serves their mounts. Runs in the foreground,
/// logs to standard error, ends cleanly on SIGTERM and SIGINT.
#[derive(Debug, Clone, Parser)]
#[command(name = "agentfsd", version)]
pub struct Args {
    /// The store directory; made when it is missing [default: /var/lib/agentfs as root, else
    /// agentfs in $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "DIR", env = "AGENTFS_STORE")]
    pub store: Option<PathBuf>,
    /// The control socket [default: run/agentfsd.sock in a store that is named, else in /run/agentfs
    /// or $XDG_RUNTIME_DIR/agentfs]
    #[arg(long, value_name = "PATH", env = "AGENTFS_SOCKET")]
    pub socket: Option<PathBuf>,
    /// One more directory below which bases may lie; repeatable. AGENTFS_ALLOW_BASE (colon-separated)
    /// replaces the defaults: your home, or /home:/root:/srv:/opt as root
    #[arg(long, value_name = "DIR")]
    pub allow_base: Vec<PathBuf>,
    /// Write the line `ready` to this inherited file descriptor as soon as the daemon serves
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<RawFd>,
    /// Do not confine the daemon: it can then do whatever its user can
    #[arg(long, env = "AGENTFS_NO_SANDBOX", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_sandbox: bool,
    /// Check the store, which nobody may have open, print what was found as JSON, and end
    #[arg(long)]
    pub check: bool,
    /// With --check: mend what can be mended without a loss
    #[arg(long, requires = "check")]
    pub repair: bool,
    /// Print what this build speaks and stores as JSON, and end
    #[arg(long)]
    pub versions: bool,
    /// What to log, e.g. `info`, `fscore_daemon=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

/// Why the command line makes no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Store or socket have no usable path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A directory for bases is relative.
    #[error("the directory {0:?} for bases is not absolute: write it from the root on")]
    RelativeBase(PathBuf),
}

/// What the daemon is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Store and socket.
    pub paths: Paths,
    /// Directories below which bases may lie, absolute, each once.
    pub allow_base: Vec<PathBuf>,
    /// Nor are bases opened that the store has from before: `AGENTFS_ALLOW_BASE` said so.
    pub only_these: bool,
}

impl Config {
    /// From the command line, in the environment of this process.
    pub fn new(args: &Args) -> Result<Self, ConfigError> {
        Self::new_in(args, &Environment::current(), std::env::var_os("AGENTFS_ALLOW_BASE"))
    }

    /// As [`Self::new`], in a given environment; `allowed` is the value of `AGENTFS_ALLOW_BASE`.
    pub fn new_in(args: &Args, env: &Environment, allowed: Option<OsString>) -> Result<Self, ConfigError> {
        let paths = Paths::resolve_in(env, args.store.as_deref(), args.socket.as_deref())?;
        let only_these = allowed.is_some();
        let defaults = match allowed {
            Some(list) => split(&list),
            None if env.uid == 0 => ROOT_BASES.map(PathBuf::from).to_vec(),
            None => env.home.iter().map(PathBuf::from).collect(),
        };
        let mut allow_base: Vec<PathBuf> = Vec::new();
        for dir in defaults.into_iter().chain(args.allow_base.iter().cloned()) {
            if !dir.is_absolute() {
                return Err(ConfigError::RelativeBase(dir));
            }
            if !allow_base.contains(&dir) {
                allow_base.push(dir);
            }
        }
        Ok(Self { paths, allow_base, only_these })
    }
}

/// The elements of a colon-separated list that are not empty.
fn split(list: &OsString) -> Vec<PathBuf> {
    let parts = list.as_bytes().split(|byte| *byte == b':').filter(|part| !part.is_empty());
    parts.map(|part| PathBuf::from(OsString::from_vec(part.to_vec()))).collect()
}

#[cfg(test)]
mod tests;
