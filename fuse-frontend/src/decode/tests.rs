#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use proptest::prelude::*;

/// A packet as the kernel would send it.
fn packet(opcode: u32, unique: u64, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((40 + body.len()) as u32).to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend(nodeid.to_le_bytes());
    for id in [1000u32, 1001, 77, 0] {
        bytes.extend(id.to_le_bytes());
    }
    bytes.extend(body);
    bytes
}

fn head(packet: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let len = packet.len().min(HEAD);
    head[..len].copy_from_slice(&packet[..len]);
    head
}

#[test]
fn header_from_literal_bytes() {
    let bytes = [
        0x2c, 0, 0, 0, // len 44
        1, 0, 0, 0, // LOOKUP
        6, 0, 0, 0, 0, 0, 0, 0x80, // unique 6, resent
        1, 0, 0, 0, 0, 0, 0, 0, // root
        0xe8, 3, 0, 0, 0xe9, 3, 0, 0, 77, 0, 0, 0, // uid, gid, pid
        0, 0, 0, 0, // extensions, padding
        b'a', b'b', b'c', 0,
    ];
    let (header, length) = Header::parse(&head(&bytes), bytes.len()).unwrap();
    assert_eq!(length, Ok(()));
    assert_eq!(header.opcode, Opcode::LOOKUP);
    assert_eq!(header.id(), RequestId(6));
    assert!(header.is_resent());
    assert_eq!(header.unique, 6 | 1 << 63);
    assert_eq!(header.node, NodeId::ROOT);
    assert_eq!(header.caller, Caller { uid: 1000, gid: 1001, pid: 77 });
    assert_eq!(arguments(header.opcode, &bytes[40..]), Ok(Operation::Lookup { name: b"abc" }));
}

#[test]
fn a_packet_without_a_header_is_nobodys() {
    assert_eq!(Header::parse(&[0; HEAD], 39), None);
}

#[test]
fn a_wrong_length_field_is_told() {
    let bytes = packet(3, 2, 1, &[0; 16]);
    let (_, length) = Header::parse(&head(&bytes), bytes.len() - 1).unwrap();
    assert_eq!(length, Err(DecodeError::Length { opcode: Opcode::GETATTR, said: 56, len: 55 }));
}

#[test]
fn write_data_stands_in_the_payload() {
    let mut body = Vec::new();
    body.extend(5u64.to_le_bytes()); // fh
    body.extend(4096u64.to_le_bytes()); // offset
    body.extend(3u32.to_le_bytes()); // size
    body.extend(4u32.to_le_bytes()); // KILL_SUIDGID
    body.extend([0; 16]);
    body.extend(b"xyz");
    let bytes = packet(16, 8, 9, &body);
    let Ok(Operation::Write(arg)) = write(&head(&bytes), bytes.len()) else { panic!("not a write") };
    assert_eq!((arg.fh, arg.offset, arg.size, arg.write_flags), (5, 4096, 3, 4));
    let short = write(&head(&bytes), bytes.len() - 1);
    assert_eq!(short, Err(DecodeError::Count { opcode: Opcode::WRITE, said: 3, there: 2 }));
    assert_eq!(write(&head(&bytes), 60), Err(DecodeError::Short { opcode: Opcode::WRITE, len: 60 }));
}

#[test]
fn two_names_and_what_they_lack() {
    let mut body = Vec::new();
    body.extend(7u64.to_le_bytes());
    body.extend(1u32.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    body.extend(b"old\0new\0");
    let found = arguments(Opcode::RENAME2, &body);
    assert_eq!(found, Ok(Operation::Rename { new_parent: 7, flags: 1, name: b"old", new_name: b"new" }));
    let cut = arguments(Opcode::RENAME2, &body[..body.len() - 1]);
    assert_eq!(cut, Err(DecodeError::Unterminated { opcode: Opcode::RENAME2 }));
    let shorter = arguments(Opcode::RENAME2, &body[..9]);
    assert_eq!(shorter, Err(DecodeError::Short { opcode: Opcode::RENAME2, len: 49 }));
}

#[test]
fn setxattr_value_is_bounded_by_what_came() {
    let mut body = Vec::new();
    body.extend(4u32.to_le_bytes());
    body.extend(2u32.to_le_bytes());
    body.extend(b"user.a\0\0\x01\xff\0");
    let found = arguments(Opcode::SETXATTR, &body);
    let arg = SetXattrIn { size: 4, flags: 2 };
    let value: &[u8] = b"\0\x01\xff\0";
    assert_eq!(found, Ok(Operation::SetXattr { arg, acl_kill_sgid: false, name: b"user.a", value }));
    // With FUSE_SETXATTR_EXT 8 bytes of flags stand in between.
    for flags in [0, 1] {
        let mut extended = body[..8].to_vec();
        extended.extend([flags, 0, 0, 0, 0, 0, 0, 0]);
        extended.extend(&body[8..]);
        let found = arguments(Opcode::SETXATTR, &extended);
        assert_eq!(found, Ok(Operation::SetXattr { arg, acl_kill_sgid: flags == 1, name: b"user.a", value }));
    }
    let cut = arguments(Opcode::SETXATTR, &body[..body.len() - 1]);
    assert_eq!(cut, Err(DecodeError::Count { opcode: Opcode::SETXATTR, said: 4, there: 3 }));
}

#[test]
fn ioctl_data_is_bounded_by_what_came() {
    let mut body = Vec::new();
    body.extend(9u64.to_le_bytes()); // fh
    body.extend(0u32.to_le_bytes()); // flags
    body.extend(0xc003_af01u32.to_le_bytes()); // cmd
    body.extend(0x7fffu64.to_le_bytes()); // arg
    body.extend(3u32.to_le_bytes()); // in_size
    body.extend(4u32.to_le_bytes()); // out_size
    body.extend(b"xyz");
    let arg = IoctlIn { fh: 9, flags: 0, cmd: 0xc003_af01, arg: 0x7fff, in_size: 3, out_size: 4 };
    assert_eq!(arguments(Opcode::IOCTL, &body), Ok(Operation::Ioctl { arg, data: b"xyz" }));
    let cut = arguments(Opcode::IOCTL, &body[..body.len() - 1]);
    assert_eq!(cut, Err(DecodeError::Count { opcode: Opcode::IOCTL, said: 3, there: 2 }));
    assert_eq!(arguments(Opcode::IOCTL, &body[..31]), Err(DecodeError::Short { opcode: Opcode::IOCTL, len: 71 }));
}

#[test]
fn batch_forget_counts_its_elements() {
    let mut body = Vec::new();
    body.extend(2u32.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    for word in [11u64, 1, 12, 3] {
        body.extend(word.to_le_bytes());
    }
    let Ok(Operation::BatchForget(forgets)) = arguments(Opcode::BATCH_FORGET, &body) else { panic!("not a forget") };
    assert_eq!(forgets.iter().collect::<Vec<_>>(), [(NodeId(11), 1), (NodeId(12), 3)]);
    body[0] = 200;
    let lies = arguments(Opcode::BATCH_FORGET, &body);
    assert_eq!(lies, Err(DecodeError::Count { opcode: Opcode::BATCH_FORGET, said: 200, there: 2 }));
}

#[test]
fn unknown_and_unserved_operations_are_kept() {
    for number in [26, 31, 34, 37, 40, 48, 49, 4096, u32::MAX] {
        assert_eq!(arguments(Opcode(number), &[1, 2, 3]), Ok(Operation::Other(Opcode(number))));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(opcode in 0u32..64, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = packet(opcode, 2, 1, &body);
        let (header, _) = Header::parse(&head(&bytes), bytes.len()).unwrap();
        if let Ok(operation) = arguments(header.opcode, &body) {
            let plan = crate::convert::plan(&header, &operation);
            prop_assert_eq!(&plan, &plan);
            if let Operation::BatchForget(forgets) = operation {
                prop_assert!(forgets.iter().count() <= body.len() / 16);
            }
        }
        write(&head(&bytes), bytes.len()).ok();
    }

    #[test]
    fn arbitrary_heads_never_panic(bytes in proptest::array::uniform32(any::<u8>()), len in 0usize..2_000_000) {
        let mut head = [0; HEAD];
        head[..32].copy_from_slice(&bytes);
        prop_assert_eq!(Header::parse(&head, len).is_some(), len >= 40);
        write(&head, len).ok();
    }
}
