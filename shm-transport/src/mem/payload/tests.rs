#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use crate::mem::region::Region;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;

const CAPACITY: usize = 8192;

#[test]
fn copies_stay_inside() {
    let (_fd, region) = Region::create("test", CAPACITY).unwrap();
    let mut payload = region.payload(0, CAPACITY).unwrap();
    assert!(payload.copy_in(CAPACITY - 3, b"end"));
    assert!(!payload.copy_in(CAPACITY - 2, b"end"));
    assert!(!payload.copy_in(usize::MAX, b"end"));
    let mut out = [0; 3];
    assert!(payload.copy_out(CAPACITY - 3, &mut out));
    assert_eq!(&out, b"end");
    assert!(payload.to_vec(CAPACITY + 1).is_none());
    assert_eq!(payload.to_vec(CAPACITY).unwrap().len(), CAPACITY);
}

#[test]
fn file_transfers_stop_at_the_end_of_file_and_refuse_what_does_not_fit() {
    let (_fd, region) = Region::create("test", CAPACITY).unwrap();
    let mut payload = region.payload(0, CAPACITY).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    assert_eq!(payload.read_from(file.as_fd(), 4, 100).unwrap(), 6);
    assert_eq!(payload.to_vec(6).unwrap(), b"456789");
    assert_eq!(payload.read_from(file.as_fd(), 10, 100).unwrap(), 0);
    assert!(payload.read_from(file.as_fd(), 0, CAPACITY + 1).is_err());
    assert_eq!(payload.read_from(file.as_fd(), u64::MAX, 1).unwrap_err().raw_os_error(), Some(libc::EFBIG));
    assert_eq!(payload.write_to(file.as_fd(), 8, 6).unwrap(), 6);
    let mut all = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"01234567456789");
    let read_only = File::open("/dev/null").unwrap();
    assert!(payload.write_to(read_only.as_fd(), 0, 1).is_err());
}

#[test]
fn one_call_splits_and_joins() {
    let (_fd, region) = Region::create("test", CAPACITY).unwrap();
    let mut payload = region.payload(0, CAPACITY).unwrap();
    let (mut from, to) = std::io::pipe().unwrap();
    assert!(payload.copy_in(0, b"body"));
    assert_eq!(payload.writev_joined(to.as_fd(), b"head", 4).unwrap(), 8);
    assert!(payload.writev_joined(to.as_fd(), b"head", CAPACITY + 1).is_err());
    let mut both = [0; 8];
    from.read_exact(&mut both).unwrap();
    assert_eq!(&both, b"headbody");

    (&to).write_all(b"HEADBODYMORE").unwrap();
    let mut head = [0; 4];
    assert_eq!(payload.readv_split(from.as_fd(), &mut head).unwrap(), 12);
    assert_eq!(&head, b"HEAD");
    assert_eq!(payload.to_vec(8).unwrap(), b"BODYMORE");
}

#[test]
fn a_cached_read_gives_what_lies_in_memory_and_waits_for_no_disk() {
    let (_fd, region) = Region::create("test", CAPACITY).unwrap();
    let mut payload = region.payload(0, CAPACITY).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    assert_eq!(payload.read_cached(file.as_fd(), 4, 100).unwrap(), 6);
    assert_eq!(payload.to_vec(6).unwrap(), b"456789");
    assert_eq!(payload.read_cached(file.as_fd(), 10, 100).unwrap(), 0);
    assert!(payload.read_cached(file.as_fd(), 0, CAPACITY + 1).is_err());

    // A first page in memory and a second one on the disk.
    file.set_len(CAPACITY as u64).unwrap();
    file.sync_all().unwrap();
    let rest = (CAPACITY - 4096) as i64;
    nix::fcntl::posix_fadvise(&file, 4096, rest, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let cold = payload.read_cached(file.as_fd(), 0, CAPACITY);
    if cold.is_ok() {
        eprintln!(
            "skipped: a_cached_read_gives_what_lies_in_memory: the file system of {:?} keeps all in memory",
            std::env::temp_dir()
        );
        return;
    }
    assert_eq!(cold.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(payload.read_from(file.as_fd(), 0, CAPACITY).unwrap(), CAPACITY);
    assert_eq!(payload.read_cached(file.as_fd(), 0, CAPACITY).unwrap(), CAPACITY);
}

#[test]
fn a_file_system_that_cannot_tell_counts_as_slow() {
    let (_fd, region) = Region::create("test", CAPACITY).unwrap();
    let mut payload = region.payload(0, CAPACITY).unwrap();
    let file = File::open("/proc/self/status").unwrap();
    assert_eq!(payload.read_cached(file.as_fd(), 0, 100).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
