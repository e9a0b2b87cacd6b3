//! The commands, one file for each group.

pub(crate) mod bind;
pub(crate) mod branch;
mod branch_tree;
mod checkpoint;
mod commit;
mod daemon;
pub(crate) mod diff;
mod fsck;
mod gc;
mod help;
mod merge;
mod mount;
mod run;
pub(crate) mod snapshot;
mod status;
mod undo;
mod upgrade;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::error::Result;
use crate::output::Output;
use crate::{exit, start};

/// Does what the command line says; the exit code.
pub(crate) fn dispatch(cli: Cli) -> Result<u8> {
    let Cli { global, command } = cli;
    let global = global.or_environment();
    let context = || Context::new(&global);
    match command {
        Command::Completions { shell } => return help::completions(shell),
        Command::Help { topic } => return help::help(Output { json: global.json }, &topic),
        Command::InternalHold { command } => return Err(start::become_holder(&command)),
        Command::Run(args) => return run::run(&context()?, args),
        Command::Fsck(args) => return fsck::fsck(&context()?, &args),
        Command::Gc(args) => gc::gc(&context()?, args)?,
        Command::Status => return status::status(&context()?),
        Command::Daemon(args) => return daemon::daemon(&context()?, args),
        Command::Mount(args) => mount::mount(&context()?, &args)?,
        Command::Umount(args) => mount::umount(&context()?, &args)?,
        Command::Mounts => mount::mounts(&context()?)?,
        Command::Branch(args) => branch::branch(&context()?, args)?,
        Command::Snapshot(args) => snapshot::snapshot(&context()?, args)?,
        Command::Checkpoint(args) => checkpoint::checkpoint(&context()?, &args)?,
        Command::Diff(args) => diff::diff(&context()?, &args)?,
        Command::Commit(args) => commit::commit(&context()?, &args)?,
        Command::Refresh(args) => merge::refresh(&context()?, &args)?,
        Command::Undo(args) => undo::undo(&context()?, args)?,
        Command::Discard(args) => branch::discard(&context()?, &args)?,
    }
    Ok(exit::OK)
}
