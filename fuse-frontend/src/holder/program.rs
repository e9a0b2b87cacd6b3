//! A program as it was when it was found to fit. What is put in its place later counts only when an upgrade asks for it:
//! a child that dies in between is started again from the build that the others are of.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    /// The file itself, also after its name went to another one. None when it cannot be opened: then the name counts.
    file: Option<Arc<File>>,
}

impl Program {
    /// What stands at `path` now, or in `PATH` for a bare name.
    pub(super) fn at(path: &Path) -> Self {
        let path = if path.components().count() == 1 { in_path(path) } else { path.to_owned() };
        let file = open(&path);
        Self { path, file }
    }

    /// The one that this process runs, whose name is `path`.
    pub(super) fn own(path: &Path) -> Self {
        Self { path: path.to_owned(), file: open(Path::new("/proc/self/exe")) }
    }

    /// Its name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its name leads to it still.
    fn is_in_place(&self) -> bool {
        let identity = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
        match &self.file {
            None => true,
            Some(file) => {
                matches!((file.metadata(), std::fs::metadata(&self.path)), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
            }
        }
    }

    /// A command that executes it.
    pub(super) fn command(&self) -> Command {
        match &self.file {
            Some(file) if !self.is_in_place() => {
                let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
                command.arg0(&self.path);
                command
            }
            _ => Command::new(&self.path),
        }
    }
}

/// Opened so that nobody is kept from writing to it.
fn open(path: &Path) -> Option<Arc<File>> {
    let opened: io::Result<File> =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
    opened
        .inspect_err(|error| tracing::debug!(%error, path = %path.display(), "a program cannot be kept"))
        .ok()
        .map(Arc::new)
}

fn in_path(name: &Path) -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_program_is_the_file_that_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::copy("/bin/echo", &path).unwrap();
        let program = Program::at(&path);
        let run = |program: &Program| program.command().arg("here").output();
        assert_eq!(run(&program).unwrap().stdout, b"here\n");
        // Another one takes its name.
        std::fs::copy("/bin/false", dir.path().join("new")).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(run(&program).unwrap().stdout, b"here\n");
        assert!(!run(&Program::at(&path)).unwrap().status.success());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(run(&program).unwrap().stdout, b"here\n");
        // Nothing is there to be kept.
        run(&Program::at(&path)).unwrap_err();
        assert_eq!(run(&Program::at(Path::new("echo"))).unwrap().stdout, b"here\n");
    }
}
