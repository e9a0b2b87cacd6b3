#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

pub(super) mod attach;
mod commit;
mod control;
mod door;
mod ending;
mod sockets;

use super::*;
use shm_transport::control::client::Client;
use shm_transport::control::paths::Paths;
use shm_transport::control::{Answer, Command};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::thread::JoinHandle;

/// A daemon on a store of its own.
pub(crate) struct Running {
    paths: Paths,
    pub(super) daemon: Arc<Daemon>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    dir: Option<tempfile::TempDir>,
}

fn paths_in(dir: &Path) -> Paths {
    Paths { store: dir.join("store"), socket: dir.join("run/d.sock") }
}

fn start_in(paths: Paths, dir: Option<tempfile::TempDir>) -> Running {
    let server = Server::start(Config { paths: paths.clone(), allow_base: Vec::new(), only_these: false }).unwrap();
    let daemon = Arc::clone(&server.daemon);
    let thread = std::thread::spawn(move || server.run(None));
    Running { paths, daemon, thread: Some(thread), dir }
}

fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    start_in(paths_in(dir.path()), Some(dir))
}

impl Running {
    fn client(&self) -> Client {
        Client::connect(&self.paths.socket).unwrap()
    }

    fn stop(&mut self) {
        self.daemon.stop();
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Sends bytes as they are, and reads answers.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(running: &Running) -> Self {
        let stream = UnixStream::connect(&running.paths.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    fn answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    fn refusal(&mut self) -> Failure {
        match self.answer() {
            Some(Answer::Error(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until `holds`.
pub(super) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
