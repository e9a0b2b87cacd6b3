//! The descriptors of a mount as the service manager keeps them, each under a name.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm_transport::SessionFds;
use shm_transport::control::service::Service;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const FUSE: &str = "fuse";
/// In the order of [`SessionFds::row`].
const SESSION: [&str; 4] = ["region", "table", "submissions", "completions"];

/// What came from the last start.
#[derive(Debug)]
pub(super) enum Held {
    /// None.
    Nothing,
    /// A mount that lives.
    Mount(OwnedFd, SessionFds),
    /// One that ended, or never began.
    Dead,
}

impl Held {
    /// From what the manager handed over.
    pub(super) fn of(handed: Vec<(String, OwnedFd)>) -> Self {
        if handed.is_empty() {
            return Self::Nothing;
        }
        let (mut fuse, mut row) = (None, SESSION.map(|_| None));
        for (name, fd) in handed {
            if name == FUSE {
                fuse = Some(fd);
            } else if let Some(place) = SESSION.iter().position(|known| *known == name).and_then(|at| row.get_mut(at)) {
                *place = Some(fd);
            }
        }
        let row: Option<Vec<OwnedFd>> = row.into_iter().collect();
        match (fuse, row.and_then(SessionFds::from_row)) {
            (Some(fuse), Some(session)) if !has_ended(fuse.as_fd()) => Self::Mount(fuse, session),
            _ => Self::Dead,
        }
    }
}

/// Has the manager keep a mount. The FUSE descriptor goes last: with it, there is a mount.
pub(super) fn keep(service: &Service, fuse: BorrowedFd<'_>, session: &SessionFds) {
    for (name, fd) in SESSION.iter().zip(session.row()) {
        service.keep(name, fd);
    }
    service.keep(FUSE, fuse);
}

/// Has the manager close all of it.
pub(super) fn give_up(service: &Service) {
    for name in [FUSE].iter().chain(&SESSION) {
        service.give_up(name);
    }
}

/// Whether the kernel has ended the mount. Asked of the descriptor: nothing on the mount is touched.
fn has_ended(fuse: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(fuse, PollFlags::empty())];
    let asked = poll(&mut polled, PollTimeout::ZERO);
    asked.is_ok() && polled.iter().any(|fd| fd.revents().is_some_and(|found| found.contains(PollFlags::POLLERR)))
}
