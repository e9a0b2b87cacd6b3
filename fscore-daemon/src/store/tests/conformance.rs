//! What every store promises, run on each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::store::MemStore;

fn empty_store_has_nothing(store: &(dyn Store + 'static)) {
    assert_eq!(store.get(b"a"), None);
    assert_eq!(dump(store), Model::new());
    store.scan_back(b"\xff", &mut |_, _| panic!("no key"));
    store.commit(&Batch::default()).unwrap();
    store.sync().unwrap();
}

fn later_changes_of_a_batch_win(store: &(dyn Store + 'static)) {
    let mut batch = Batch::default();
    batch.put("a", "1");
    batch.delete("a");
    batch.put("b", "1");
    batch.put("b", "2");
    batch.delete("c");
    store.commit(&batch).unwrap();
    assert_eq!(store.get(b"a"), None);
    assert_eq!(store.get(b"b").as_deref(), Some(&b"2"[..]));
    assert_eq!(dump(store).len(), 1);
}

fn scans_are_ordered_and_can_stop(store: &(dyn Store + 'static)) {
    for key in ["b", "", "ba", "a", "c"] {
        store.commit(&put(key, key)).unwrap();
    }
    let collect = |back: bool, from: &[u8], limit: usize| {
        let mut keys = Vec::new();
        let mut visit = |k: &[u8], v: &[u8]| {
            assert_eq!(k, v);
            keys.push(String::from_utf8(k.to_vec()).unwrap());
            keys.len() < limit
        };
        if back {
            store.scan_back(from, &mut visit);
        } else {
            store.scan(from, &mut visit);
        }
        keys
    };
    assert_eq!(collect(false, b"", 9), ["", "a", "b", "ba", "c"]);
    assert_eq!(collect(false, b"b", 2), ["b", "ba"]);
    assert_eq!(collect(false, b"bb", 9), ["c"]);
    assert_eq!(collect(true, b"\xff", 9), ["c", "ba", "b", "a", ""]);
    assert_eq!(collect(true, b"b", 9), ["b", "a", ""]);
    assert_eq!(collect(true, b"az", 1), ["a"]);
    assert!(collect(false, b"d", 9).is_empty());
}

fn sizes_from_nothing_to_large(store: &(dyn Store + 'static)) {
    for len in [0, 1, 255, 4096, 70_000, 3 << 20] {
        let mut batch = Batch::default();
        batch.put(vec![7; len.min(65_535)], vec![9; len]);
        store.commit(&batch).unwrap();
        assert_eq!(store.get(&vec![7; len.min(65_535)]).unwrap(), vec![9; len]);
    }
    store.sync().unwrap();
}

fn follows_a_model(store: &(dyn Store + 'static)) {
    let (mut dice, mut model) = (Dice::new(7), Model::new());
    for number in 0..800 {
        let batch = random_batch(&mut dice, number);
        store.commit(&batch).unwrap();
        apply(&mut model, &batch);
        if number % 50 == 0 {
            assert_eq!(dump(store), model);
            store.sync().unwrap();
        }
    }
    assert_eq!(dump(store), model);
}

fn readers_see_whole_batches(store: &(dyn Store + 'static)) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut seen = Vec::new();
                    store.scan(b"x", &mut |k, v| {
                        seen.push(v.to_vec());
                        k.starts_with(b"x")
                    });
                    assert!(seen.is_empty() || seen.len() == 3 && seen.iter().all(|v| *v == seen[0]), "{seen:?}");
                }
            });
        }
        let syncing = scope.spawn(|| (0..20).try_for_each(|_| store.sync()));
        for number in 0..2000_u64 {
            let mut batch = Batch::default();
            for key in ["x1", "x2", "x3"] {
                batch.put(key, number.to_le_bytes());
            }
            store.commit(&batch).unwrap();
        }
        syncing.join().unwrap().unwrap();
        stop.store(true, Ordering::Relaxed);
    });
}

fn two_writers_lose_nothing(store: &(dyn Store + 'static)) {
    std::thread::scope(|scope| {
        for writer in ["p", "q"] {
            scope.spawn(move || {
                for number in 0..500 {
                    store.commit(&put(&format!("{writer}{number}"), "v")).unwrap();
                    if number % 100 == 0 {
                        store.sync().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(dump(store).len(), 1000);
}

/// Runs everything on fresh stores; what keeps a store alive comes with it.
fn conforms<K>(make: impl Fn() -> (Arc<dyn Store>, K)) {
    for test in [
        empty_store_has_nothing as fn(&(dyn Store + 'static)),
        later_changes_of_a_batch_win,
        scans_are_ordered_and_can_stop,
        sizes_from_nothing_to_large,
        follows_a_model,
        readers_see_whole_batches,
        two_writers_lose_nothing,
    ] {
        let (store, _keep) = make();
        test(&*store);
    }
}

#[test]
fn mem_store() {
    conforms(|| (Arc::new(MemStore::default()), ()));
}

#[test]
fn log_store_on_a_real_disk() {
    for options in [Options::default(), SMALL, Options { threads: true, ..SMALL }] {
        conforms(|| {
            let dir = tempfile::tempdir().unwrap();
            (Arc::new(LogStore::open(dir.path(), options).unwrap()), dir)
        });
    }
}

#[test]
fn log_store_on_a_faulty_disk_without_faults() {
    conforms(|| (Arc::new(open(&FaultyDisk::new()).unwrap()), ()));
}
