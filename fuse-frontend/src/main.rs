//! The AgentFS mount process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fuse_frontend::run(std::env::args_os().collect())
}
