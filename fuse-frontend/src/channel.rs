//! The kernel's end: a mounted `/dev/fuse` descriptor past its INIT.

use crate::abi::output::OutHeader;
use crate::abi::{HEAD, NOTIFY_RESEND};
use crate::encode;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use shm_transport::mem::Payload;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use zerocopy::IntoBytes;

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A request of so many bytes.
    Request(usize),
    /// Nothing is waiting.
    Nothing,
    /// The file system is unmounted; no request will come any more.
    Unmounted,
}

/// What became of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The kernel has it.
    Delivered,
    /// The kernel does not wait for it any more: the request was interrupted or is not known.
    Unwanted,
    /// The file system is unmounted.
    Unmounted,
    /// The kernel cannot make sense of it.
    Invalid,
}

/// The descriptor, non-blocking.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Takes the descriptor over. The flag is shared by all its duplicates, none of which is read.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(fd))
    }

    /// Reads one request: its first bytes to `head`, the rest into the buffer.
    pub(crate) fn receive(&self, head: &mut [u8; HEAD], payload: &mut Payload<'_>) -> io::Result<Received> {
        loop {
            let error = match payload.readv_split(self.0.as_fd(), head) {
                Ok(len) => return Ok(Received::Request(len)),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(Received::Nothing),
                // Aborted by way of fusectl counts as unmounted: nothing can be served any more.
                Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(Received::Unmounted),
                // ENOENT: the request was interrupted before it was read; the next one may be there.
                Some(libc::EINTR | libc::ENOENT) => {}
                _ => return Err(error),
            }
        }
    }

    /// The same for another thread.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Writes a whole reply.
    pub(crate) fn send(&self, reply: &[u8]) -> io::Result<Written> {
        loop {
            match nix::unistd::write(&self.0, reply) {
                Ok(_) => return Ok(Written::Delivered),
                Err(Errno::EINTR) => {}
                Err(errno) => return verdict(errno.into()),
            }
        }
    }

    /// Writes a reply whose data are the first `len` bytes of the payload.
    pub(crate) fn send_payload(&self, header: &OutHeader, payload: &Payload<'_>, len: u32) -> io::Result<Written> {
        loop {
            match payload.writev_joined(self.0.as_fd(), header.as_bytes(), len as usize) {
                Ok(_) => return Ok(Written::Delivered),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return verdict(e),
            }
        }
    }

    /// Asks the kernel for every request that was read and not answered. `false` where it cannot
    /// (before Linux 6.9).
    pub(crate) fn ask_for_resend(&self) -> io::Result<bool> {
        match self.send(encode::notification(NOTIFY_RESEND).as_bytes())? {
            Written::Delivered | Written::Unmounted => Ok(true),
            Written::Invalid | Written::Unwanted => Ok(false),
        }
    }
}

fn verdict(error: io::Error) -> io::Result<Written> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(Written::Unwanted),
        Some(libc::ENODEV | libc::ECONNABORTED) => Ok(Written::Unmounted),
        Some(libc::EINVAL) => Ok(Written::Invalid),
        _ => Err(error),
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
