#![allow(clippy::unwrap_used, reason = "tests")]

use super::{EscapeError, escape, unescape};
use proptest::prelude::*;

#[test]
fn plain_text_stays_itself() {
    for text in ["", "a/b c", "grüße/世界", "line\nbreak\0"] {
        assert_eq!(escape(text.as_bytes()), text);
        assert_eq!(unescape(text).unwrap(), text.as_bytes());
    }
}

#[test]
fn what_is_not_text_is_escaped() {
    assert_eq!(escape(b"\xff\xfe/\x80"), r"\xff\xfe/\x80");
    assert_eq!(escape(b"\\xff"), r"\\xff");
    // A truncated character: each of its bytes for itself.
    assert_eq!(escape("世".as_bytes().split_last().unwrap().1), r"\xe4\xb8");
}

#[test]
fn broken_escapes_are_refused() {
    for (text, at) in [("\\", 0), ("a\\", 1), ("\\n", 0), ("ab\\x", 2), ("\\x1", 0), ("\\xg0", 0), ("\\x+1", 0)] {
        assert_eq!(unescape(text), Err(EscapeError { at }), "{text}");
    }
}

proptest! {
    #[test]
    fn every_byte_string_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), bytes);
    }

    #[test]
    fn no_text_panics(text in "[\\\\xX0-9a-fg/é]{0,40}") {
        if let Ok(bytes) = unescape(&text) {
            prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), bytes);
        }
    }
}
