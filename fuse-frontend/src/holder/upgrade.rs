//! Replacing the daemon and the frontends by the programs that are on the disk now.
//!
//! ```text
//! look    both programs are asked for their versions; one that does not fit changes nothing
//! daemon  told to hand over; its successor starts. If that does not serve, the one before comes back
//! mounts  one after the other: its frontend ends at a moment without requests under way, the next one adopts
//! ```
//!
//! Programs wait for each of these moments, and see no error: it is what happens at a death, only in order.

use super::child::EARLY_DEATHS_MAX;
use super::program::Program;
use super::state::{Shared, State, refusal};
use crate::serve;
use nix::sys::signal::Signal;
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::holder::Upgraded;
use shm_transport::control::versions::{Asked, Versions};
use shm_transport::control::{ErrorCode, Failure, Status};
use std::io;
use std::path::Path;
use std::sync::TryLockError;
use std::time::{Duration, Instant};

/// How long the daemon may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the old daemon may take to end before it is killed, which nobody on a mount sees either.
const END_MAX: Duration = Duration::from_millis(800);
/// How long the new daemon may take to serve: it may have to recover its store.
const DAEMON_MAX: Duration = Duration::from_secs(30);
/// How long a frontend may take to end. Then it ends when its requests are done.
const LEAVE_MAX: Duration = Duration::from_secs(2);
/// How long a new frontend may take to be attached. Then one that lives is attached when it can be.
const ATTACH_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// The programs that serve from now on.
struct Programs {
    daemon: Program,
    frontend: Program,
    release: String,
}

/// How the frontend of one mount was replaced.
enum Replaced {
    /// In so long.
    Within(Duration),
    /// The mount ended meanwhile, or has no frontend that could be told.
    Gone,
    /// It has requests under way.
    Later,
}

impl Shared {
    /// Replaces everything but the holder itself.
    pub(super) fn upgrade(&self) -> Result<Upgraded, Failure> {
        let _one = match self.upgrading.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(refusal(ErrorCode::Busy, "an upgrade is under way", Some("wait for its end")));
            }
        };
        let Programs { daemon, frontend, release } = self.fitting()?;
        tracing::info!(release, "upgrading");
        let mut upgraded = Upgraded {
            release,
            daemon_pid: None,
            daemon_ms: None,
            frontends: 0,
            frontend_ms_max: 0,
            later: Vec::new(),
        };
        if !self.lock().daemon.managed {
            let began = Instant::now();
            upgraded.daemon_pid = Some(self.replace_daemon(daemon)?);
            upgraded.daemon_ms = Some(began.elapsed().as_millis() as u64);
        }
        self.replace_frontends(frontend, &mut upgraded)?;
        tracing::info!(?upgraded, "upgraded");
        Ok(upgraded)
    }

    /// The programs on the disk, if they can take the place of what runs.
    fn fitting(&self) -> Result<Programs, Failure> {
        let (asked, socket, managed) = {
            // Under the lock under which all children are started.
            let state = self.lock();
            if state.stop.is_some() {
                return Err(refusal(ErrorCode::Busy, "the holder is stopping", Some("start it again afterwards")));
            }
            let paths = [serve::sibling(&self.own, "agentfsd"), self.own.clone()];
            let asked = paths.map(|path| {
                let program = Program::at(&path);
                let begun = Asked::begin(program.path());
                (program, begun)
            });
            (asked, state.config.paths.socket.clone(), state.daemon.managed)
        };
        let [(daemon, daemon_asked), (frontend, frontend_asked)] = asked;
        // Both are waited for, whatever the first one says.
        let (new_daemon, new_frontend) = (daemon_asked.and_then(Asked::answer), frontend_asked.and_then(Asked::answer));
        let mut running = Versions::current(None);
        if let Ok(status) = status(&socket) {
            let Some(versions) = status.versions else {
                let message = "the daemon that runs does not tell its versions: it is older than upgrades are";
                return Err(refusal(ErrorCode::Version, message, Some(AFRESH)));
            };
            running.store = versions.store;
        }
        if !managed {
            check(daemon.path(), new_daemon, &running)?;
        }
        let release = check(frontend.path(), new_frontend, &running)?.release;
        Ok(Programs { daemon, frontend, release })
    }

    /// The process id of the daemon that serves now.
    fn replace_daemon(&self, program: Program) -> Result<i32, Failure> {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.daemon.program, program);
        let served = state.daemon.served;
        let old = state.daemon.keeper.pid();
        state.daemon.replaced = old.is_some();
        state.daemon.ready = false;
        let socket = state.config.paths.socket.clone();
        drop(state);
        if let Some(old) = old {
            self.end_daemon(&socket, old);
        }
        let failure = match self.await_ready(self.lock(), served, DAEMON_MAX) {
            Ok(pong) => return Ok(pong.daemon_pid.unwrap_or_default()),
            Err(failure) => failure,
        };
        tracing::error!(error = %failure, "the new daemon does not serve; the one before comes back");
        let mut state = self.lock();
        state.daemon.program = before;
        // The one that is killed, should it be ready at last, is not the one before.
        state.daemon.ready = false;
        state.daemon.keeper.early_deaths = 0;
        let served = state.daemon.served;
        if state.daemon.keeper.pid().is_some() {
            state.daemon.replaced = true;
            state.daemon.keeper.signal(Signal::SIGKILL);
        } else {
            state.daemon.keeper.at_once(Instant::now());
            self.wake();
        }
        let back = self.await_ready(state, served, DAEMON_MAX);
        let then = match back {
            Ok(_) => "the one before serves again, and nothing was upgraded".to_owned(),
            Err(error) => format!("nor does the one before: {error}"),
        };
        Err(refusal(ErrorCode::Version, format!("the new daemon does not serve: {failure}; {then}"), None))
    }

    /// Has the daemon `old` end in order, or else kills it.
    fn end_daemon(&self, socket: &Path, old: i32) {
        let told = Client::connect(socket).and_then(|mut client| {
            client.set_timeout(Some(ANSWER_MAX)).map_err(|e| ClientError::Line(e.into()))?;
            client.hand_over(old)
        });
        if let Err(error) = told {
            tracing::warn!(%error, "the daemon does not hand over; it is ended");
        }
        let end = Instant::now() + END_MAX;
        let mut state = self.lock();
        while state.daemon.keeper.pid() == Some(old) {
            state = match self.wait(state, end) {
                Some(state) => state,
                None => {
                    let state = self.lock();
                    if state.daemon.keeper.pid() == Some(old) {
                        state.daemon.keeper.signal(Signal::SIGKILL);
                    }
                    return;
                }
            };
        }
    }

    fn replace_frontends(&self, program: Program, upgraded: &mut Upgraded) -> Result<(), Failure> {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.frontend, program);
        let served: Vec<u64> = state.mounts.iter().filter(|(_, m)| m.serving).map(|(key, _)| *key).collect();
        drop(state);
        for key in served {
            match self.replace_frontend(key) {
                Ok(Replaced::Within(took)) => {
                    upgraded.frontends += 1;
                    upgraded.frontend_ms_max = upgraded.frontend_ms_max.max(took.as_millis() as u64);
                }
                Ok(Replaced::Gone) => {}
                Ok(Replaced::Later) => {
                    upgraded.later.extend(self.lock().mounts.get(&key).map(|mount| mount.name.mountpoint.clone()));
                }
                Err(why) => {
                    tracing::error!(why, "the new frontend does not serve; the one before comes back");
                    self.take_back(key, before);
                    let message = format!(
                        "the daemon was upgraded; the new frontend does not serve ({why}), so mounts go on with the one \
                         before"
                    );
                    return Err(refusal(
                        ErrorCode::Version,
                        message,
                        Some("its log is holder.log in the store's log directory"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Replaces the frontend of one mount; or why the new one does not serve.
    fn replace_frontend(&self, key: u64) -> Result<Replaced, String> {
        let mut state = self.lock();
        let socket = state.config.paths.socket.clone();
        let Some(mount) = state.mounts.get_mut(&key) else { return Ok(Replaced::Gone) };
        // One that is being started now is of the new program.
        let Some(old) = mount.keeper.pid() else { return Ok(Replaced::Gone) };
        mount.replaced = true;
        mount.keeper.signal(Signal::SIGTERM);
        let end = Instant::now() + LEAVE_MAX;
        while state.mounts.get(&key).is_some_and(|mount| mount.keeper.pid() == Some(old)) {
            let Some(later) = self.wait(state, end) else { return Ok(Replaced::Later) };
            state = later;
        }
        drop(state);
        let left = Instant::now();
        loop {
            let state = self.lock();
            let Some(mount) = state.mounts.get(&key) else { return Ok(Replaced::Gone) };
            if mount.is_unmounted() {
                return Ok(Replaced::Gone);
            }
            let (deaths, pid) = (mount.keeper.early_deaths, mount.keeper.pid());
            let now = Instant::now();
            let lives = pid.is_some() && mount.keeper.early_deaths_at(now) == 0;
            let why = mount.held(now).trouble;
            drop(state);
            if deaths >= EARLY_DEATHS_MAX {
                return Err(why.unwrap_or_else(|| "it dies as soon as it is started".into()));
            }
            if pid.is_some_and(|pid| is_attached(&socket, key, pid)) {
                return Ok(Replaced::Within(left.elapsed()));
            }
            if left.elapsed() >= ATTACH_MAX {
                if lives {
                    // The daemon lets it in when what the one before had submitted has run.
                    return Ok(Replaced::Later);
                }
                return Err(format!("it is not attached after {} s", ATTACH_MAX.as_secs()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// From now on frontends are of the program `before` again, that of the mount `key` at once.
    fn take_back(&self, key: u64, before: Program) {
        let mut state = self.lock();
        let State { frontend, mounts, .. } = &mut *state;
        *frontend = before;
        if let Some(mount) = mounts.get_mut(&key) {
            if mount.keeper.pid().is_some() {
                mount.replaced = true;
                mount.keeper.signal(Signal::SIGKILL);
            } else {
                mount.keeper.at_once(Instant::now());
            }
        }
        drop(state);
        self.wake();
    }
}

/// What to do about a build that does not fit.
const AFRESH: &str = "the build that runs goes on serving. To change over, unmount everything, stop it (agentfs daemon stop), and \
                      start the new one, if that can read the store";

/// The versions of a program that can take the place of what runs.
fn check(program: &Path, answer: io::Result<Versions>, running: &Versions) -> Result<Versions, Failure> {
    let program = program.display();
    let new = answer.map_err(|error| {
        let message = format!("{program} cannot be used: {error}");
        refusal(ErrorCode::Version, message, Some("nothing was changed; the build that runs goes on serving"))
    })?;
    match new.misfit(running) {
        None => Ok(new),
        Some(why) => {
            let message = format!("{program} (release {}) does not fit what runs: it has {why}", new.release);
            Err(refusal(ErrorCode::Version, message, Some(AFRESH)))
        }
    }
}

fn status(socket: &Path) -> Result<Status, ClientError> {
    let mut client = Client::connect(socket)?;
    client.set_timeout(Some(ANSWER_MAX)).map_err(|e| ClientError::Line(e.into()))?;
    client.status()
}

/// Whether that frontend serves the session.
fn is_attached(socket: &Path, session: u64, pid: i32) -> bool {
    let asked = Client::connect(socket).and_then(|mut client| {
        client.set_timeout(Some(ANSWER_MAX)).map_err(|e| ClientError::Line(e.into()))?;
        client.mounts()
    });
    asked.is_ok_and(|mounts| {
        mounts.iter().any(|m| m.session.0 == session && m.frontend_pid == pid && m.state == "attached")
    })
}
