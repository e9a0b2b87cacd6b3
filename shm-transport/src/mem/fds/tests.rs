#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use nix::fcntl::FdFlag;
use std::io::{Read, Write};
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::net::UnixStream;

#[test]
fn descriptors_travel_beside_bytes_and_are_closed_on_exec() {
    let (a, b) = UnixStream::pair().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    assert_eq!(send(a.as_fd(), b"hi", &[writer.as_fd()]).unwrap(), 2);
    drop(writer);
    let mut buffer = [0; 16];
    let (count, mut fds) = recv(b.as_fd(), &mut buffer).unwrap();
    assert_eq!((&buffer[..count], fds.len()), (&b"hi"[..], 1));
    let flags = fcntl(&fds[0], FcntlArg::F_GETFD).unwrap();
    assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
    std::fs::File::from(fds.remove(0)).write_all(b"through").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

#[test]
fn too_many_descriptors_are_an_error_not_a_leak() {
    let (a, b) = UnixStream::pair().unwrap();
    let many = vec![a.as_fd(); FDS_MAX + 1];
    assert_eq!(send(a.as_fd(), b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let raw: Vec<RawFd> = many.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    sendmsg::<UnixAddr>(a.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
    assert_eq!(recv(b.as_fd(), &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn only_what_survives_exec_is_adopted_and_only_once() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let number = reader.into_raw_fd();
    assert!(adopt_inherited(number).is_err(), "opened by this program: not inherited");
    // SAFETY: the number is open, nobody owns it since `into_raw_fd`.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let adopted = adopt_inherited(number).unwrap();
    assert_eq!(adopted.as_raw_fd(), number);
    assert!(adopt_inherited(number).is_err(), "taken already");
    assert!(adopt_inherited(1).is_err());
    assert!(adopt_inherited(-1).is_err());
    assert!(adopt_inherited(99_999).is_err());
}

#[test]
fn a_count_is_taken_without_waiting_whatever_the_flags_say() {
    let bell = eventfd().unwrap();
    fcntl(&bell, FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    assert!(!take_now(bell.as_fd()).unwrap());
    nix::unistd::write(&bell, &7u64.to_le_bytes()).unwrap();
    assert!(take_now(bell.as_fd()).unwrap());
    assert!(!take_now(bell.as_fd()).unwrap());
    assert!(take_now(std::fs::File::open("/").unwrap().as_fd()).is_err());
}
