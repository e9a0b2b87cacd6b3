//! Requests that wait for no disk. A request that changes nothing is first run in this mode: names are
//! resolved, files opened and bytes read only as far as the host has them in memory. What would wait
//! ends in `EAGAIN`, and the request runs again, whole, on a thread whose waiting holds up nobody.

use super::error::FsError;
use super::session::{Op, Session};
use nix::fcntl::ResolveFlag;
use shm_transport::Context;
use shm_transport::mem::Payload;
use shm_transport::wire::{self, Reply, Request};
use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;

/// `openat2(2)`: only through what the host has in memory, else `EAGAIN`.
const CACHED: ResolveFlag = ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);

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

/// What to add to a resolution.
pub(crate) fn resolve() -> ResolveFlag {
    if is_active() { CACHED } else { ResolveFlag::empty() }
}

/// `pread` into a payload.
pub(super) fn read(payload: &mut Payload<'_>, fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
    if is_active() { payload.read_cached(fd, offset, len) } else { payload.read_from(fd, offset, len) }
}

impl Session {
    /// Runs a request to its reply, unless it may have to wait for a disk or copies much: `None` then, and
    /// nothing was changed.
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
        if !can_begin_again(&request.op) {
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

/// What reads base or content and changes nothing, so that it may end in the middle.
fn can_begin_again(op: &wire::Op) -> bool {
    match op {
        wire::Op::Lookup { .. }
        | wire::Op::GetAttr
        | wire::Op::Statx
        | wire::Op::ReadLink
        | wire::Op::Read { .. }
        | wire::Op::GetXattr { .. }
        | wire::Op::ListXattr { .. }
        | wire::Op::Lseek { .. } => true,
        wire::Op::Open { flags, .. } => *flags & libc::O_TRUNC as u32 == 0,
        wire::Op::SetAttr(_)
        | wire::Op::Symlink { .. }
        | wire::Op::Mknod { .. }
        | wire::Op::Mkdir { .. }
        | wire::Op::Create { .. }
        | wire::Op::Tmpfile { .. }
        | wire::Op::Unlink { .. }
        | wire::Op::Rmdir { .. }
        | wire::Op::Rename { .. }
        | wire::Op::Link { .. }
        | wire::Op::Write { .. }
        | wire::Op::SetXattr { .. }
        | wire::Op::RemoveXattr { .. }
        | wire::Op::Fallocate { .. }
        | wire::Op::CopyFileRange { .. }
        | wire::Op::Forget { .. }
        | wire::Op::Release { .. }
        | wire::Op::Flush { .. }
        | wire::Op::Fsync { .. }
        | wire::Op::SyncFs
        | wire::Op::OpenDir
        | wire::Op::ReadDir { .. }
        | wire::Op::ReleaseDir { .. }
        | wire::Op::FsyncDir { .. }
        | wire::Op::StatFs
        | wire::Op::Ioctl { .. } => false,
    }
}

#[cfg(test)]
mod tests;
