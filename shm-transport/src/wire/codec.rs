//! Messages to bytes and back. Decoding works on a private copy only: the caller copies the bytes
//! out of shared memory first, because the peer may change them at any moment.

use super::{Op, Reply, Request, limits};
use rkyv::rancor;
use rkyv::util::AlignedVec;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The encoded message has more bytes than a slot has room for.
    #[error("message of {len} bytes exceeds the {max} bytes of a slot")]
    TooLong {
        /// Its length.
        len: usize,
        /// The room.
        max: usize,
    },
    /// The bytes are not a valid archive of the expected type.
    #[error("malformed message")]
    Malformed,
    /// A name is empty, too long, or holds `/` or NUL.
    #[error("invalid name in message")]
    BadName,
    /// A count or size is over its limit.
    #[error("value over its limit in message")]
    OverLimit,
}

/// Encodes a request; at most `limits::REQUEST_MAX` bytes.
pub fn encode_request(request: &Request) -> Result<AlignedVec, CodecError> {
    let bytes = rkyv::to_bytes::<rancor::Error>(request).map_err(|_| CodecError::Malformed)?;
    bounded(bytes, limits::REQUEST_MAX)
}

/// Decodes and checks a request from a private copy of its bytes.
pub fn decode_request(bytes: &[u8]) -> Result<Request, CodecError> {
    let request: Request = rkyv::from_bytes::<Request, rancor::Error>(&aligned(bytes, limits::REQUEST_MAX)?)
        .map_err(|_| CodecError::Malformed)?;
    validate(&request.op)?;
    Ok(request)
}

/// Encodes a reply; at most `limits::REPLY_MAX` bytes.
pub fn encode_reply(reply: &Reply) -> Result<AlignedVec, CodecError> {
    let bytes = rkyv::to_bytes::<rancor::Error>(reply).map_err(|_| CodecError::Malformed)?;
    bounded(bytes, limits::REPLY_MAX)
}

/// Decodes a reply from a private copy of its bytes.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    rkyv::from_bytes::<Reply, rancor::Error>(&aligned(bytes, limits::REPLY_MAX)?).map_err(|_| CodecError::Malformed)
}

fn bounded(bytes: AlignedVec, max: usize) -> Result<AlignedVec, CodecError> {
    if bytes.len() > max { Err(CodecError::TooLong { len: bytes.len(), max }) } else { Ok(bytes) }
}

fn aligned(bytes: &[u8], max: usize) -> Result<AlignedVec, CodecError> {
    if bytes.len() > max {
        return Err(CodecError::TooLong { len: bytes.len(), max });
    }
    let mut copy = AlignedVec::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    Ok(copy)
}

fn name(bytes: &[u8]) -> Result<(), CodecError> {
    let legal = !bytes.is_empty()
        && bytes.len() <= limits::NAME_MAX
        && bytes != b"."
        && bytes != b".."
        && !bytes.iter().any(|b| matches!(b, b'/' | 0));
    if legal { Ok(()) } else { Err(CodecError::BadName) }
}

/// An extended attribute's name may be anything but empty, over-long or with a NUL in it.
fn xattr_name(bytes: &[u8]) -> Result<(), CodecError> {
    let legal = !bytes.is_empty() && bytes.len() <= limits::NAME_MAX && !bytes.contains(&0);
    if legal { Ok(()) } else { Err(CodecError::BadName) }
}

fn at_most(value: u32, max: usize) -> Result<(), CodecError> {
    if value as usize <= max { Ok(()) } else { Err(CodecError::OverLimit) }
}

fn validate(op: &Op) -> Result<(), CodecError> {
    match op {
        Op::Lookup { name: n }
        | Op::Symlink { name: n }
        | Op::Mknod { name: n, .. }
        | Op::Mkdir { name: n, .. }
        | Op::Create { name: n, .. }
        | Op::Unlink { name: n }
        | Op::Rmdir { name: n }
        | Op::Link { name: n, .. } => name(n),
        Op::Rename { name: n, new_name, .. } => name(n).and_then(|()| name(new_name)),
        Op::GetXattr { name: n, .. } | Op::SetXattr { name: n, .. } | Op::RemoveXattr { name: n } => xattr_name(n),
        Op::Forget { count } => at_most(*count, limits::FORGET_MAX),
        Op::Read { size, .. } | Op::ReadDir { size, .. } => at_most(*size, limits::PAYLOAD_MAX),
        Op::Ioctl { out_size, .. } => at_most(*out_size, limits::IOCTL_MAX),
        Op::GetAttr
        | Op::Statx
        | Op::SetAttr(_)
        | Op::ReadLink
        | Op::Tmpfile { .. }
        | Op::Open { .. }
        | Op::Release { .. }
        | Op::Write { .. }
        | Op::Flush { .. }
        | Op::Fsync { .. }
        | Op::SyncFs
        | Op::OpenDir
        | Op::ReleaseDir { .. }
        | Op::FsyncDir { .. }
        | Op::ListXattr { .. }
        | Op::StatFs
        | Op::Fallocate { .. }
        | Op::Lseek { .. }
        | Op::CopyFileRange { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests;
