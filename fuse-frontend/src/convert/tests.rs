#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::match_wildcard_for_single_variants,
    reason = "tests"
)]
use super::*;
use crate::abi::input::CreateIn;
use shm_transport::wire::{Caller, limits};

fn header(opcode: Opcode) -> Header {
    Header { unique: 2, opcode, node: NodeId(5), caller: Caller { uid: 1, gid: 2, pid: 3 } }
}

fn asked<'a>(operation: &Operation<'a>) -> (Op, PayloadIn<'a>, Expect) {
    match plan(&header(Opcode(0)), operation) {
        Plan::Ask { request, payload, expect } => {
            assert_eq!(request.node, NodeId(5));
            (request.op, payload, expect)
        }
        other => panic!("{other:?}"),
    }
}

fn refused(operation: &Operation<'_>) -> Errno {
    match plan(&header(Opcode(0)), operation) {
        Plan::Refuse(errno) => errno,
        other => panic!("{other:?}"),
    }
}

fn setattr(valid: u32) -> SetAttrIn {
    SetAttrIn {
        valid,
        padding: 0,
        fh: 9,
        size: 100,
        lock_owner: 0,
        atime: -1,
        mtime: 20,
        ctime: 30,
        atimensec: 1,
        mtimensec: 2,
        ctimensec: 3,
        mode: 0o104_755,
        unused4: 0,
        uid: 10,
        gid: 11,
        unused5: 0,
    }
}

#[test]
fn setattr_takes_exactly_the_valid_fields() {
    let none = SetAttr::default();
    let at = |sec, nsec| Some(SetTime::At(Timestamp { sec, nsec }));
    let cases = [
        (fattr::MODE, SetAttr { mode: Some(0o4755), ..none }),
        (fattr::UID | fattr::GID, SetAttr { uid: Some(10), gid: Some(11), ..none }),
        (fattr::SIZE | 1 << 6 | 1 << 9, SetAttr { size: Some(100), ..none }),
        (fattr::ATIME, SetAttr { atime: at(-1, 1), ..none }),
        (fattr::ATIME | fattr::ATIME_NOW, SetAttr { atime: Some(SetTime::Now), ..none }),
        (fattr::MTIME, SetAttr { mtime: at(20, 2), ..none }),
        (fattr::MTIME | fattr::MTIME_NOW, SetAttr { mtime: Some(SetTime::Now), ..none }),
        (fattr::CTIME, SetAttr { ctime: Some(Timestamp { sec: 30, nsec: 3 }), ..none }),
        (fattr::SIZE | fattr::KILL_SUIDGID, SetAttr { size: Some(100), kill_suidgid: true, ..none }),
        // "Somebody without privilege wrote": nothing is valid, or only what says whose file it was.
        (0, SetAttr { kill_suidgid: true, ..none }),
        (1 << 6, SetAttr { kill_suidgid: true, ..none }),
        (fattr::KILL_SUIDGID, SetAttr { kill_suidgid: true, ..none }),
    ];
    for (valid, wanted) in cases {
        assert_eq!(asked(&Operation::SetAttr(setattr(valid))).0, Op::SetAttr(wanted), "valid {valid:#x}");
    }
    let odd = SetAttrIn { mtimensec: 1_000_000_000, ..setattr(fattr::MTIME) };
    assert_eq!(refused(&Operation::SetAttr(odd)), Errno::EINVAL);
}

#[test]
fn names_have_limits() {
    let long = [b'n'; limits::NAME_MAX + 1];
    assert_eq!(refused(&Operation::Lookup { name: &long }), Errno::ENAMETOOLONG);
    assert_eq!(asked(&Operation::Lookup { name: long.split_at(limits::NAME_MAX).0 }).2, Expect::Lookup);
    assert_eq!(refused(&Operation::Unlink { name: b".." }), Errno::EINVAL);
    assert_eq!(
        refused(&Operation::Mkdir { arg: crate::abi::input::MkdirIn { mode: 0, umask: 0 }, name: b"" }),
        Errno::ENOENT
    );
    let target = [b't'; SYMLINK_MAX + 1];
    assert_eq!(refused(&Operation::Symlink { name: b"l", target: &target }), Errno::ENAMETOOLONG);
    assert_eq!(refused(&Operation::RemoveXattr { name: &long }), Errno::ERANGE);
}

#[test]
fn create_gives_permission_bits_only() {
    let arg = CreateIn { flags: 0o101, mode: libc::S_IFREG | 0o640, umask: 0o27, open_flags: 0 };
    let (op, _, expect) = asked(&Operation::Create { arg, name: b"f" });
    assert_eq!(op, Op::Create { name: b"f".to_vec(), mode: 0o640, flags: 0o101, umask: 0o27 });
    assert_eq!(expect, Expect::Created { flags: 0o101 });
}

#[test]
fn what_we_do_not_serve_gets_the_errno_that_the_kernel_expects() {
    for opcode in [Opcode::FLUSH, Opcode::ACCESS, Opcode::GETLK, Opcode::SETLK, Opcode::SETLKW, Opcode::POLL] {
        assert_eq!(refused(&Operation::Other(opcode)), Errno::ENOSYS);
    }
    for opcode in [Opcode::BMAP, Opcode::STATX, Opcode::SETUPMAPPING, Opcode::REMOVEMAPPING, Opcode(999)] {
        assert_eq!(refused(&Operation::Other(opcode)), Errno::ENOSYS);
    }
    assert_eq!(plan(&header(Opcode::INTERRUPT), &Operation::Interrupt), Plan::Nothing);
    assert_eq!(plan(&header(Opcode::DESTROY), &Operation::Destroy), Plan::End);
}

#[test]
fn ioctls_of_the_control_file_alone_are_passed_on() {
    let ours = door::command(64).unwrap();
    let arg = |cmd, out_size| IoctlIn { fh: 5, flags: 0, cmd, arg: 0, in_size: 64, out_size };
    let data = [7; 64];
    let asked = asked(&Operation::Ioctl { arg: arg(ours, 64), data: &data });
    let op = Op::Ioctl { fh: 5, cmd: ours, out_size: 64 };
    assert_eq!(asked, (op, PayloadIn::Bytes(&data), Expect::Ioctl { max: 64 }));
    // FS_IOC_GETFLAGS, as lsattr sends it.
    assert_eq!(refused(&Operation::Ioctl { arg: arg(0x8008_6601, 8), data: &[] }), Errno::ENOTTY);
    assert_eq!(refused(&Operation::Ioctl { arg: arg(ours, 1 << 14), data: &data }), Errno::EINVAL);
    assert_eq!(refused(&Operation::Ioctl { arg: arg(ours, 64), data: &[0; 1 << 14] }), Errno::EINVAL);
}

#[test]
fn rename_refuses_whiteouts() {
    let rename = |flags| Operation::Rename { new_parent: 7, flags, name: b"a", new_name: b"b" };
    assert_eq!(refused(&rename(libc::RENAME_WHITEOUT)), Errno::EINVAL);
    assert_eq!(
        asked(&rename(libc::RENAME_EXCHANGE)).0,
        Op::Rename { name: b"a".to_vec(), new_parent: NodeId(7), new_name: b"b".to_vec(), flags: 2 }
    );
}

#[test]
fn narrow_copies_stay_within_their_reply() {
    let arg = CopyFileRangeIn { fh_in: 1, off_in: 2, nodeid_out: 3, fh_out: 4, off_out: 5, len: u64::MAX, flags: 0 };
    let (Op::CopyFileRange { length, .. }, _, expect) = asked(&Operation::CopyFileRange { arg, wide: false }) else {
        panic!("another operation");
    };
    assert!(u32::try_from(length).is_ok());
    assert_eq!(expect, Expect::Copied);
    let (Op::CopyFileRange { length, .. }, _, expect) = asked(&Operation::CopyFileRange { arg, wide: true }) else {
        panic!("another operation");
    };
    assert_eq!((length, expect), (u64::MAX, Expect::Offset));
}

#[test]
fn transfers_over_the_negotiated_size_are_refused() {
    let arg =
        ReadIn { fh: 0, offset: 0, size: PAYLOAD_MAX as u32 + 1, read_flags: 0, lock_owner: 0, flags: 0, padding: 0 };
    assert_eq!(refused(&Operation::Read(arg)), Errno::EINVAL);
}

#[test]
fn what_is_expected_follows_from_our_own_form_too() {
    let read = ReadIn { fh: 1, offset: 0, size: 4096, read_flags: 0, lock_owner: 0, flags: 0, padding: 0 };
    let open = crate::abi::input::OpenIn { flags: 2, open_flags: 0 };
    let create = CreateIn { flags: 0o101, mode: 0o644, umask: 0, open_flags: 0 };
    let operations = [
        Operation::Lookup { name: b"a" },
        Operation::GetAttr,
        Operation::SetAttr(setattr(1)),
        Operation::ReadLink,
        Operation::Symlink { name: b"a", target: b"b" },
        Operation::Create { arg: create, name: b"a" },
        Operation::Unlink { name: b"a" },
        Operation::Open(open),
        Operation::Read(read),
        Operation::ReadDir { arg: read, plus: true },
        Operation::StatFs,
        Operation::RemoveXattr { name: b"user.a" },
        Operation::Ioctl {
            arg: IoctlIn { fh: 1, flags: 0, cmd: door::command(0).unwrap(), arg: 0, in_size: 0, out_size: 9 },
            data: b"",
        },
    ];
    for operation in operations {
        let Plan::Ask { request, expect, .. } = plan(&header(Opcode(0)), &operation) else { panic!("{operation:?}") };
        assert_eq!(expected(&request), expect, "{operation:?}");
    }
}
