//! A mount and its frontend.

use super::child::{EARLY_DEATHS_MAX, Keeper};
use super::program::Program;
use crate::feature;
use crate::serve::{self, Hello};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm_transport::control::Failure;
use shm_transport::control::holder::{HeldMount, MountName};
use shm_transport::control::line::LineStream;
use shm_transport::{SessionFds, SessionHeader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

/// A mount that is held. While these descriptors live, so does the mount.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) name: MountName,
    fuse: OwnedFd,
    session: SessionFds,
    pub(super) keeper: Keeper,
    /// A frontend has attached it to the daemon once.
    pub(super) serving: bool,
    /// Its frontend was told to end so that another one starts.
    pub(super) replaced: bool,
    /// It goes with the frontend that it has.
    pub(super) given_up: bool,
    /// Features of the kernel that it does without.
    without: Vec<String>,
    /// How its last frontend ended.
    last_end: String,
}

/// What the end of a frontend means for its mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is unmounted, or given up.
    Gone,
    /// It is unmounted, and no daemon could be told.
    Untold,
    /// Another frontend takes it over.
    Adopt,
}

impl Mount {
    pub(super) fn new(name: MountName, fuse: OwnedFd, session: SessionFds, now: Instant) -> Self {
        let settled = session.header().ok().and_then(|header| header.fuse_state());
        let without = settled.map(|settled| feature::missing(settled.flags)).unwrap_or_default();
        Self {
            name,
            fuse,
            session,
            keeper: Keeper::new(now),
            serving: false,
            replaced: false,
            given_up: false,
            without,
            last_end: String::new(),
        }
    }

    /// Starts a frontend. The caller holds the lock under which all children are started.
    pub(super) fn start(
        &mut self,
        program: &Program,
        store: &Path,
        socket: &Path,
        now: Instant,
    ) -> Result<LineStream, Failure> {
        let started = self.spawn(program, store, socket, now);
        match &started {
            Ok(_) => tracing::info!(pid = self.keeper.pid(), session = %self.name.session, "started a frontend"),
            Err(failure) => {
                tracing::error!(error = %failure, session = %self.name.session, "a frontend cannot be started");
                self.keeper.again(now);
            }
        }
        started
    }

    fn spawn(&mut self, program: &Program, store: &Path, socket: &Path, now: Instant) -> Result<LineStream, Failure> {
        let failed = |e: std::io::Error| Failure {
            code: shm_transport::control::ErrorCode::Internal,
            message: format!("the frontend {} cannot be started: {e}", program.path().display()),
            hint: None,
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = program.command();
        // All but --serve is for people who look at the process list: the truth comes over the socket.
        command.arg("--serve").arg("--store").arg(store).arg("--socket").arg(socket);
        command.arg(format!("--branch={}", self.name.branch)).arg("--mountpoint").arg(&self.name.mountpoint);
        command.arg("--session").arg(self.name.session.to_string());
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = command.spawn().map_err(failed)?;
        self.keeper.runs(child, now);
        let hello = Hello { mount: self.name.clone(), socket: socket.to_owned(), first: !self.serving };
        // One that is dead by now is reaped as any other; whoever listens to it hears the end.
        let (lines, handed) = serve::hand_over(ours, &hello, &self.fuse, &self.session);
        if let Err(error) = handed {
            tracing::warn!(%error, session = %self.name.session, "a mount cannot be handed to its frontend");
        }
        Ok(lines)
    }

    /// Whether the kernel has ended it. Asked of the descriptor: nothing on the mount is touched.
    pub(super) fn is_unmounted(&self) -> bool {
        let mut polled = [PollFd::new(self.fuse.as_fd(), PollFlags::empty())];
        let asked = poll(&mut polled, PollTimeout::ZERO);
        asked.is_ok() && polled.iter().any(|fd| fd.revents().is_some_and(|found| found.contains(PollFlags::POLLERR)))
    }

    /// Its frontend ended.
    pub(super) fn ended(&mut self, status: ExitStatus, now: Instant) -> Fate {
        let session = self.name.session;
        if status.code() == Some(i32::from(serve::UNTOLD)) {
            tracing::warn!(%session, "unmounted while no daemon answered");
            return Fate::Untold;
        }
        if status.success() || self.given_up {
            tracing::info!(%session, "unmounted");
            return Fate::Gone;
        }
        if !self.serving {
            // Whoever waits for the mount starts another frontend, or gives it up.
            tracing::warn!(%session, %status, "the frontend of a new mount ended before it served");
            return Fate::Adopt;
        }
        if std::mem::take(&mut self.replaced) {
            tracing::info!(%session, %status, "a frontend ended to make place");
            self.keeper.at_once(now);
            return Fate::Adopt;
        }
        self.keeper.again(now);
        self.last_end = status.to_string();
        let deaths = self.keeper.early_deaths;
        if deaths < EARLY_DEATHS_MAX {
            tracing::warn!(%session, %status, "a frontend died; another one adopts its mount");
        } else if deaths.is_power_of_two() || deaths == EARLY_DEATHS_MAX {
            // Not each of them: one a second would soon be all that the log tells of.
            tracing::error!(%session, %status, deaths, "the frontend dies again and again; its mount is not served");
        }
        Fate::Adopt
    }

    /// As clients see it.
    pub(super) fn held(&self, now: Instant) -> HeldMount {
        let deaths = self.keeper.early_deaths_at(now);
        let trouble = (deaths >= EARLY_DEATHS_MAX).then(|| {
            let end = &self.last_end;
            format!("the frontend has died {deaths} times in a row as soon as it was started (at last: {end})")
        });
        let header = self.session.header().ok();
        HeldMount {
            name: self.name.clone(),
            frontend_pid: self.keeper.pid(),
            restarts: self.keeper.restarts,
            without: self.without.clone(),
            waiting: header.as_ref().and_then(SessionHeader::waiting),
            give_up_after: header.and_then(|header| header.give_up_after()).map(|limit| limit.as_secs()),
            trouble,
        }
    }
}
