#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use proptest::prelude::*;

const CALL: &[u8] = br#"{"v":1,"op":"snapshot-create","branch":"","name":"n"}"#;

fn ask(buffer: &[u8]) -> Result<Asked, Malformed> {
    decode(command(buffer.len()).unwrap(), buffer, buffer.len())
}

#[test]
fn the_command_is_what_the_macro_of_c_gives() {
    // _IOWR(0xaf, 1, char[4096])
    assert_eq!(command(4096), Some(0xd000_af01));
    assert_eq!(command(BUFFER_MAX + 1), None);
    assert!(is_ours(command(0).unwrap()) && is_ours(command(BUFFER_MAX).unwrap()));
    // Another direction, type, number.
    for cmd in [0x9000_af01, 0xd000_ae01, 0xd000_af02, 0] {
        assert!(!is_ours(cmd), "{cmd:x}");
    }
}

#[test]
fn a_call_is_understood() {
    let asked = ask(&encode(CALL, 0, 0, 256).unwrap()).unwrap();
    assert!(matches!(asked.command, Command::SnapshotCreate { branch, name } if branch.is_empty() && name == "n"));
    let asked = ask(&encode(CALL, 9, 7, 256).unwrap()).unwrap();
    assert_eq!((asked.from, asked.tag), (9, 7));
    assert_eq!(encode(CALL, 0, 0, HEAD + CALL.len() - 1), None);
}

#[test]
fn each_fault_has_its_errno() {
    let whole = encode(CALL, 0, 0, 256).unwrap();
    let with = |at: usize, value: u32| {
        let mut buffer = whole.clone();
        buffer[at..at + 4].copy_from_slice(&value.to_le_bytes());
        ask(&buffer).unwrap_err().errno()
    };
    assert_eq!(with(0, 2), Errno::EPROTONOSUPPORT);
    assert_eq!(with(0, 0), Errno::EPROTONOSUPPORT);
    assert_eq!(with(4, 225), Errno::EMSGSIZE);
    assert_eq!(with(4, u32::MAX), Errno::EMSGSIZE);
    assert_eq!(with(4, 224), Errno::EINVAL, "what follows the call is not JSON");
    assert_eq!(with(4, 0), Errno::EINVAL);
    assert_eq!(with(16, 1), Errno::EINVAL);
    assert_eq!(with(24, 1), Errno::EINVAL);
    let of = |call: &[u8]| ask(&encode(call, 0, 0, 256).unwrap()).unwrap_err().errno();
    assert_eq!(of(br#"{"v":2,"op":"branch-list"}"#), Errno::EPROTONOSUPPORT);
    assert_eq!(of(br#"{"v":1,"op":"no-such-thing"}"#), Errno::EINVAL);
    assert_eq!(of(br#"{"op":"branch-list"}"#), Errno::EINVAL);
    assert_eq!(of(b"\xff\xff"), Errno::EINVAL);
    // Shorter than a head, or not what the command says.
    for size in 0..HEAD {
        assert_eq!(ask(&vec![0; size]).unwrap_err(), Malformed::Size);
    }
    assert_eq!(decode(command(255).unwrap(), &whole, 256).unwrap_err(), Malformed::Size);
    assert_eq!(decode(command(256).unwrap(), &whole, 255).unwrap_err(), Malformed::Size);
    assert_eq!(decode(0x5401, &whole, 256).unwrap_err().errno(), Errno::ENOTTY);
}

#[test]
fn parts_make_the_whole() {
    let answer: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
    let mut read = Vec::new();
    while read.len() < answer.len() {
        let part = part(&answer, read.len() as u64, 5, HEAD + 300);
        let head = Head::decode(&part).unwrap();
        assert_eq!((head.version, head.total, head.tag, head.from), (VERSION, 1000, 5, read.len() as u64));
        assert_eq!(part.len(), HEAD + head.len as usize);
        read.extend_from_slice(&part[HEAD..]);
    }
    assert_eq!(read, answer);
    assert_eq!(Head::decode(&part(&answer, u64::MAX, 5, 400)).unwrap().len, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_bytes_make_it_panic(cmd in any::<u32>(), buffer in prop::collection::vec(any::<u8>(), 0..600), room in 0..700usize) {
        let _refused = decode(cmd, &buffer, room);
        let _head = Head::decode(&buffer);
        let _own = ask(&buffer);
    }

    #[test]
    fn damaged_calls_are_refused_or_understood(
        size in HEAD + CALL.len()..400usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let mut buffer = encode(CALL, 0, 0, size).unwrap();
        for (at, value) in changes {
            let at = at.index(buffer.len());
            buffer[at] = value;
        }
        let _refused = ask(&buffer);
    }
}
