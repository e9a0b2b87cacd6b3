//! Reads that wait for no disk. A read is first run in this mode: bytes are read only as far as the host has
//! them in memory, leases are not waited for, and nothing is searched. What would wait ends in `EAGAIN`, and the
//! read runs again, whole, on a thread whose waiting holds up nobody.

use super::error::FsError;
use super::session::{Op, Session};
use shm_transport::Context;
use shm_transport::mem::Payload;
use shm_transport::wire::{self, Reply, Request};
use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Ends the mode, also when the work panics.
struct Mode;

impl Mode {
    fn begin() -> Self {
        ACTIVE.set(true);
        Self
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        ACTIVE.set(false);
    }
}

/// Whether this thread must not wait now.
pub(crate) fn is_active() -> bool {
    ACTIVE.get()
}

/// `pread` into a payload.
pub(super) fn read(payload: &mut Payload<'_>, fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
    if is_active() { payload.read_cached(fd, offset, len) } else { payload.read_from(fd, offset, len) }
}

impl Session {
    /// Runs a request to its reply, unless it is known to wait for a disk: `None` then, and nothing was changed.
    pub fn attempt(
        &self,
        ctx: &Context,
        request: &Request,
        payload: &mut Payload<'_>,
        payload_len: u32,
    ) -> Option<Reply> {
        if self.may_block(request) {
            return None;
        }
        if !matches!(request.op, wire::Op::Read { .. }) {
            return Some(self.run(ctx, request, payload, payload_len));
        }
        let view = self.branch.view();
        let op = Op { ctx, caller: request.caller, view: &view };
        let mode = Mode::begin();
        let result = self.dispatch(&op, request, payload, payload_len as usize);
        drop(mode);
        match result {
            Err(FsError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(self.reply(request, result)),
        }
    }
}

#[cfg(test)]
mod tests;
