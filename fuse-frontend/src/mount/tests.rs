#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

#[test]
fn mountpoints_are_checked_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let failure = check_mountpoint(&missing).unwrap_err();
    assert_eq!(failure.code, ErrorCode::NotFound);
    assert!(failure.hint.unwrap().contains("mkdir -p"));
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let failure = check_mountpoint(&file).unwrap_err();
    assert!(failure.message.ends_with("is not a directory"), "{}", failure.message);
    std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
    assert_eq!(check_mountpoint(&dir.path().join("link")).unwrap(), fs::canonicalize(dir.path()).unwrap());
}

#[test]
fn a_mountpoint_keeps_off_the_base() {
    let base = Path::new("/nowhere/base");
    assert!(check_apart(Path::new("/nowhere/base"), base).is_err());
    assert!(check_apart(Path::new("/nowhere/base/sub"), base).is_err());
    assert!(check_apart(Path::new("/nowhere"), base).is_err());
    assert!(check_apart(Path::new("/nowhere/base2"), base).is_ok());
}

#[test]
fn the_device_of_the_topmost_mount_is_found() {
    let table = b"22 1 0:20 / /mnt/a\\040b rw - tmpfs x rw\n\
        23 1 0:77 / /mnt/a\\040b rw,nosuid shared:3 - fuse.agentfs b1 rw\n\
        24 1 0:78 / /mnt/a rw - fuse.agentfs b1 rw\nshort\n";
    assert_eq!(device_of(table, Path::new("/mnt/a b")), Some("0:77".into()));
    assert_eq!(device_of(table, Path::new("/mnt/c")), None);
}
