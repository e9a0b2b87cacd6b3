//! The kernel's bytes to typed operations. No policy: what an operation means for us stands in
//! `convert.rs`.

use crate::abi::input::{
    BatchForgetIn, CopyFileRangeIn, CreateIn, FallocateIn, ForgetIn, ForgetOne, FsyncIn, GetXattrIn, InHeader, IoctlIn,
    LinkIn, LseekIn, MkdirIn, MknodIn, OpenIn, ReadIn, ReleaseIn, Rename2In, RenameIn, SetAttrIn, SetXattrIn, StatxIn,
    WriteIn,
};
use crate::abi::opcode::Opcode;
use crate::abi::{HEAD, SETXATTR_ACL_KILL_SGID, UNIQUE_RESEND};
use shm_transport::wire::{Caller, NodeId, RequestId};
use zerocopy::{FromBytes, Immutable, KnownLayout};

#[cfg(test)]
mod tests;

/// Why a packet is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It ends inside its fixed part.
    #[error("{opcode:?} of {len} bytes ends inside its arguments")]
    Short {
        /// What it claims to be.
        opcode: Opcode,
        /// Bytes received.
        len: usize,
    },
    /// Its own length field does not agree with what was received.
    #[error("{opcode:?} says that it has {said} bytes, but {len} came")]
    Length {
        /// What it claims to be.
        opcode: Opcode,
        /// Length field.
        said: u32,
        /// Bytes received.
        len: usize,
    },
    /// A name has no terminating NUL.
    #[error("{opcode:?} holds a name without an end")]
    Unterminated {
        /// What it claims to be.
        opcode: Opcode,
    },
    /// A count of elements or bytes disagrees with what follows.
    #[error("{opcode:?} announces {said} but {there} follow")]
    Count {
        /// What it claims to be.
        opcode: Opcode,
        /// Announced.
        said: u64,
        /// Present.
        there: u64,
    },
}

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// By which the kernel knows the request now; goes back in the reply as it is.
    pub(crate) unique: u64,
    /// What is asked.
    pub(crate) opcode: Opcode,
    /// Of what.
    pub(crate) node: NodeId,
    /// By whom.
    pub(crate) caller: Caller,
}

impl Header {
    /// From the private head of a packet of `len` bytes.
    /// `None` when not even a header came, so that nobody can be answered.
    pub(crate) fn parse(head: &[u8; HEAD], len: usize) -> Option<(Self, Result<(), DecodeError>)> {
        if len < size_of::<InHeader>() {
            return None;
        }
        let (raw, _) = InHeader::read_from_prefix(head).ok()?;
        let opcode = Opcode(raw.opcode);
        let header = Self {
            unique: raw.unique,
            opcode,
            node: NodeId(raw.nodeid),
            caller: Caller { uid: raw.uid, gid: raw.gid, pid: raw.pid },
        };
        let length =
            if raw.len as usize == len { Ok(()) } else { Err(DecodeError::Length { opcode, said: raw.len, len }) };
        Some((header, length))
    }

    /// The request's number for ever, whichever way it came.
    pub(crate) fn id(&self) -> RequestId {
        RequestId(self.unique & !UNIQUE_RESEND)
    }

    /// Whether the kernel sent it before.
    pub(crate) fn is_resent(&self) -> bool {
        self.unique & UNIQUE_RESEND != 0
    }
}

/// An operation with its arguments, as the kernel sent it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget(ForgetIn),
    BatchForget(Forgets<'a>),
    GetAttr,
    Statx,
    SetAttr(SetAttrIn),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod {
        arg: MknodIn,
        name: &'a [u8],
    },
    Mkdir {
        arg: MkdirIn,
        name: &'a [u8],
    },
    Create {
        arg: CreateIn,
        name: &'a [u8],
    },
    Tmpfile(CreateIn),
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    Rename {
        new_parent: u64,
        flags: u32,
        name: &'a [u8],
        new_name: &'a [u8],
    },
    Link {
        arg: LinkIn,
        name: &'a [u8],
    },
    Open(OpenIn),
    OpenDir(OpenIn),
    Release(ReleaseIn),
    ReleaseDir(ReleaseIn),
    Read(ReadIn),
    ReadDir {
        arg: ReadIn,
        plus: bool,
    },
    /// The data lies in the payload buffer, from its beginning.
    Write(WriteIn),
    Fsync(FsyncIn),
    FsyncDir(FsyncIn),
    SyncFs,
    SetXattr {
        arg: SetXattrIn,
        /// `FUSE_SETXATTR_ACL_KILL_SGID`.
        acl_kill_sgid: bool,
        name: &'a [u8],
        value: &'a [u8],
    },
    GetXattr {
        arg: GetXattrIn,
        name: &'a [u8],
    },
    ListXattr(GetXattrIn),
    RemoveXattr {
        name: &'a [u8],
    },
    StatFs,
    Fallocate(FallocateIn),
    Lseek(LseekIn),
    CopyFileRange {
        arg: CopyFileRangeIn,
        wide: bool,
    },
    Ioctl {
        arg: IoctlIn,
        data: &'a [u8],
    },
    Interrupt,
    NotifyReply,
    Destroy,
    /// Known by name or not, but nothing that we do.
    Other(Opcode),
}

/// The elements of a BATCH_FORGET.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    /// Node and number of lookups to take back, one by one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.0
            .chunks_exact(size_of::<ForgetOne>())
            .filter_map(|chunk| ForgetOne::read_from_bytes(chunk).ok())
            .map(|one| (NodeId(one.nodeid), one.nlookup))
    }
}

/// Arguments that are taken off the front one by one.
struct Args<'a> {
    opcode: Opcode,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Args<'a> {
    fn fixed<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, DecodeError> {
        let (value, rest) =
            T::read_from_prefix(self.rest).map_err(|_| DecodeError::Short { opcode: self.opcode, len: self.len })?;
        self.rest = rest;
        Ok(value)
    }

    fn name(&mut self) -> Result<&'a [u8], DecodeError> {
        let mut parts = self.rest.splitn(2, |&b| b == 0);
        match (parts.next(), parts.next()) {
            (Some(name), Some(rest)) => {
                self.rest = rest;
                Ok(name)
            }
            _ => Err(DecodeError::Unterminated { opcode: self.opcode }),
        }
    }

    fn bytes(&self, said: u32) -> Result<&'a [u8], DecodeError> {
        let there = self.rest.len() as u64;
        self.rest.get(..said as usize).ok_or(DecodeError::Count { opcode: self.opcode, said: said.into(), there })
    }

    /// The flags that stand before the name where `FUSE_SETXATTR_EXT` was settled, told by themselves: no name of an
    /// attribute begins with NUL, or with 1 and NULs.
    fn set_xattr_ext(&mut self) -> bool {
        match self.rest.split_first_chunk::<8>() {
            Some(([flags @ 0..=1, 0, 0, 0, 0, 0, 0, 0], rest)) => {
                self.rest = rest;
                u32::from(*flags) & SETXATTR_ACL_KILL_SGID != 0
            }
            _ => false,
        }
    }

    fn forgets(&mut self) -> Result<Forgets<'a>, DecodeError> {
        let said: BatchForgetIn = self.fixed()?;
        let len = (said.count as usize).saturating_mul(size_of::<ForgetOne>());
        let there = (self.rest.len() / size_of::<ForgetOne>()) as u64;
        let bytes =
            self.rest.get(..len).ok_or(DecodeError::Count { opcode: self.opcode, said: said.count.into(), there })?;
        Ok(Forgets(bytes))
    }
}

/// A WRITE, whose data stands in the payload: `len` bytes came in all.
pub(crate) fn write(head: &[u8; HEAD], len: usize) -> Result<Operation<'static>, DecodeError> {
    let short = DecodeError::Short { opcode: Opcode::WRITE, len };
    let there = len.checked_sub(HEAD).ok_or(short)? as u64;
    let (_, arg) = head.split_at_checked(size_of::<InHeader>()).ok_or(short)?;
    let arg = WriteIn::read_from_bytes(arg).map_err(|_| short)?;
    if u64::from(arg.size) != there {
        return Err(DecodeError::Count { opcode: Opcode::WRITE, said: arg.size.into(), there });
    }
    Ok(Operation::Write(arg))
}

/// Any other operation, from a private copy of all bytes after its header.
pub(crate) fn arguments(opcode: Opcode, body: &[u8]) -> Result<Operation<'_>, DecodeError> {
    let mut args = Args { opcode, len: size_of::<InHeader>() + body.len(), rest: body };
    Ok(match opcode {
        Opcode::LOOKUP => Operation::Lookup { name: args.name()? },
        Opcode::FORGET => Operation::Forget(args.fixed()?),
        Opcode::BATCH_FORGET => Operation::BatchForget(args.forgets()?),
        Opcode::GETATTR => Operation::GetAttr,
        Opcode::STATX => {
            let _: StatxIn = args.fixed()?;
            Operation::Statx
        }
        Opcode::SETATTR => Operation::SetAttr(args.fixed()?),
        Opcode::READLINK => Operation::ReadLink,
        Opcode::SYMLINK => Operation::Symlink { name: args.name()?, target: args.name()? },
        Opcode::MKNOD => Operation::Mknod { arg: args.fixed()?, name: args.name()? },
        Opcode::MKDIR => Operation::Mkdir { arg: args.fixed()?, name: args.name()? },
        Opcode::CREATE => Operation::Create { arg: args.fixed()?, name: args.name()? },
        Opcode::TMPFILE => Operation::Tmpfile(args.fixed()?),
        Opcode::UNLINK => Operation::Unlink { name: args.name()? },
        Opcode::RMDIR => Operation::Rmdir { name: args.name()? },
        Opcode::RENAME => {
            let RenameIn { newdir } = args.fixed()?;
            Operation::Rename { new_parent: newdir, flags: 0, name: args.name()?, new_name: args.name()? }
        }
        Opcode::RENAME2 => {
            let Rename2In { newdir, flags, .. } = args.fixed()?;
            Operation::Rename { new_parent: newdir, flags, name: args.name()?, new_name: args.name()? }
        }
        Opcode::LINK => Operation::Link { arg: args.fixed()?, name: args.name()? },
        Opcode::OPEN => Operation::Open(args.fixed()?),
        Opcode::OPENDIR => Operation::OpenDir(args.fixed()?),
        Opcode::RELEASE => Operation::Release(args.fixed()?),
        Opcode::RELEASEDIR => Operation::ReleaseDir(args.fixed()?),
        Opcode::READ => Operation::Read(args.fixed()?),
        Opcode::READDIR => Operation::ReadDir { arg: args.fixed()?, plus: false },
        Opcode::READDIRPLUS => Operation::ReadDir { arg: args.fixed()?, plus: true },
        Opcode::FSYNC => Operation::Fsync(args.fixed()?),
        Opcode::FSYNCDIR => Operation::FsyncDir(args.fixed()?),
        Opcode::SYNCFS => Operation::SyncFs,
        Opcode::SETXATTR => {
            let arg: SetXattrIn = args.fixed()?;
            let acl_kill_sgid = args.set_xattr_ext();
            Operation::SetXattr { arg, acl_kill_sgid, name: args.name()?, value: args.bytes(arg.size)? }
        }
        Opcode::GETXATTR => Operation::GetXattr { arg: args.fixed()?, name: args.name()? },
        Opcode::LISTXATTR => Operation::ListXattr(args.fixed()?),
        Opcode::REMOVEXATTR => Operation::RemoveXattr { name: args.name()? },
        Opcode::STATFS => Operation::StatFs,
        Opcode::FALLOCATE => Operation::Fallocate(args.fixed()?),
        Opcode::LSEEK => Operation::Lseek(args.fixed()?),
        Opcode::COPY_FILE_RANGE => Operation::CopyFileRange { arg: args.fixed()?, wide: false },
        Opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange { arg: args.fixed()?, wide: true },
        Opcode::IOCTL => {
            let arg: IoctlIn = args.fixed()?;
            Operation::Ioctl { arg, data: args.bytes(arg.in_size)? }
        }
        Opcode::INTERRUPT => Operation::Interrupt,
        Opcode::NOTIFY_REPLY => Operation::NotifyReply,
        Opcode::DESTROY => Operation::Destroy,
        other => Operation::Other(other),
    })
}
