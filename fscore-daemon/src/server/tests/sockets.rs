use super::*;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths_in(dir.path());
    std::fs::create_dir(paths.socket.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&paths.socket).unwrap());
    assert!(paths.socket.exists());
    let running = start_in(paths, Some(dir));
    running.client().status().unwrap();
}

#[test]
fn what_is_no_socket_stays() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths_in(dir.path());
    std::fs::create_dir(paths.socket.parent().unwrap()).unwrap();
    std::fs::write(&paths.socket, "precious").unwrap();
    let refused = Server::start(Config { paths: paths.clone(), allow_base: Vec::new(), only_these: false });
    assert!(matches!(refused, Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read(&paths.socket).unwrap(), b"precious");
}

#[test]
fn the_socket_and_its_directory_are_for_the_owner_alone() {
    let running = start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&running.paths.socket), 0o600);
    assert_eq!(mode(running.paths.socket.parent().unwrap()), 0o700);
}

#[test]
fn a_store_serves_again_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths_in(dir.path());
    start_in(paths.clone(), None).stop();
    let again = start_in(paths, Some(dir));
    assert_eq!(again.client().status().unwrap().recoveries, 0);
}
