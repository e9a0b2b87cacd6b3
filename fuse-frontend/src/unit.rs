//! `--unit NAME`: a mount as a unit of a service manager, which keeps its descriptors as the holder does
//! otherwise. Each start adopts the mount of the one before; only the first one mounts.

mod config;
mod ending;
mod held;
mod record;

use crate::feature;
use crate::holder::shows;
use crate::mount::{self, MountRequest, Mounted};
use crate::reconnect::{DETACH_MAX, FirstAttach, detach};
use crate::{complain, mounter, privileges, serve};
use config::UnitConfig;
use held::Held;
use nix::mount::{MntFlags, umount2};
use record::Record;
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::holder::{HeldMount, MountName};
use shm_transport::control::paths::Paths;
use shm_transport::control::service::Service;
use shm_transport::control::{Command, ErrorCode, Failure};
use shm_transport::{SessionFds, SessionHeader, Waiting, handshake};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Exit status of a unit that cannot do what its file says: it is not tried again.
const CANNOT: u8 = 78;
/// How long the daemon may take to serve.
const READY_MAX: Duration = Duration::from_mins(1);
/// A mount that this program cannot serve is tried again after so long: programs on it wait for another one.
const UNFIT_PAUSE: Duration = Duration::from_secs(1);

fn internal(what: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure { code: ErrorCode::Internal, message: format!("{what}: {why}"), hint: None }
}

/// Serves the unit's mount until it is unmounted.
pub(crate) fn start(name: &str, slots: u32) -> ExitCode {
    let mut service = match Service::current() {
        Ok(service) => service,
        Err(error) => return cannot(&internal("what the service manager handed over cannot be used", &error)),
    };
    let held = Held::of(service.take_inherited());
    let unit = Unit { name, service: Rc::new(service) };
    match (held, UnitConfig::read(name)) {
        (Held::Mount(fuse, session), config) => unit.adopt(config, fuse, session),
        (_, Err(failure)) => cannot(&failure),
        (held, Ok(config)) => {
            if matches!(held, Held::Dead) {
                tracing::warn!("the mount of the last start has ended; mounting anew");
                held::give_up(&unit.service);
            }
            unit.begin(&config, slots).unwrap_or_else(|failure| cannot(&failure))
        }
    }
}

/// Unmounts if the unit is to stop.
pub(crate) fn stop(name: &str) -> ExitCode {
    match ending::stop(name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn cannot(failure: &Failure) -> ExitCode {
    complain(failure);
    ExitCode::from(CANNOT)
}

struct Unit<'a> {
    name: &'a str,
    service: Rc<Service>,
}

impl Unit<'_> {
    /// Goes on with the mount of the last start.
    fn adopt(&self, config: Result<UnitConfig, Failure>, fuse: OwnedFd, fds: SessionFds) -> ExitCode {
        let unfit = |failure: &Failure| {
            complain(failure);
            std::thread::sleep(UNFIT_PAUSE);
            ExitCode::FAILURE
        };
        let paths = match paths_of(&config) {
            Ok(paths) => paths,
            Err(failure) => return unfit(&failure),
        };
        let record = Record::of(self.name, &paths);
        let session = match fds.header() {
            Ok(header) => header.session(),
            Err(error) => return unfit(&internal("the mount cannot be taken over by this release", &error)),
        };
        let recorded = record.read().filter(|mount| mount.session == session);
        let mount = match (recorded, &config) {
            (Some(mount), _) => mount,
            (None, Ok(config)) => MountName {
                session,
                branch: config.branch.clone(),
                mountpoint: config.mountpoint.clone(),
                read_only: config.options.read_only,
            },
            (None, Err(failure)) => return unfit(failure),
        };
        match &config {
            Err(failure) => tracing::warn!(error = %failure, "the unit's file is not used; the mount stays as it is"),
            Ok(config) if config.branch != mount.branch || config.options.read_only != mount.read_only => {
                tracing::warn!("the unit's file was changed: it counts after the unit is stopped and started");
            }
            Ok(_) => {}
        }
        if let Err(error) = privileges::give_up(&paths.socket) {
            return unfit(&internal("privileges cannot be given up", &error));
        }
        tracing::info!(branch = mount.branch, mountpoint = %mount.mountpoint.display(), "adopting the mount");
        // Programs go on as soon as the daemon serves, however long that takes.
        self.service.tell(&serving(&mount));
        self.serve(mount, &paths, fuse, fds, Box::new(|_| {}), false)
    }

    /// Mounts, and serves.
    fn begin(&self, config: &UnitConfig, slots: u32) -> Result<ExitCode, Failure> {
        let paths = config.paths()?;
        mounter::check_branch(&config.branch)?;
        let record = Record::of(self.name, &paths);
        if let Some(old) = record.read() {
            take_away(&old.branch, &old.mountpoint);
            detach(&paths.socket, old.session, DETACH_MAX);
            record.remove();
        }
        // A start that died after it had mounted and before it wrote a record.
        take_away(&config.branch, &config.mountpoint);
        let mountpoint = mount::check_mountpoint(&config.mountpoint)?;
        let options = &config.options;
        if let Some(base) = &options.base {
            mount::check_apart(&mountpoint, base)?;
            self.service.tell("STATUS=waiting for the daemon");
            make_branch(&paths, config)?;
        }
        let request = MountRequest::new(config.branch.clone(), mountpoint, options)?;
        let (mounted, fds, mount) = mounter::make(&request, slots)?;
        let fuse = mounted.fuse().try_clone_to_owned().map_err(|e| internal("no descriptor of the mount", &e))?;
        record.write(&of_unit(&mount, &fds))?;
        held::keep(&self.service, fuse.as_fd(), &fds);
        let first = self.first_attach(mounted, &mount, &paths, record);
        Ok(self.serve(mount, &paths, fuse, fds, first, true))
    }

    /// What follows from the daemon's first word: privileges are kept until then, to unmount again.
    fn first_attach(&self, mounted: Mounted, mount: &MountName, paths: &Paths, record: Record) -> FirstAttach {
        let (service, ready, socket) = (Rc::clone(&self.service), serving(mount), paths.socket.clone());
        Box::new(move |attached| {
            let failure = match attached {
                Ok(_) => match privileges::give_up(&socket) {
                    Ok(()) => {
                        mounted.leave();
                        service.tell(&ready);
                        return;
                    }
                    Err(error) => internal("privileges cannot be given up", &error),
                },
                Err(failure) => failure,
            };
            held::give_up(&service);
            record.remove();
            drop(mounted);
            complain(&failure);
            std::process::exit(i32::from(CANNOT));
        })
    }

    fn serve(
        &self,
        mount: MountName,
        paths: &Paths,
        fuse: OwnedFd,
        fds: SessionFds,
        first: FirstAttach,
        new: bool,
    ) -> ExitCode {
        let record = Record::of(self.name, paths);
        let mut shown = of_unit(&mount, &fds);
        if !new && let Err(failure) = record.write(&shown) {
            tracing::warn!(error = %failure, "the list of mounts shows a former state");
        }
        let (service, status) = (Rc::clone(&self.service), status(&mount));
        let show = Box::new(move |waiting: Option<Waiting>| {
            service.tell(&waiting.map_or_else(
                || status.clone(),
                |waiting| format!("STATUS=reconnecting, {} requests held", waiting.requests),
            ));
            shown.waiting = waiting;
            if let Err(failure) = record.write(&shown) {
                tracing::warn!(error = %failure, "the list of mounts shows a former state");
            }
        });
        match serve::run(mount, &paths.socket, fuse, fds, first, show, new) {
            // A daemon that was not told finds that nobody can come back for the session, when it is in the way.
            Ok(_) => {
                held::give_up(&self.service);
                Record::of(self.name, paths).remove();
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!(%error, "the frontend ends");
                std::thread::sleep(UNFIT_PAUSE);
                ExitCode::FAILURE
            }
        }
    }
}

fn serving(mount: &MountName) -> String {
    format!("READY=1\n{}", status(mount))
}

fn status(mount: &MountName) -> String {
    let how = if mount.read_only { ", read-only" } else { "" };
    format!("STATUS=branch {} on {}{how}", mount.branch, mount.mountpoint.display())
}

/// The mount as `agentfs mounts` shows it, served by this process.
fn of_unit(mount: &MountName, fds: &SessionFds) -> HeldMount {
    let header = fds.header().ok();
    HeldMount {
        name: mount.clone(),
        frontend_pid: Some(std::process::id().cast_signed()),
        restarts: 0,
        without: header
            .as_ref()
            .and_then(SessionHeader::fuse_state)
            .map(|state| feature::missing(state.flags))
            .unwrap_or_default(),
        waiting: header.as_ref().and_then(SessionHeader::waiting),
        give_up_after: header.and_then(|header| header.give_up_after()).map(|limit| limit.as_secs()),
        trouble: None,
    }
}

/// Store and socket. A mount goes on, and can be ended, also when its file was spoiled meanwhile.
fn paths_of(config: &Result<UnitConfig, Failure>) -> Result<Paths, Failure> {
    config.as_ref().map_or_else(|_| config::paths_without_file(), UnitConfig::paths)
}

/// Frees a mountpoint from a mount of ours that nobody can serve any more.
fn take_away(branch: &str, at: &Path) {
    let dead = fs::metadata(at).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN));
    if dead && fs::read("/proc/self/mountinfo").is_ok_and(|table| shows(&table, branch, at)) {
        let gone = umount2(at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH);
        tracing::warn!(mountpoint = %at.display(), taken_away = gone.is_ok(), "a mount died");
    }
}

/// Makes the branch if there is none. A daemon that is away or dies over it has a successor.
fn make_branch(paths: &Paths, config: &UnitConfig) -> Result<(), Failure> {
    let command = Command::BranchCreate {
        name: config.branch.clone(),
        base: config.options.base.clone(),
        from: None,
        frozen: config.options.frozen,
        reuse: true,
        limits: shm_transport::control::Limits::default(),
    };
    let deadline = Instant::now() + READY_MAX;
    loop {
        let refused = match Client::connect(&paths.socket).and_then(|mut client| client.branch_create(command.clone()))
        {
            Ok(_) => return Ok(()),
            Err(ClientError::Refused(failure)) if failure.code == ErrorCode::BaseNotAllowed => {
                let hint = "set AGENTFS_ALLOW_BASE in /etc/agentfs/agentfsd.conf to all directories that bases may lie \
                            below (colon-separated), then: systemctl restart agentfsd";
                return Err(Failure { hint: Some(hint.into()), ..failure });
            }
            Err(ClientError::Refused(failure)) => return Err(failure),
            Err(error) => error,
        };
        if !handshake::is_transient(&refused) || Instant::now() >= deadline {
            return Err(internal("the daemon does not answer", &refused));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
