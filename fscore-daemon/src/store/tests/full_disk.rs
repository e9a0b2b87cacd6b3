//! A full disk: batches are refused whole, deletions go on, and space that comes back is used.

use std::sync::Arc;

use nix::errno::Errno;

use super::*;
use crate::store::faulty::{Fault, Op};

/// Commits until the store says that it is full; gives how many batches it took.
fn fill(store: &LogStore, from: u64) -> u64 {
    for number in from..100_000 {
        match store.commit(&put(&format!("key-{number:06}"), "some value that takes some room")) {
            Ok(()) => {}
            Err(StoreError::Full) => return number,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("never full");
}

fn deletion(number: u64) -> Batch {
    let mut batch = Batch { reclaims: true, ..Batch::default() };
    batch.delete(format!("key-{number:06}"));
    batch
}

#[test]
fn deletions_go_on_when_the_disk_is_full() {
    let disk = FaultyDisk::new();
    let options = Options { checkpoint_bytes: 1 << 40, ..SMALL };
    let store = LogStore::open_on(Arc::new(disk.clone()), options).unwrap();
    disk.set_capacity(Some(20_000));
    let taken = fill(&store, 0);
    assert!(taken > 50);
    let before = dump(&store);
    assert!(matches!(store.commit(&put("x", "y")), Err(StoreError::Full)));
    assert_eq!(dump(&store), before, "nothing of a refused batch is seen");
    assert_eq!(store.refusing_writes(), None);
    // The head-room.
    for number in 0..5 {
        store.commit(&deletion(number)).unwrap();
    }
    store.sync().unwrap();
    // A start on the full disk, and more deletions after it.
    drop(store);
    let store = LogStore::open_on(Arc::new(disk.clone()), options).unwrap();
    assert_eq!(dump(&store).len() as u64, taken - 5);
    store.commit(&deletion(5)).unwrap();
    // What the deletions freed.
    disk.set_capacity(Some(40_000));
    assert!(fill(&store, taken) > taken);
    disk.set_capacity(None);
    let expected = dump(&store);
    store.close().unwrap();
    let store = LogStore::open_on(Arc::new(disk), options).unwrap();
    assert!(!store.opened().unclean);
    assert_eq!(dump(&store), expected);
}

#[test]
fn even_without_any_room_a_start_serves_reads() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    disk.set_capacity(Some(12_000));
    let taken = fill(&store, 0);
    let mut number = 0;
    while store.commit(&deletion(number)).is_ok() {
        number += 1;
        assert!(number < taken);
    }
    let expected = dump(&store);
    drop(store);
    let store = open(&disk.after_kill()).unwrap();
    assert_eq!(dump(&store), expected);
}

#[test]
fn no_space_for_a_write_leaves_the_log_as_it_was() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    store.commit(&put("a", "1")).unwrap();
    disk.inject(Fault { op: Op::Write, name_part: "log-".into(), after: 0, times: 1, errno: Errno::ENOSPC });
    disk.inject(Fault { op: Op::Write, name_part: "spare-".into(), after: 0, times: 1, errno: Errno::ENOSPC });
    assert!(matches!(store.commit(&put("b", "1")), Err(StoreError::Full)));
    assert_eq!(store.refusing_writes(), None);
    disk.clear_faults();
    store.commit(&put("c", "1")).unwrap();
    store.sync().unwrap();
    assert_eq!(dump(&open(&disk.after_kill()).unwrap()).into_keys().collect::<Vec<_>>(), [b"a", b"c"]);
}

/// A checkpoint needs room for the whole map: without it the log just grows on.
#[test]
fn a_checkpoint_without_space_waits() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    disk.inject(Fault { op: Op::Write, name_part: "checkpoint".into(), after: 0, times: 3, errno: Errno::ENOSPC });
    let (mut dice, mut model) = (Dice::new(1), Model::new());
    for number in 0..400 {
        let batch = random_batch(&mut dice, number);
        store.commit(&batch).unwrap();
        apply(&mut model, &batch);
    }
    assert_eq!(dump(&open(&disk.after_kill()).unwrap()), model);
}

/// The same on a real, tiny filesystem.
#[test]
fn a_full_filesystem() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    let dir = tempfile::tempdir().unwrap();
    if let Err(e) = mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=512k")) {
        eprintln!("not run: cannot mount a tmpfs: {e}");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let options = Options { segment_bytes: 64 << 10, headroom_bytes: 16 << 10, ..Options::default() };
        let store = LogStore::open(&dir.path().join("store"), options).unwrap();
        let taken = fill(&store, 0);
        std::fs::write(dir.path().join("filler"), vec![1; 512 << 10]).unwrap_err();
        for number in 0..100 {
            store.commit(&deletion(number)).unwrap();
        }
        drop(store);
        let store = LogStore::open(&dir.path().join("store"), options).unwrap();
        assert_eq!(store.records(), taken - 100);
        store.commit(&deletion(100)).unwrap();
        std::fs::remove_file(dir.path().join("filler")).unwrap();
        store.commit(&put("x", "y")).unwrap_or_else(|e| assert!(matches!(e, StoreError::Full)));
        store.close().unwrap();
    });
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
    result.unwrap();
}
