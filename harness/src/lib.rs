//! Real-mount tests, benchmarks and proofs of AgentFS.
//!
//! Nothing here links the product: a [`World`] finds the built binaries, gives them a private store and
//! socket, drives them as a user does, and takes everything away again, also when a test fails. A test
//! never blocks for ever: every command has a limit, and every world a watchdog that aborts the FUSE
//! connections below its directory and fails the test.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::return_self_not_must_use,
    reason = "a harness reports a broken expectation by panicking with a message"
)]
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    clippy::duration_suboptimal_units,
    clippy::cast_precision_loss,
    reason = "texts of failures, limits in seconds, and figures for people"
)]

pub mod bench;
pub mod bins;
pub mod chaos;
pub mod differential;
pub mod mounts;
pub mod namespace;
pub mod posix;
pub mod probe;
pub mod procs;
pub mod results;
pub mod run;
pub mod small_disk;
pub mod suite;
pub mod suites;
pub mod sys;
pub mod tree;
pub mod watchdog;
pub mod world;

pub use tree::Tree;
pub use world::World;
