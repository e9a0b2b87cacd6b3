//! Passthrough: files that the kernel reads and writes itself. The daemon decides which, and hands the host's file over;
//! here it is given to the kernel, once for all opens of a node, for the kernel refuses a second number for it, and one open
//! with a number beside one without. What is open, and by what number, stands in the table, since it belongs to the
//! kernel's connection and not to this process.

use super::{Daemon, Session};
use crate::encode::{self, Expect};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use shm_transport::Backing;
use shm_transport::mem::sys;
use shm_transport::wire::{Errno, NodeId, Op, Opened, PLAIN, Reply, Request};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Whether the mount has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passthrough {
    /// Not asked for.
    Never,
    /// It works, as far as is known.
    Works,
    /// The kernel refused a file: all go through the daemon, until another frontend tries.
    Refused,
}

impl<D: Daemon> Session<D> {
    /// The mounting process settled passthrough with the kernel.
    pub(crate) fn use_passthrough(&mut self) {
        self.passthrough = Passthrough::Works;
    }

    /// Tells the daemon which files have to go through it.
    pub(super) fn mark_plain(&self, request: &mut Request) {
        let refused = self.passthrough == Passthrough::Refused;
        let node = request.node;
        if let Op::Create { flags, .. } | Op::Tmpfile { flags, .. } = &mut request.op {
            *flags = mark(*flags, refused);
        } else if let Op::Open { flags, .. } = &mut request.op {
            let plainly = self.counts.opens(node) > 0 && self.counts.backing(node).is_none();
            *flags = mark(*flags, refused || plainly);
        }
    }

    /// Counts an open that the kernel is about to learn of, and gives the number of the file behind it. What cannot be
    /// answered becomes an error.
    pub(super) fn settle_backing(&mut self, expect: Expect, reply: Reply) -> (Reply, Option<u32>) {
        let (node, opened) = match (expect, &reply) {
            _ if self.passthrough == Passthrough::Never => return (reply, None),
            (Expect::Opened { node, dir: false, .. }, Reply::Opened(opened)) => (node, *opened),
            (Expect::Created { .. }, Reply::Created(entry, opened)) => (entry.node, *opened),
            _ => return (reply, None),
        };
        let found = self.backing_of(node, &opened).and_then(|id| self.counts.opened(node).map(|()| id));
        match found {
            Ok(Some(id)) => (reply, Some(id)),
            Ok(None) => (plainly(reply), None),
            Err(error) => {
                tracing::error!(%error, "an open cannot be answered; it fails with EIO");
                (Reply::Error(Errno::EIO), None)
            }
        }
    }

    fn backing_of(&mut self, node: NodeId, opened: &Opened) -> io::Result<Option<u32>> {
        let serial = opened.serial();
        let came = if opened.backed { self.daemon.backing(serial) } else { None };
        let known = self.counts.backing(node);
        if let Some(known) = known {
            // Answers may come in another order than they were given in: an open without a file that was answered before
            // one with it is as good as that.
            if known.is_of(serial) || (!opened.backed && known.is_after(serial)) {
                return Ok(Some(known.id));
            }
            self.drop_backing(node, known);
        }
        if !opened.backed || (known.is_none() && self.counts.opens(node) > 0) {
            return Ok(None);
        }
        let file = came.ok_or_else(|| io::Error::other("the daemon did not hand its file over"))?;
        check(&file)?;
        // What the kernel kept while it went through the daemon; from now on it changes without our knowing. One that is
        // new is not known to the kernel yet.
        self.kernel.send(&encode::forget_cached(node))?;
        match sys::backing_open(self.kernel.as_fd(), file.as_fd()) {
            Ok(id) => {
                self.counts.set_backing(node, Backing::new(serial, id))?;
                Ok(Some(id))
            }
            Err(error) => {
                if self.passthrough != Passthrough::Refused {
                    tracing::warn!(%error, "the kernel refuses passthrough; everything goes through the daemon");
                    self.passthrough = Passthrough::Refused;
                }
                Ok(None)
            }
        }
    }

    /// After the reply to a release: the daemon says whether the file's time is over.
    pub(super) fn released(&mut self, expect: Expect, reply: &Reply) {
        let Expect::Released { node } = expect else { return };
        if self.passthrough == Passthrough::Never {
            return;
        }
        self.closed(node);
        if let Reply::Released { backed: false, serial } = reply
            && let Some(known) = self.counts.backing(node)
            && !known.is_after(*serial)
        {
            self.drop_backing(node, known);
        }
    }

    /// An open is closed, or never came to be.
    pub(super) fn closed(&mut self, node: NodeId) {
        if let Err(error) = self.counts.closed(node) {
            tracing::warn!(%error, "an open counts on");
        }
    }

    /// The kernel has forgotten the node.
    pub(super) fn forget_opens(&mut self, node: NodeId) {
        if let Err(error) = self.counts.forget_opens(node) {
            tracing::warn!(%error, "opens of a forgotten file count on");
        }
        if let Some(known) = self.counts.backing(node) {
            self.drop_backing(node, known);
        }
    }

    fn drop_backing(&mut self, node: NodeId, known: Backing) {
        let dropped = self.counts.drop_backing(node);
        let closed = sys::backing_close(self.kernel.as_fd(), known.id);
        if let Err(error) = dropped.and(closed) {
            tracing::debug!(%error, "the kernel keeps a file open for longer");
        }
    }
}

fn mark(flags: u32, plain: bool) -> u32 {
    if plain { flags | PLAIN } else { flags & !PLAIN }
}

/// The reply for a file that goes through the daemon after all. Its pages may have changed.
fn plainly(reply: Reply) -> Reply {
    let plain = |opened: Opened| Opened { backed: false, keep_cache: opened.keep_cache && !opened.backed, ..opened };
    if let Reply::Opened(opened) = reply {
        Reply::Opened(plain(opened))
    } else if let Reply::Created(entry, opened) = reply {
        Reply::Created(entry, plain(opened))
    } else {
        reply
    }
}

/// The kernel writes through a descriptor whatever it was opened for: only a file that the daemon itself may write can be
/// written through the mount, which none of a base is.
fn check(file: &OwnedFd) -> io::Result<()> {
    let regular = fstat(file)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    let writable = flags & OFlag::O_ACCMODE == OFlag::O_RDWR && !flags.contains(OFlag::O_PATH);
    if regular && writable {
        Ok(())
    } else {
        Err(io::Error::other("the daemon handed over a file that it cannot write"))
    }
}
