#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use shm_transport::wire::{Attr, Entry, FsStat, Opened, Timestamp, dirent};

fn attr() -> Attr {
    let time = |sec| Timestamp { sec, nsec: 5 };
    Attr {
        ino: 0x1122,
        size: 3,
        blocks: 8,
        atime: time(-1),
        mtime: time(2),
        ctime: time(3),
        btime: time(4),
        mode: 0o100_644,
        nlink: 1,
        uid: 1000,
        gid: 1001,
        rdev: 0,
        blksize: 4096,
    }
}

fn entry(node: u64) -> Entry {
    Entry { node: NodeId(node), generation: 1, attr: attr(), entry_valid_ns: 1_500_000_000, attr_valid_ns: 7 }
}

const OPENED: Opened = Opened { fh: 0xabcd, keep_cache: true, cache_dir: false, direct_io: false, no_flush: true };

fn fixed(expect: Expect, answer: &Reply) -> Vec<u8> {
    match reply(6, expect, answer) {
        Some(Outgoing::Fixed(fixed)) => fixed.as_bytes().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn error_and_success_are_bare_headers() {
    let bytes = error(1 << 63 | 6, Errno::ENOENT);
    assert_eq!(bytes.as_bytes(), [16, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 6, 0, 0, 0, 0, 0, 0, 0x80]);
    assert_eq!(ok(6).as_bytes(), [16, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(notification(7).as_bytes(), [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_entry_is_laid_out_as_in_listings() {
    let mut body = Vec::new();
    dirent::put_entry(&mut body, &entry(77));
    let bytes = fixed(Expect::Lookup, &Reply::Entry(entry(77)));
    assert_eq!(&bytes[..4], [144, 0, 0, 0]);
    assert_eq!(&bytes[16..], body);
}

#[test]
fn statx_tells_a_birth_time_that_is_known() {
    let attr = Attr { rdev: 0x0123_4567, ..attr() };
    let bytes = fixed(Expect::Statx, &Reply::Attr { attr, valid_ns: 2_000_000_003 });
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes.len(), 16 + 288);
    assert_eq!((word(16), word(24)), (2, 3), "valid for 2 s and 3 ns");
    assert_eq!(word(48), libc::STATX_BASIC_STATS | libc::STATX_BTIME);
    assert_eq!((word(64), word(68), word(72)), (1, 1000, 1001), "nlink, uid, gid");
    assert_eq!(bytes[76..78], 0o100_644_u16.to_le_bytes());
    assert_eq!((word(80), word(88), word(96)), (0x1122, 3, 8), "inode, size, blocks");
    // atime -1, btime 4, ctime 3, mtime 2, each with 5 ns.
    assert_eq!((word(112), word(128), word(144), word(160)), (u32::MAX, 4, 3, 2));
    assert_eq!(word(136), 5);
    assert_eq!((word(176), word(180)), (0x345, 0x1267), "device: 12 bits of major, 20 of minor");
    let unborn = Attr { btime: Timestamp::default(), ..attr };
    let bytes = fixed(Expect::Statx, &Reply::Attr { attr: unborn, valid_ns: 0 });
    assert_eq!(u32::from_le_bytes(bytes[48..52].try_into().unwrap()), libc::STATX_BASIC_STATS);
}

#[test]
fn a_created_file_is_an_entry_and_an_open() {
    let bytes = fixed(Expect::Created { flags: 0 }, &Reply::Created(entry(77), OPENED));
    assert_eq!(bytes.len(), 160);
    assert_eq!(&bytes[144..], [0xcd, 0xab, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_negative_entry_answers_lookups_only() {
    assert_eq!(&fixed(Expect::Lookup, &Reply::Entry(entry(0)))[16..24], [0; 8]);
    assert!(reply(6, Expect::Entry, &Reply::Entry(entry(0))).is_none());
    assert!(reply(6, Expect::Created { flags: 0 }, &Reply::Created(entry(0), OPENED)).is_none());
}

#[test]
fn more_data_than_was_asked_for_is_no_answer() {
    assert!(reply(6, Expect::Data { max: 10 }, &Reply::Data { len: 11 }).is_none());
    assert!(reply(6, Expect::Listing { max: 10, plus: true }, &Reply::Data { len: 11 }).is_none());
    assert!(reply(6, Expect::Written { max: 10 }, &Reply::Written { size: 11 }).is_none());
    let Some(Outgoing::Payload { header, len: 10 }) = reply(6, Expect::Data { max: 10 }, &Reply::Data { len: 10 })
    else {
        panic!("not a payload");
    };
    assert_eq!(header.len, 26);
}

#[test]
fn extended_attributes_by_size() {
    assert_eq!(fixed(Expect::Xattr { size: 0 }, &Reply::XattrSize { size: 5 })[16..], [5, 0, 0, 0, 0, 0, 0, 0]);
    let short = fixed(Expect::Xattr { size: 4 }, &Reply::Data { len: 5 });
    assert_eq!(short, error(6, Errno::ERANGE).as_bytes());
    assert!(reply(6, Expect::Xattr { size: 4 }, &Reply::XattrSize { size: 5 }).is_none());
    assert_eq!(fixed(Expect::Xattr { size: 4 }, &Reply::Data { len: 0 }).len(), 16);
}

#[test]
fn counts_offsets_and_space() {
    assert_eq!(fixed(Expect::Copied, &Reply::Offset(9))[16..], [9, 0, 0, 0, 0, 0, 0, 0]);
    assert!(reply(6, Expect::Copied, &Reply::Offset(1 << 32)).is_none());
    assert_eq!(fixed(Expect::Offset, &Reply::Offset(1 << 32))[16..], [0, 0, 0, 0, 1, 0, 0, 0]);
    let stat = FsStat { blocks: 1, bfree: 2, bavail: 3, files: 4, ffree: 5, bsize: 4096, namelen: 255 };
    let bytes = fixed(Expect::StatFs, &Reply::StatFs(stat));
    assert_eq!(bytes.len(), 96);
    assert_eq!(&bytes[56..68], [0, 16, 0, 0, 255, 0, 0, 0, 0, 16, 0, 0]);
}

#[test]
fn an_answer_to_another_question_is_none() {
    assert!(reply(6, Expect::Attr, &Reply::Ok).is_none());
    assert!(reply(6, Expect::Nothing, &Reply::Entry(entry(2))).is_none());
    assert_eq!(fixed(Expect::Attr, &Reply::Error(Errno::ESTALE)), error(6, Errno::ESTALE).as_bytes());
}

#[test]
fn an_ioctl_has_its_result_and_its_data() {
    let answer = Reply::Ioctl { errno: Some(Errno::ENOENT), len: 5, expire: 9, settle: 7 };
    match reply(6, Expect::Ioctl { max: 5 }, &answer) {
        Some(Outgoing::Ioctl { unique: 6, result: -2, len: 5, first: First { settle: 7, expire: 9 } }) => {}
        other => panic!("{other:?}"),
    }
    assert!(reply(6, Expect::Ioctl { max: 4 }, &answer).is_none(), "more than the caller has room for");
    let head = ioctl_head(6, -2, 5);
    assert_eq!(head[..16], [37, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(head[16..], [0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn notifications_are_laid_out_as_the_kernel_reads_them() {
    let bytes = expire_name(b"ab");
    assert_eq!(bytes[..16], [35, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[16..], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'a', b'b', 0]);
    let bytes = forget_root();
    assert_eq!(bytes[..24], [40, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[24..], [0; 16]);
}
