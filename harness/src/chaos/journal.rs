//! What a workload was about to do and what it was told, written outside of the mount as it happens.

use super::clock;
use super::control::Control;
use crate::sys::{self, Res, errno_name};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A journal longer than this is begun afresh; the former one is kept.
const LENGTH_MAX: u64 = 4 << 20;
/// Bytes of a program's output that a message shows.
pub(super) const OUTPUT_MAX: usize = 2000;

/// The journal of one process.
#[derive(Debug)]
pub(super) struct Journal {
    control: Control,
    file: File,
    length: u64,
    progress: File,
    operations: u64,
    pulses: Option<File>,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |e| format!("{}: {e}", path.display())
}

/// The errno of an I/O operation.
pub(super) fn io<T>(result: std::io::Result<T>) -> Res<T> {
    result.map_err(|e| sys::of_io(&e))
}

impl Journal {
    /// A new one in a control directory.
    pub(super) fn open(control: &Control) -> Result<Self, String> {
        let (journal, progress) = (control.path("journal"), control.path("progress"));
        Ok(Self {
            file: File::options().append(true).create(true).open(&journal).map_err(failed(&journal))?,
            progress: File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&progress)
                .map_err(failed(&progress))?,
            control: control.clone(),
            length: 0,
            operations: 0,
            pulses: None,
        })
    }

    /// From now on begin and end of each operation are kept too.
    pub(super) fn keep_pulses(&mut self) -> Result<(), String> {
        let path = self.control.path("pulses");
        self.pulses = Some(File::options().append(true).create(true).open(&path).map_err(failed(&path))?);
        Ok(())
    }

    /// Operations that were answered.
    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    /// Writes one line.
    pub(super) fn note(&mut self, line: &str) -> Result<(), String> {
        let path = self.control.path("journal");
        if self.length > LENGTH_MAX {
            std::fs::rename(&path, self.control.path("journal.old")).map_err(failed(&path))?;
            self.file = File::options().append(true).create(true).open(&path).map_err(failed(&path))?;
            self.length = 0;
        }
        let text = format!("{} {line}\n", clock::now());
        self.length += text.len() as u64;
        self.file.write_all(text.as_bytes()).map_err(failed(&path))
    }

    fn answered(&mut self, begun: u64, how: &str) -> Result<(), String> {
        self.note(how)?;
        if let Some(pulses) = &mut self.pulses {
            let mut pair = begun.to_le_bytes().to_vec();
            pair.extend(clock::now().to_le_bytes());
            pulses.write_all(&pair).map_err(|e| format!("pulses: {e}"))?;
        }
        self.operations += 1;
        self.progress.write_all_at(&self.operations.to_le_bytes(), 0).map_err(|e| format!("progress: {e}"))
    }

    /// Runs one operation whose outcome, whatever it is, the caller judges.
    pub(super) fn try_act<T>(&mut self, what: &str, op: impl FnOnce() -> Res<T>) -> Result<Res<T>, String> {
        self.note(&format!("> {what}"))?;
        let begun = clock::now();
        let result = op();
        self.answered(begun, result.as_ref().map_or_else(|e| errno_name(*e), |_| "< ok"))?;
        Ok(result)
    }

    /// Runs one operation that must succeed.
    pub(super) fn act<T>(&mut self, what: &str, op: impl FnOnce() -> Res<T>) -> Result<T, String> {
        self.try_act(what, op)?.map_err(|e| format!("{what}: {} ({e})", errno_name(e)))
    }

    /// Runs a program that must succeed; its standard output.
    pub(super) fn run(&mut self, command: &mut Command) -> Result<String, String> {
        let line = format!("{command:?}");
        self.note(&format!("> {line}"))?;
        let begun = clock::now();
        let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{line} cannot be started: {e}"))?;
        self.answered(begun, &format!("< {}", output.status))?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return Ok(stdout.into_owned());
        }
        let end = output.status.signal().map_or_else(|| output.status.to_string(), |s| format!("signal {s}"));
        Err(format!("{line}: {end}\nstdout: {}\nstderr: {}", tail(&stdout, OUTPUT_MAX), tail(&stderr, OUTPUT_MAX)))
    }
}

/// The last bytes of a text, in whole characters.
pub(super) fn tail(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}
