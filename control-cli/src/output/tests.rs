use super::{shown, size, span, table, versioned};
use serde_json::json;

#[test]
fn columns_are_aligned() {
    let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["größer".to_owned(), String::new()]];
    assert_eq!(table(&["NAME", "N"], &rows), "NAME    N\na       1\ngrößer\n");
}

#[test]
fn every_object_carries_the_version() {
    assert_eq!(versioned(&json!({"a": 1})), json!({"a": 1, "schema_version": 1}));
    assert_eq!(
        versioned(&json!([{"a": 1}, {"b": 2}])),
        json!([{"a": 1, "schema_version": 1}, {"b": 2, "schema_version": 1}])
    );
    assert_eq!(versioned(&json!(null)), json!(null));
}

#[test]
fn figures_are_for_people() {
    assert_eq!(size(1), "1 byte");
    assert_eq!(size(1023), "1023 bytes");
    assert_eq!(size(1536), "1.5 KiB");
    assert_eq!(size(5 << 30), "5.0 GiB");
    assert_eq!(span(59), "59s");
    assert_eq!(span(3601), "1h00m");
    assert_eq!(span(90000), "1d01h");
}

#[test]
fn a_file_name_cannot_steer_the_terminal() {
    assert_eq!(shown("a\x1b[2Jb\nc ü"), "a\\u{1b}[2Jb\\nc ü");
}

#[test]
fn a_name_cannot_reorder_or_hide_what_is_shown() {
    assert_eq!(shown("a\u{202e}gpj.exe\u{200b}\u{2066}"), "a\\u{202e}gpj.exe\\u{200b}\\u{2066}");
    assert_eq!(shown("naïve 日本\x1b[31m\n"), "naïve 日本\\u{1b}[31m\\n");
}
