//! A mount and its frontend.

use super::child::Keeper;
use crate::serve::{self, Hello};
use shm_transport::SessionFds;
use shm_transport::control::Failure;
use shm_transport::control::holder::{HeldMount, MountName};
use shm_transport::control::line::LineStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
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
}

/// What the end of a frontend means for its mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is unmounted, or was never served.
    Gone,
    /// Another frontend takes it over.
    Adopt,
}

impl Mount {
    pub(super) fn new(name: MountName, fuse: OwnedFd, session: SessionFds, now: Instant) -> Self {
        Self { name, fuse, session, keeper: Keeper::new(now), serving: false }
    }

    /// Starts a frontend. The caller holds the lock under which all children are started.
    pub(super) fn start(
        &mut self,
        own: &Path,
        store: &Path,
        socket: &Path,
        now: Instant,
    ) -> Result<LineStream, Failure> {
        let started = self.spawn(own, store, socket, now);
        match &started {
            Ok(_) => tracing::info!(pid = self.keeper.pid(), session = %self.name.session, "started a frontend"),
            Err(failure) => {
                tracing::error!(error = %failure, session = %self.name.session, "a frontend cannot be started");
                self.keeper.again(now);
            }
        }
        started
    }

    fn spawn(&mut self, own: &Path, store: &Path, socket: &Path, now: Instant) -> Result<LineStream, Failure> {
        let failed = |e: std::io::Error| Failure {
            code: shm_transport::control::ErrorCode::Internal,
            message: format!("the frontend {} cannot be started: {e}", own.display()),
            hint: None,
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(own);
        // All but --serve is for people who look at the process list: the truth comes over the socket.
        command.arg("--serve").arg("--store").arg(store).arg("--socket").arg(socket);
        command.arg("--branch").arg(&self.name.branch).arg("--mountpoint").arg(&self.name.mountpoint);
        command.arg("--session").arg(self.name.session.to_string());
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = command.spawn().map_err(failed)?;
        self.keeper.runs(child, now);
        let hello = Hello { mount: self.name.clone(), socket: socket.to_owned(), first: !self.serving };
        serve::hand_over(ours, &hello, &self.fuse, &self.session)
    }

    /// Its frontend ended.
    pub(super) fn ended(&mut self, status: ExitStatus, now: Instant) -> Fate {
        let session = self.name.session;
        if status.success() {
            tracing::info!(%session, "unmounted");
            return Fate::Gone;
        }
        if !self.serving {
            tracing::warn!(%session, %status, "the frontend of a new mount ended; the mount is given up");
            return Fate::Gone;
        }
        tracing::warn!(%session, %status, "a frontend died; another one adopts its mount");
        self.keeper.again(now);
        Fate::Adopt
    }

    /// As clients see it.
    pub(super) fn held(&self) -> HeldMount {
        HeldMount { name: self.name.clone(), frontend_pid: self.keeper.pid(), restarts: self.keeper.restarts }
    }
}
