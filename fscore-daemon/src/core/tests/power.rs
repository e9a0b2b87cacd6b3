//! The power goes, or the process is killed, at every operation on the disk, those on content files included.

use super::history::History;
use crate::store::faulty::Loss;

const OPERATIONS: usize = 70;

/// Where a history's operations on the disk begin and end.
fn span(seed: u64) -> (u64, u64) {
    let mut whole = History::begin(seed);
    let begin = whole.disk.ops();
    whole.go_on(OPERATIONS, true);
    assert_eq!(whole.errors, []);
    (begin, whole.disk.ops())
}

#[test]
fn power_cut_at_every_operation() {
    for seed in [3, 4] {
        let (begin, end) = span(seed);
        assert!(end - begin > 100, "the history is long enough: {begin} to {end}");
        for cut in begin..end {
            let mut history = History::begin(seed);
            history.disk.cut_power_at(cut);
            history.go_on(OPERATIONS, true);
            for loss in [Loss::All, Loss::Names, Loss::Random(cut), Loss::Random(!cut)] {
                let left = tempfile::tempdir().unwrap();
                history.host.after_power_cut(loss, &left.path().join("contents"));
                let context = format!("seed {seed}, cut {cut}, {loss:?}");
                history.check_after(&history.disk.after_power_cut(loss), left, false, &context);
            }
        }
    }
}

#[test]
fn a_kill_at_every_operation_loses_nothing() {
    let (begin, end) = span(5);
    for cut in begin..end {
        let mut history = History::begin(5);
        history.disk.cut_power_at(cut);
        history.go_on(OPERATIONS, true);
        let left = tempfile::tempdir().unwrap();
        history.host.after_kill(&left.path().join("contents"));
        history.check_after(&history.disk.after_kill(), left, true, &format!("cut {cut}"));
    }
}
