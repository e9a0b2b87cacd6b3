#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod busy;
mod conformance;
mod crash;
mod damage;
mod figures;
mod full_disk;
mod kill;
mod life;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::faulty::{Dice, FaultyDisk};
use super::{Batch, LogStore, Options, Store, StoreError};

/// A map as a model of a store.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// So small that a short history fills segments and writes checkpoints.
const SMALL: Options = Options { segment_bytes: 2048, headroom_bytes: 512, checkpoint_bytes: 6000, threads: false };

fn open(disk: &FaultyDisk) -> Result<LogStore, StoreError> {
    LogStore::open_on(Arc::new(disk.clone()), SMALL)
}

fn dump(store: &dyn Store) -> Model {
    let mut all = Model::new();
    store.scan(b"", &mut |k, v| {
        all.insert(k.to_vec(), v.to_vec());
        true
    });
    all
}

fn apply(model: &mut Model, batch: &Batch) {
    for (key, value) in &batch.changes {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(key, value);
    batch
}

/// A batch of random changes of few keys, so that it meets what others wrote. The key `batch` tells
/// its number.
fn random_batch(dice: &mut Dice, number: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put("batch", number.to_le_bytes());
    for _ in 0..dice.below(6) {
        let key = format!("key-{}", dice.below(24)).into_bytes();
        if dice.below(3) == 0 {
            batch.delete(key);
        } else {
            let len = [0, 1, 7, 8, 40, 300][dice.below(6) as usize];
            batch.put(key, vec![number as u8; len]);
        }
    }
    batch
}
