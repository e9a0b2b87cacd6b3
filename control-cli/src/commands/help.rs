//! `agentfs help` and `agentfs completions`.

use crate::args::Cli;
use crate::error::{CliError, Kind, Result};
use crate::exit;
use crate::output::{Output, write_out};
use clap::CommandFactory;

/// Explains a command, or the exit codes.
pub(super) fn help(output: Output, topic: &[String]) -> Result<u8> {
    if topic.iter().map(String::as_str).eq(["exit-codes"]) {
        output.result(&exit::document(), exit::table)?;
        return Ok(exit::OK);
    }
    let mut command = Cli::command();
    command.build();
    let mut found = &mut command;
    for name in topic {
        found = found.find_subcommand_mut(name).ok_or_else(|| {
            CliError::new(Kind::Usage, format!("there is no help about {name:?}"))
                .hint("agentfs --help lists the commands")
        })?;
    }
    write_out(&found.render_long_help().to_string())?;
    Ok(exit::OK)
}

/// Prints a completion script.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "agentfs", &mut script);
    write_out(&String::from_utf8_lossy(&script))?;
    Ok(exit::OK)
}
