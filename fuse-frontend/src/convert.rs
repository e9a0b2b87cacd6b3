//! What each of the kernel's operations means: a request to the daemon, or an answer right here.

use crate::abi::input::{CopyFileRangeIn, FsyncIn, IoctlIn, ReadIn, SetAttrIn, WriteIn};
use crate::abi::opcode::Opcode;
use crate::abi::{FSYNC_FDATASYNC, OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID, fattr};
use crate::decode::{Header, Operation};
use crate::encode::Expect;
use shm_transport::control::door;
use shm_transport::wire::limits::{IOCTL_MAX, NAME_MAX, PAYLOAD_MAX, SYMLINK_MAX, XATTR_SIZE_MAX};
use shm_transport::wire::{Errno, NodeId, Op, Request, SetAttr, SetTime, Timestamp};

#[cfg(test)]
mod tests;

/// Permission bits, set-id bits and the sticky bit of a mode.
const MODE_BITS: u32 = 0o7777;
/// What a umask can take away.
const UMASK_BITS: u32 = 0o777;
const NS_PER_S: u32 = 1_000_000_000;

/// What to do with an operation.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan<'a> {
    /// Ask the daemon, and turn its reply into what the kernel expects.
    Ask {
        /// The request.
        request: Request,
        /// What goes with it.
        payload: PayloadIn<'a>,
        /// What the kernel expects.
        expect: Expect,
    },
    /// The kernel forgets nodes; no reply.
    Forget(Forgotten<'a>),
    /// Answer with an error, here and now.
    Refuse(Errno),
    /// Nothing to do, no reply.
    Nothing,
    /// Answer with success; the session is over.
    End,
}

/// Payload that a request carries.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum PayloadIn<'a> {
    /// None.
    Empty,
    /// These bytes, still to be put into the buffer.
    Bytes(&'a [u8]),
    /// So many bytes that the kernel has put into the buffer already.
    InPlace(u32),
}

/// Nodes that the kernel forgets.
#[derive(Debug, PartialEq, Clone, Copy)]
pub(crate) enum Forgotten<'a> {
    /// One node, so many lookups.
    One(NodeId, u64),
    /// Several.
    Many(crate::decode::Forgets<'a>),
}

/// The plan for one operation. What is answered without the daemon stands in
/// `specs/posix-deviations.md`.
pub(crate) fn plan<'a>(header: &Header, operation: &Operation<'a>) -> Plan<'a> {
    let asked = match *operation {
        Operation::Forget(arg) => return Plan::Forget(Forgotten::One(header.node, arg.nlookup)),
        Operation::BatchForget(forgets) => return Plan::Forget(Forgotten::Many(forgets)),
        Operation::Interrupt | Operation::NotifyReply => return Plan::Nothing,
        Operation::Destroy => return Plan::End,
        Operation::Other(opcode) => Err(unsupported(opcode)),
        Operation::Lookup { name } => with(name, Expect::Lookup, |name| Op::Lookup { name }),
        Operation::GetAttr => plain(Op::GetAttr, Expect::Attr),
        Operation::Statx => plain(Op::Statx, Expect::Statx),
        Operation::SetAttr(arg) => set_attr(&arg).and_then(|change| plain(Op::SetAttr(change), Expect::Attr)),
        Operation::ReadLink => plain(Op::ReadLink, Expect::Data { max: SYMLINK_MAX as u32 }),
        Operation::Symlink { name, target } => symlink(name, target),
        Operation::Mknod { arg, name } => with(name, Expect::Entry, |name| Op::Mknod {
            name,
            mode: arg.mode,
            rdev: arg.rdev,
            umask: arg.umask & UMASK_BITS,
        }),
        Operation::Mkdir { arg, name } => with(name, Expect::Entry, |name| Op::Mkdir {
            name,
            mode: arg.mode & MODE_BITS,
            umask: arg.umask & UMASK_BITS,
        }),
        Operation::Create { arg, name } => with(name, Expect::Created { flags: arg.flags }, |name| Op::Create {
            name,
            mode: arg.mode & MODE_BITS,
            flags: arg.flags,
            umask: arg.umask & UMASK_BITS,
        }),
        Operation::Tmpfile(arg) => plain(
            Op::Tmpfile { mode: arg.mode & MODE_BITS, flags: arg.flags, umask: arg.umask & UMASK_BITS },
            Expect::Created { flags: arg.flags },
        ),
        Operation::Unlink { name } => with(name, Expect::Nothing, |name| Op::Unlink { name }),
        Operation::Rmdir { name } => with(name, Expect::Nothing, |name| Op::Rmdir { name }),
        Operation::Rename { new_parent, flags, name, new_name } => rename(new_parent, flags, name, new_name),
        Operation::Link { arg, name } => {
            with(name, Expect::Entry, |name| Op::Link { target: NodeId(arg.oldnodeid), name })
        }
        Operation::Open(arg) => plain(
            Op::Open { flags: arg.flags, kill_suidgid: arg.open_flags & OPEN_KILL_SUIDGID != 0 },
            Expect::Opened { node: header.node, flags: arg.flags, dir: false },
        ),
        Operation::OpenDir(arg) => {
            plain(Op::OpenDir, Expect::Opened { node: header.node, flags: arg.flags, dir: true })
        }
        Operation::Release(arg) => plain(Op::Release { fh: arg.fh, flags: arg.flags }, Expect::Nothing),
        Operation::ReleaseDir(arg) => plain(Op::ReleaseDir { fh: arg.fh }, Expect::Nothing),
        Operation::Read(arg) => room(arg.size)
            .and_then(|size| plain(Op::Read { fh: arg.fh, offset: arg.offset, size }, Expect::Data { max: size })),
        Operation::ReadDir { arg, plus } => read_dir(&arg, plus),
        Operation::Write(arg) => write(&arg),
        Operation::Fsync(arg) => plain(Op::Fsync { fh: arg.fh, datasync: datasync(&arg) }, Expect::Nothing),
        Operation::FsyncDir(arg) => plain(Op::FsyncDir { datasync: datasync(&arg) }, Expect::Nothing),
        Operation::SyncFs => plain(Op::SyncFs, Expect::Nothing),
        Operation::SetXattr { arg, acl_kill_sgid, name, value } => set_xattr(arg.flags, acl_kill_sgid, name, value),
        Operation::GetXattr { arg, name } => xattr_name(name).and_then(|name| {
            let size = arg.size.min(XATTR_SIZE_MAX as u32);
            plain(Op::GetXattr { name, size }, Expect::Xattr { size })
        }),
        Operation::ListXattr(arg) => {
            let size = arg.size.min(XATTR_SIZE_MAX as u32);
            plain(Op::ListXattr { size }, Expect::Xattr { size })
        }
        Operation::RemoveXattr { name } => {
            xattr_name(name).and_then(|name| plain(Op::RemoveXattr { name }, Expect::Nothing))
        }
        Operation::StatFs => plain(Op::StatFs, Expect::StatFs),
        Operation::Fallocate(arg) => {
            plain(Op::Fallocate { fh: arg.fh, offset: arg.offset, length: arg.length, mode: arg.mode }, Expect::Nothing)
        }
        Operation::Lseek(arg) => {
            plain(Op::Lseek { fh: arg.fh, offset: arg.offset, whence: arg.whence }, Expect::Offset)
        }
        Operation::CopyFileRange { arg, wide } => copy_file_range(&arg, wide),
        Operation::Ioctl { arg, data } => ioctl(&arg, data),
    };
    match asked {
        Ok((op, payload, expect)) => {
            Plan::Ask { request: Request { caller: header.caller, node: header.node, op }, payload, expect }
        }
        Err(errno) => Plan::Refuse(errno),
    }
}

/// What the kernel expects for "not supported": `ENOSYS` makes it do without for the rest of the mount.
fn unsupported(opcode: Opcode) -> Errno {
    match opcode {
        // A second INIT cannot come; whatever sent it must not be told that the rest works.
        Opcode::INIT => Errno::EIO,
        _ => Errno::ENOSYS,
    }
}

type Asked<'a> = Result<(Op, PayloadIn<'a>, Expect), Errno>;

#[expect(clippy::unnecessary_wraps, reason = "all ways to a request have one shape")]
fn plain(op: Op, expect: Expect) -> Asked<'static> {
    Ok((op, PayloadIn::Empty, expect))
}

/// An operation on a name.
fn with(name: &[u8], expect: Expect, op: impl FnOnce(Vec<u8>) -> Op) -> Asked<'static> {
    plain(op(name_of(name)?), expect)
}

fn symlink<'a>(name: &[u8], target: &'a [u8]) -> Asked<'a> {
    match target.len() {
        0 => Err(Errno::ENOENT),
        1..=SYMLINK_MAX => Ok((Op::Symlink { name: name_of(name)? }, PayloadIn::Bytes(target), Expect::Entry)),
        _ => Err(Errno::ENAMETOOLONG),
    }
}

fn rename(new_parent: u64, flags: u32, name: &[u8], new_name: &[u8]) -> Asked<'static> {
    // RENAME_WHITEOUT is for a file system that is the upper layer of an overlayfs.
    if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
        return Err(Errno::EINVAL);
    }
    let (name, new_name) = (name_of(name)?, name_of(new_name)?);
    plain(Op::Rename { name, new_parent: NodeId(new_parent), new_name, flags }, Expect::Nothing)
}

fn set_xattr<'a>(flags: u32, clear_setgid: bool, name: &[u8], value: &'a [u8]) -> Asked<'a> {
    if value.len() > XATTR_SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    Ok((Op::SetXattr { name: xattr_name(name)?, flags, clear_setgid }, PayloadIn::Bytes(value), Expect::Nothing))
}

fn write(arg: &WriteIn) -> Asked<'static> {
    let size = room(arg.size)?;
    let kill_suidgid = arg.write_flags & WRITE_KILL_SUIDGID != 0;
    let op = Op::Write { fh: arg.fh, offset: arg.offset, kill_suidgid };
    Ok((op, PayloadIn::InPlace(size), Expect::Written { max: size }))
}

fn read_dir(arg: &ReadIn, plus: bool) -> Asked<'static> {
    let size = room(arg.size)?;
    plain(Op::ReadDir { fh: arg.fh, cookie: arg.offset, size, plus }, Expect::Listing { max: size, plus })
}

fn copy_file_range(arg: &CopyFileRangeIn, wide: bool) -> Asked<'static> {
    // The narrow reply has 32 bits, and a short copy is legal.
    let length = if wide { arg.len } else { arg.len.min(u64::from(u32::MAX) & !0xfff) };
    let op = Op::CopyFileRange {
        fh: arg.fh_in,
        offset: arg.off_in,
        to: NodeId(arg.nodeid_out),
        to_offset: arg.off_out,
        length,
    };
    plain(op, if wide { Expect::Offset } else { Expect::Copied })
}

/// Only the control file has ioctls. Others, as those by which `lsattr` asks, need not go to the daemon.
fn ioctl<'a>(arg: &IoctlIn, data: &'a [u8]) -> Asked<'a> {
    if !door::is_ours(arg.cmd) {
        return Err(Errno::ENOTTY);
    }
    if data.len() > IOCTL_MAX || arg.out_size as usize > IOCTL_MAX {
        return Err(Errno::EINVAL);
    }
    let op = Op::Ioctl { fh: arg.fh, cmd: arg.cmd, out_size: arg.out_size };
    Ok((op, PayloadIn::Bytes(data), Expect::Ioctl { max: arg.out_size }))
}

fn datasync(arg: &FsyncIn) -> bool {
    arg.fsync_flags & FSYNC_FDATASYNC != 0
}

/// A transfer must fit the slot's buffer; the kernel was told so at INIT.
fn room(size: u32) -> Result<u32, Errno> {
    if size as usize <= PAYLOAD_MAX { Ok(size) } else { Err(Errno::EINVAL) }
}

fn name_of(name: &[u8]) -> Result<Vec<u8>, Errno> {
    match name {
        b"" => Err(Errno::ENOENT),
        // Only a kernel that exports over NFS asks, and only after we had agreed to it at INIT.
        b"." | b".." => Err(Errno::EINVAL),
        name if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        name if name.contains(&b'/') => Err(Errno::EINVAL),
        name => Ok(name.to_vec()),
    }
}

fn xattr_name(name: &[u8]) -> Result<Vec<u8>, Errno> {
    if name.is_empty() || name.len() > NAME_MAX { Err(Errno::ERANGE) } else { Ok(name.to_vec()) }
}

fn set_attr(arg: &SetAttrIn) -> Result<SetAttr, Errno> {
    let has = |bit: u32| arg.valid & bit != 0;
    let when = |bit: u32, now: u32, sec: i64, nsec: u32| -> Result<Option<SetTime>, Errno> {
        Ok(match (has(bit), has(now)) {
            (_, true) => Some(SetTime::Now),
            (true, false) => Some(SetTime::At(time(sec, nsec)?)),
            (false, false) => None,
        })
    };
    let mut change = SetAttr {
        mode: has(fattr::MODE).then_some(arg.mode & MODE_BITS),
        uid: has(fattr::UID).then_some(arg.uid),
        gid: has(fattr::GID).then_some(arg.gid),
        size: has(fattr::SIZE).then_some(arg.size),
        atime: when(fattr::ATIME, fattr::ATIME_NOW, arg.atime, arg.atimensec)?,
        mtime: when(fattr::MTIME, fattr::MTIME_NOW, arg.mtime, arg.mtimensec)?,
        ctime: if has(fattr::CTIME) { Some(time(arg.ctime, arg.ctimensec)?) } else { None },
        kill_suidgid: has(fattr::KILL_SUIDGID),
    };
    // The kernel says "someone without privilege wrote" by a SETATTR that sets nothing.
    if change == SetAttr::default() {
        change.kill_suidgid = true;
    }
    Ok(change)
}

fn time(sec: i64, nsec: u32) -> Result<Timestamp, Errno> {
    if nsec < NS_PER_S { Ok(Timestamp { sec, nsec }) } else { Err(Errno::EINVAL) }
}

/// What the kernel expects for a request of which only our own form is left. Only needed on kernels
/// before 6.9, which know no wide COPY_FILE_RANGE.
pub(crate) fn expected(request: &Request) -> Expect {
    match &request.op {
        Op::Lookup { .. } => Expect::Lookup,
        Op::GetAttr | Op::SetAttr(_) => Expect::Attr,
        Op::Statx => Expect::Statx,
        Op::ReadLink => Expect::Data { max: SYMLINK_MAX as u32 },
        Op::Symlink { .. } | Op::Mknod { .. } | Op::Mkdir { .. } | Op::Link { .. } => Expect::Entry,
        Op::Create { flags, .. } | Op::Tmpfile { flags, .. } => Expect::Created { flags: *flags },
        Op::Open { flags, .. } => Expect::Opened { node: request.node, flags: *flags, dir: false },
        Op::OpenDir => Expect::Opened { node: request.node, flags: 0, dir: true },
        Op::Read { size, .. } => Expect::Data { max: *size },
        Op::ReadDir { size, plus, .. } => Expect::Listing { max: *size, plus: *plus },
        Op::Write { .. } => Expect::Written { max: PAYLOAD_MAX as u32 },
        Op::GetXattr { size, .. } | Op::ListXattr { size } => Expect::Xattr { size: *size },
        Op::StatFs => Expect::StatFs,
        Op::Lseek { .. } => Expect::Offset,
        Op::CopyFileRange { .. } => Expect::Copied,
        Op::Ioctl { out_size, .. } => Expect::Ioctl { max: *out_size },
        Op::Forget { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename { .. }
        | Op::Release { .. }
        | Op::ReleaseDir { .. }
        | Op::Flush { .. }
        | Op::Fsync { .. }
        | Op::FsyncDir { .. }
        | Op::SyncFs
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::Fallocate { .. } => Expect::Nothing,
    }
}
