//! Figures, for a release build: `cargo test --release -p fscore-daemon figures -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;

/// The records that making a file costs: five keys, about 420 bytes.
fn create(number: u64) -> Batch {
    let mut batch = Batch::default();
    let key = |letter: u8, a: u64, b: u64| [&[letter][..], &a.to_be_bytes(), &b.to_be_bytes()].concat();
    let dir = number / 1000;
    let name =
        [key(b'D', dir, 1), format!("file-{:08x}", number.wrapping_mul(0x9e37_79b9) as u32).into_bytes()].concat();
    batch.put(key(b'O', number, 1), [1; 120]);
    batch.put(key(b'O', dir << 40, 1), [2; 120]);
    batch.put(name.clone(), [3; 12]);
    batch.put([&b"C"[..], &name].concat(), "");
    batch.put(key(b'R', 1, number % 64), [4; 64]);
    batch
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |thousandths: usize| Duration::as_secs_f64(&times[(times.len() - 1) * thousandths / 1000]) * 1e6;
    eprintln!("{what}: p50 {:.1} us, p99 {:.1}, p99.9 {:.1}, max {:.1}", at(500), at(990), at(999), at(1000));
}

#[test]
#[ignore = "takes long, and measures only a release build"]
fn figures() {
    let dir = std::env::var_os("AGENTFS_STORE_FIGURES_DIR")
        .map_or_else(|| tempfile::tempdir().unwrap(), |d| tempfile::tempdir_in(d).unwrap());
    let store = LogStore::open(dir.path(), Options::default()).unwrap();
    let files = 333_333;
    let begin = Instant::now();
    let mut times = Vec::new();
    for number in 0..files {
        let batch = create(number);
        let at = Instant::now();
        store.commit(&batch).unwrap();
        times.push(at.elapsed());
    }
    eprintln!("{files} creates, {} records, in {:.2?}", store.records(), begin.elapsed());
    report("commit", times);

    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let syncer = scope.spawn(|| {
            let mut times = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                let at = Instant::now();
                store.sync().unwrap();
                times.push(at.elapsed());
            }
            times
        });
        let mut times = Vec::new();
        for number in 0..200_000 {
            let batch = create(number);
            let at = Instant::now();
            store.commit(&batch).unwrap();
            times.push(at.elapsed());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        report("commit beside a sync every 100 ms", times);
        report("sync", syncer.join().unwrap());
    });

    let mut dice = Dice::new(1);
    let mut times = Vec::new();
    for _ in 0..200_000 {
        let number = dice.below(files);
        let key = [&b"O"[..], &number.to_be_bytes(), &1_u64.to_be_bytes()].concat();
        let at = Instant::now();
        assert!(store.get(&key).is_some());
        times.push(at.elapsed());
    }
    report("get, random", times);

    store.close().unwrap();
    let records = store.records();
    drop(store);
    for what in ["after a close", "after an unclean end"] {
        let at = Instant::now();
        let store = LogStore::open(dir.path(), Options::default()).unwrap();
        eprintln!(
            "reopen {what}: {records} records, {} frames replayed, {:.0?}",
            store.opened().replayed,
            at.elapsed()
        );
    }
}
