//! Suites that others wrote, run on a real mount and on the host's file system beside it.

pub mod fsx;
pub mod pjdfstest;
mod tool;
