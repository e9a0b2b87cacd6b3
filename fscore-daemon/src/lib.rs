//! The AgentFS daemon as a library: branches, snapshots, and the storage under them.
//!
//! ```text
//! server    the process: sockets, sessions, threads; requests in, replies out
//!   branch    commands on branches, snapshots and commits
//!   core      objects, names, attributes and data by (view, object, name bytes)
//!     content   the bytes of regular files, one host file each
//!     store     metadata: an ordered, durable map
//!   errno     the one table from core errors to errno
//!   failure   the same for the answers to control calls
//! sandbox   what the process gives up before it serves
//! fsck      the check of a store, in use or not
//! config    the command line
//! ```
#![forbid(unsafe_code)]

pub mod branch;
pub mod config;
pub mod content;
pub mod core;
pub mod errno;
mod failure;
pub mod fsck;
pub mod sandbox;
pub mod server;
pub mod store;
