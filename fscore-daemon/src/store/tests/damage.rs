//! Altered bytes: never a panic, and never a silent loss of what was synced.

use proptest::prelude::*;

use super::*;
use crate::store::Disk;
use crate::store::check::check_on;
use crate::store::faulty::Loss;
use crate::store::format::Frame;

/// A closed store with segments and a checkpoint, and all states it went through.
fn sample() -> (FaultyDisk, Vec<Model>) {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    let (mut dice, mut model, mut states) = (Dice::new(11), Model::new(), vec![Model::new()]);
    for number in 0..90 {
        let batch = random_batch(&mut dice, number);
        store.commit(&batch).unwrap();
        apply(&mut model, &batch);
        states.push(model.clone());
        if number % 3 == 0 {
            store.sync().unwrap();
        }
    }
    store.close().unwrap();
    (disk, states)
}

fn files(disk: &FaultyDisk) -> Vec<(String, u64)> {
    let mut all: Vec<_> = disk.list("meta").unwrap().into_iter().map(|n| format!("meta/{n}")).collect();
    all.push("FORMAT".into());
    all.into_iter()
        .map(|name| (disk.open(&name).unwrap().len().unwrap(), name))
        .map(|(len, name)| (name, len))
        .collect()
}

/// The whole sample opens, so what the tests below find comes from their change.
#[test]
fn the_sample_is_rich() {
    let (disk, states) = sample();
    let report = check_on(&disk).unwrap();
    assert!(report.checkpoint.is_some() && report.segments > 1 && report.replayed > 10, "{report:?}");
    assert!(!report.unclean && !report.torn);
    assert_eq!(dump(&open(&disk).unwrap()), *states.last().unwrap());
}

/// Every single byte of every file of a store that was closed in order: the result is an error or the last state.
#[test]
fn any_changed_byte_is_found_or_harmless() {
    let (disk, states) = sample();
    for (name, len) in files(&disk) {
        for offset in 0..len {
            let copy = disk.after_power_cut(Loss::All);
            copy.corrupt(&name, offset, 1 << (offset % 8)).unwrap();
            match open(&copy) {
                Ok(store) => {
                    let at = states.iter().rposition(|state| *state == dump(&store));
                    assert!(at.is_some_and(|at| at + 1 == states.len()), "{name} at {offset}: state {at:?}");
                }
                Err(StoreError::Damaged(_)) => {}
                Err(other) => panic!("{name} at {offset}: {other}"),
            }
        }
    }
}

#[test]
fn a_bad_frame_before_synced_ones_is_damage() {
    let (disk, _) = sample();
    let (name, _) = files(&disk).into_iter().rfind(|(name, _)| name.starts_with("meta/log-")).unwrap();
    let copy = disk.after_power_cut(Loss::All);
    copy.corrupt(&name, 32 + 40, 4).unwrap();
    let error = open(&copy).unwrap_err();
    assert!(matches!(&error, StoreError::Damaged(what) if what.contains("were synced")), "{error}");
    // Nothing was changed by the attempt.
    assert!(open(&copy).is_err());
    copy.corrupt(&name, 32 + 40, 4).unwrap();
    open(&copy).unwrap();
}

/// A checkpoint was published: the log before it had been synced, whatever can still be read of either.
#[test]
fn a_bad_checkpoint_vouches_for_the_frames_before_it() {
    let disk = FaultyDisk::new();
    let options = Options { checkpoint_bytes: 1 << 20, ..SMALL };
    let store = LogStore::open_on(Arc::new(disk.clone()), options).unwrap();
    for number in 0..3 {
        store.commit(&put(&format!("k{number}"), "value")).unwrap();
    }
    let copy = disk.after_kill();
    // Published by a run whose removal of the old log was lost with the power.
    let file = copy.create("meta/checkpoint-0000000000000005").unwrap();
    file.pwrite(b"not readable", 0).unwrap();
    assert_eq!(
        dump(&LogStore::open_on(Arc::new(copy.after_kill()), options).unwrap()).len(),
        3,
        "all of the log is there"
    );
    let copy = copy.after_kill();
    copy.corrupt("meta/log-0000000000000001", 32 + 40 + 8, 1).unwrap();
    let opened = LogStore::open_on(Arc::new(copy), options).map(|store| dump(&store));
    assert!(matches!(opened, Err(StoreError::Damaged(_))), "{opened:?}");
}

#[test]
fn a_missing_file_is_damage() {
    let (disk, states) = sample();
    for (name, _) in files(&disk) {
        if name.starts_with("meta/spare") {
            continue;
        }
        let copy = disk.after_power_cut(Loss::All);
        copy.unlink(&name).unwrap();
        match open(&copy) {
            Err(StoreError::Damaged(_)) => {}
            Err(other) => panic!("{name}: {other}"),
            // Only the last segment, which no later frame vouches for, can go unnoticed.
            Ok(store) => assert!(states.contains(&dump(&store)), "{name}"),
        }
    }
}

/// A name or value that looks like frames must not be taken for frames when the tail is torn.
#[test]
fn user_bytes_that_look_like_frames_are_not_frames() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    store.commit(&put("a", "1")).unwrap();
    store.sync().unwrap();
    // Right in all but the salt, at every alignment: it would vouch for a frame that is not there.
    let mut value = Vec::new();
    for _ in 0..9 {
        value.extend_from_slice(Frame::closed().seal(12345, 9, 99));
        value.push(0);
    }
    let mut batch = Batch::default();
    batch.put("b", value);
    store.commit(&batch).unwrap();
    // Tear the last frame's header off.
    let torn = disk.after_kill();
    torn.corrupt("meta/log-0000000000000001", 32 + 40 + 64, 0xff).unwrap();
    let store = open(&torn).unwrap();
    assert!(store.opened().torn);
    assert_eq!(store.get(b"a").as_deref(), Some(&b"1"[..]));
    assert_eq!(store.get(b"b"), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Runs of changed bytes, cut and grown files.
    #[test]
    fn mutated_files_never_panic(
        seed in any::<u64>(),
        runs in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u64..64, any::<u8>()), 1..4),
        cut in proptest::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u64..3)),
    ) {
        let (disk, states) = sample();
        let disk = disk.after_power_cut(Loss::Random(seed));
        let all = files(&disk);
        for (file, at, len, mask) in runs {
            let (name, size) = file.get(&all);
            if *size > 0 {
                let at = at.index(*size as usize) as u64;
                for offset in at..(at + len).min(*size) {
                    disk.corrupt(name, offset, mask).unwrap();
                }
            }
        }
        if let Some((file, at, factor)) = cut {
            let (name, size) = file.get(&all);
            let len = at.index(*size as usize + 1) as u64 * factor;
            disk.open(name).unwrap().truncate(len).unwrap();
        }
        match open(&disk) {
            Ok(store) => prop_assert!(states.contains(&dump(&store))),
            Err(StoreError::Damaged(_) | StoreError::NewerFormat { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    /// Decoders on arbitrary bytes.
    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), salt in any::<u64>()) {
        use crate::store::format::*;
        let _: Option<_> = decode_frame(&bytes, salt);
        let _: Option<_> = decode_payload(&bytes);
        let _: Option<_> = entries(&bytes, |_, _| {});
        let _: Option<_> = decode_end(&bytes);
        let _: Option<_> = BlockHeader::decode(&bytes, 0);
        prop_assert!(FileHeader::decode(SEGMENT_MAGIC, &bytes).is_err());
    }
}
