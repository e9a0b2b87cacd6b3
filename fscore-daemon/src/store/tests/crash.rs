//! Power cuts and kills at every operation of a history: a store that was opened again holds every
//! synced batch, no half of any, and nothing without what came before it.

use super::*;
use crate::store::faulty::Loss;

const BATCHES: u64 = 70;

/// What a run knows when its power goes.
struct Run {
    /// The model after each number of batches.
    states: Vec<Model>,
    /// Batches that a finished sync covers.
    synced: usize,
}

impl Run {
    fn from(state: Model) -> Self {
        Self { states: vec![state], synced: 0 }
    }
}

/// Goes on with a random history until an operation fails.
fn run(disk: &FaultyDisk, seed: u64, mut run: Run) -> Run {
    let mut dice = Dice::new(seed);
    let Ok(store) = open(disk) else { return run };
    for number in 0..BATCHES {
        let batch = random_batch(&mut dice, number);
        let mut next = run.states.last().unwrap().clone();
        apply(&mut next, &batch);
        // A batch that fails may still be there after the crash.
        run.states.push(next);
        if store.commit(&batch).is_err() {
            return run;
        }
        if dice.below(7) == 0 {
            if store.sync().is_err() {
                return run;
            }
            run.synced = run.states.len() - 1;
        }
    }
    if store.close().is_ok() {
        run.synced = run.states.len() - 1;
    }
    run
}

/// The store on `disk` must be one of the states from the last synced one on; gives which.
fn verify(disk: &FaultyDisk, run: &Run, context: &str) -> usize {
    let store = open(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    let found = dump(&store);
    let at = run.states.iter().rposition(|state| *state == found);
    assert!(at.is_some_and(|at| at >= run.synced), "{context}: state {at:?}, synced {}", run.synced);
    at.unwrap()
}

#[test]
fn power_cut_at_every_operation() {
    for seed in 0..3 {
        let whole = FaultyDisk::new();
        run(&whole, seed, Run::from(Model::new()));
        let ops = whole.ops();
        assert!(ops > 100, "the history is long enough: {ops}");
        for cut in 0..ops {
            let disk = FaultyDisk::new();
            disk.cut_power_at(cut);
            let run = run(&disk, seed, Run::from(Model::new()));
            let losses = [Loss::All, Loss::Nothing, Loss::Names, Loss::Random(cut), Loss::Random(!cut)];
            for loss in losses {
                verify(&disk.after_power_cut(loss), &run, &format!("seed {seed}, cut {cut}, {loss:?}"));
            }
        }
    }
}

/// Stale frames of a dropped tail must never come back behind new frames with the same numbers.
#[test]
fn power_cut_during_the_run_after_a_power_cut() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed ^ 0xabcd);
        let mut disk = FaultyDisk::new();
        let mut known = Run::from(Model::new());
        for round in 0..8 {
            disk.cut_power_at(dice.below(160));
            known = run(&disk, seed * 10 + round, known);
            let killed = dice.below(3) == 0;
            let next = if killed { disk.after_kill() } else { disk.after_power_cut(Loss::Random(dice.below(1 << 40))) };
            // Opening changes the disk: what is verified is a twin, what goes on is crashed once more.
            let at = verify(&next.after_kill(), &known, &format!("seed {seed}, round {round}, killed {killed}"));
            known.states.truncate(at + 1);
            if !killed {
                known = Run::from(known.states.pop().unwrap());
            }
            disk = next;
        }
    }
}

/// Opening itself is cut at every operation.
#[test]
fn power_cut_while_opening() {
    for seed in 0..6 {
        let disk = FaultyDisk::new();
        disk.cut_power_at(60 + seed * 13);
        let run = run(&disk, seed, Run::from(Model::new()));
        let crashed = disk.after_power_cut(Loss::Random(seed));
        let found = &run.states[verify(&crashed.after_kill(), &run, "before")];
        for cut in 0..30 {
            let disk = crashed.after_power_cut(Loss::All);
            disk.cut_power_at(cut);
            drop(open(&disk));
            for loss in [Loss::All, Loss::Nothing, Loss::Names, Loss::Random(cut)] {
                let store = open(&disk.after_power_cut(loss)).unwrap();
                assert_eq!(dump(&store), *found, "seed {seed}, cut {cut}, {loss:?}");
            }
        }
    }
}

#[test]
fn a_kill_loses_nothing_that_was_committed() {
    let whole = FaultyDisk::new();
    run(&whole, 5, Run::from(Model::new()));
    for cut in 0..whole.ops() {
        let disk = FaultyDisk::new();
        disk.cut_power_at(cut);
        let mut run = run(&disk, 5, Run::from(Model::new()));
        run.synced = run.states.len().saturating_sub(2);
        verify(&disk.after_kill(), &run, &format!("cut {cut}"));
    }
}

/// A segment that lost its name in a power cut is a spare again, but still holds frames. They must not
/// come back when it is used once more.
#[test]
fn frames_in_a_spare_that_was_a_segment_are_void() {
    let disk = FaultyDisk::new();
    open(&disk).unwrap().close().unwrap();
    let store = open(&disk).unwrap();
    store.commit(&put("ghost", "1")).unwrap();
    drop(store);
    let disk = disk.after_power_cut(Loss::Names);
    for _ in 0..2 {
        let store = open(&disk).unwrap();
        assert_eq!(store.get(b"ghost"), None);
    }
}
