//! The AgentFS daemon as a library.
pub mod content;
pub mod core;
pub mod store;
