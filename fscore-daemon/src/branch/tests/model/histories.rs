//! Histories that once came out otherwise.

use super::What::{
    Commit, Create, Diff, Fork, Link, Refresh, Remove, RemoveAll, Rename, Snapshot, Undo, UndoPaths, Write,
};
use super::{Step, play};

/// A directory moved to the place of a file: what was in it was not told.
#[test]
fn a_diff_tells_what_a_directory_brings_to_the_place_of_a_file() {
    play(&[
        Step(Rename, 0, 4, 1, 3),
        Step(Create, 0, 0, 1, 0),
        Step(Snapshot, 0, 0, 0, 0),
        Step(Undo, 0, 2, 0, 0),
        Step(Diff, 0, 0, 1, 0),
        Step(Diff, 0, 1, 0, 1),
    ]);
}

/// Another directory came to the place of a removed one, and both had a name that changed: only one change was told.
#[test]
fn a_diff_tells_of_both_names_at_one_path() {
    play(&[
        Step(Create, 0, 1, 3, 0),
        Step(Snapshot, 0, 0, 0, 0),
        Step(RemoveAll, 0, 0, 0, 0),
        Step(Rename, 0, 0, 0, 0),
        Step(Write, 0, 1, 0, 0),
        Step(Diff, 0, 0, 1, 0),
    ]);
}

/// The file came back at the new place of its directory, or nothing was done and called done.
#[test]
fn an_undo_of_a_path_whose_directory_moved_is_refused() {
    play(&[Step(Snapshot, 0, 0, 0, 0), Step(Rename, 0, 0, 0, 4), Step(UndoPaths, 0, 0, 1, 1)]);
    let moved_and_removed = [Step(Snapshot, 0, 0, 0, 0), Step(Rename, 0, 0, 0, 4), Step(Remove, 0, 6, 0, 0)];
    play(&[moved_and_removed.as_slice(), &[Step(UndoPaths, 0, 0, 1, 1)]].concat());
}

/// A removed directory of the base that came back in part had the links of the whole.
#[test]
fn a_directory_that_comes_back_in_part_counts_what_it_holds() {
    play(&[Step(Snapshot, 0, 0, 0, 0), Step(RemoveAll, 0, 0, 0, 0), Step(UndoPaths, 0, 0, 1, 1)]);
}

/// A file whose second name came and went is as it was: that the parent deletes it is no conflict.
#[test]
fn a_file_that_only_had_another_name_for_a_while_is_not_modified() {
    play(&[
        Step(Fork, 0, 0, 0, 0),
        Step(Link, 1, 5, 0, 4),
        Step(Remove, 1, 9, 0, 0),
        Step(Remove, 0, 8, 0, 0),
        Step(Refresh, 1, 0, 0, 0),
    ]);
}

/// Another directory came to the place of a removed one, and the same file to the same name in it: it was told as moved
/// to where it was.
#[test]
fn a_diff_tells_of_no_move_to_the_same_path() {
    play(&[
        Step(Fork, 0, 0, 0, 0),
        Step(RemoveAll, 91, 9, 0, 0),
        Step(Rename, 66, 59, 69, 28),
        Step(Rename, 89, 25, 44, 95),
        Step(Commit, 1, 0, 0, 0),
        Step(Diff, 47, 0, 183, 56),
    ]);
}
