#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn sizes_have_the_units_that_people_write() {
    for (text, max) in [
        ("0", 0),
        ("4096", 4096),
        ("1k", 1024),
        ("10G", 10 << 30),
        ("10GiB", 10 << 30),
        ("500MB", 500 << 20),
        ("2T", 2 << 40),
    ] {
        assert_eq!(bytes(text), Ok(Limit::Max(max)), "{text}");
    }
    assert_eq!(inodes("100k"), Ok(Limit::Max(100_000)));
    assert_eq!(inodes("2M"), Ok(Limit::Max(2_000_000)));
    assert_eq!(bytes("none"), Ok(Limit::None));
    for text in ["", "k", "-1", "1.5G", "10 G", "+5", "99999999999T", "ten", "18446744073709551615", "GG"] {
        assert!(bytes(text).is_err(), "{text:?} is taken");
    }
}
