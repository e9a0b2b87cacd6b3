//! Any bytes over the control part of a region that a daemon attaches and serves.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::attach(bytes));
