//! `agentfsd`: the AgentFS daemon of one store.

use std::process::ExitCode;

fn main() -> ExitCode {
    fscore_daemon::server::main()
}
