#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

#[test]
fn names_become_flags_and_missing_flags_are_told() {
    let flags = flags_of(&["resend", "killpriv"]).unwrap();
    assert_eq!(flags.bits(), 1 << 39 | 1 << 28);
    assert!(flags_of::<&str>(&[]).unwrap().is_empty());
    let refused = flags_of(&["resent"]).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Usage);
    assert!(refused.hint.unwrap().contains("resend, killpriv"));
    let all: u64 = FEATURES.iter().map(|f| f.flag.bits()).fold(0, |a, b| a | b);
    assert!(missing(all).is_empty());
    let told = missing(all & !(1 << 39));
    assert_eq!(told.len(), 1);
    assert!(told.iter().all(|text| text.starts_with("resend (Linux 6.9): ")), "{told:?}");
    assert_eq!(missing(0).len(), FEATURES.len());
}
