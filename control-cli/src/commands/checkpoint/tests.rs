use super::quoted;
use std::ffi::OsStr;

#[test]
fn any_path_is_one_word_of_a_shell() {
    assert_eq!(quoted(OsStr::new("/a b")), "'/a b'");
    assert_eq!(quoted(OsStr::new("it's $HOME")), "'it'\\''s $HOME'");
}
