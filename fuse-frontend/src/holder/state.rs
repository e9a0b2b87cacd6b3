//! What the holder holds, behind one lock.

use super::HoldConfig;
use super::child::EARLY_DEATHS_MAX;
use super::daemon::{DaemonChild, log_tail};
use super::logs::{LOG_CHECK, LOG_MAX, bound};
use super::mounts::{Fate, Mount};
use super::program::Program;
use crate::reconnect::detach;
use crate::serve;
use nix::sys::signal::Signal;
use shm_transport::SessionFds;
use shm_transport::control::client::Client;
use shm_transport::control::holder::{HeldMount, MountName, Pong};
use shm_transport::control::line::{LineError, LineStream};
use shm_transport::control::{Answer, ErrorCode, Failure};
use shm_transport::wire::SessionId;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most mounts of one holder: five descriptors each.
const MOUNTS_MAX: usize = 4096;
/// How long a daemon may take to end before it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How long a frontend may take to end after its mount has ended.
const UNMOUNTED_MAX: Duration = Duration::from_secs(5);
/// How long a daemon that is away may be waited for to tell it that a mount is gone.
const TELL_MAX: Duration = Duration::from_mins(30);
/// Frontends of a new mount that may die before one serves: more, and it is no accident.
const FIRST_TRIES: usize = 3;
/// Longest wait for a daemon to serve, or for a frontend to attach.
const READY_MAX: Duration = Duration::from_mins(1);

const UNMOUNT_FIRST: &str =
    "unmount them first: agentfs umount DIR; those of `agentfs run` end with the last process of their command";

#[derive(Debug)]
pub(super) struct Stop {
    /// When the daemon is killed if it still runs.
    deadline: Instant,
    /// Clients that shall be answered before the holder ends.
    waiting: usize,
    /// Frontends are ended, too.
    force: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: HoldConfig,
    pub(super) daemon: DaemonChild,
    /// What frontends are started from.
    pub(super) frontend: Program,
    pub(super) mounts: BTreeMap<u64, Mount>,
    pub(super) stop: Option<Stop>,
    /// When the logs are looked at next.
    logs_due: Instant,
}

/// The state, and how to tell of its changes.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: UnixStream,
    /// The name of our own program.
    pub(super) own: PathBuf,
    /// Held while an upgrade is under way.
    pub(super) upgrading: Mutex<()>,
}

pub(super) fn refusal(code: ErrorCode, message: impl Into<String>, hint: Option<&str>) -> Failure {
    Failure { code, message: message.into(), hint: hint.map(Into::into) }
}

impl Shared {
    /// The daemon is due at once, unless it is `managed` by somebody else. `wake` is written to when the tending thread has something to do.
    pub(super) fn new(config: HoldConfig, managed: bool, wake: UnixStream) -> Self {
        let own = serve::own_executable();
        let daemon = DaemonChild::new(&own, managed, Instant::now());
        let frontend = Program::own(&own);
        let state = State { config, daemon, frontend, mounts: BTreeMap::new(), stop: None, logs_due: Instant::now() };
        Self { state: Mutex::new(state), changed: Condvar::new(), wake, own, upgrading: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, at most until `deadline`; `None` when that has passed.
    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: Instant) -> Option<MutexGuard<'a, State>> {
        let left = deadline.checked_duration_since(Instant::now())?;
        Some(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Wakes everybody who waits for a change.
    pub(super) fn changed(&self) {
        self.changed.notify_all();
    }

    /// Wakes the tending thread. A full socket wakes it anyway.
    pub(super) fn wake(&self) {
        (&self.wake).write_all(&[0]).ok();
    }

    /// The daemon `pid` said that it serves.
    pub(super) fn daemon_is_ready(&self, pid: u32) {
        let mut state = self.lock();
        // One that was told to end is not who is waited for.
        if state.daemon.keeper.pid() == i32::try_from(pid).ok() && !state.daemon.replaced {
            state.daemon.ready = true;
            state.daemon.served += 1;
            state.daemon.keeper.early_deaths = 0;
            tracing::info!(pid, "the daemon serves");
        }
        drop(state);
        self.changed();
    }

    /// Reaps who died and starts who is due. Whether all is over, and when to look again.
    pub(super) fn tend(self: &Arc<Self>) -> (bool, Option<Duration>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = Instant::now();
        if let Some(status) = state.daemon.keeper.reap() {
            state.daemon.ended(status, state.stop.is_none(), now);
        }
        let socket = &state.config.paths.socket;
        state.mounts.retain(|_, mount| match mount.keeper.reap().map(|status| mount.ended(status, now)) {
            None | Some(Fate::Adopt) => true,
            Some(Fate::Gone) => false,
            Some(Fate::Untold) => {
                tell_of_the_end(socket, mount.name.session);
                false
            }
        });
        if state.logs_due <= now {
            state.logs_due = now + LOG_CHECK;
            bound(&state.config.paths.holder_log(), LOG_MAX);
            bound(&state.config.paths.daemon_log(), LOG_MAX);
        }
        let mut over = false;
        if let Some(stop) = &mut state.stop {
            if stop.force {
                // Reaped before the holder ends; a mount whose frontend is being started afresh just goes.
                state.mounts.retain(|_, mount| mount.keeper.pid().is_some());
                state.mounts.values().for_each(|mount| mount.keeper.signal(Signal::SIGKILL));
            }
            let running = state.daemon.keeper.pid().is_some();
            if running && now >= stop.deadline {
                state.daemon.keeper.signal(Signal::SIGKILL);
                stop.deadline = now + STOP_MAX;
            }
            over = !running && stop.waiting == 0 && state.mounts.is_empty();
        } else {
            self.start_due(state, now);
        }
        let after = state
            .mounts
            .values()
            .filter_map(|mount| mount.keeper.due_in(now))
            .chain(state.daemon.keeper.due_in(now))
            .chain([state.logs_due.saturating_duration_since(now)])
            .chain(state.stop.as_ref().map(|stop| stop.deadline.saturating_duration_since(now)))
            .min();
        drop(guard);
        self.changed();
        (over, after)
    }

    fn start_due(self: &Arc<Self>, state: &mut State, now: Instant) {
        let (paths, program) = (&state.config.paths, &state.frontend);
        if state.daemon.keeper.is_due(now) {
            state.daemon.start(paths, &state.config.allow_base, self, now);
        }
        state.mounts.retain(|_, mount| {
            if !mount.serving || !mount.keeper.is_due(now) {
                return true;
            }
            if mount.is_unmounted() {
                // Its frontend did not live to see it.
                tracing::info!(session = %mount.name.session, "unmounted while it had no frontend");
                tell_of_the_end(&paths.socket, mount.name.session);
                return false;
            }
            // Nobody waits for the answer of a frontend that takes over; its log tells.
            drop(mount.start(program, &paths.store, &paths.socket, now));
            true
        });
    }

    /// The holder's state.
    pub(super) fn pong(&self) -> Pong {
        Self::pong_of(&self.lock())
    }

    fn pong_of(state: &State) -> Pong {
        Pong {
            pid: std::process::id().cast_signed(),
            version: env!("CARGO_PKG_VERSION").into(),
            daemon_pid: state.daemon.keeper.pid(),
            daemon_ready: state.daemon.ready,
            daemon_restarts: state.daemon.keeper.restarts,
            store: state.config.paths.store.clone(),
            socket: state.config.paths.socket.clone(),
            allow_base: state.config.allow_base.clone(),
            mounts: state.mounts.len() as u64,
        }
    }

    /// Every mount.
    pub(super) fn mounts(&self) -> Vec<HeldMount> {
        let now = Instant::now();
        self.lock().mounts.values().map(|mount| mount.held(now)).collect()
    }

    /// Waits until the daemon serves; starts it if it was stopped.
    pub(super) fn await_daemon(&self, timeout: Duration) -> Result<Pong, Failure> {
        let state = self.lock();
        self.await_ready(state, 0, timeout)
    }

    /// Waits until more than `served` daemons have been ready, the last one of them being alive.
    pub(super) fn await_ready(
        &self,
        mut state: MutexGuard<'_, State>,
        served: u64,
        timeout: Duration,
    ) -> Result<Pong, Failure> {
        if state.daemon.managed {
            // Who connects to it waits for it, or is told that it does not run.
            return Ok(Self::pong_of(&state));
        }
        let now = Instant::now();
        let deadline = now + timeout.min(READY_MAX);
        // Not due: it was stopped. What kept it from starting may be over.
        let fails = state.daemon.keeper.early_deaths >= EARLY_DEATHS_MAX;
        let rests = state.daemon.keeper.pid().is_none() && (fails || state.daemon.keeper.due_in(now).is_none());
        if state.stop.is_none() && rests {
            state.daemon.keeper.at_once(now);
            self.wake();
        }
        loop {
            if state.stop.is_some() {
                return Err(refusal(ErrorCode::Busy, "the holder is stopping", Some("start it again afterwards")));
            }
            if state.daemon.ready && state.daemon.served > served {
                return Ok(Self::pong_of(&state));
            }
            if state.daemon.keeper.early_deaths >= EARLY_DEATHS_MAX {
                return Err(Self::does_not_start(&state));
            }
            let Some(later) = self.wait(state, deadline) else {
                let message = "the daemon does not serve yet; it may still recover its store";
                return Err(refusal(ErrorCode::Busy, message, Some("look into its log, agentfsd.log")));
            };
            state = later;
        }
    }

    fn does_not_start(state: &State) -> Failure {
        if state.daemon.disk_is_full {
            let store = state.config.paths.store.display();
            let message = format!("the daemon does not start: no space left for the store {store}");
            return refusal(ErrorCode::NoSpace, message, Some("free some space on its file system, and try again"));
        }
        let end = state.daemon.last_end.as_deref().unwrap_or("it ended");
        let tail = log_tail(&state.config.paths.daemon_log());
        let message = if tail.is_empty() {
            format!("the daemon does not start: {end}")
        } else {
            format!("the daemon does not start: {end}; its log ends:\n{tail}")
        };
        let hint = format!("the whole log is {}", state.config.paths.daemon_log().display());
        refusal(ErrorCode::Store, message, Some(&hint))
    }

    /// Takes a mount in and waits until its first frontend has attached it to the daemon.
    pub(super) fn adopt(&self, name: MountName, fuse: OwnedFd, session: SessionFds) -> Result<HeldMount, Failure> {
        let key = name.session.0;
        {
            let mut state = self.lock();
            if state.stop.is_some() {
                return Err(refusal(ErrorCode::Busy, "the holder is stopping", Some("start it again afterwards")));
            }
            if state.mounts.contains_key(&key) || state.mounts.len() >= MOUNTS_MAX {
                return Err(refusal(ErrorCode::Busy, "the session is held already, or too many are", None));
            }
            state.mounts.insert(key, Mount::new(name, fuse, session, Instant::now()));
        }
        let served = self.first_frontend(key);
        let mut state = self.lock();
        let mount = state.mounts.get_mut(&key).ok_or_else(unmounted_at_once)?;
        match served {
            Ok(()) => {
                mount.serving = true;
                Ok(mount.held(Instant::now()))
            }
            Err(failure) => {
                mount.given_up = true;
                mount.keeper.signal(Signal::SIGKILL);
                if mount.keeper.pid().is_none() {
                    state.mounts.remove(&key);
                }
                Err(failure)
            }
        }
    }

    /// Starts a frontend for a new mount and waits until it serves; another one if that dies before.
    fn first_frontend(&self, key: u64) -> Result<(), Failure> {
        let mut last = String::new();
        for _ in 0..FIRST_TRIES {
            let mut state = self.lock();
            let deadline = Instant::now() + STOP_MAX;
            // Started when the last one is reaped.
            while state.mounts.get(&key).is_some_and(|mount| mount.keeper.pid().is_some()) {
                state = self.wait(state, deadline).ok_or_else(|| does_not_serve("it cannot be ended"))?;
            }
            let State { config, mounts, frontend, .. } = &mut *state;
            let mount = mounts.get_mut(&key).ok_or_else(unmounted_at_once)?;
            let answers = mount.start(frontend, &config.paths.store, &config.paths.socket, Instant::now())?;
            drop(state);
            match first_word(answers) {
                Heard::Serves => return Ok(()),
                Heard::Refused(failure) => return Err(failure),
                Heard::Ended(why) => last = why,
            }
        }
        Err(does_not_serve(&last))
    }

    /// Lets bases lie below one more directory, for which the daemon starts afresh.
    pub(super) fn allow_base(&self, path: &Path) -> Result<Pong, Failure> {
        if !path.is_absolute() || !path.is_dir() {
            let message = format!("{} is not an existing directory with an absolute path", path.display());
            return Err(refusal(ErrorCode::Usage, message, None));
        }
        let state = self.lock();
        if state.daemon.managed {
            let hint = "set AGENTFS_ALLOW_BASE in the environment of its unit (/etc/agentfs/agentfsd.conf) to all \
                        directories that bases may lie below, then: systemctl restart agentfsd";
            let message = format!("a service manager keeps the daemon, which may not read below {}", path.display());
            return Err(refusal(ErrorCode::BaseNotAllowed, message, Some(hint)));
        }
        // What the daemon allows now, its defaults included, stays allowed.
        let socket = state.config.paths.socket.clone();
        drop(state);
        let now_allowed = Client::connect(&socket)
            .and_then(|mut client| {
                client
                    .set_timeout(Some(STOP_MAX))
                    .map_err(|e| shm_transport::control::client::ClientError::Line(e.into()))?;
                client.status()
            })
            .map(|status| status.allow_base)
            .unwrap_or_default();
        let mut state = self.lock();
        for allowed in now_allowed.into_iter().chain([path.to_owned()]) {
            if !state.config.allow_base.contains(&allowed) {
                state.config.allow_base.push(allowed);
            }
        }
        let served = state.daemon.served;
        if state.daemon.keeper.pid().is_some() {
            state.daemon.ready = false;
            state.daemon.replaced = true;
            state.daemon.keeper.signal(Signal::SIGTERM);
        }
        self.await_ready(state, served, READY_MAX)
    }

    /// Begins to stop, if nothing is mounted: for a holder that nobody can reach. Whether it does so now.
    pub(super) fn end_unless_needed(&self) -> bool {
        let stops = self.lock().stop.is_some();
        !stops && self.begin_stop(false).is_ok()
    }

    /// Begins to stop everything. The tending thread does the rest.
    pub(super) fn begin_stop(&self, force: bool) -> Result<(), Failure> {
        self.begin_stop_for(force, 0)
    }

    fn begin_stop_for(&self, force: bool, clients: usize) -> Result<(), Failure> {
        let mut state = self.lock();
        if !state.mounts.is_empty() && !force {
            let places: Vec<String> =
                state.mounts.values().map(|mount| mount.name.mountpoint.display().to_string()).collect();
            let message = format!("{} mount(s) live: {}", places.len(), places.join(", "));
            return Err(refusal(ErrorCode::Busy, message, Some(UNMOUNT_FIRST)));
        }
        if state.stop.is_none() {
            state.stop = Some(Stop { deadline: Instant::now() + STOP_MAX, waiting: 0, force });
            state.daemon.keeper.never();
            state.daemon.keeper.signal(Signal::SIGTERM);
        }
        if let Some(stop) = &mut state.stop {
            stop.waiting += clients;
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// Stops everything, and waits until the daemon has ended. The holder itself ends when the caller
    /// says [`Self::stop_was_answered`].
    pub(super) fn stop(&self, force: bool) -> Result<(), Failure> {
        if !force {
            self.await_unmounted();
        }
        self.begin_stop_for(force, 1)?;
        let mut state = self.lock();
        let deadline = Instant::now() + STOP_MAX * 2;
        while state.daemon.keeper.pid().is_some() {
            let Some(later) = self.wait(state, deadline) else { break };
            state = later;
        }
        Ok(())
    }

    /// A mount that is gone for programs may still have its frontend: waits until that has ended too.
    fn await_unmounted(&self) {
        let deadline = Instant::now() + UNMOUNTED_MAX;
        let mut state = self.lock();
        while !state.mounts.is_empty() && state.mounts.values().all(Mount::is_unmounted) {
            let Some(later) = self.wait(state, deadline) else { return };
            state = later;
        }
    }

    /// A client that waited in [`Self::stop`] has its answer.
    pub(super) fn stop_was_answered(&self) {
        if let Some(stop) = &mut self.lock().stop {
            stop.waiting = stop.waiting.saturating_sub(1);
        }
        self.wake();
    }
}

/// Tells the daemon, when there is one again, that a mount is gone: else it would stay a mount of its branch.
fn tell_of_the_end(socket: &Path, session: SessionId) {
    let socket = socket.to_owned();
    let tell = move || detach(&socket, session, TELL_MAX);
    if let Err(error) = std::thread::Builder::new().name("detach".into()).spawn(tell) {
        tracing::warn!(%error, %session, "the daemon could not be told that the mount is gone");
    }
}

fn does_not_serve(why: &str) -> Failure {
    let message = format!("the frontend does not serve: {why}");
    refusal(ErrorCode::Internal, message, Some("see holder.log and agentfsd.log in the store's log directory"))
}

fn unmounted_at_once() -> Failure {
    refusal(ErrorCode::Busy, "the mount ended while it was being taken in", Some("mount it again"))
}

/// What a new frontend says of its first attach.
enum Heard {
    Serves,
    Refused(Failure),
    /// Nothing: it died.
    Ended(String),
}

fn first_word(mut answers: LineStream) -> Heard {
    let word = answers.set_timeout(Some(READY_MAX)).map_err(LineError::Io).and_then(|()| answers.read());
    match word.and_then(|line| line.map(|line| line.parse::<Answer>()).transpose()) {
        Ok(Some(Answer::Ok(_))) => Heard::Serves,
        Ok(Some(Answer::Error(failure))) => Heard::Refused(failure),
        Ok(None) => Heard::Ended("it ended".into()),
        Err(LineError::Cut) => Heard::Ended("it ended in a word".into()),
        // It had not even read what it is to serve.
        Err(LineError::Io(e)) if e.kind() == ErrorKind::ConnectionReset => Heard::Ended("it ended at once".into()),
        Err(e) => Heard::Refused(does_not_serve(&e.to_string())),
    }
}
