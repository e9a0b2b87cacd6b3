//! Running a command with a limit.

use crate::{mounts, procs};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Environment variable that every command of a world carries: the world's directory, below which its
/// mounts lie.
pub const WORLD_DIR: &str = "AGENTFS_HARNESS_DIR";

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Output {
    /// Panics unless the command ended with 0.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Panics unless the command ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Panics unless the command failed by itself, with a message and without a panic.
    #[track_caller]
    pub fn clear_failure(self) -> Self {
        assert!(self.status.code().is_some_and(|c| c != 0), "should have failed: {self}");
        assert!(self.status.code() != Some(101) && !self.stderr.contains("panicked at"), "panicked: {self}");
        assert!(!self.stderr.trim().is_empty() || !self.stdout.trim().is_empty(), "failed silently: {self}");
        self
    }

    /// Whether either stream contains this, ignoring case.
    pub fn says(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        self.stdout.to_lowercase().contains(&word) || self.stderr.to_lowercase().contains(&word)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown end".to_owned(),
        };
        write!(f, "`{}`: {end} after {:?}", self.line, self.elapsed)?;
        write!(f, "\n--- stdout\n{}--- stderr\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(60);
    let mut out = if skip > 0 { format!("[{skip} lines left out]\n") } else { String::new() };
    for line in &lines[skip..] {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// A command that was started; killed with its process group on drop.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    scope: Option<PathBuf>,
    out: std::fs::File,
    err: std::fs::File,
    begun: Instant,
    ended: bool,
}

impl Running {
    /// Starts a command in a process group of its own, its output going to unlinked files: a background
    /// process that keeps them open never keeps us waiting.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let out = tempfile::tempfile().expect("a temporary file");
        let err = tempfile::tempfile().expect("a temporary file");
        command.stdout(Stdio::from(out.try_clone().expect("dup")));
        command.stderr(Stdio::from(err.try_clone().expect("dup")));
        command.process_group(0);
        let line = format!("{command:?}");
        let scope = command.get_envs().find(|(k, _)| *k == WORLD_DIR).and_then(|(_, v)| v.map(PathBuf::from));
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {line}: {e}"));
        Self { line, child, scope, out, err, begun: Instant::now(), ended: false }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Whether it ended.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("wait");
        self.ended |= status.is_some();
        status
    }

    /// Waits for its end. When `limit` passes, the FUSE connections that its processes see are aborted,
    /// the group is killed, and this panics.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Output {
        let end = Instant::now() + limit;
        let mut nap = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = self.poll() {
                break status;
            }
            if Instant::now() > end {
                let pid = self.pid();
                let members: Vec<i32> = procs::all().into_iter().filter(|p| procs::group(*p) == Some(pid)).collect();
                self.destroy();
                panic!(
                    "`{}` did not end within {limit:?} (processes {members:?})\n--- stdout\n{}--- stderr\n{}",
                    self.line,
                    tail(&text(&self.out)),
                    tail(&text(&self.err))
                );
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(10));
        };
        let elapsed = self.begun.elapsed();
        let (stdout, stderr) = (text(&self.out), text(&self.err));
        Output { line: std::mem::take(&mut self.line), status, stdout, stderr, elapsed }
    }

    /// What it wrote to standard output until now.
    pub fn stdout(&self) -> String {
        text(&self.out)
    }

    fn destroy(&mut self) {
        let pid = self.pid();
        let group: Vec<i32> = procs::all().into_iter().filter(|p| procs::group(*p) == Some(pid)).collect();
        if let Some(scope) = &self.scope {
            mounts::abort_below(scope, &group);
        }
        procs::kill_all(&group);
        drop(self.child.wait());
        self.ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended && self.child.try_wait().ok().flatten().is_none() {
            let pid = self.pid();
            procs::kill_all(&procs::all().into_iter().filter(|p| procs::group(*p) == Some(pid)).collect::<Vec<_>>());
            drop(self.child.wait());
        }
    }
}

fn text(file: &std::fs::File) -> String {
    // Positioned reads: the child writes through the same file offset.
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read_at(&mut chunk, bytes.len() as u64) {
            Ok(0) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) => return format!("[cannot read the output: {e}]\n"),
        }
    }
}

/// Runs a command to its end; panics after `limit`.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    Running::start(command).finish(limit)
}
