//! The daemon's replies to the kernel's bytes.

use crate::abi::output::{
    AttrOut, CreateOut, EntryOut, GetXattrOut, InvalEntryOut, InvalInodeOut, IoctlOut, OffsetOut, OpenOut, OutHeader,
    StatFsOut, StatxOut, WriteOut,
};
use crate::abi::{EXPIRE_ONLY, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE};
use shm_transport::wire::{Errno, NodeId, Reply};
use zerocopy::{Immutable, IntoBytes};

#[cfg(test)]
mod tests;

/// What the kernel expects as the reply to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Success or an error.
    Nothing,
    /// An entry, perhaps a negative one.
    Lookup,
    /// An entry.
    Entry,
    /// An entry and an open file, opened with these flags.
    Created { flags: u32 },
    /// Attributes.
    Attr,
    /// Attributes with the birth time.
    Statx,
    /// An open file or directory.
    Opened { node: NodeId, flags: u32, dir: bool },
    /// At most so many bytes.
    Data { max: u32 },
    /// A directory listing of at most so many bytes.
    Listing { max: u32, plus: bool },
    /// A size for size 0, else at most so many bytes.
    Xattr { size: u32 },
    /// At most so many bytes written.
    Written { max: u32 },
    /// Bytes copied, in 32 bits.
    Copied,
    /// An offset or count, in 64 bits.
    Offset,
    /// Space and inodes.
    StatFs,
    /// A result and at most so many bytes.
    Ioctl { max: u32 },
}

/// Longest fixed reply: header and `StatxOut`.
const FIXED_MAX: usize = size_of::<OutHeader>() + size_of::<StatxOut>();

/// A reply without bulk bytes, ready to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed {
    bytes: [u8; FIXED_MAX],
    len: usize,
    error: i32,
}

impl Fixed {
    /// The bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Whether it tells of a failure.
    pub(crate) fn is_error(&self) -> bool {
        self.error != 0
    }

    fn new(unique: u64, error: i32, body: &[u8]) -> Self {
        let header = OutHeader { len: (size_of::<OutHeader>() + body.len()) as u32, error, unique };
        let mut bytes = [0; FIXED_MAX];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(header.as_bytes().iter().chain(body)) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len, error }
    }

    fn with<T: IntoBytes + Immutable>(unique: u64, body: &T) -> Self {
        Self::new(unique, 0, body.as_bytes())
    }
}

/// How a reply goes out.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack, from the daemon's answer to the write")]
pub(crate) enum Outgoing {
    /// These bytes are all.
    Fixed(Fixed),
    /// This header and then the first `len` bytes of the payload.
    Payload { header: OutHeader, len: u32 },
    /// A listing whose entries count as lookups: from a private copy of the first `len` bytes.
    Listing { unique: u64, len: u32 },
    /// The result of an ioctl and so many bytes of the payload, from where the data of an ioctl begins.
    Ioctl { unique: u64, result: i32, len: u32, first: First },
}

/// What is done before the answer to an ioctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct First {
    /// Milliseconds to wait.
    pub(crate) settle: u32,
    /// Bytes of names to let expire.
    pub(crate) expire: u32,
}

/// Success without a body.
pub(crate) fn ok(unique: u64) -> Fixed {
    Fixed::new(unique, 0, &[])
}

/// An error.
pub(crate) fn error(unique: u64, errno: Errno) -> Fixed {
    Fixed::new(unique, -errno.get(), &[])
}

/// The notification by which the kernel looks a name of the root up again before it uses it.
pub(crate) fn expire_name(name: &[u8]) -> Vec<u8> {
    let body = InvalEntryOut { parent: NodeId::ROOT.0, namelen: name.len() as u32, flags: EXPIRE_ONLY };
    let len = size_of::<OutHeader>() + size_of::<InvalEntryOut>() + name.len() + 1;
    let mut bytes = OutHeader { len: len as u32, error: NOTIFY_INVAL_ENTRY, unique: 0 }.as_bytes().to_vec();
    bytes.extend_from_slice(body.as_bytes());
    bytes.extend_from_slice(name);
    bytes.push(0);
    bytes
}

/// The notification by which the kernel forgets the attributes of the root and what it cached of its listing.
pub(crate) fn forget_root() -> Vec<u8> {
    let body = InvalInodeOut { ino: NodeId::ROOT.0, off: 0, len: 0 };
    let len = size_of::<OutHeader>() + size_of::<InvalInodeOut>();
    let mut bytes = OutHeader { len: len as u32, error: NOTIFY_INVAL_INODE, unique: 0 }.as_bytes().to_vec();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// The header before `len` bytes of data.
pub(crate) fn data_header(unique: u64, len: u32) -> OutHeader {
    OutHeader { len: size_of::<OutHeader>() as u32 + len, error: 0, unique }
}

/// What stands before the `len` bytes of data of an ioctl.
pub(crate) fn ioctl_head(unique: u64, result: i32, len: u32) -> Vec<u8> {
    let body = IoctlOut { result, ..IoctlOut::default() };
    let mut bytes = data_header(unique, size_of::<IoctlOut>() as u32 + len).as_bytes().to_vec();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// A notification without a body.
pub(crate) fn notification(code: i32) -> OutHeader {
    OutHeader { len: size_of::<OutHeader>() as u32, error: code, unique: 0 }
}

/// The reply that the kernel expects. `None` when the daemon's answer is none to this question: then
/// the program gets `EIO` rather than something that the kernel would misread.
pub(crate) fn reply(unique: u64, expect: Expect, reply: &Reply) -> Option<Outgoing> {
    let fixed = match (expect, reply) {
        (_, Reply::Error(errno)) => error(unique, *errno),
        (Expect::Nothing, Reply::Ok) => ok(unique),
        (Expect::Lookup, Reply::Entry(entry)) => Fixed::with(unique, &EntryOut::from(entry)),
        (Expect::Entry, Reply::Entry(entry)) if entry.node != NodeId::NONE => {
            Fixed::with(unique, &EntryOut::from(entry))
        }
        (Expect::Created { .. }, Reply::Created(entry, opened)) if entry.node != NodeId::NONE => {
            Fixed::with(unique, &CreateOut { entry: EntryOut::from(entry), open: OpenOut::from(opened) })
        }
        (Expect::Attr, Reply::Attr { attr, valid_ns }) => Fixed::with(unique, &AttrOut::new(attr, *valid_ns)),
        (Expect::Statx, Reply::Attr { attr, valid_ns }) => Fixed::with(unique, &StatxOut::new(attr, *valid_ns)),
        (Expect::Opened { .. }, Reply::Opened(opened)) => Fixed::with(unique, &OpenOut::from(opened)),
        (Expect::Written { max }, Reply::Written { size }) if *size <= max => {
            Fixed::with(unique, &WriteOut { size: *size, padding: 0 })
        }
        (Expect::Xattr { size: 0 }, Reply::XattrSize { size }) => {
            Fixed::with(unique, &GetXattrOut { size: *size, padding: 0 })
        }
        (Expect::Xattr { size: 1.. } | Expect::Data { .. } | Expect::Listing { .. }, Reply::Data { len: 0 }) => {
            ok(unique)
        }
        (Expect::Xattr { size }, Reply::Data { len }) if size > 0 && *len > size => error(unique, Errno::ERANGE),
        (Expect::Xattr { size: max @ 1.. } | Expect::Data { max }, Reply::Data { len }) if *len <= max => {
            return Some(Outgoing::Payload { header: data_header(unique, *len), len: *len });
        }
        (Expect::Listing { max, plus }, Reply::Data { len }) if *len <= max => {
            return Some(if plus {
                Outgoing::Listing { unique, len: *len }
            } else {
                Outgoing::Payload { header: data_header(unique, *len), len: *len }
            });
        }
        (Expect::Copied, Reply::Offset(count)) => {
            Fixed::with(unique, &WriteOut { size: u32::try_from(*count).ok()?, padding: 0 })
        }
        (Expect::Offset, Reply::Offset(offset)) => Fixed::with(unique, &OffsetOut { offset: *offset }),
        (Expect::Ioctl { max }, Reply::Ioctl { errno, len, expire, settle }) if *len <= max => {
            let result = errno.map_or(0, |errno| -errno.get());
            return Some(Outgoing::Ioctl {
                unique,
                result,
                len: *len,
                first: First { settle: *settle, expire: *expire },
            });
        }
        (Expect::StatFs, Reply::StatFs(stat)) => Fixed::with(unique, &StatFsOut::from(stat)),
        _ => return None,
    };
    Some(Outgoing::Fixed(fixed))
}
