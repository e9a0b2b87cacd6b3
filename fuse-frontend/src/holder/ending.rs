//! The end that a signal asks for, as an init system sends it at shutdown or when a session is over.

use super::state::Shared;
use crate::mount::unescape;
use shm_transport::control::client::{Client, ClientError};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one unmount may take. It is done by another process, because it may have to wait for a mount.
const UNMOUNT_MAX: Duration = Duration::from_secs(2);
/// How long the daemon may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

impl Shared {
    /// Ends everything, whatever is in use: who signals us has most likely signalled daemon and frontends as
    /// well, and soon kills what is left. Mounts go out of sight first, so that no dead one stays.
    pub(super) fn end(&self) {
        for mount in self.mounts() {
            let (branch, at) = (&mount.name.branch, &mount.name.mountpoint);
            // One that lies in another mount namespace ends with our descriptors.
            if !fs::read("/proc/self/mountinfo").is_ok_and(|table| shows(&table, branch, at)) {
                continue;
            }
            if !unmount(at) {
                tracing::warn!(mountpoint = %at.display(), "the mount could not be taken away");
            }
        }
        // Refused only without force.
        drop(self.begin_stop(true));
    }
}

/// Has the daemon give back the mounts whose holder and frontends ended before this holder began, as after
/// [`Shared::end`], which may have found no daemon any more. It looks itself for who may still come back.
pub(super) fn give_back(daemon: &Path) {
    let given = || {
        let mut client = Client::connect(daemon)?;
        client.set_timeout(Some(ANSWER_MAX)).map_err(|e| ClientError::Line(e.into()))?;
        for mount in client.mounts()?.into_iter().filter(|mount| mount.state != "attached") {
            let (session, at) = (mount.session, mount.mountpoint.display());
            match client.end_session(session) {
                Ok(()) => tracing::info!(%session, mountpoint = %at, "nobody serves this mount any more"),
                Err(ClientError::Refused(why)) => tracing::info!(%session, mountpoint = %at, %why, "a mount is kept"),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    };
    if let Err(error) = given() {
        tracing::warn!(%error, "mounts that died are not given back");
    }
}

/// Whether this branch is the topmost mount there, from the text of `mountinfo`.
pub(crate) fn shows(table: &[u8], branch: &str, at: &Path) -> bool {
    let mut shown = false;
    for line in table.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b' ');
        if fields.nth(4).map(unescape).as_deref() == Some(at.as_os_str().as_bytes()) {
            let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
            shown =
                rest.next() == Some(b"fuse.agentfs") && rest.next().map(unescape).as_deref() == Some(branch.as_bytes());
        }
    }
    shown
}

/// Out of sight now; it ends when the last program leaves it.
fn unmount(at: &Path) -> bool {
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-z", "-q", "--"]).arg(at).stdin(Stdio::null()).stdout(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let deadline = Instant::now() + UNMOUNT_MAX;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => return false,
        }
    }
    child.kill().ok();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_branch_itself_is_found() {
        let table = b"30 1 0:26 / /mnt/a\\040b rw - fuse.agentfs fix\\0401 rw\n\
                      31 1 0:27 / /mnt/c rw shared:3 - fuse.agentfs other rw\n\
                      32 31 0:28 / /mnt/c rw - tmpfs other rw\n";
        assert!(shows(table, "fix 1", Path::new("/mnt/a b")));
        assert!(!shows(table, "fix", Path::new("/mnt/a b")));
        assert!(!shows(table, "other", Path::new("/mnt/c")), "something lies over it");
        assert!(!shows(table, "fix 1", Path::new("/mnt")));
    }
}
