#![allow(clippy::unwrap_used, reason = "tests")]

use super::{TABLE, code, table};
use crate::error::Kind;

const KINDS: [Kind; 16] = [
    Kind::Usage,
    Kind::Version,
    Kind::NotFound,
    Kind::Exists,
    Kind::Busy,
    Kind::Denied,
    Kind::Base,
    Kind::BaseNotAllowed,
    Kind::Conflict,
    Kind::NoSpace,
    Kind::Store,
    Kind::Internal,
    Kind::Unreachable,
    Kind::System,
    Kind::NotExecutable,
    Kind::CommandNotFound,
];

#[test]
fn every_kind_stands_in_the_table_under_its_code() {
    for kind in KINDS {
        let (_, name, _) = TABLE.iter().find(|row| row.0 == code(kind)).unwrap();
        assert_eq!(*name, kind.name());
    }
}

#[test]
fn no_code_has_two_meanings() {
    for pair in TABLE.windows(2) {
        let [a, b] = pair else { panic!("windows of two") };
        assert!(a.0 < b.0, "{} and {}", a.0, b.0);
    }
    assert_eq!(TABLE.len(), KINDS.len() + 2);
}

#[test]
fn the_promised_codes_stay() {
    assert_eq!(code(Kind::Usage), 2);
    assert_eq!(code(Kind::Conflict), 10);
    assert_eq!(code(Kind::Base), 66);
    assert_eq!(code(Kind::Unreachable), 69);
    assert_eq!(code(Kind::Store), 74);
    assert_eq!(code(Kind::Busy), 75);
    assert_eq!(code(Kind::Denied), 77);
    assert!(table().contains("  69  unreachable"));
}
