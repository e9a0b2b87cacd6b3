//! File descriptors that come from elsewhere: beside a message, or by number from a parent process.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::io::{self, IoSlice};
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

/// Room for the descriptors of one message: the most that the kernel lets anybody send (`SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;
/// Words for the control message that carries them; a `cmsghdr` is aligned to words.
const CONTROL_WORDS: usize = (32 + SCM_MAX_FD * size_of::<RawFd>()).div_ceil(size_of::<u64>());

/// Receives into `buffer`; 0 bytes are the end. What came beside the bytes is closed on exec. An error
/// when there was more than [`FDS_MAX`], or more than this process may have open: nothing stays open then.
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: a `msghdr` of zeros is a valid one without parts.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the part is `buffer`, writable for its length; so is `control`; all live through the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let bytes = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // All of them are owned from here on, also when the kernel could not give us every one: with
    // the process's limit reached it installs as many as fit, and says that the list is cut.
    let fds = descriptors(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    if fds.len() > FDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many file descriptors beside a message"));
    }
    Ok((bytes, fds))
}

/// Takes what `recvmsg` installed.
fn descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `message` is as `recvmsg` left it, and its control buffer is alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: the macros give only headers that lie whole in the control buffer, which is aligned.
        let header = unsafe { *next };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: plain arithmetic on a length.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data follow the header.
            let data = unsafe { libc::CMSG_DATA(next) };
            let count = (header.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            for at in 0..count.min(SCM_MAX_FD) {
                let mut number: RawFd = -1;
                // SAFETY: `cmsg_len` says that so many numbers are there.
                let from = unsafe { data.add(at * size_of::<RawFd>()) };
                // SAFETY: as before; as bytes, since the data of a control message need not be aligned.
                unsafe { from.copy_to_nonoverlapping((&raw mut number).cast(), size_of::<RawFd>()) };
                // SAFETY: the kernel just installed this number for this message; nobody else knows it.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: `next` is a header of `message`.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    fds
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

/// Takes an eventfd's count if it has one, whatever its flags say of waiting: whoever shares the open file can change
/// them. Whether there was one.
pub(crate) fn take_now(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes = [0_u8; 8];
    let part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the part is `bytes`, writable for its length, and lives through the call.
    let read = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    match usize::try_from(read) {
        Ok(read) => Ok(read == bytes.len()),
        Err(_) => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            e => Err(e),
        },
    }
}

#[cfg(test)]
mod tests;
