#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::wire::limits::IOCTL_MAX;
use crate::wire::{Attr, Caller, Entry, Errno, FsStat, NodeId, Opened, SetAttr, SetTime, Timestamp};
use proptest::prelude::*;

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
}

fn set_time() -> impl Strategy<Value = SetTime> {
    prop_oneof![time().prop_map(SetTime::At), Just(SetTime::Now)]
}

fn legal_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>().prop_filter("not / or NUL", |b| !matches!(b, b'/' | 0)), 1..=255)
        .prop_filter("not . or ..", |n| n != b"." && n != b"..")
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    (
        any::<(Option<u32>, Option<u32>, Option<u32>, Option<u64>, bool)>(),
        prop::option::of(set_time()),
        prop::option::of(set_time()),
        prop::option::of(time()),
    )
        .prop_map(|((mode, uid, gid, size, kill_suidgid), atime, mtime, ctime)| SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            ctime,
            kill_suidgid,
        })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        legal_name().prop_map(|name| Op::Lookup { name }),
        (0..=4096u32).prop_map(|count| Op::Forget { count }),
        Just(Op::GetAttr),
        set_attr().prop_map(Op::SetAttr),
        (legal_name(), any::<(u32, u32, u32)>()).prop_map(|(name, (mode, flags, umask))| Op::Create {
            name,
            mode,
            flags,
            umask
        }),
        (legal_name(), legal_name(), any::<(u64, u32)>()).prop_map(|(name, new_name, (parent, flags))| Op::Rename {
            name,
            new_name,
            new_parent: NodeId(parent),
            flags,
        }),
        (any::<(u64, u64)>(), 0..=(1u32 << 20)).prop_map(|((fh, offset), size)| Op::Read { fh, offset, size }),
        any::<(u64, u64, bool)>().prop_map(|(fh, offset, kill_suidgid)| Op::Write { fh, offset, kill_suidgid }),
        (any::<(u64, u64, bool)>(), 0..=(1u32 << 20)).prop_map(|((fh, cookie, plus), size)| Op::ReadDir {
            fh,
            cookie,
            size,
            plus
        }),
        (legal_name(), any::<(u32, bool)>()).prop_map(|(name, (flags, clear_setgid))| Op::SetXattr {
            name,
            flags,
            clear_setgid
        }),
        any::<(u64, u64, u64, u64, u64)>().prop_map(|(fh, offset, to, to_offset, length)| Op::CopyFileRange {
            fh,
            offset,
            to: NodeId(to),
            to_offset,
            length,
        }),
        (any::<(u64, u32)>(), 0..=IOCTL_MAX as u32).prop_map(|((fh, cmd), out_size)| Op::Ioctl { fh, cmd, out_size }),
    ]
}

fn attr() -> impl Strategy<Value = Attr> {
    (any::<(u64, u64, u64)>(), time(), time(), time(), time(), any::<(u32, u32, u32, u32, u32, u32)>()).prop_map(
        |((ino, size, blocks), atime, mtime, ctime, btime, (mode, nlink, uid, gid, rdev, blksize))| Attr {
            ino,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            btime,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            blksize,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    (any::<(u64, u64, u64, u64)>(), attr()).prop_map(|((node, generation, entry_valid_ns, attr_valid_ns), attr)| {
        Entry { node: NodeId(node), generation, attr, entry_valid_ns, attr_valid_ns }
    })
}

fn opened() -> impl Strategy<Value = Opened> {
    any::<(u64, bool, bool, bool, bool)>().prop_map(|(fh, keep_cache, cache_dir, direct_io, no_flush)| Opened {
        fh,
        keep_cache,
        cache_dir,
        direct_io,
        no_flush,
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        Just(Reply::Ok),
        (1..=4095i32).prop_map(|n| Reply::Error(Errno::from_raw(n))),
        entry().prop_map(Reply::Entry),
        (attr(), any::<u64>()).prop_map(|(attr, valid_ns)| Reply::Attr { attr, valid_ns }),
        opened().prop_map(Reply::Opened),
        (entry(), opened()).prop_map(|(e, o)| Reply::Created(e, o)),
        any::<u32>().prop_map(|len| Reply::Data { len }),
        any::<u64>().prop_map(Reply::Offset),
        (prop::option::of(1..=4095i32), any::<(u32, u32, u32)>()).prop_map(|(errno, (len, expire, settle))| {
            Reply::Ioctl { errno: errno.map(Errno::from_raw), len, expire, settle }
        }),
        any::<(u64, u64, u64, u64, u64, u32, u32)>().prop_map(
            |(blocks, bfree, bavail, files, ffree, bsize, namelen)| {
                Reply::StatFs(FsStat { blocks, bfree, bavail, files, ffree, bsize, namelen })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn every_request_fits_its_area_and_comes_back(caller in any::<(u32, u32, u32)>(), node in any::<u64>(), op in op()) {
        let (uid, gid, pid) = caller;
        let request = Request { caller: Caller { uid, gid, pid }, node: NodeId(node), op };
        let bytes = encode_request(&request).unwrap();
        prop_assert_eq!(decode_request(&bytes).unwrap(), request);
    }

    #[test]
    fn every_reply_fits_its_area_and_comes_back(reply in reply()) {
        let bytes = encode_reply(&reply).unwrap();
        prop_assert_eq!(decode_reply(&bytes).unwrap(), reply);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_decoded(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        let _request = decode_request(&bytes);
        let _reply = decode_reply(&bytes);
    }

    #[test]
    fn a_damaged_message_is_refused_or_decoded(op in op(), at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<prop::sample::Index>()) {
        let request = Request { caller: Caller::default(), node: NodeId::ROOT, op };
        let mut bytes = encode_request(&request).unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _flipped = decode_request(&bytes);
        let _short = decode_request(&bytes[..cut.index(bytes.len())]);
    }
}

fn lookup(name: &[u8]) -> Result<Request, CodecError> {
    let request = Request { caller: Caller::default(), node: NodeId::ROOT, op: Op::Lookup { name: name.to_vec() } };
    decode_request(&encode_request(&request)?)
}

#[test]
fn illegal_names_and_counts_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        assert_eq!(lookup(name).unwrap_err(), CodecError::BadName, "{name:?}");
    }
    assert!(lookup(&[0xff; 255]).is_ok());
    assert!(matches!(lookup(&[b'x'; 2000]), Err(CodecError::TooLong { .. })));
    let ioctl = Op::Ioctl { fh: 0, cmd: 0, out_size: 1 << 14 };
    for op in [Op::Forget { count: 4097 }, Op::Read { fh: 0, offset: 0, size: (1 << 20) + 1 }, ioctl] {
        let request = Request { caller: Caller::default(), node: NodeId::ROOT, op };
        assert_eq!(decode_request(&encode_request(&request).unwrap()).unwrap_err(), CodecError::OverLimit);
    }
}
