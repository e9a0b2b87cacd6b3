#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use proptest::prelude::*;
use std::os::fd::AsFd;

fn reopen(table: &LookupTable) -> LookupTable {
    LookupTable::open(table.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

proptest! {
    #[test]
    fn a_reopened_table_equals_a_map(steps in prop::collection::vec((any::<bool>(), 1u64..20, 1u64..4), 0..200)) {
        let mut table = LookupTable::create().unwrap();
        let mut model: HashMap<u64, u64> = HashMap::new();
        for (raise, node, n) in steps {
            if raise {
                table.raise(NodeId(node), n).unwrap();
                *model.entry(node).or_default() += n;
            } else {
                let known = model.get(&node).copied();
                let gone = known.is_some_and(|count| count <= n);
                prop_assert_eq!(table.lower(NodeId(node), n).unwrap(), gone);
                if gone { model.remove(&node); } else if let Some(c) = model.get_mut(&node) { *c -= n; }
            }
        }
        let again = reopen(&table);
        for table in [&table, &again] {
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(table.is_empty(), model.is_empty());
            for node in table.nodes() { prop_assert_eq!(table.count(node), model[&node.0]); }
        }
    }
}

#[test]
fn freed_cells_are_used_again_and_more_than_a_chunk_is_read_back() {
    let mut table = LookupTable::create().unwrap();
    for node in 1..=10_000 {
        table.raise(NodeId(node), 1).unwrap();
    }
    for node in 1..=5_000 {
        assert!(table.lower(NodeId(node), 1).unwrap());
    }
    let mut again = reopen(&table);
    assert_eq!(again.len(), 5_000);
    for node in 20_001..=25_000 {
        again.raise(NodeId(node), 2).unwrap();
    }
    assert_eq!(again.cells, 10_000, "the file did not grow");
}

#[test]
fn torn_and_doubled_cells_err_high_and_too_long_a_table_is_refused() {
    let table = LookupTable::create().unwrap();
    table.write(0, 5, 2).unwrap();
    table.write(1, 5, 3).unwrap();
    table.write(2, 0, 9).unwrap();
    table.file.write_all_at(b"half", 3 * CELL_LEN).unwrap();
    let again = reopen(&table);
    assert_eq!((again.len(), again.count(NodeId(5))), (1, 5));
    assert_eq!(reopen(&again).count(NodeId(5)), 5, "the double was merged in the file, too");
    table.file.set_len((CELLS_MAX + 1) * CELL_LEN).unwrap();
    assert!(LookupTable::open(table.into_fd()).is_err());
}

#[test]
fn no_object_is_not_counted() {
    let mut table = LookupTable::create().unwrap();
    table.raise(NodeId::NONE, 1).unwrap();
    table.raise(NodeId(4), 0).unwrap();
    assert!(table.is_empty());
    assert!(!table.lower(NodeId(4), 1).unwrap());
}
