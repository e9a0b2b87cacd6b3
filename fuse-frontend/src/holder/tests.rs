#![allow(clippy::unwrap_used, reason = "tests")]
use super::logs::bound;
use std::fs::{self, OpenOptions};
use std::io::Write;

#[test]
fn a_log_that_grew_too_long_begins_again_and_its_writers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    let mut writer = OpenOptions::new().create(true).append(true).open(&log).unwrap();
    writeln!(writer, "first").unwrap();
    bound(&log, 6);
    assert_eq!(fs::read_to_string(&log).unwrap(), "first\n");
    writeln!(writer, "second").unwrap();
    bound(&log, 6);
    writeln!(writer, "third").unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "third\n");
    assert_eq!(fs::read_to_string(dir.path().join("a.log.1")).unwrap(), "first\nsecond\n");
    // What a link names is left alone, and what is missing does not matter.
    let link = dir.path().join("b.log");
    std::os::unix::fs::symlink(&log, &link).unwrap();
    bound(&link, 0);
    bound(&dir.path().join("missing"), 0);
    assert_eq!(fs::read_to_string(&log).unwrap(), "third\n");
}
