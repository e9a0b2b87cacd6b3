#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::collections::HashMap;
use std::os::fd::AsRawFd;

const OWN: u32 = 77;

fn service(vars: &[(&str, &str)]) -> io::Result<Service> {
    let vars: HashMap<&str, &str> = vars.iter().copied().collect();
    Service::of(|name| vars.get(name).map(OsString::from), OWN)
}

fn received(manager: &UnixDatagram) -> (String, usize) {
    let mut buffer = [0; 256];
    let (len, fds) = fds::recv(manager.as_fd(), &mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..len]).into_owned(), fds.len())
}

#[test]
fn the_manager_hears_everything_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let path = path.to_str().unwrap();
    let vars = [("NOTIFY_SOCKET", path), ("SYSTEMD_EXEC_PID", "77"), ("WATCHDOG_PID", "77"), ("WATCHDOG_USEC", "1500")];
    let told = service(&vars).unwrap();
    assert!(told.is_managed());
    assert_eq!(told.watchdog(), Some(Duration::from_micros(1500)));
    told.keep("fuse", manager.as_fd());
    told.tell("READY=1\nSTATUS=serving");
    told.give_up("fuse");
    assert_eq!(received(&manager), ("FDSTORE=1\nFDNAME=fuse\nFDPOLL=0".into(), 1));
    assert_eq!(received(&manager), ("READY=1\nSTATUS=serving".into(), 0));
    assert_eq!(received(&manager), ("FDSTOREREMOVE=1\nFDNAME=fuse".into(), 0));
}

#[test]
fn an_abstract_address_is_understood() {
    let name = format!("agentfs-service-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    let told = service(&[("NOTIFY_SOCKET", &format!("@{name}")), ("SYSTEMD_EXEC_PID", "77")]).unwrap();
    told.tell("STOPPING=1");
    assert_eq!(received(&manager).0, "STOPPING=1");
}

#[test]
fn a_child_of_a_service_does_not_speak_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let path = path.to_str().unwrap();
    for parent in [("SYSTEMD_EXEC_PID", "76"), ("LISTEN_PID", "76")] {
        let vars =
            [("NOTIFY_SOCKET", path), parent, ("LISTEN_FDS", "1"), ("WATCHDOG_PID", "76"), ("WATCHDOG_USEC", "9")];
        let mut told = service(&vars).unwrap();
        assert!(!told.is_managed());
        assert!(told.watchdog().is_none());
        assert!(told.take_inherited().is_empty());
        told.tell("READY=1");
    }
    assert_eq!(manager.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn what_cannot_have_been_handed_over_is_refused() {
    // This process's own descriptors close on exec, so none of them can be taken.
    let own = std::fs::File::open("/dev/null").unwrap();
    assert!(own.as_raw_fd() >= FIRST);
    let count = (own.as_raw_fd() - FIRST + 1).to_string();
    service(&[("LISTEN_PID", "77"), ("LISTEN_FDS", &count)]).unwrap_err();
    let error = service(&[("LISTEN_PID", "77"), ("LISTEN_FDS", "4000000000")]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    // A number that is none counts as none.
    assert!(service(&[("LISTEN_PID", "77"), ("LISTEN_FDS", "-1")]).unwrap().take_inherited().is_empty());
}

#[test]
fn an_address_where_nobody_listens_is_an_error() {
    service(&[("NOTIFY_SOCKET", "/nonexistent/notify"), ("SYSTEMD_EXEC_PID", "77")]).unwrap_err();
}
