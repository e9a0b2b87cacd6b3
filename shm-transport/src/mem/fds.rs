//! File descriptors that come from elsewhere: beside a message, or by number from a parent process.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Most file descriptors beside one message.
pub const FDS_MAX: usize = 80;

/// Sends `bytes`, with `fds` beside their first byte. Returns how many bytes went.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > FDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many file descriptors for one message"));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let parts = [IoSlice::new(bytes)];
    Ok(sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives into `buffer`; 0 bytes are the end. What came beside the bytes is closed on exec, and an
/// error when there was more than [`FDS_MAX`].
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for as many as the kernel lets anybody send (SCM_MAX_FD): it never cuts a list short, after
    // which those that did arrive could not be found and closed.
    let mut space = nix::cmsg_space!([RawFd; 253]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel just installed these numbers for this message; nobody else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if fds.len() > FDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many file descriptors beside a message"));
    }
    Ok((message.bytes, fds))
}

/// Takes over a file descriptor that the parent process left open at a number it told us.
///
/// Only a descriptor that survives `exec` can be one: everything that Rust opens does not, so this
/// never takes what another part of the program owns. It is marked close-on-exec, and a second
/// adoption of the same number is therefore refused. Standard input, output and error are refused.
pub fn adopt_inherited(number: RawFd) -> io::Result<OwnedFd> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the number of an inherited file descriptor"));
    }
    // SAFETY: fcntl takes any number; one that is not open is answered with EBADF and goes no further.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the file descriptor was not inherited or is already taken",
        ));
    }
    fcntl(borrowed, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    // SAFETY: open (F_GETFD said so) and without an owner in this process, as the flag told.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes an eventfd by the package `eventfd`, which cannot give up its descriptor: a duplicate is kept.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    use eventfd::{EfdFlags, EventFD};
    let made = EventFD::new(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    // SAFETY: `made` is open and outlives the borrow.
    let borrowed = unsafe { BorrowedFd::borrow_raw(made.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}

#[cfg(test)]
mod tests;
