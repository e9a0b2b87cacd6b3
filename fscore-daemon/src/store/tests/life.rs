//! Opening, closing, locking, versions, and failures that stick.

use std::fs;
use std::sync::Arc;

use nix::errno::Errno;

use super::*;
use crate::store::Disk;
use crate::store::check;
use crate::store::check::check_on;
use crate::store::faulty::{Fault, Loss, Op};
use crate::store::format::{FileHeader, SEGMENT_MAGIC};

#[test]
fn data_and_the_clean_mark_survive_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let store = LogStore::open(&at, Options::default()).unwrap();
    assert!(!store.opened().unclean && !store.opened().torn);
    store.commit(&put("a", "1")).unwrap();
    store.close().unwrap();
    assert_eq!(store.get(b"a").as_deref(), Some(&b"1"[..]), "reads still answer");
    assert!(matches!(store.commit(&put("b", "1")), Err(StoreError::Poisoned(_))));

    let report = check(&at).unwrap();
    assert!(!report.unclean && report.records == 1, "{report:?}");
    let store = LogStore::open(&at, Options::default()).unwrap();
    assert!(!store.opened().unclean);
    store.commit(&put("c", "1")).unwrap();
    drop(store);
    let store = LogStore::open(&at, Options::default()).unwrap();
    assert!(store.opened().unclean && !store.opened().torn);
    assert_eq!(dump(&store).len(), 2);
    drop(store);
    // A run that did nothing and was killed counts as well.
    let store = LogStore::open(&at, Options::default()).unwrap();
    assert!(store.opened().unclean);
    store.close().unwrap();
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path(), SMALL).unwrap();
    let me = std::process::id() as i32;
    assert!(matches!(LogStore::open(dir.path(), SMALL), Err(StoreError::InUse { pid }) if pid == me));
    assert!(matches!(check(dir.path()), Err(StoreError::InUse { pid }) if pid == me));
    store.close().unwrap();
    LogStore::open(dir.path(), SMALL).unwrap();
}

#[test]
fn checking_a_directory_that_is_no_store_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(check(dir.path()).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    LogStore::open(dir.path(), SMALL).unwrap().close().unwrap();
    fs::write(dir.path().join("FORMAT"), "agentfs store format 2\n").unwrap();
    let newer = |r: Result<LogStore, StoreError>| matches!(r, Err(StoreError::NewerFormat { found: 2, supported: 1 }));
    assert!(newer(LogStore::open(dir.path(), SMALL)));
    assert_eq!(fs::read(dir.path().join("FORMAT")).unwrap(), b"agentfs store format 2\n");

    // The same in a segment alone.
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    let mut header = FileHeader { salt: 1, number: 0 }.encode(SEGMENT_MAGIC);
    header[8] = 2;
    let crc = crc32fast::hash(&[&header[..12], &header[16..]].concat());
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.open("meta/log-0000000000000001").unwrap().pwrite(&header, 0).unwrap();
    assert!(newer(open(&disk)));
}

#[test]
fn a_failed_log_write_sticks_until_reopened() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    store.commit(&put("a", "1")).unwrap();
    disk.inject(Fault { op: Op::Write, name_part: String::new(), after: 0, times: 1, errno: Errno::EIO });
    assert!(matches!(store.commit(&put("b", "1")), Err(StoreError::Io { .. })));
    assert!(store.refusing_writes().is_some());
    assert!(matches!(store.commit(&put("c", "1")), Err(StoreError::Poisoned(_))));
    assert!(matches!(store.sync(), Err(StoreError::Poisoned(_))));
    assert_eq!(store.get(b"a").as_deref(), Some(&b"1"[..]), "reads go on");
    drop(store);
    let store = open(&disk.after_kill()).unwrap();
    assert!(store.refusing_writes().is_none());
    store.commit(&put("c", "1")).unwrap();
    assert_eq!(dump(&store).into_keys().collect::<Vec<_>>(), [b"a", b"c"]);
}

#[test]
fn a_failed_sync_sticks_even_if_the_next_would_succeed() {
    for op in [Op::Sync, Op::SyncDir] {
        let disk = FaultyDisk::new();
        let store = open(&disk).unwrap();
        store.commit(&put("a", "1")).unwrap();
        disk.inject(Fault { op, name_part: String::new(), after: 0, times: 1, errno: Errno::EIO });
        assert!(matches!(store.sync(), Err(StoreError::Io { .. })));
        assert!(matches!(store.sync(), Err(StoreError::Poisoned(_))));
        assert!(matches!(store.commit(&put("b", "1")), Err(StoreError::Poisoned(_))));
    }
}

#[test]
fn a_covered_sync_does_not_touch_the_disk() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    store.commit(&put("a", "1")).unwrap();
    store.sync().unwrap();
    let before = disk.ops();
    store.sync().unwrap();
    assert_eq!(disk.ops(), before);
}

#[test]
fn a_failed_checkpoint_is_tried_again_and_harms_nothing() {
    for (op, part) in [(Op::Write, "checkpoint"), (Op::Sync, "checkpoint"), (Op::Rename, "checkpoint")] {
        let disk = FaultyDisk::new();
        let store = open(&disk).unwrap();
        disk.inject(Fault { op, name_part: part.into(), after: 0, times: 2, errno: Errno::EIO });
        let (mut dice, mut model) = (Dice::new(3), Model::new());
        for number in 0..200 {
            let batch = random_batch(&mut dice, number);
            store.commit(&batch).unwrap();
            apply(&mut model, &batch);
        }
        assert_eq!(store.refusing_writes(), None);
        let report = check_on(&disk.after_kill()).unwrap();
        assert!(report.checkpoint.is_some() && report.obsolete.is_empty(), "{report:?}");
        assert_eq!(dump(&open(&disk.after_kill()).unwrap()), model);
    }
}

/// The log and the number of files stay small however long the store runs or however often it starts.
#[test]
fn checkpoints_bound_the_log() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    let mut dice = Dice::new(3);
    for number in 0..3000 {
        store.commit(&random_batch(&mut dice, number)).unwrap();
    }
    assert!(disk.used() < 64_000, "{}", disk.used());
    drop(store);
    for _ in 0..300 {
        drop(open(&disk).unwrap());
    }
    assert!(disk.list("meta").unwrap().len() < 80);
}

/// What one start replayed for long, the next ones do not replay again.
#[test]
fn a_long_replay_makes_a_checkpoint_due() {
    let disk = FaultyDisk::new();
    let options = Options { threads: false, ..Options::default() };
    let open = || LogStore::open_on(Arc::new(disk.clone()), options).unwrap();
    let store = open();
    for number in 0..12_000 {
        store.commit(&put("key", &format!("{number:0100}"))).unwrap();
    }
    drop(store);
    let store = open();
    assert!(store.opened().replayed >= 12_000, "{:?}", store.opened());
    store.commit(&put("another", "1")).unwrap();
    drop(store);
    let store = open();
    assert!(store.opened().replayed < 10, "{:?}", store.opened());
    assert_eq!(dump(&store).len(), 2);
}

/// A checkpoint written while batches go on still recovers to the exact state.
#[test]
fn checkpoints_beside_writers_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { checkpoint_bytes: 200_000, segment_bytes: 64 << 10, headroom_bytes: 1024, threads: true };
    let mut model = Model::new();
    let mut dice = Dice::new(9);
    for _ in 0..3 {
        let store = LogStore::open(dir.path(), options).unwrap();
        assert_eq!(dump(&store), model);
        for number in 0..6000_u64 {
            let mut batch = Batch::default();
            for _ in 0..4 {
                let key = dice.below(5000).to_be_bytes();
                if dice.below(4) == 0 { batch.delete(key) } else { batch.put(key, vec![number as u8; 40]) }
            }
            store.commit(&batch).unwrap();
            apply(&mut model, &batch);
        }
        drop(store);
    }
    let report = check(dir.path()).unwrap();
    assert!(report.checkpoint.is_some(), "{report:?}");
}

#[test]
fn a_lost_format_file_is_not_taken_for_a_new_store() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    store.commit(&put("a", "1")).unwrap();
    store.close().unwrap();
    disk.unlink("FORMAT").unwrap();
    assert!(matches!(open(&disk), Err(StoreError::Damaged(_))));
}

#[test]
fn an_impossible_batch_is_refused_and_the_store_goes_on() {
    let store = LogStore::open_on(Arc::new(FaultyDisk::new()), SMALL).unwrap();
    let mut batch = Batch::default();
    batch.put(vec![0; 65_536], "");
    assert!(matches!(store.commit(&batch), Err(StoreError::Io { .. })));
    store.commit(&put("a", "1")).unwrap();
    assert_eq!(store.records(), 1);
}

#[test]
fn a_synced_batch_survives_the_worst_power_cut() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    store.commit(&put("a", "1")).unwrap();
    store.sync().unwrap();
    store.commit(&put("b", "1")).unwrap();
    let store = open(&disk.after_power_cut(Loss::All)).unwrap();
    assert_eq!(dump(&store).into_keys().collect::<Vec<_>>(), [b"a"]);
}
