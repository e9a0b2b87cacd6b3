//! The `agentfs` command: branches of directories for many agents on one host. Called `agentfs-control-cli`, it asks
//! the control file of a mount instead.
//!
//! It talks to the daemon over its Unix socket, and starts it where none runs. What needs the caller's own
//! rights it does itself: mounting (by way of `agentfs-fuse --mount`) and applying a commit to a base.
#![forbid(unsafe_code)]
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "texts for people: clarity counts, an allocation does not"
)]

mod args;
mod cgroup;
mod child;
mod commands;
mod commit;
mod context;
mod door;
mod error;
mod exit;
mod mounter;
mod mountinfo;
mod namespace;
mod output;
mod patch;
mod seal;
mod siblings;
mod start;
mod still;

use clap::Parser;
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    if door::is_meant() {
        return door::main();
    }
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return misunderstood(&e),
    };
    let output = Output { json: cli.global.json };
    match commands::dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output.error(&error);
            ExitCode::from(exit::code(error.kind))
        }
    }
}

/// The parser's message without its layout: what is missing stands on lines of its own.
fn in_one_line(text: &str) -> String {
    let told = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    told.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

/// Help and version go to standard output; everything else is an error, in JSON if that was asked for.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if error.use_stderr() && json {
        let error = error::CliError::new(error::Kind::Usage, in_one_line(&error.to_string())).hint("agentfs --help");
        Output { json }.error(&error);
    } else {
        // Nobody is left to be told when the stream is closed.
        error.print().ok();
    }
    ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK })
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_missing_is_named_in_one_line() {
        use clap::Parser as _;
        let parsed = crate::args::Cli::try_parse_from(["agentfs", "--json", "diff"]);
        let told = super::in_one_line(&parsed.map(drop).map_or_else(|e| e.to_string(), |()| String::new()));
        assert_eq!(told, "the following required arguments were not provided: <BRANCH>");
    }
}
