//! Any bytes as a request, a reply, a listing or a control line.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::decode(bytes));
