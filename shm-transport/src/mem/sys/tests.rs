#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

#[test]
fn nothing_is_opened_beyond_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/file"), b"x").unwrap();
    symlink("file", dir.path().join("sub/link")).unwrap();
    let root = File::open(dir.path()).unwrap();
    let open = |path: &CStr| open_beneath(root.as_fd(), path, libc::O_RDONLY, 0).map_err(|e| e.raw_os_error());
    assert!(open(c"sub/file").is_ok());
    assert_eq!(open(c"sub/link").unwrap_err(), Some(libc::ELOOP));
    assert_eq!(open(c"../x").unwrap_err(), Some(libc::EXDEV));
    assert_eq!(open(c"/etc/passwd").unwrap_err(), Some(libc::EXDEV));
    assert_eq!(open(c"missing").unwrap_err(), Some(libc::ENOENT));
}

#[test]
fn a_clone_of_a_mount_is_read_only_even_for_root() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"x").unwrap();
    let clone = match read_only_clone(dir.path()) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => return,
        other => other.unwrap(),
    };
    let open = |flags| open_beneath(clone.as_fd(), c"file", flags, 0);
    assert!(open(libc::O_RDONLY).is_ok());
    assert_eq!(open(libc::O_RDWR).unwrap_err().raw_os_error(), Some(libc::EROFS));
    std::fs::write(dir.path().join("file"), b"still writable outside").unwrap();
    assert!(read_only_clone(&dir.path().join("missing")).is_err());
}

#[test]
fn cloning_a_file_works_or_says_that_it_cannot() {
    let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    if let Err(e) = clone_file(from.as_fd(), to.as_fd()) {
        assert!(matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EXDEV | libc::EINVAL | libc::ENOTTY)), "{e}");
    }
}

#[test]
fn attributes_are_read_through_a_path_descriptor() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = CString::new(file.path().as_os_str().as_bytes()).unwrap();
    // SAFETY: terminated strings and a buffer of the length given.
    let set = unsafe { libc::setxattr(path.as_ptr(), c"user.one".as_ptr(), b"1".as_ptr().cast(), 1, 0) };
    let open = open_beneath(
        File::open(file.path().parent().unwrap()).unwrap().as_fd(),
        &CString::new(file.path().file_name().unwrap().as_bytes()).unwrap(),
        libc::O_PATH,
        0,
    );
    let found = xattrs_of_path_fd(open.unwrap().as_fd()).unwrap();
    if set == 0 {
        assert!(found.contains(&(b"user.one".to_vec(), b"1".to_vec())), "{found:?}");
    }
    assert!(xattrs_of_path_fd(File::open("/proc/self/status").unwrap().as_fd()).unwrap().is_empty());
}
