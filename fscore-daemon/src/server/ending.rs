//! Ending a session whose mount died: when it is sure that no frontend will ever come back for it.
//!
//! Only a holder starts frontends, and only for mounts that it holds; a frontend that outlived its holder
//! comes back by itself, however long it was stopped. So nobody comes back for a session that the
//! store's holder does not hold, if there is one, that no unit of a service manager has, and that no living process
//! serves: frontends have the session in their command line. In this order: a frontend that is being started is the holder's.

use super::{Daemon, session};
use crate::failure::refuse;
use shm_transport::control::holder;
use shm_transport::control::service;
use shm_transport::control::{ErrorCode, Failure};
use shm_transport::wire::SessionId;
use std::io;
use std::path::Path;

/// Ends a session, or says what is in the way.
pub(super) fn end(daemon: &Daemon, id: SessionId) -> Result<(), Failure> {
    session::end(daemon, id, |mountpoint| {
        let place = mountpoint.display();
        let umount = || format!("unmount it: agentfs umount {place}, or umount -l {place}");
        if let Some(held) = daemon.holder.held()?.into_iter().find(|held| held.name.session == id) {
            let frontend =
                held.frontend_pid.map_or("a frontend that is being started".into(), |pid| format!("process {pid}"));
            let message = format!("the mount on {place} lives: the holder keeps it, and {frontend} serves it");
            return Err(refuse(ErrorCode::Busy, message).hint(umount()).done());
        }
        if let Some(unit) = unit_of(&daemon.config.paths.socket, id)? {
            let message = format!("the mount on {place} lives: the unit agentfs-mount@{unit} keeps it");
            let hint = format!("stop it: systemctl stop agentfs-mount@{unit}");
            return Err(refuse(ErrorCode::Busy, message).hint(hint).done());
        }
        match serving(id) {
            Ok(None) => Ok(()),
            Ok(Some(pid)) => {
                let message = format!("the mount on {place} may come back: its frontend, process {pid}, lives");
                let hint = format!("{}; if the process stays, end it: kill -9 {pid}", umount());
                Err(refuse(ErrorCode::Busy, message).hint(hint).done())
            }
            Err(error) => Err(refuse(
                ErrorCode::Busy,
                format!("it cannot be told whether a frontend of the mount on {place} lives: /proc: {error}"),
            )
            .hint("make /proc readable for the daemon's user, then try again")
            .done()),
        }
    })
}

/// The unit whose descriptors a service manager keeps for this session, if there is one.
fn unit_of(socket: &Path, id: SessionId) -> Result<Option<String>, Failure> {
    let dir = service::unit_records(socket);
    let unread = |e: io::Error| {
        refuse(ErrorCode::Busy, format!("it cannot be told which units have mounts: {}: {e}", dir.display())).done()
    };
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(unread)?,
    };
    for entry in entries {
        let entry = entry.map_err(unread)?;
        // One that is gone again was given up meanwhile; a half-written one has another name.
        let Ok(text) = std::fs::read(entry.path()) else { continue };
        if serde_json::from_slice::<holder::MountName>(&text).is_ok_and(|mount| mount.session == id) {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// The process that serves a session, if one lives.
fn serving(id: SessionId) -> io::Result<Option<i32>> {
    let session = id.to_string();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that ended meanwhile, or is a zombie, has none.
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let named = args.windows(2).any(|pair| pair == [b"--session".as_slice(), session.as_bytes()]);
        if named && args.contains(&b"--serve".as_slice()) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}
