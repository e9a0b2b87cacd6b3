//! What a frontend needs no longer once it has its descriptors.

use shm_transport::mem::sys;
use std::fs;
use std::io;
use std::path::Path;

/// `CAP_DAC_READ_SEARCH`: directories can be passed whatever their mode.
const PASS_DIRECTORIES: u64 = 1 << 2;

/// Gives up every capability, for good. One is kept if the way to the daemon's socket leads through a
/// directory that is closed to our user id, as when root serves a store in somebody's home.
pub(crate) fn give_up(socket: &Path) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    if let Err(error) = sys::clear_bounding_set() {
        // A user's frontend never had any.
        tracing::debug!(%error, "the bounding set stays as it is");
    }
    if sys::set_capabilities(0, PASS_DIRECTORIES).is_err() {
        return sys::set_capabilities(0, 0);
    }
    let way = socket.parent().unwrap_or(Path::new("/"));
    let closed = fs::metadata(way).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    let kept = if closed { PASS_DIRECTORIES } else { 0 };
    sys::set_capabilities(kept, kept)
}
