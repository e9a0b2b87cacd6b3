//! The typed messages that cross the ring: what a frontend may ask and what the daemon may answer.
//!
//! Nothing here knows how a message travels. Names and values are raw bytes as Linux gives them; no
//! path, no UTF-8, no clock. Bulk bytes (file data, directory listings, extended attribute values,
//! symbolic link targets) never stand in a message: they lie in the payload buffer that travels with
//! the slot. `specs/wire-protocol.md` is the normative text.
#![forbid(unsafe_code)]

mod attr;
mod codec;
pub mod dirent;
mod errno;
mod ids;
pub mod limits;
mod op;
mod reply;

pub use attr::{Attr, FileKind, SetAttr, SetTime, Timestamp};
pub use codec::{CodecError, decode_reply, decode_request, encode_reply, encode_request};
pub use errno::Errno;
pub use ids::{NodeId, RequestId, SessionId, SlotIndex, ViewSlot};
pub use op::{Caller, Op, Request};
pub use reply::{Entry, FsStat, Opened, Reply};
