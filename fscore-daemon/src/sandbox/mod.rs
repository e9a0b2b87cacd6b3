//! What the daemon gives up before it serves, for good and for all of its threads:
//!
//! ```text
//! no_new_privs   nothing that it executes could gain anything
//! reach          files beyond the store, its socket's directory and the bases; TCP; abstract sockets and
//!                processes of others (Landlock)
//! capabilities   all but those that reading bases takes, and writing a store of another user
//! calls          every system call that it has no use for (seccomp)
//! ```
//!
//! What needs more is done before and stays open: the locked store, the clones of mounts that bases are read
//! through, the counters' segment, the connection to the holder, the socket to listen on.

mod calls;
mod capabilities;
mod reach;

use crate::core::base::Grounds;
use shm_transport::control::{Sandbox, SandboxState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why the process is not confined. After such an error it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel has nothing to confine it with.
    #[error(
        "this system cannot confine the daemon: {0}; to run it unconfined, start it with --no-sandbox or AGENTFS_NO_SANDBOX=1"
    )]
    Unavailable(String),
    /// Something that should have worked.
    #[error("cannot confine the daemon: {what}: {source}; AGENTFS_NO_SANDBOX=1 starts it unconfined")]
    Failed {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::Failed { what: what.into(), source }
}

/// What the daemon goes on using.
#[derive(Debug)]
pub struct Needs<'a> {
    /// The store's directory.
    pub store: &'a Path,
    /// The directory of the socket.
    pub socket_dir: &'a Path,
    /// Where bases lie.
    pub grounds: &'a Grounds,
}

/// Confines the calling thread, and every thread that it starts from now on. To be called while it is the
/// only one: threads that run already keep the files that they reach.
pub fn confine(needs: &Needs<'_>) -> Result<Sandbox, SandboxError> {
    let before = capabilities::permitted().map_err(failed("read the capabilities in /proc/self/status"))?;
    nix::sys::prctl::set_no_new_privs().map_err(|e| failed("set no_new_privs")(e.into()))?;
    let mut missing = reach::restrict(needs)?;
    let others = belongs_to_another(needs.store) || belongs_to_another(needs.socket_dir);
    capabilities::cut(before, others).map_err(failed("give capabilities up"))?;
    calls::restrict()?;
    // Root could have had them.
    if before & capabilities::SYS_ADMIN != 0 {
        missing.extend(needs.grounds.in_place().map(no_clone));
    }
    let state = if missing.is_empty() { SandboxState::On } else { SandboxState::Partial };
    Ok(Sandbox { state, missing })
}

fn no_clone(path: &Path) -> String {
    format!("a read-only clone of the mount that {} is on", path.display())
}

fn belongs_to_another(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.uid() != nix::unistd::geteuid().as_raw())
}

/// The directory that a socket lies in.
pub fn dir_of(socket: &Path) -> PathBuf {
    socket.parent().map_or_else(|| "/".into(), Path::to_owned)
}
