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

#[test]
fn what_is_open_stands_beside_the_lookups_and_outlives_the_frontend() {
    let (a, b) = (NodeId(7), NodeId(8));
    let mut table = LookupTable::create().unwrap();
    table.raise(a, 3).unwrap();
    for node in [a, a, b] {
        table.opened(node).unwrap();
    }
    let backing = Backing::new(0xffff_fff0, 5);
    table.set_backing(a, backing).unwrap();
    let fd = table.as_fd().try_clone_to_owned().unwrap();
    let mut next = LookupTable::open(fd).unwrap();
    assert_eq!((next.count(a), next.count(b), next.len()), (3, 0, 1), "opens are no lookups");
    assert_eq!((next.opens(a), next.opens(b), next.opens(NodeId(9))), (2, 1, 0));
    assert_eq!((next.backing(a), next.backing(b)), (Some(backing), None));
    next.closed(a).unwrap();
    next.closed(b).unwrap();
    next.closed(b).unwrap();
    assert_eq!((next.opens(a), next.opens(b)), (1, 0));
    next.drop_backing(a).unwrap();
    next.forget_opens(a).unwrap();
    // Cells that were given back are used again.
    next.raise(b, 1).unwrap();
    next.opened(b).unwrap();
    let last = LookupTable::open(next.into_fd()).unwrap();
    assert_eq!((last.opens(a), last.backing(a), last.count(a)), (0, None, 3));
    assert_eq!((last.opens(b), last.count(b), last.cells), (1, 1, 4));
}

#[test]
fn serial_numbers_of_backings_wrap() {
    let late = Backing::new(0x7fff_ffff, 1);
    assert!(late.is_of(0xffff_ffff) && !late.is_of(0));
    assert!(Backing::new(0, 1).is_after(0x7fff_ffff), "the next one after the last");
    assert!(!late.is_after(0x7fff_ffff) && !late.is_after(3) && late.is_after(0x7fff_fff0));
}
