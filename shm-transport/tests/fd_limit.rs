//! What comes beside a message when the process may open no more descriptors. A program of its own: the limit
//! is the process's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shm_transport::mem::fds;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn descriptors_that_do_not_all_fit_are_refused_and_none_stays_open() {
    let (a, b) = UnixStream::pair().unwrap();
    let before = open();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Room for half of what is sent, counted by the next free number.
    let next = UnixStream::pair().map(|(one, _)| std::os::fd::AsRawFd::as_raw_fd(&one)).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, next as u64 + 10, hard).unwrap();
    for _ in 0..3 {
        fds::send(a.as_fd(), b"x", &[a.as_fd(); 20]).unwrap();
        let refused = fds::recv(b.as_fd(), &mut [0; 4]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert_eq!(open(), before);
    fds::send(a.as_fd(), b"x", &[a.as_fd(); 20]).unwrap();
    let (bytes, all) = fds::recv(b.as_fd(), &mut [0; 4]).unwrap();
    assert_eq!((bytes, all.len()), (1, 20));
    drop(all);
    assert_eq!(open(), before);
}
