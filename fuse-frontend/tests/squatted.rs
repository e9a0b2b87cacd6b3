//! A socket on which another user listens is not talked to. Alone in its process, whose user id changes.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use nix::unistd::{Uid, geteuid, seteuid};
use shm_transport::control::client::Client as Daemon;
use shm_transport::control::holder::{Client, socket_path};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

#[test]
fn neither_holder_nor_daemon_of_another_user_gets_a_mount() {
    if !geteuid().is_root() {
        eprintln!("skipped: neither_holder_nor_daemon_of_another_user_gets_a_mount: needs root");
        return;
    }
    root_gives_no_mount_to_a_stranger_s_daemon();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let socket = dir.path().join("s");
    let stranger = Uid::from_raw(12345);
    seteuid(stranger).unwrap();
    let listener = UnixListener::bind(socket_path(&socket)).unwrap();
    seteuid(Uid::from_raw(0)).unwrap();
    let refused = Client::connect(&socket).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(refused.to_string().contains("another user listens on"), "{refused}");
    // Root may use the holder of the user whose directory it is.
    std::os::unix::fs::chown(dir.path(), Some(stranger.as_raw()), None).unwrap();
    Client::connect(&socket).unwrap();
    drop(listener);
}

/// The same for the daemon's socket: root's frontend would hand its mount's descriptors over.
fn root_gives_no_mount_to_a_stranger_s_daemon() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let socket = dir.path().join("s");
    let stranger = Uid::from_raw(12345);
    seteuid(stranger).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    seteuid(Uid::from_raw(0)).unwrap();
    let refused = Daemon::connect(&socket).unwrap_err().to_string();
    assert!(refused.contains("another user"), "{refused}");
    std::os::unix::fs::chown(dir.path(), Some(stranger.as_raw()), None).unwrap();
    Daemon::connect(&socket).unwrap();
    drop(listener);
}
