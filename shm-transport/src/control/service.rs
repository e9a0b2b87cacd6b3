//! The service manager that started this process, as systemd speaks: what it hands over (`sd_listen_fds(3)`)
//! and what it is told (`sd_notify(3)`).
//!
//! Only a process that was itself started as a service has one. Its children inherit the environment and
//! must not speak for it: they go by the process id in there.

use super::holder::HeldMount;
use crate::mem::fds;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// First number of those that are handed over.
const FIRST: RawFd = 3;
/// Most descriptors that are taken over: more than any unit of ours has.
const INHERITED_MAX: u32 = 64;
/// The manager reads at once. If it does not, we go on without it.
const TELL_MAX: Duration = Duration::from_secs(5);

/// The manager of this process; none if it was started otherwise.
#[derive(Debug, Default)]
pub struct Service {
    /// Connected while the environment was read: a sandbox may forbid it later.
    manager: Option<UnixDatagram>,
    managed: bool,
    watchdog: Option<Duration>,
    inherited: Vec<(String, OwnedFd)>,
}

impl Service {
    /// From this process's environment. Takes over what was handed over, so nothing may have been opened before.
    pub fn current() -> io::Result<Self> {
        Self::of(|name| std::env::var_os(name).filter(|value| !value.is_empty()), std::process::id())
    }

    /// As [`Self::current`], of the process `own` in an environment.
    fn of(var: impl Fn(&str) -> Option<OsString>, own: u32) -> io::Result<Self> {
        let number = |name| var(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        let is_own = |name| number(name) == Some(u64::from(own));
        let inherited = if is_own("LISTEN_PID") {
            let count = number("LISTEN_FDS").and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
            let names = var("LISTEN_FDNAMES").map(|names| names.to_string_lossy().into_owned()).unwrap_or_default();
            take_over(count, &names)?
        } else {
            Vec::new()
        };
        let managed = is_own("SYSTEMD_EXEC_PID") || is_own("LISTEN_PID");
        let manager = match var("NOTIFY_SOCKET") {
            Some(path) if managed => Some(connect(&path)?),
            _ => None,
        };
        let watchdog = number("WATCHDOG_USEC").filter(|_| manager.is_some() && is_own("WATCHDOG_PID"));
        Ok(Self { manager, managed, watchdog: watchdog.map(Duration::from_micros), inherited })
    }

    /// Whether a service manager started this process, and starts it again.
    pub fn is_managed(&self) -> bool {
        self.managed
    }

    /// How often it must hear `WATCHDOG=1`.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// What it handed over, with names; the second call gets nothing.
    pub fn take_inherited(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.inherited)
    }

    /// Tells it something, e.g. `READY=1`. Without a manager nothing happens.
    pub fn tell(&self, state: &str) {
        self.send(state, &[]);
    }

    /// Gives it a descriptor to keep until the next start. `name` has no colon.
    pub fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
        // Its own look at the descriptor (FDPOLL) is left out: a full eventfd would count as broken.
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[fd]);
    }

    /// Has it close what it keeps under a name.
    pub fn give_up(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    fn send(&self, state: &str, fds: &[BorrowedFd<'_>]) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = fds::send(manager.as_fd(), state.as_bytes(), fds) {
            tracing::warn!(%error, state, "the service manager cannot be told");
        }
    }
}

/// Where a unit says which mount it has ([`super::holder::MountName`], as JSON): the service manager keeps the
/// mount's descriptors, and may start its frontend at any time.
pub fn unit_record(socket: &Path, unit: &str) -> PathBuf {
    unit_records(socket).join(unit)
}

/// The directory of these records.
pub fn unit_records(socket: &Path) -> PathBuf {
    socket.with_file_name("units")
}

/// Takes all of them, in order, each with its name.
fn take_over(count: u32, names: &str) -> io::Result<Vec<(String, OwnedFd)>> {
    if count > INHERITED_MAX {
        let message = format!("LISTEN_FDS={count}: no more than {INHERITED_MAX} descriptors are taken over");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut names = names.split(':');
    let number = |at| fds::adopt_inherited(FIRST + at as RawFd);
    (0..count).map(|at| Ok((names.next().unwrap_or_default().to_owned(), number(at)?))).collect()
}

fn connect(path: &OsString) -> io::Result<UnixDatagram> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(TELL_MAX))?;
    Ok(socket)
}

/// Mounts that units of a service manager have, as their frontends say.
pub fn unit_mounts(daemon_socket: &Path) -> Vec<HeldMount> {
    let Ok(entries) = std::fs::read_dir(unit_records(daemon_socket)) else { return Vec::new() };
    let records = entries.flatten().filter_map(|entry| std::fs::read(entry.path()).ok());
    records.filter_map(|record| serde_json::from_slice(&record).ok()).collect()
}

#[cfg(test)]
mod tests;
