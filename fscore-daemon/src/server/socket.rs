//! The listening socket. Only the holder of the store's lock makes one.

use super::{ServeError, system};
use nix::errno::Errno;
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use shm_transport::control::paths::Paths;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A listening socket; its name goes with it, if we gave it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    own: Option<Name>,
}

/// A name that we gave.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    /// Device and inode, so that nobody else's is removed.
    identity: (u64, u64),
}

/// A socket without a name.
#[derive(Debug)]
pub(super) struct Unbound {
    socket: OwnedFd,
    path: PathBuf,
}

impl Unbound {
    /// Makes the socket, and makes place for its name.
    pub(super) fn prepare(paths: &Paths) -> Result<Self, ServeError> {
        paths.prepare_socket_dir()?;
        let path = paths.socket.clone();
        remove_stale(&path)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = socket(AddressFamily::Unix, SockType::Stream, flags, None);
        let socket = made.map_err(|e| system("cannot make a socket")(e.into()))?;
        // Its name gets this mode.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| system("cannot protect a socket")(e.into()))?;
        Ok(Self { socket, path })
    }

    /// Gives it its name: from now on clients connect.
    pub(super) fn listen(self) -> Result<Listener, ServeError> {
        let Self { socket, path } = self;
        let failed = |what: &str, e: Errno| system(format!("cannot {what} {}", path.display()))(e.into());
        let address = UnixAddr::new(&path).map_err(|e| failed("listen on", e))?;
        match bind(socket.as_raw_fd(), &address) {
            Err(Errno::EADDRINUSE) => return Err(ServeError::SocketInUse(path)),
            other => other.map_err(|e| failed("make the socket", e))?,
        }
        let identity = identity(&path).map_err(system(format!("cannot look at {}", path.display())))?;
        let listener = Listener { socket: socket.into(), own: Some(Name { path: path.clone(), identity }) };
        listen(&listener.socket, Backlog::MAXCONN).map_err(|e| failed("listen on", e))?;
        Ok(listener)
    }
}

impl Listener {
    /// The one that the service manager listens on for us. It outlives us, with who waits there.
    pub(super) fn inherit(handed: Vec<(String, OwnedFd)>, paths: &Paths) -> Result<Self, ServeError> {
        let [(name, fd)] =
            <[_; 1]>::try_from(handed).map_err(|all| ServeError::Inherited(format!("{} descriptors", all.len())))?;
        let refuse = |what: &str| ServeError::Inherited(format!("{what} ({name})"));
        if !getsockopt(&fd, AcceptConn).unwrap_or(false) {
            return Err(refuse("something that is no listening socket"));
        }
        let socket = UnixListener::from(fd);
        // Of a socket of another family, this fails.
        let address = socket.local_addr().map_err(|_| refuse("a socket that is no Unix socket"))?;
        if address.as_pathname() != Some(&paths.socket) {
            return Err(refuse(&format!("a socket at {address:?}, not at {}", paths.socket.display())));
        }
        socket.set_nonblocking(true).map_err(system("cannot listen on the socket of the service manager"))?;
        Ok(Self { socket, own: None })
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
        let Some(Name { path, identity: own }) = &self.own else { return };
        let ours = identity(path).is_ok_and(|identity| identity == *own);
        if ours && let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, socket = %path.display(), "cannot remove the socket");
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
