//! The fuzz targets' functions over mutated valid inputs: the same code as `cargo fuzz` runs, for
//! everybody who has only `cargo test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../fuzz/targets.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets are programs of their own")]
mod targets;

use proptest::prelude::*;
use shm_transport::control::door;
use shm_transport::wire::{self, Attr, Entry, NodeId, Op, Opened, Reply, Request, Timestamp, dirent};

/// Valid messages of each kind, as bytes.
fn seeds() -> Vec<Vec<u8>> {
    let request = |op| {
        let request = Request { caller: wire::Caller::default(), node: NodeId::ROOT, op };
        wire::encode_request(&request).unwrap().to_vec()
    };
    let time = Timestamp::default();
    let attr = Attr {
        ino: 1,
        size: 2,
        blocks: 3,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        mode: 0o100_644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
    };
    let entry = Entry { node: NodeId(9), generation: 1, attr, entry_valid_ns: 5, attr_valid_ns: 6 };
    let opened = Opened { fh: 1, keep_cache: true, cache_dir: false, direct_io: false, no_flush: true };
    let mut listing = dirent::Writer::new(4096, true);
    assert!(listing.push(b"name", 9, 8, 3, Some(&entry)) && listing.push(b"..", 1, 4, 2, None));
    vec![
        request(Op::Lookup { name: b"some name".to_vec() }),
        request(Op::Rename { name: vec![b'a'; 255], new_parent: NodeId(2), new_name: vec![b'b'; 255], flags: 1 }),
        request(Op::SetAttr(wire::SetAttr { size: Some(1), atime: Some(wire::SetTime::Now), ..Default::default() })),
        wire::encode_reply(&Reply::Created(entry, opened)).unwrap().to_vec(),
        listing.into_bytes(),
        br#"{"v":1,"op":"attach","session":7,"branch":"b","mountpoint":"/m","epoch":3}"#.to_vec(),
        br#"{"error":{"code":"not-found","message":"m","hint":"h"}}"#.to_vec(),
        door::encode(br#"{"v":1,"op":"diff","branch":"","limit":9}"#, 0, 0, 128).unwrap(),
    ]
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    (prop::sample::select(seeds()), prop::collection::vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        for (at, value, kind) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.truncate(at),
                _ => bytes.insert(at, value),
            }
        }
        bytes
    })
}

/// Patches that mostly hit words that mean something.
fn patches() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![0..104u16, 4096..6144u16, 6144..6300u16, any::<u16>()];
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12),
        (0..8u64).prop_map(|n| n.to_le_bytes().to_vec()),
        (0..8u32, 0..8u32).prop_map(|(low, high)| [low.to_le_bytes(), high.to_le_bytes()].concat()),
    ];
    prop::collection::vec((offset, body), 0..8).prop_map(|all| {
        all.into_iter().flat_map(|(at, body)| [&at.to_le_bytes()[..], &[body.len() as u8], &body].concat()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutated_messages_are_refused_or_decoded(bytes in mutated()) {
        targets::decode(&bytes);
    }

    #[test]
    fn damaged_regions_are_refused_or_served(patches in patches()) {
        targets::attach(&patches);
    }
}

/// What `harness/fuzz.sh` begins with: the fuzzer by itself takes long to find a message that decodes.
#[test]
fn seeds_for_the_fuzzer_are_written() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-seeds");
    let attach = [&[0_u8, 0, 0][..], &[0, 16, 4, 1, 0, 0, 0], &[0, 24, 8, 0, 0, 0, 0, 1, 0, 0, 0]];
    for (target, inputs) in [("decode", seeds()), ("attach", attach.map(<[u8]>::to_vec).to_vec())] {
        std::fs::create_dir_all(dir.join(target)).unwrap();
        for (n, input) in inputs.iter().enumerate() {
            std::fs::write(dir.join(target).join(n.to_string()), input).unwrap();
        }
    }
    let decoded = seeds().iter().filter(|s| wire::decode_request(s).is_ok() || wire::decode_reply(s).is_ok()).count();
    assert_eq!(decoded, 4, "requests and replies that decode");
}

#[test]
fn an_undamaged_region_is_served_whole() {
    targets::attach(&[]);
    targets::decode(&[]);
}
