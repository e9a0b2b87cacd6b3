//! Running a command in our place: it gets our signals, we take its exit code.

use crate::error::{CliError, Doing, Kind, Result};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

/// What is passed on to the command.
const PASSED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// Runs a command to its end; its exit code as a shell tells it.
pub(crate) fn run(command: &mut Command) -> Result<u8> {
    let mut watched: SigSet = PASSED.into_iter().collect();
    watched.add(Signal::SIGCHLD);
    // Blocked from before the start, so that none is lost.
    watched.thread_block().doing(|| "block signals".into())?;
    let code = run_blocked(command, &watched);
    watched.thread_unblock().doing(|| "unblock signals".into())?;
    code
}

fn run_blocked(command: &mut Command, watched: &SigSet) -> Result<u8> {
    let signals = SignalFd::with_flags(watched, SfdFlags::SFD_CLOEXEC).doing(|| "receive signals".into())?;
    let mut child = start(command, watched)?;
    // Its end may have been told to the thread that started it.
    if let Some(code) = ended(&mut child)? {
        return Ok(code);
    }
    loop {
        let signal = match signals.read_signal() {
            Ok(Some(signal)) => signal,
            Ok(None) | Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e).doing(|| "receive signals".into()),
        };
        if signal.ssi_signo == Signal::SIGCHLD as u32 {
            if let Some(code) = ended(&mut child)? {
                return Ok(code);
            }
            continue;
        }
        // What the kernel sends comes from the terminal and reached the command already, which is in our
        // process group.
        if signal.ssi_code <= 0 {
            pass_on(&child, signal.ssi_signo);
        }
    }
}

/// Starts the command from a thread that has no signal blocked, since a program begins with what its
/// starter had blocked.
fn start(command: &mut Command, watched: &SigSet) -> Result<Child> {
    let program = command.get_program().to_owned();
    let spawned = std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            watched.thread_unblock()?;
            command.spawn()
        });
        starter.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
    });
    spawned.map_err(|e| not_started(command, &program, &e))
}

/// Why a command was not started.
pub(crate) fn not_started(command: &Command, program: &std::ffi::OsStr, e: &io::Error) -> CliError {
    let script = e.kind() == io::ErrorKind::NotFound && is_there(program, command);
    let program = program.display();
    if script {
        CliError::new(
            Kind::NotExecutable,
            format!("cannot execute {program}: the interpreter that it names is missing"),
        )
    } else if e.kind() == io::ErrorKind::NotFound {
        CliError::new(Kind::CommandNotFound, format!("{program}: command not found"))
    } else {
        CliError::new(Kind::NotExecutable, format!("cannot execute {program}: {e}"))
    }
}

/// Whether a program that is named by a path exists, so that what was not found is its interpreter.
fn is_there(program: &std::ffi::OsStr, command: &Command) -> bool {
    let path = std::path::Path::new(program);
    path.components().count() > 1 && command.get_current_dir().unwrap_or_else(|| ".".as_ref()).join(path).exists()
}

/// The exit code, if the command ended.
fn ended(child: &mut Child) -> Result<Option<u8>> {
    let status = child.try_wait().doing(|| "wait for the command".into())?;
    Ok(status.map(|status| {
        let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255);
        u8::try_from(code).unwrap_or(255)
    }))
}

fn pass_on(child: &Child, number: u32) {
    let signal = i32::try_from(number).ok().and_then(|n| Signal::try_from(n).ok());
    let pid = i32::try_from(child.id()).ok();
    if let (Some(signal), Some(pid)) = (signal, pid) {
        // It may have ended just now; then SIGCHLD follows.
        kill(Pid::from_raw(pid), signal).ok();
    }
}

#[cfg(test)]
mod tests;
