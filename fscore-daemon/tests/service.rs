//! The daemon as a service: what it tells the service manager, and the socket that it gets from there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_transport::control::client::Client;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(1);

struct Manager {
    dir: tempfile::TempDir,
    told: UnixDatagram,
    listener: UnixListener,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let told = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        told.set_read_timeout(Some(PATIENCE)).unwrap();
        let listener = UnixListener::bind(dir.path().join("run/d.sock")).unwrap();
        Self { dir, told, listener }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/d.sock")
    }

    /// Starts a daemon for `socket`, which gets ours as descriptor 3 by way of the shell's standard input.
    fn start(&self, socket: &Path) -> Child {
        let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ SYSTEMD_EXEC_PID=$$ WATCHDOG_PID=$$ exec \"$@\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_agentfsd"), "--log", "warn"]);
        command.arg("--store").arg(self.dir.path().join("store")).arg("--socket").arg(socket);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "agentfsd.socket").env("WATCHDOG_USEC", "300000");
        command.stdin(OwnedFd::from(self.listener.try_clone().unwrap())).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn hears(&self) -> String {
        let mut buffer = [0; 512];
        let len = self.told.recv(&mut buffer).expect("the manager hears nothing");
        String::from_utf8_lossy(buffer.get(..len).unwrap()).into_owned()
    }

    fn hears_in_time(&self, begin: &str) -> String {
        loop {
            let said = self.hears();
            if said.starts_with(begin) {
                return said;
            }
        }
    }
}

fn end(daemon: Child) -> Output {
    kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).unwrap();
    daemon.wait_with_output().unwrap()
}

#[test]
fn the_manager_hears_of_the_start_the_life_and_the_end() {
    let manager = Manager::new();
    let daemon = manager.start(&manager.socket());
    assert_eq!(manager.hears(), "READY=1\nSTATUS=0 mounts, 0 branches");
    for _ in 0..3 {
        assert_eq!(manager.hears(), "WATCHDOG=1\nSTATUS=0 mounts, 0 branches");
    }
    assert!(Client::connect(&manager.socket()).unwrap().status().unwrap().managed);
    let ended = end(daemon);
    assert!(manager.hears_in_time("STOPPING=1").contains("STATUS="));
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn who_connects_between_two_daemons_is_served_by_the_next() {
    let manager = Manager::new();
    let daemon = manager.start(&manager.socket());
    manager.hears_in_time("READY=1");
    assert!(end(daemon).status.success());
    // Nobody serves. The call lies in the socket.
    let mut client = Client::connect(&manager.socket()).unwrap();
    client.set_timeout(Some(PATIENCE)).unwrap();
    let waits = std::thread::spawn(move || client.status().unwrap().pid);
    let daemon = manager.start(&manager.socket());
    assert_eq!(waits.join().unwrap(), daemon.id().cast_signed());
    end(daemon);
    assert!(manager.socket().exists(), "it is the manager's");
}

#[test]
fn another_socket_than_the_daemon_s_is_refused() {
    let manager = Manager::new();
    let daemon = manager.start(&manager.dir.path().join("run/other.sock"));
    let ended = daemon.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(71));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("the service manager handed over a socket at"), "{said}");
}
