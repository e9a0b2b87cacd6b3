//! Checkpoints that are written while batches are committed, made to happen every time: the disk
//! commits batches itself when a checkpoint is begun.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::*;
use crate::store::faulty::Loss;
use crate::store::recovery;
use crate::store::{Disk, DiskFile};

struct Busy {
    disk: FaultyDisk,
    store: OnceLock<Weak<LogStore>>,
    history: Mutex<History>,
}

/// All states so far, and how many of them were synced.
struct History {
    dice: Dice,
    states: Vec<Model>,
    synced: usize,
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl Disk for Busy {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        if name.contains("checkpoint") {
            for _ in 0..3 {
                self.commit();
            }
        }
        self.disk.create(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk.unlink(name)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.disk.mkdir(dir)
    }
    fn fsync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.fsync_dir(dir)
    }
}

impl Busy {
    fn open() -> (Arc<Self>, Result<Arc<LogStore>, StoreError>) {
        Self::open_on(FaultyDisk::new())
    }

    fn open_on(disk: FaultyDisk) -> (Arc<Self>, Result<Arc<LogStore>, StoreError>) {
        let history = History { dice: Dice::new(4), states: vec![Model::new()], synced: 0 };
        let busy = Arc::new(Self { disk, store: OnceLock::new(), history: Mutex::new(history) });
        let store = LogStore::open_on(Arc::<Self>::clone(&busy), SMALL).map(Arc::new);
        if let Ok(store) = &store {
            busy.store.set(Arc::downgrade(store)).unwrap();
        }
        (busy, store)
    }

    fn commit(&self) -> bool {
        let Some(store) = self.store.get().and_then(Weak::upgrade) else { return false };
        let mut history = self.history.lock().unwrap();
        let number = history.states.len() as u64;
        let batch = random_batch(&mut history.dice, number);
        let mut next = history.states.last().unwrap().clone();
        apply(&mut next, &batch);
        history.states.push(next);
        drop(history);
        store.commit(&batch).is_ok()
    }
}

/// As in `crash`, with a few syncs only: it is the checkpoint that has to make the log durable.
#[test]
fn power_cut_at_every_operation_beside_a_busy_checkpoint() {
    let run = |disk: FaultyDisk| {
        let (busy, store) = Busy::open_on(disk);
        let Ok(store) = store else { return busy };
        for number in 0..120 {
            if !busy.commit() {
                return busy;
            }
            if number % 40 == 39 {
                let committed = busy.history.lock().unwrap().states.len() - 1;
                if store.sync().is_err() {
                    return busy;
                }
                busy.history.lock().unwrap().synced = committed;
            }
        }
        busy
    };
    let whole = run(FaultyDisk::new());
    assert!(whole.disk.list("meta").unwrap().iter().any(|name| name.starts_with("checkpoint-")));
    for cut in 0..whole.disk.ops() {
        let disk = FaultyDisk::new();
        disk.cut_power_at(cut);
        let busy = run(disk);
        let history = busy.history.lock().unwrap();
        for loss in [Loss::All, Loss::Nothing, Loss::Names, Loss::Random(cut)] {
            let store = open(&busy.disk.after_power_cut(loss)).unwrap_or_else(|e| panic!("cut {cut}, {loss:?}: {e}"));
            let at = history.states.iter().rposition(|state| *state == dump(&store));
            assert!(at >= Some(history.synced), "cut {cut}, {loss:?}: state {at:?}, synced {}", history.synced);
        }
    }
}

/// The frames that a checkpoint needs are damage when they cannot be read, even if they are the last.
#[test]
fn a_checkpoint_vouches_for_the_frames_it_needs() {
    let (busy, store) = Busy::open();
    let store = store.unwrap();
    let checkpoints = || busy.disk.list("meta").unwrap().iter().filter(|n| n.starts_with("checkpoint-")).count();
    while checkpoints() == 0 {
        assert!(busy.commit());
    }
    drop(store);
    let found = recovery::load(&busy.disk).unwrap();
    assert_eq!(found.replayed, 3, "the batches beside the checkpoint are all that follows it");
    let last = found.segments.last().unwrap();
    let name = crate::store::log::segment_name(last.first);
    // Any bit of the last frame.
    for offset in (last.end - 8..last.end).chain([32]) {
        let copy = busy.disk.after_kill();
        copy.corrupt(&name, offset, 0xff).unwrap();
        if recovery::load(&copy).is_ok_and(|found| found.next == last.last + 1) {
            continue; // the padding behind the payload
        }
        assert!(matches!(open(&copy), Err(StoreError::Damaged(_))), "offset {offset}");
    }
}
