//! `--mount`: mounts in the caller's mount namespace, makes the session's shared memory, and hands
//! everything to the holder. Ends with the mount alive, or with nothing mounted.

use crate::mount::{self, MountRequest, Mounted};
use shm_transport::control::holder::{Client, HeldMount, MountFds, MountName};
use shm_transport::control::{ErrorCode, Failure};
use shm_transport::wire::SessionId;
use shm_transport::{Geometry, SessionFds};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

/// Mounts and hands over.
pub(crate) fn mount(request: &MountRequest, socket: &Path, slots: u32) -> Result<HeldMount, Failure> {
    check_branch(&request.branch)?;
    // Without a holder nothing is mounted.
    let mut holder = connect(socket)?;
    let (mounted, fds, name) = make(request, slots)?;
    let completions = fds.cq.first().ok_or_else(|| internal("the session has no doorbell", &"defect"))?;
    let beside = MountFds {
        fuse: mounted.fuse(),
        region: fds.region.as_fd(),
        table: fds.table.as_fd(),
        submissions: fds.sq.as_fd(),
        completions: completions.as_fd(),
    };
    let held = holder.adopt_mount(name, beside)?;
    mounted.leave();
    Ok(held)
}

/// Mounts, and makes the session's shared memory. Nobody serves it yet.
pub(crate) fn make(request: &MountRequest, slots: u32) -> Result<(Mounted, SessionFds, MountName), Failure> {
    let mounted = mount::mount(request)?;
    let session = new_session().map_err(|e| internal("no random number for the session", &e))?;
    let fds = SessionFds::create(Geometry { queues: 1, slots }, session)
        .map_err(|e| internal("the session's shared memory cannot be made", &e))?;
    let header = fds.header().map_err(|e| internal("the session's shared memory cannot be used", &e))?;
    header.set_fuse_state(mounted.state());
    header.set_give_up_after(request.give_up_after);
    let name = MountName {
        session,
        branch: request.branch.clone(),
        mountpoint: mounted.mountpoint.clone(),
        read_only: request.read_only,
    };
    Ok((mounted, fds, name))
}

fn internal(what: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure { code: ErrorCode::Internal, message: format!("{what}: {why}"), hint: None }
}

fn connect(socket: &Path) -> Result<Client, Failure> {
    Client::connect(socket).map_err(|e| Failure {
        code: ErrorCode::NotFound,
        message: format!("no AgentFS holder runs for {}: {e}", socket.display()),
        hint: Some("start it: agentfs daemon start (with the same --store and --socket)".into()),
    })
}

/// The name stands in the kernel's mount table and in option strings.
pub(crate) fn check_branch(branch: &str) -> Result<(), Failure> {
    if branch.is_empty() || branch.contains([',', '\\', '\0', '\n']) {
        return Err(Failure {
            code: ErrorCode::Usage,
            message: format!("a branch named {branch:?} cannot be mounted"),
            hint: Some("use a name without commas, backslashes and line ends".into()),
        });
    }
    Ok(())
}

/// A number never used before: 53 random bits, which every JSON reader keeps exact.
fn new_session() -> io::Result<SessionId> {
    let mut bytes = [0; 8];
    loop {
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let id = u64::from_le_bytes(bytes) >> 11;
        if id != 0 {
            return Ok(SessionId(id));
        }
    }
}
