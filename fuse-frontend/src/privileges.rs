//! What a frontend needs no longer once it has its descriptors.

use shm_transport::mem::sys;
use std::fs;
use std::io;
use std::path::Path;

/// `CAP_DAC_READ_SEARCH`: directories can be passed whatever their mode.
const PASS_DIRECTORIES: u64 = 1 << 2;

/// `CAP_SYS_ADMIN`: files can be given to the kernel for passthrough.
const GIVE_FILES: u64 = 1 << 21;

/// Gives up every capability, for good. One is kept if the way to the daemon's socket leads through a
/// directory that is closed to our user id, as when root serves a store in somebody's home; and one if the mount has
/// passthrough.
pub(crate) fn give_up(socket: &Path, passthrough: bool) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    if let Err(error) = sys::clear_bounding_set() {
        // A user's frontend never had any.
        tracing::debug!(%error, "the bounding set stays as it is");
    }
    let gives =
        if passthrough && sys::set_capabilities(0, GIVE_FILES | PASS_DIRECTORIES).is_ok() { GIVE_FILES } else { 0 };
    if sys::set_capabilities(0, gives | PASS_DIRECTORIES).is_err() {
        return sys::set_capabilities(0, 0);
    }
    let way = socket.parent().unwrap_or(Path::new("/"));
    let closed = fs::metadata(way).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    let kept = gives | if closed { PASS_DIRECTORIES } else { 0 };
    sys::set_capabilities(kept, kept)
}
