//! Threads of other programs, held still as a debugger does and let go. They notice nothing; if this process dies they
//! go on.

use std::io;

/// What became of a thread that is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It has not stopped yet.
    Running,
    /// It is still. A signal (0 for none) was on its way to it, and is for [`release`].
    Still(i32),
    /// It has ended.
    Gone,
}

fn request(request: libc::c_uint, thread: i32, data: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    let data = data as libc::c_long;
    // SAFETY: none of the requests that this module makes reads or writes memory by address or data.
    if unsafe { libc::ptrace(request, thread, nothing, data) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Becomes the one that may hold a thread; it runs on.
pub fn seize(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, thread, 0)
}

/// Has a seized thread stop, as soon as a system call that it is in ends.
pub fn interrupt(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, thread, 0)
}

/// Lets a thread that is still go, with the signal that was on its way.
pub fn release(thread: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, thread, signal)
}

/// Looks whether a seized thread has stopped; to be asked until it has.
pub fn look(thread: i32) -> io::Result<Stop> {
    let mut status = 0;
    // SAFETY: `status` is ours and lives through the call.
    let found = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match found {
        0 => Ok(Stop::Running),
        -1 => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ECHILD) => Ok(Stop::Gone),
            e if e.raw_os_error() == Some(libc::EINTR) => Ok(Stop::Running),
            e => Err(e),
        },
        _ if !libc::WIFSTOPPED(status) => Ok(Stop::Gone),
        _ if status >> 16 == libc::PTRACE_EVENT_STOP => Ok(Stop::Still(0)),
        _ => Ok(Stop::Still(libc::WSTOPSIG(status))),
    }
}

#[cfg(test)]
mod tests;
