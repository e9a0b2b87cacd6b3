//! The only place in the workspace where memory is touched without the compiler's proof: the mapped
//! region, the bytes and atomic cells in it, file descriptors by number, and system calls that no
//! crate wraps safely. Everything here is handed out behind an API that cannot be misused.
//!
//! Two rules hold for shared bytes. No reference to them ever exists, atomic cells excepted; and what
//! a peer supplies is read once into private memory, checked there, and only then used.

pub(crate) mod atomics;
pub(crate) mod bytes;
pub(crate) mod cells;
pub mod fds;
mod payload;
pub(crate) mod region;
pub(crate) mod segment;
pub mod sys;
pub mod trace;

pub use payload::Payload;
