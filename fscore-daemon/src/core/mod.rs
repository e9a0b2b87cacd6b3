//! The core: objects, names, attributes and data by `(view, object, name bytes)`. No paths, no process
//! ids and no clock of its own; `state.rs` gives the lock order.
#![forbid(unsafe_code)]

mod acl;
mod ancestry;
mod attr;
pub mod base;
mod bases;
pub mod change;
pub mod clock;
pub mod codec;
mod copy_up;
mod data;
mod dispatch;
pub mod division;
mod doom;
pub mod door;
pub mod edit;
pub mod error;
pub mod ground;
pub mod ids;
pub mod keys;
mod listing;
pub mod member;
pub mod merged;
mod namespace;
pub(crate) mod nowait;
pub mod orphan;
pub mod quota;
pub mod record;
mod rename;
pub mod session;
pub mod state;
#[cfg(test)]
pub(crate) mod tests;
pub mod view;
pub mod xattr;
