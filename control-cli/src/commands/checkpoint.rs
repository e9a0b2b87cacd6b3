//! Automatic snapshots: `agentfs checkpoint`, and those that `agentfs run` takes.

use crate::args::checkpoint::{Checkpoint as Args, Checkpoints, When};
use crate::context::{Context, Told};
use crate::error::{CliError, Kind, Result};
use crate::output::{count, shown};
use nix::sys::signal::SigSet;
use serde_json::{Value, json};
use shm_transport::control::Checkpoint;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

/// How long one may take while a command waits for it.
const LIMIT: Duration = Duration::from_mins(1);

/// `agentfs checkpoint`.
pub(super) fn checkpoint(context: &Context, args: &Args) -> Result<()> {
    let branch = args.branch.clone().or_else(|| std::env::var("AGENTFS_BRANCH").ok()).ok_or_else(|| {
        CliError::new(Kind::Usage, "no branch is named, and AGENTFS_BRANCH is not set")
            .hint("agentfs checkpoint BRANCH")
    })?;
    let done = take(context, &branch, args.keep())?;
    if args.quiet && !context.output.json {
        return Ok(());
    }
    context.output.result(&done, || told(&branch, &done))
}

fn take(context: &Context, branch: &str, keep: u32) -> Result<Checkpoint> {
    context.connect_within(LIMIT)?.checkpoint(branch, keep).told()
}

fn told(branch: &str, done: &Checkpoint) -> String {
    let mut text = match &done.snapshot {
        Some(info) => format!("made the snapshot {}@{}\n", shown(branch), shown(&info.name)),
        None => format!("branch {} did not change since its last snapshot\n", shown(branch)),
    };
    for name in &done.deleted {
        text.push_str(&format!("  deleted the automatic snapshot {}\n", shown(name)));
    }
    text
}

/// The automatic snapshots of one `agentfs run`. What fails is kept, to be told when the command is over.
pub(super) struct Taking<'a> {
    context: &'a Context,
    branch: &'a str,
    options: Checkpoints,
    done: Mutex<(u64, Vec<CliError>)>,
}

/// Ends the thread that takes them.
pub(super) struct Clock<'scope> {
    stop: Sender<()>,
    thread: ScopedJoinHandle<'scope, ()>,
}

impl<'a> Taking<'a> {
    /// As the command line of `run` says.
    pub(super) fn new(context: &'a Context, branch: &'a str, options: Checkpoints) -> Self {
        Self { context, branch, options, done: Mutex::default() }
    }

    /// Takes one now.
    fn take(&self) {
        let taken = take(self.context, self.branch, self.options.checkpoint_keep);
        let mut done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match taken {
            Ok(taken) => done.0 += u64::from(taken.snapshot.is_some()),
            Err(e) => done.1.push(e),
        }
    }

    /// What the command finds in its environment: how many are to stay, and for a bash what to do after each command.
    pub(super) fn prepare(&self, command: &mut Command) {
        let Some(when) = self.options.when else { return };
        command.env("AGENTFS_CHECKPOINT_KEEP", self.options.checkpoint_keep.to_string());
        if when != When::EachCommand || Path::new(command.get_program()).file_name() != Some(OsStr::new("bash")) {
            return;
        }
        let Ok(own) = std::env::current_exe() else { return };
        let mut hook = std::env::var_os("PROMPT_COMMAND").filter(|hook| !hook.is_empty()).unwrap_or_default();
        if !hook.is_empty() {
            hook.push("; ");
        }
        hook.push(quoted(own.as_os_str()));
        for (option, path) in [("--store", &self.context.paths.store), ("--socket", &self.context.paths.socket)] {
            hook.push(format!(" {option} "));
            hook.push(quoted(path.as_os_str()));
        }
        hook.push(" checkpoint --quiet");
        command.env("PROMPT_COMMAND", hook);
    }

    /// Begins to take them while the command runs.
    pub(super) fn begin<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Option<Clock<'scope>> {
        let Some(When::Every(pause)) = self.options.when else { return None };
        let (stop, stopped) = channel();
        let work = move || {
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                self.take();
            }
        };
        // Signals are for the thread that runs the command.
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).ok();
        let thread = std::thread::Builder::new().spawn_scoped(scope, work);
        if let Some(before) = before {
            before.thread_set_mask().ok();
        }
        match thread {
            Ok(thread) => Some(Clock { stop, thread }),
            Err(e) => {
                let error = CliError::new(Kind::System, format!("no thread for automatic snapshots: {e}"));
                self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1.push(error);
                None
            }
        }
    }

    /// The command is over.
    pub(super) fn end(&self, clock: Option<Clock<'_>>) {
        if let Some(Clock { stop, thread }) = clock {
            drop(stop);
            // It only ever tells of its failures by what it keeps.
            thread.join().ok();
        }
        if self.options.when == Some(When::EachCommand) {
            self.take();
        }
    }

    /// Tells what failed, and for the summary what was done.
    pub(super) fn report(&self) -> Value {
        let done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.options.when.is_none() {
            return Value::Null;
        }
        let (made, failed) = (done.0, done.1.len());
        if let Some(last) = done.1.last() {
            let times = count(failed as u64, "automatic snapshot", "automatic snapshots");
            self.context.output.note(&format!("{times} could not be taken: {}", last.message));
        }
        json!({"made": made, "failed": failed, "why": done.1.last().map(|e| &e.message)})
    }
}

/// One word of a shell.
fn quoted(text: &OsStr) -> OsString {
    let mut word = vec![b'\''];
    for &byte in text.as_bytes() {
        if byte == b'\'' {
            word.extend(b"'\\''");
        } else {
            word.push(byte);
        }
    }
    word.push(b'\'');
    OsStr::from_bytes(&word).to_owned()
}

#[cfg(test)]
mod tests;
