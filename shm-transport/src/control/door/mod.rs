//! The door of a mount: the same calls as over the daemon's socket, by `ioctl(2)` on `.agentfs/control` below the
//! mount's root. Whoever can reach the mount and is root or its owner needs no way to the socket.
//!
//! The command is `_IOWR(KIND, NUMBER, SIZE)`; `SIZE`, which the caller chooses, is the length of the one buffer that
//! is both question and answer:
//!
//! | Offset | Type | The caller writes | The daemon writes |
//! |---|---|---|---|
//! | 0 | u32 | [`VERSION`] | the same |
//! | 4 | u32 | length of the call | length of this part of the answer |
//! | 8 | u64 | from which byte of the answer on | the same |
//! | 16 | u64 | 0 | length of the whole answer |
//! | 24 | u64 | 0, or the tag of the answer that is read on | the answer's tag |
//! | 32 | bytes | the call, a JSON object as on the socket | this part of the answer, JSON as on the socket |
//!
//! Numbers are little endian. A branch named by the empty string is the one that is mounted. An operation that was
//! refused fails with an errno *and* has its answer in the buffer; what is no call has an errno alone, and leaves the
//! buffer as it is. An answer that does not fit is read on by further calls with the same command, `from` and tag.
#![forbid(unsafe_code)]

mod client;

pub use client::{Door, DoorError};

use super::{Call, Command, VERSION as CALL_VERSION};
use crate::wire::Errno;
use crate::wire::limits::IOCTL_MAX;
use serde::Deserialize;

/// Name of the directory in the root of a mount.
pub const DIRECTORY: &[u8] = b".agentfs";
/// Name of the file in it.
pub const FILE: &[u8] = b"control";
/// The type of the ioctl command.
pub const KIND: u8 = 0xaf;
/// The number of the ioctl command.
pub const NUMBER: u8 = 1;
/// Version of the buffer's layout.
pub const VERSION: u32 = 1;
/// Bytes before call and answer.
pub const HEAD: usize = 32;
/// Longest buffer.
pub const BUFFER_MAX: usize = IOCTL_MAX;

/// Why a buffer is no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another command.
    #[error("not a command of this file")]
    Command,
    /// The buffer is not as long as the command says, or too short for a head.
    #[error("the buffer has not the length that the command says, or none for a head")]
    Size,
    /// Another version of the layout or of the control protocol.
    #[error("another version")]
    Version,
    /// The call is longer than the buffer.
    #[error("the call is longer than the buffer")]
    TooLong,
    /// A field that must be 0 is not.
    #[error("a reserved field is not 0")]
    Reserved,
    /// The call is not JSON, or not a call.
    #[error("the call is not understood")]
    Call,
}

impl Malformed {
    /// What the caller sees.
    pub fn errno(self) -> Errno {
        match self {
            Self::Command => Errno::ENOTTY,
            Self::Size | Self::Reserved | Self::Call => Errno::EINVAL,
            Self::Version => Errno::EPROTONOSUPPORT,
            Self::TooLong => Errno::EMSGSIZE,
        }
    }
}

/// The head of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// [`VERSION`].
    pub version: u32,
    /// Bytes behind the head that count.
    pub len: u32,
    /// Where in the answer they begin.
    pub from: u64,
    /// Length of the answer.
    pub total: u64,
    /// Which answer.
    pub tag: u64,
}

impl Head {
    /// From the beginning of a buffer.
    pub fn decode(buffer: &[u8]) -> Option<Self> {
        let small = |at: usize| Some(u32::from_le_bytes(buffer.get(at..at + 4)?.try_into().ok()?));
        let large = |at: usize| Some(u64::from_le_bytes(buffer.get(at..at + 8)?.try_into().ok()?));
        Some(Self { version: small(0)?, len: small(4)?, from: large(8)?, total: large(16)?, tag: large(24)? })
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.from.to_le_bytes());
        bytes.extend(self.total.to_le_bytes());
        bytes.extend(self.tag.to_le_bytes());
        bytes
    }
}

/// What a caller asks.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The operation.
    pub command: Command,
    /// The part of the answer that is wanted begins here.
    pub from: u64,
    /// For a later part: of which answer.
    pub tag: u64,
}

/// The part of a call that every version has.
#[derive(Deserialize)]
struct Spoken {
    v: u32,
}

/// The `ioctl(2)` command for a buffer of `size` bytes; none for one that is too long.
pub fn command(size: usize) -> Option<u32> {
    const READ_WRITE: u32 = 3;
    let size = u32::try_from(size).ok().filter(|size| *size as usize <= BUFFER_MAX)?;
    Some(READ_WRITE << 30 | size << 16 | u32::from(KIND) << 8 | u32::from(NUMBER))
}

/// Whether a command is one of the control file, whatever its size.
pub fn is_ours(cmd: u32) -> bool {
    const SIZE: u32 = (BUFFER_MAX as u32) << 16;
    command(0).is_some_and(|ours| cmd & !SIZE == ours)
}

/// What the caller of `ioctl(2)` asks with the command `cmd` and this buffer, of which it expects `room` bytes back.
pub fn decode(cmd: u32, buffer: &[u8], room: usize) -> Result<Asked, Malformed> {
    if !is_ours(cmd) {
        return Err(Malformed::Command);
    }
    if command(buffer.len()) != Some(cmd) || room != buffer.len() {
        return Err(Malformed::Size);
    }
    let head = Head::decode(buffer).ok_or(Malformed::Size)?;
    if head.version != VERSION {
        return Err(Malformed::Version);
    }
    let body = buffer.get(HEAD..).ok_or(Malformed::Size)?;
    let call = body.get(..head.len as usize).ok_or(Malformed::TooLong)?;
    if head.total != 0 || head.from == 0 && head.tag != 0 {
        return Err(Malformed::Reserved);
    }
    let Spoken { v } = serde_json::from_slice(call).map_err(|_| Malformed::Call)?;
    if v != CALL_VERSION {
        return Err(Malformed::Version);
    }
    let Call { command, .. } = serde_json::from_slice(call).map_err(|_| Malformed::Call)?;
    Ok(Asked { command, from: head.from, tag: head.tag })
}

/// The buffer for a call; none when it does not fit in `size` bytes.
pub fn encode(call: &[u8], from: u64, tag: u64, size: usize) -> Option<Vec<u8>> {
    let len = u32::try_from(call.len()).ok()?;
    let mut buffer = Head { version: VERSION, len, from, total: 0, tag }.encode();
    buffer.extend_from_slice(call);
    (buffer.len() <= size).then(|| {
        buffer.resize(size, 0);
        buffer
    })
}

/// The part of an answer from `from` on that fits in `room` bytes, with its head.
pub fn part(answer: &[u8], from: u64, tag: u64, room: usize) -> Vec<u8> {
    let at = usize::try_from(from).unwrap_or(usize::MAX).min(answer.len());
    let rest = answer.get(at..).unwrap_or_default();
    let here = rest.get(..room.saturating_sub(HEAD)).unwrap_or(rest);
    let head = Head { version: VERSION, len: here.len() as u32, from, total: answer.len() as u64, tag };
    let mut bytes = head.encode();
    bytes.extend_from_slice(here);
    bytes
}

#[cfg(test)]
mod tests;
