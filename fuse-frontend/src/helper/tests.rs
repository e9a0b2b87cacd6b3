#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

fn args(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn as_mount_8_calls_it() {
    let request =
        parse(&args(&["fix-1", "/mnt", "-sv", "-o", "rw,base=/srv/p,unknown", "-t", "fuse.agentfs", "-n"])).unwrap();
    assert_eq!(request.source, "fix-1");
    assert_eq!(request.dir, PathBuf::from("/mnt"));
    assert_eq!(request.options.base, Some("/srv/p".into()));
    assert!(request.verbose && !request.fake);
}

#[test]
fn attached_values_and_flags_in_front() {
    let request = parse(&args(&["-f", "-oro,allow_other", "b", "/mnt"])).unwrap();
    assert!(request.fake && request.options.read_only);
    assert_eq!(request.options.allow_other, Some(true));
}

#[test]
fn what_is_missing_is_told() {
    assert_eq!(parse(&args(&["b"])).unwrap_err().code, ErrorCode::Usage);
    assert!(parse(&args(&["b", "/mnt", "-o"])).unwrap_err().message.contains("-o needs a value"));
    assert!(parse(&args(&["b", "/mnt", "-x"])).unwrap_err().message.contains("-x"));
    assert!(parse(&args(&["b", "/mnt", "-o", "what"])).unwrap_err().message.contains("what"));
}
