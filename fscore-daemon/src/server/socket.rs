//! The listening socket. Only the holder of the store's lock makes one.

use super::{ServeError, system};
use shm_transport::control::paths::Paths;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A listening socket; its name goes with it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the name, so that nobody else's is removed.
    identity: (u64, u64),
}

impl Listener {
    pub(super) fn bind(paths: &Paths) -> Result<Self, ServeError> {
        paths.prepare_socket_dir()?;
        let path = &paths.socket;
        remove_stale(path)?;
        let failed = || system(format!("cannot listen on {}", path.display()));
        let socket = UnixListener::bind(path).map_err(failed())?;
        socket.set_nonblocking(true).map_err(failed())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed())?;
        let identity = identity(path).map_err(failed())?;
        Ok(Self { socket, path: path.clone(), identity })
    }

    /// The next connection; `None` when it went away meanwhile.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(e) if matches!(e.kind(), WouldBlock | Interrupted | ConnectionAborted) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, socket = %self.path.display(), "cannot remove the socket");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Removes what a daemon that died left.
fn remove_stale(path: &Path) -> Result<(), ServeError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(system(format!("cannot look at {}", path.display()))(e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ServeError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    // A daemon of another store may have been given the same socket.
    if UnixStream::connect(path).is_ok() {
        return Err(ServeError::SocketInUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(system(format!("cannot remove the stale socket {}", path.display())))
}
