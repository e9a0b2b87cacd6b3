//! Where the store and the sockets are. What is given on the command line (or by `AGENTFS_STORE` and
//! `AGENTFS_SOCKET`, which the commands read into the same options) wins over the defaults.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket, in bytes (`sun_path` less its terminating zero).
pub const SOCKET_PATH_MAX: usize = 107;

/// Name of the socket, in whatever directory.
const SOCKET_NAME: &str = "agentfsd.sock";

/// What only a store has in it, whole or damaged (on-disk-format §1).
const STORE_SIGNS: [&str; 2] = ["FORMAT", "meta"];
/// What is made before that, or by `mkfs`.
const STORE_BEGUN: [&str; 8] = ["lock", "log", "run", "start.lock", "commits", "contents", "bases", "lost+found"];

/// Why no path can be told.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Nothing says where the user's data is.
    #[error(
        "neither XDG_DATA_HOME nor HOME is set: name a store with --store DIR, AGENTFS_STORE or the mount option store=DIR"
    )]
    NoHome,
    /// A relative path cannot be made absolute.
    #[error("cannot resolve {path:?} against the current directory: {source}")]
    Relative {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A Unix socket cannot have such a path.
    #[error(
        "the socket path {path:?} has {len} bytes, the system allows {SOCKET_PATH_MAX}: name a shorter one with --socket PATH or AGENTFS_SOCKET"
    )]
    SocketTooLong {
        /// The path.
        path: PathBuf,
        /// Its length, in bytes.
        len: usize,
    },
    /// What is given as the store is somebody's directory.
    #[error(
        "{path:?} is no store and not empty (there is {entry:?} in it): name an empty or a new directory with --store DIR"
    )]
    ForeignStore {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        entry: std::ffi::OsString,
    },
    /// The directory of the socket is not safe.
    #[error("the socket's directory {path:?} cannot be used: {why}")]
    SocketDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What the defaults depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Effective user id.
    pub uid: u32,
    /// `HOME`.
    pub home: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
}

impl Environment {
    /// This process's.
    pub fn current() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            home: var("HOME"),
            xdg_data_home: var("XDG_DATA_HOME"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
        }
    }
}

/// A store and the sockets that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The store directory, absolute.
    pub store: PathBuf,
    /// The daemon's socket, absolute.
    pub socket: PathBuf,
}

impl Paths {
    /// From the options `--store` and `--socket`, in the environment of this process.
    pub fn resolve(store: Option<&Path>, socket: Option<&Path>) -> Result<Self, PathError> {
        Self::resolve_in(&Environment::current(), store, socket)
    }

    /// As [`Self::resolve`], in a given environment.
    pub fn resolve_in(env: &Environment, store: Option<&Path>, socket: Option<&Path>) -> Result<Self, PathError> {
        let socket = match (socket, store) {
            (Some(socket), _) => absolute(socket)?,
            (None, Some(store)) => absolute(store)?.join("run").join(SOCKET_NAME),
            (None, None) => default_socket(env),
        };
        let store = store.map_or_else(|| default_store(env), absolute)?;
        // The holder's socket has the longest name in that place.
        let longest = super::holder::socket_path(&socket);
        let len = longest.as_os_str().as_bytes().len();
        if len > SOCKET_PATH_MAX {
            return Err(PathError::SocketTooLong { path: longest, len });
        }
        Ok(Self { store, socket })
    }

    /// The holder's socket.
    pub fn holder_socket(&self) -> PathBuf {
        super::holder::socket_path(&self.socket)
    }

    /// Directory of the logs.
    pub fn log_dir(&self) -> PathBuf {
        self.store.join("log")
    }

    /// Log of a daemon that the holder started.
    pub fn daemon_log(&self) -> PathBuf {
        self.log_dir().join("agentfsd.log")
    }

    /// Log of the holder and of the frontends.
    pub fn holder_log(&self) -> PathBuf {
        self.log_dir().join("holder.log")
    }

    /// Refuses a directory in which something is and no store: it would be filled with files that nobody expects there.
    /// One that cannot be looked into is left to whoever uses it.
    pub fn check_store(&self) -> Result<(), PathError> {
        let Ok(entries) = std::fs::read_dir(&self.store) else { return Ok(()) };
        let names: Vec<OsString> = entries.flatten().map(|e| e.file_name()).collect();
        if names.iter().any(|name| STORE_SIGNS.iter().any(|sign| name == sign)) {
            return Ok(());
        }
        match names.into_iter().find(|name| !STORE_BEGUN.iter().any(|own| name == own)) {
            Some(entry) => Err(PathError::ForeignStore { path: self.store.clone(), entry }),
            None => Ok(()),
        }
    }

    /// Makes the directory of the sockets if it is missing (mode 0700) and refuses one in which
    /// somebody else could have put a socket of theirs.
    pub fn prepare_socket_dir(&self) -> Result<(), PathError> {
        let Some(dir) = self.socket.parent() else { return Ok(()) };
        let refuse = |why: String| PathError::SocketDir { path: dir.to_owned(), why };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| refuse(e.to_string()))?;
        let meta = std::fs::symlink_metadata(dir).map_err(|e| refuse(e.to_string()))?;
        let uid = nix::unistd::geteuid().as_raw();
        if !meta.is_dir() {
            return Err(refuse("it is not a directory".into()));
        }
        if meta.uid() != uid && meta.uid() != 0 {
            return Err(refuse(format!("it belongs to user {}, not to {uid}", meta.uid())));
        }
        if meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
            return Err(refuse("others can write to it; chmod 0700 it".into()));
        }
        Ok(())
    }
}

fn absolute(path: &Path) -> Result<PathBuf, PathError> {
    std::path::absolute(path).map_err(|source| PathError::Relative { path: path.to_owned(), source })
}

/// XDG says that a relative path in its variables is to be ignored.
fn directory(value: Option<&OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

fn default_store(env: &Environment) -> Result<PathBuf, PathError> {
    if env.uid == 0 {
        return Ok(PathBuf::from("/var/lib/agentfs"));
    }
    let data = directory(env.xdg_data_home.as_ref())
        .or_else(|| directory(env.home.as_ref()).map(|home| home.join(".local/share")))
        .ok_or(PathError::NoHome)?;
    Ok(data.join("agentfs"))
}

fn default_socket(env: &Environment) -> PathBuf {
    let dir = match (env.uid, directory(env.xdg_runtime_dir.as_ref())) {
        (0, _) => PathBuf::from("/run/agentfs"),
        (_, Some(runtime)) => runtime.join("agentfs"),
        (uid, None) => PathBuf::from(format!("/tmp/agentfs-{uid}")),
    };
    dir.join(SOCKET_NAME)
}

#[cfg(test)]
mod tests;
