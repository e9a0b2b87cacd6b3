//! Line by line, with three lines around each change.

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline, group_diff_ops};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Unchanged lines around a change.
const AROUND: usize = 3;
/// After so long the shortest patch is not searched for any further; what is found is right all the same.
const SEARCH_MAX: Duration = Duration::from_secs(5);

/// The hunks of a unified diff.
pub(super) fn hunks(old: &[u8], new: &[u8]) -> Vec<u8> {
    let lines = |bytes| -> Vec<&[u8]> { <[u8]>::split_inclusive(bytes, |byte| *byte == b'\n').collect() };
    let (old, new) = (lines(old), lines(new));
    let deadline = Instant::now() + SEARCH_MAX;
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, Some(deadline));
    let mut text = Vec::new();
    for group in group_diff_ops(ops, AROUND) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let (was, is) = (first.old_range().start..last.old_range().end, first.new_range().start..last.new_range().end);
        text.extend(format!("@@ -{} +{} @@\n", span(&was), span(&is)).bytes());
        for op in &group {
            let (was, is) = (op.old_range(), op.new_range());
            if matches!(op, DiffOp::Equal { .. }) {
                put(&mut text, b' ', old.get(was));
            } else {
                put(&mut text, b'-', old.get(was));
                put(&mut text, b'+', new.get(is));
            }
        }
    }
    text
}

/// First line and number of lines; a range without lines names the one before it.
fn span(range: &Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => (range.start + 1).to_string(),
        lines => format!("{},{lines}", range.start + 1),
    }
}

fn put(text: &mut Vec<u8>, mark: u8, lines: Option<&[&[u8]]>) {
    for line in lines.unwrap_or_default() {
        text.push(mark);
        text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            text.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}
