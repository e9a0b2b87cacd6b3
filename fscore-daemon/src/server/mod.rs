//! The daemon as a process: it opens the store, listens, and serves until it is told to stop.
//!
//! ```text
//! main thread      accepts connections, waits for signals
//! control thread   one per connection: answers calls; an attached one keeps its session's socket
//! session threads  one per mount (up to four with several queue pairs): take and run requests
//! blocking pool    a few, shared: run requests that may wait for a disk
//! ```
#![forbid(unsafe_code)]

mod claim;
mod collect;
mod control;
mod door;
mod ending;
mod holder;
mod link;
mod notify;
mod pool;
mod process;
mod relief;
mod session;
mod socket;
mod views;
mod worker;

#[cfg(test)]
mod tests;

pub use process::main;

use crate::branch::{Branches, base_list};
use crate::config::Config;
use crate::content::Contents;
use crate::core::base::Grounds;
use crate::core::clock::HostClock;
use crate::core::error::FsError;
use crate::core::keys;
use crate::core::state::{Core, lock};
use crate::failure::refuse;
use crate::sandbox::SandboxError;
use crate::store::{Batch, LogStore, Options, Store, StoreError};
use claim::{Claimed, Door};
use door::Calls;
use holder::Holder;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use pool::Pool;
use session::Mounts;
use shm_transport::control::paths::PathError;
use shm_transport::control::service::Service;
use shm_transport::control::{ErrorCode, Failure, Sandbox, SandboxState};
use shm_transport::doorbell::Doorbell;
use shm_transport::stats::StatsWriter;
use socket::Listener;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use worker::Crew;

/// Stack of a thread that runs requests. They are many, and requests do not recurse.
const STACK_BYTES: usize = 256 << 10;
/// Threads for requests that may wait for a disk. They are shared: one mount's slow disk must leave some.
const POOL_THREADS: usize = 16;
/// Content files that are kept open while nobody uses them.
const OPEN_FILES_MAX: usize = 1024;
/// Most connections at a time, attached ones included; fewer where only few descriptors may be open.
const CONNECTIONS_MAX: usize = 4096;
/// Descriptors that one connection may take of the process's limit: it has two, an attached one five.
const LIMIT_PER_CONNECTION: u64 = 8;
/// Longest wait at the end for calls and requests that run: less than the holder waits before it kills us.
const STOP_MAX: Duration = Duration::from_secs(8);
/// The same when a successor waits: who runs longer runs again at that one.
const HAND_OVER_MAX: Duration = Duration::from_millis(300);
/// Pause after the system refused a connection: descriptors or memory ran out.
const STARVED_PAUSE_MS: u16 = 50;

/// Why the daemon does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The metadata store.
    #[error("cannot open the store {store:?}: {source}")]
    Store {
        /// The store.
        store: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// What stands in the store.
    #[error("cannot use the store {store:?}: {source}")]
    Core {
        /// The store.
        store: PathBuf,
        /// Why.
        source: FsError,
    },
    /// The branches in it.
    #[error("cannot use the branches in the store: {0}")]
    Branches(Failure),
    /// The process could not be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The list of bases lacked some, which this process cannot take along any more.
    #[error("the store's list of bases was not complete; it is now: start the daemon again")]
    BasesUnknown,
    /// The socket's directory.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Another process listens there.
    #[error("another daemon listens on {0:?}: stop it, or choose another socket with --socket PATH")]
    SocketInUse(PathBuf),
    /// Something that is no socket has its name.
    #[error("{0:?} exists and is not a socket: remove it, or choose another one with --socket PATH")]
    NotASocket(PathBuf),
    /// What the service manager handed over is not what the daemon listens on.
    #[error("the service manager handed over {0}: in the unit, name the socket of --socket, and no other")]
    Inherited(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { what: what.into(), source }
}

/// What all threads share.
struct Daemon {
    /// For what lives on with a session.
    own: Weak<Daemon>,
    config: Config,
    service: Arc<Service>,
    holder: Holder,
    sandbox: Sandbox,
    store: Arc<LogStore>,
    core: Arc<Core>,
    branches: Branches,
    mounts: Mounts,
    /// What comes through the mounts' control files.
    calls: Calls,
    crew: Arc<Crew>,
    stats: StatsWriter,
    started: Instant,
    recoveries: u64,
    /// Held while a session is opened, and by commands that depend on a branch not being mounted.
    admin: Mutex<()>,
    /// Held while the store is checked.
    checking: Mutex<()>,
    connections: Connections,
    connections_max: usize,
    stopping: AtomicBool,
    /// A successor waits.
    handing_over: AtomicBool,
    stopped: Doorbell,
}

impl Daemon {
    /// While requests still run: then little is left to be made durable when nobody serves.
    fn prepare_hand_over(&self) {
        if let Err(error) = self.core.sync() {
            tracing::warn!(%error, "the store cannot be synced before it is handed over");
        }
        self.handing_over.store(true, Ordering::Release);
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = self.stopped.ring() {
            tracing::error!(%error, "the daemon cannot be told to stop");
        }
    }
}

/// The open connections, so that their threads can be ended.
#[derive(Debug, Default)]
struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, UnixStream>>,
    changed: Condvar,
}

impl Connections {
    fn add(&self, stream: &UnixStream) -> io::Result<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = stream.try_clone()?;
        lock(&self.open).insert(id, stream);
        Ok(id)
    }

    fn remove(&self, id: u64) {
        lock(&self.open).remove(&id);
        self.changed.notify_all();
    }

    fn count(&self) -> usize {
        lock(&self.open).len()
    }

    /// Lets every thread finish what it does, and waits for them; false when that took longer than `limit`.
    fn finish(&self, limit: Duration) -> bool {
        let open = lock(&self.open);
        for stream in open.values() {
            // Answers still go out. An error says that the peer is gone already.
            if let Err(error) = stream.shutdown(Shutdown::Read) {
                tracing::debug!(%error, "a connection was closed already");
            }
        }
        let waited = self.changed.wait_timeout_while(open, limit, |open| !open.is_empty());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// A daemon that listens, and serves as soon as it [`Self::run`]s.
pub struct Server {
    daemon: Arc<Daemon>,
    listener: Listener,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("config", &self.daemon.config).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the store and the socket, and leaves the process as it is.
    pub fn start(config: Config) -> Result<Self, ServeError> {
        Self::start_as(config, Service::default())
    }

    /// The same, with the socket that the service manager handed over, if it did.
    pub fn start_as(config: Config, service: Service) -> Result<Self, ServeError> {
        Claimed::take(config, service)?.unconfined()
    }

    /// The same in a process that has no other thread: it is confined for good, see [`crate::sandbox`].
    pub fn start_confined(config: Config, service: Service) -> Result<Self, ServeError> {
        Claimed::take(config, service)?.confined()
    }

    fn open(claimed: Claimed, grounds: Grounds, sandbox: Sandbox, holder: Holder) -> Result<Self, ServeError> {
        let stats = claimed.stats.clone();
        Self::open_store(claimed, grounds, sandbox, holder).inspect_err(|_| remove_counters(&stats))
    }

    fn open_store(claimed: Claimed, grounds: Grounds, sandbox: Sandbox, holder: Holder) -> Result<Self, ServeError> {
        let Claimed { config, service, store: claim, bases, stats, door } = claimed;
        let dir = config.paths.store.clone();
        let store = LogStore::open_claimed(claim, Options::default())
            .map_err(|source| ServeError::Store { store: dir.clone(), source })?;
        let store = Arc::new(store);
        let with = Confined { grounds, sandbox, holder, bases };
        let begun = Self::begin(config, service, &store, with, stats, door);
        if begun.is_err()
            && let Err(error) = store.close()
        {
            tracing::error!(%error, "the store could not be closed in order");
        }
        begun
    }

    fn begin(
        config: Config,
        service: Service,
        store: &Arc<LogStore>,
        confined: Confined,
        stats: StatsWriter,
        door: Door,
    ) -> Result<Self, ServeError> {
        let Confined { grounds, sandbox, holder, bases } = confined;
        let dir = config.paths.store.clone();
        let recoveries = recoveries(store);
        let contents = Contents::open(&dir.join("contents"), open_files_max())
            .map_err(system(format!("cannot open the contents in {}", dir.display())))?;
        let dynamic: Arc<dyn Store> = Arc::<LogStore>::clone(store);
        let core = Core::open_on(grounds.with_copies(&dir), dynamic, Arc::new(contents), Arc::new(HostClock))
            .map_err(|source| ServeError::Core { store: dir.clone(), source })?;
        let known = update_bases(&core, &dir, &bases);
        if !known && sandbox.state != SandboxState::Off {
            return Err(ServeError::BasesUnknown);
        }
        let uid = nix::unistd::geteuid().as_raw();
        let branches = Branches::open(Arc::clone(&core), dir.clone(), config.allow_base.clone(), uid)
            .map_err(ServeError::Branches)?;
        let crew = Pool::start(POOL_THREADS).and_then(Crew::start).map_err(system("cannot start threads"))?;
        let stopped = Doorbell::create().map_err(system("cannot make an event descriptor"))?;
        // Last: who can connect finds everything there.
        let listener = door.open()?;
        let daemon = Arc::new_cyclic(|own| Daemon {
            own: Weak::clone(own),
            service: Arc::new(service),
            holder,
            sandbox,
            store: Arc::clone(store),
            core,
            branches,
            mounts: Mounts::default(),
            calls: Calls::default(),
            crew,
            stats,
            started: Instant::now(),
            recoveries,
            admin: Mutex::new(()),
            checking: Mutex::new(()),
            connections: Connections::default(),
            connections_max: connections_max(),
            stopping: AtomicBool::new(false),
            handing_over: AtomicBool::new(false),
            stopped,
            config,
        });
        Ok(Self { daemon, listener })
    }

    /// Serves until a client says `shutdown` or `signals` is readable; then ends in order. Frontends
    /// keep their sessions and go on with the next daemon.
    pub fn run(self, signals: Option<BorrowedFd<'_>>) -> Result<(), ServeError> {
        let Self { daemon, listener } = self;
        let background = collect::Background::start(&daemon).map_err(system("cannot start threads"))?;
        let begun = notify::begin(&daemon, &daemon.service).map_err(system("cannot start threads"));
        let served = begun.and_then(|()| accept_all(&daemon, &listener, signals));
        daemon.stop();
        notify::end(&daemon.service);
        tracing::info!("stopping");
        // First, so that nobody connects to a daemon that does not answer.
        drop(listener);
        let limit = if daemon.handing_over.load(Ordering::Acquire) { HAND_OVER_MAX } else { STOP_MAX };
        let finished = daemon.connections.finish(limit);
        drop(background);
        // While the store is locked: the next daemon's counters have the same name.
        remove_counters(&daemon.stats);
        let ended = if finished {
            if let Err(error) = daemon.core.sync() {
                tracing::warn!(%error, "removed contents are given back by the next start");
            }
            daemon.store.close()
        } else {
            // A request must not find the store closed under it: its program would see an error. Left as it is, it
            // runs again at the next daemon, as after a crash.
            tracing::warn!("calls or requests still run after {limit:?}; not waiting for them");
            daemon.store.sync()
        };
        let store = daemon.config.paths.store.clone();
        served.and(ended.map_err(|source| ServeError::Store { store, source }))
    }
}

/// What a confined daemon has from the time before.
struct Confined {
    grounds: Grounds,
    sandbox: Sandbox,
    holder: Holder,
    bases: BTreeSet<PathBuf>,
}

/// Brings the list of bases in line with the store; false when it lacked one, which was not taken along then.
fn update_bases(core: &Core, dir: &Path, listed: &BTreeSet<PathBuf>) -> bool {
    let recorded: BTreeSet<_> = core.base_paths().into_iter().collect();
    if recorded != *listed
        && let Err(error) = base_list::write(dir, recorded.clone())
    {
        tracing::warn!(%error, "the list of bases cannot be written");
        // Starting again would help nobody.
        return true;
    }
    recorded.is_subset(listed)
}

fn remove_counters(stats: &StatsWriter) {
    if let Err(error) = stats.ended() {
        tracing::warn!(%error, "the segment of the counters stays in /dev/shm");
    }
}

fn accept_all(daemon: &Arc<Daemon>, listener: &Listener, signals: Option<BorrowedFd<'_>>) -> Result<(), ServeError> {
    // Told once, not for each of perhaps thousands of connections.
    let mut refusing = false;
    let mut starved = false;
    while !daemon.stopping.load(Ordering::Acquire) {
        let mut fds = vec![PollFd::new(daemon.stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(signals.map(|signals| PollFd::new(signals, PollFlags::POLLIN)));
        let ends = fds.len();
        // A connection that cannot be accepted stays where it is, and the socket readable.
        let wait = if starved { PollTimeout::from(STARVED_PAUSE_MS) } else { PollTimeout::NONE };
        fds.extend((!starved).then(|| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, wait) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(system("cannot wait for connections")(e.into())),
        }
        if fds.iter().take(ends).any(|end| end.any().unwrap_or(true)) {
            return Ok(());
        }
        match listener.accept() {
            Ok(Some(stream)) => {
                if starved {
                    tracing::info!("connections are accepted again");
                }
                starved = false;
                refusing = !admit(daemon, stream, refusing);
            }
            Ok(None) => starved = false,
            Err(error) => {
                if !starved {
                    tracing::warn!(%error, "cannot accept connections; trying on");
                }
                starved = true;
            }
        }
    }
    Ok(())
}

/// Gives a connection its thread; false when it is refused. `quiet`: so was the one before.
fn admit(daemon: &Arc<Daemon>, stream: UnixStream, quiet: bool) -> bool {
    let turn_away = |stream, why: String| {
        if !quiet {
            tracing::warn!("connections are refused: {why}");
        }
        control::turn_away(stream, refuse(ErrorCode::Busy, why).hint("try again later").done());
        false
    };
    if daemon.connections.count() >= daemon.connections_max {
        return turn_away(stream, format!("the daemon has {} connections, which is its limit", daemon.connections_max));
    }
    let id = match daemon.connections.add(&stream) {
        Ok(id) => id,
        Err(error) => return turn_away(stream, format!("the daemon cannot take more connections: {error}")),
    };
    let theirs = Arc::clone(daemon);
    let spawned = std::thread::Builder::new().name("control".into()).spawn(move || {
        let guard = Registered { daemon: theirs, id };
        control::converse(&guard.daemon, stream);
    });
    if let Err(error) = spawned {
        if !quiet {
            tracing::warn!(%error, "cannot start a thread for a connection");
        }
        daemon.connections.remove(id);
        return false;
    }
    true
}

fn descriptors_max() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(limit, _)| limit)
}

/// Half of the descriptors at most: connections and bases need some too.
fn open_files_max() -> usize {
    usize::try_from(descriptors_max() / 2).unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX)
}

fn connections_max() -> usize {
    let limit = descriptors_max();
    usize::try_from(limit / LIMIT_PER_CONNECTION).unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX)
}

/// Removes a connection when its thread ends, in whatever way.
struct Registered {
    daemon: Arc<Daemon>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.daemon.connections.remove(self.id);
    }
}

/// How often the store was opened after an unclean end, this time included.
fn recoveries(store: &LogStore) -> u64 {
    let key = keys::meta("recoveries");
    let before = store.get(&key).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    let opened = store.opened();
    if !opened.unclean {
        return before;
    }
    tracing::info!(records = opened.records, replayed = opened.replayed, torn = opened.torn, "recovered the store");
    let mut batch = Batch::default();
    batch.put(key, (before + 1).to_le_bytes());
    if let Err(error) = store.commit(&batch) {
        tracing::warn!(%error, "the recovery is not counted");
    }
    before + 1
}
