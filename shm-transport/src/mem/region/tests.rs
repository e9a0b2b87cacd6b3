#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[test]
fn two_mappings_share_their_cells_and_bytes() {
    let (fd, one) = Region::create("test", 8192).unwrap();
    let two = Region::attach(fd.as_fd(), 8192).unwrap();
    one.cell::<AtomicU64>(64).unwrap().store(7, Ordering::Relaxed);
    assert_eq!(two.cell::<AtomicU64>(64).unwrap().load(Ordering::Relaxed), 7);
    assert!(two.bytes(100, 4).unwrap().copy_in(0, b"abcd"));
    let mut back = [0; 2];
    assert!(one.bytes(100, 4).unwrap().copy_out(1, &mut back));
    assert_eq!(&back, b"bc");
}

#[test]
fn nothing_outside_or_misaligned_is_handed_out() {
    let (_fd, region) = Region::create("test", 4096).unwrap();
    assert!(region.cell::<AtomicU32>(4092).is_some());
    assert!(region.cell::<AtomicU32>(4093).is_none());
    assert!(region.cell::<AtomicU32>(4096).is_none());
    assert!(region.cell::<AtomicU64>(4).is_none());
    assert!(region.cells::<AtomicU32>(0, usize::MAX).is_none());
    assert!(region.cells::<AtomicU32>(usize::MAX - 3, 1).is_none());
    assert!(region.bytes(4000, 97).is_none());
    assert!(region.payload(1, 4096).is_none());
    let bytes = region.bytes(4090, 6).unwrap();
    assert!(!bytes.copy_in(5, b"ab"));
    assert!(!bytes.copy_out(usize::MAX, &mut [0; 2]));
}

#[test]
fn a_region_cannot_be_cut_or_grown() {
    let (fd, _region) = Region::create("test", 4096).unwrap();
    let file = File::from(fd);
    assert!(file.set_len(0).is_err());
    assert!(file.write_all_at(b"x", 4096).is_err());
}

#[test]
fn what_is_not_a_sealed_memfd_is_refused() {
    let refused = |file: &File| Region::attach(file.as_fd(), 1 << 20).unwrap_err().kind() == io::ErrorKind::InvalidData;
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(4096).unwrap();
    assert!(refused(&plain));
    assert!(refused(&File::open("/dev/null").unwrap()));
    let memfd = MemfdOptions::new().allow_sealing(true).create("loose").unwrap();
    memfd.as_file().set_len(4096).unwrap();
    assert!(refused(memfd.as_file()), "not sealed at all");
    memfd.add_seals(&[FileSeal::SealShrink, FileSeal::SealGrow]).unwrap();
    assert!(refused(memfd.as_file()), "seals could still be added");
    memfd.add_seals(&[FileSeal::SealFutureWrite, FileSeal::SealSeal]).unwrap();
    assert!(refused(memfd.as_file()), "cannot be written");
    let (fd, _region) = Region::create("long", 8192).unwrap();
    assert!(Region::attach(fd.as_fd(), 4096).is_err(), "longer than allowed");
}

#[test]
fn a_region_of_huge_pages_is_refused() {
    let options = MemfdOptions::new().allow_sealing(true).hugetlb(Some(memfd::HugetlbSize::Huge2MB));
    let huge = match options.create("huge") {
        Ok(huge) => huge,
        Err(e) => return eprintln!("skipped: a_region_of_huge_pages_is_refused: no huge pages here: {e}"),
    };
    huge.as_file().set_len(2 << 20).unwrap();
    huge.add_seals(&SEALS).unwrap();
    let refused = Region::attach(OwnedFd::from(huge.into_file()).as_fd(), 4 << 20).unwrap_err();
    assert!(refused.to_string().contains("ordinary memory"), "{refused}");
}
