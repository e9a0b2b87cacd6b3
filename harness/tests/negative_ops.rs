//! Every refusal has the errno that Linux file systems give it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::sys::{self, Errno, expect_errno};
use harness::{World, run};
use rustix::fs::{FileType, OFlags, RenameFlags, XattrFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn mounted(name: &str) -> Option<(World, PathBuf)> {
    let world = World::start(name)?;
    let mnt = world.mount("b", None);
    std::fs::write(mnt.join("file"), "data").unwrap();
    std::fs::create_dir_all(mnt.join("full/sub")).unwrap();
    std::fs::create_dir(mnt.join("empty")).unwrap();
    Some((world, mnt))
}

#[test]
fn missing_existing_and_wrong_kind() {
    let Some((_world, mnt)) = mounted("missing_existing_and_wrong_kind") else { return };
    let p = |name: &str| mnt.join(name);
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    for _ in 0..2 {
        // Twice: the second time the kernel may answer from a negative entry.
        expect_errno(sys::lstat(&p("no")), Errno::NOENT, "stat of a missing name");
        expect_errno(sys::open(&p("no"), OFlags::RDONLY, 0), Errno::NOENT, "open of a missing name");
        expect_errno(sys::lstat(&p("no/no")), Errno::NOENT, "stat below a missing name");
    }
    expect_errno(sys::unlink(&p("no")), Errno::NOENT, "unlink of a missing name");
    expect_errno(sys::rmdir(&p("no")), Errno::NOENT, "rmdir of a missing name");
    expect_errno(sys::rename(&p("no"), &p("new")), Errno::NOENT, "rename of a missing name");
    expect_errno(sys::rename(&p("file"), &p("no/new")), Errno::NOENT, "rename into a missing directory");
    expect_errno(sys::link(&p("no"), &p("new")), Errno::NOENT, "link to a missing name");
    expect_errno(sys::mkdir(&p("no/new"), 0o755), Errno::NOENT, "mkdir below a missing name");
    expect_errno(
        sys::open(&p(""), OFlags::RDONLY, 0).and_then(|_| sys::open(Path::new(""), OFlags::RDONLY, 0)),
        Errno::NOENT,
        "the empty path",
    );

    expect_errno(sys::open(&p("file"), create, 0o644), Errno::EXIST, "O_EXCL on a file");
    expect_errno(sys::open(&p("empty"), create, 0o644), Errno::EXIST, "O_EXCL on a directory");
    expect_errno(sys::mkdir(&p("file"), 0o755), Errno::EXIST, "mkdir on a file");
    expect_errno(sys::mkdir(&p("empty"), 0o755), Errno::EXIST, "mkdir on a directory");
    expect_errno(sys::symlink(b"x", &p("file")), Errno::EXIST, "symlink on a file");
    expect_errno(sys::link(&p("file"), &p("empty")), Errno::EXIST, "link on a directory");
    expect_errno(sys::mknod(&p("file"), FileType::Fifo, 0o600, 0), Errno::EXIST, "mknod on a file");

    expect_errno(sys::lstat(&p("file/x")), Errno::NOTDIR, "stat below a file");
    expect_errno(sys::mkdir(&p("file/x"), 0o755), Errno::NOTDIR, "mkdir below a file");
    expect_errno(sys::rmdir(&p("file")), Errno::NOTDIR, "rmdir of a file");
    expect_errno(sys::readdir(&p("file")), Errno::NOTDIR, "readdir of a file");
    expect_errno(sys::rename(&p("empty"), &p("file")), Errno::NOTDIR, "rename of a directory onto a file");
    expect_errno(sys::open(&p("file/"), OFlags::RDONLY, 0), Errno::NOTDIR, "a slash after a file");

    expect_errno(sys::open(&p("empty"), OFlags::WRONLY, 0), Errno::ISDIR, "open of a directory for writing");
    expect_errno(sys::unlink(&p("empty")), Errno::ISDIR, "unlink of a directory");
    expect_errno(sys::rename(&p("file"), &p("empty")), Errno::ISDIR, "rename of a file onto a directory");
    expect_errno(sys::truncate(&p("empty"), 0), Errno::ISDIR, "truncate of a directory");

    expect_errno(sys::rmdir(&p("full")), Errno::NOTEMPTY, "rmdir of a full directory");
    expect_errno(sys::rename(&p("empty"), &p("full")), Errno::NOTEMPTY, "rename onto a full directory");
    expect_errno(sys::rmdir(&p("empty/.")), Errno::INVAL, "rmdir of .");
    expect_errno(sys::rmdir(&p("full/sub/..")), Errno::NOTEMPTY, "rmdir of ..");

    expect_errno(sys::rename(&p("full"), &p("full/sub/in")), Errno::INVAL, "rename into itself");
    expect_errno(sys::rename(&p("full"), &p("full/in")), Errno::INVAL, "rename into itself, one level");
    expect_errno(
        sys::rename_with(&p("full"), &p("full/sub"), RenameFlags::EXCHANGE),
        Errno::INVAL,
        "exchange with a child",
    );
    expect_errno(sys::rename(&p("full/sub"), &p("full")), Errno::NOTEMPTY, "rename onto the parent");
    expect_errno(sys::rename_with(&p("file"), &p("no"), RenameFlags::EXCHANGE), Errno::NOENT, "exchange with nothing");
    expect_errno(sys::link(&p("empty"), &p("hard")), Errno::PERM, "link to a directory");
    expect_errno(sys::readlink(&p("file")), Errno::INVAL, "readlink of a file");
    expect_errno(sys::rmdir(&mnt), Errno::BUSY, "rmdir of the mountpoint");

    let file = sys::open(&p("file"), OFlags::RDONLY, 0).unwrap();
    expect_errno(rustix::io::write(&file, b"x"), Errno::BADF, "write to a file opened for reading");
    expect_errno(rustix::fs::ftruncate(&file, 0), Errno::INVAL, "ftruncate of a file opened for reading");
    let file = sys::open(&p("file"), OFlags::RDWR, 0).unwrap();
    expect_errno(rustix::fs::ftruncate(&file, u64::MAX >> 1), Errno::FBIG, "a size beyond any file system");
    assert_eq!(std::fs::read(p("file")).unwrap(), b"data", "nothing of that changed the file");
    assert_eq!(sys::names(&mnt), ["empty", "file", "full"]);
}

#[test]
fn long_and_strange_names() {
    let Some((world, mnt)) = mounted("long_and_strange_names") else { return };
    let long = mnt.join(sys::long_name(255));
    let longer = mnt.join(sys::long_name(256));
    std::fs::write(&long, "255").unwrap();
    sys::mkdir(&mnt.join(format!("d{}", sys::long_name(254))), 0o755).unwrap();
    expect_errno(sys::open(&longer, OFlags::CREATE | OFlags::WRONLY, 0o644), Errno::NAMETOOLONG, "a name of 256 bytes");
    expect_errno(sys::lstat(&longer), Errno::NAMETOOLONG, "stat of 256 bytes");
    expect_errno(sys::mkdir(&longer, 0o755), Errno::NAMETOOLONG, "mkdir of 256 bytes");
    expect_errno(sys::rename(&long, &longer), Errno::NAMETOOLONG, "rename to 256 bytes");
    expect_errno(sys::symlink(b"x", &longer), Errno::NAMETOOLONG, "symlink of 256 bytes");
    expect_errno(sys::link(&long, &longer), Errno::NAMETOOLONG, "link of 256 bytes");
    // A link's target may be a whole path, 4095 bytes; not more.
    let target = sys::long_name(4095);
    sys::symlink(target.as_bytes(), &mnt.join("target")).unwrap();
    assert_eq!(sys::readlink(&mnt.join("target")).unwrap().len(), 4095);
    expect_errno(
        sys::symlink(sys::long_name(4096).as_bytes(), &mnt.join("t2")),
        Errno::NAMETOOLONG,
        "a target of 4096 bytes",
    );

    let strange: [&[u8]; 8] =
        [b"\xff\xfe", b"caf\xe9", "caf\u{e9}".as_bytes(), "cafe\u{301}".as_bytes(), b"\n", b"\\x41", b" ", b"-rf *"];
    for name in strange {
        let path = mnt.join(OsStr::from_bytes(name));
        std::fs::write(&path, name).unwrap();
        sys::mkdir(&mnt.join("full").join(OsStr::from_bytes(name)), 0o755).unwrap();
    }
    world.remount("b", &mnt);
    let listed: Vec<Vec<u8>> = sys::readdir(&mnt).unwrap().into_iter().map(|e| e.0).collect();
    for name in strange {
        let path = mnt.join(OsStr::from_bytes(name));
        assert_eq!(std::fs::read(&path).unwrap(), name, "{name:?}");
        assert!(listed.iter().any(|n| n == name), "{name:?} is not listed");
    }
    assert_eq!(std::fs::read(&long).unwrap(), b"255");
    let diff = world.diff("b");
    assert!(diff.changes.iter().any(|c| c.path.contains("\\xff\\xfe")), "a diff escapes bytes that are not UTF-8");
    assert!(diff.changes.iter().any(|c| c.path == "\\\\x41"), "and the backslash");
}

#[test]
fn paths_of_4095_bytes() {
    let Some((_world, mnt)) = mounted("paths_of_4095_bytes") else { return };
    // Sixteen levels of 250 bytes, walked down by relative paths.
    let mut dir = mnt.clone();
    while sys::bytes(&dir).len() + 252 < 4095 {
        dir = dir.join(sys::long_name(250));
        sys::mkdir(&dir, 0o755).unwrap();
    }
    let rest = 4095 - sys::bytes(&dir).len() - 1;
    let path = dir.join(sys::long_name(rest));
    assert_eq!(sys::bytes(&path).len(), 4095);
    std::fs::write(&path, "deep").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"deep");
    let over = dir.join(sys::long_name(rest + 1));
    expect_errno(sys::open(&over, OFlags::RDONLY, 0), Errno::NAMETOOLONG, "a path of 4096 bytes");
    // Deeper than any path can say: still usable by directory descriptors, and removable.
    let mut fd = sys::open(&dir, OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    for _ in 0..10 {
        rustix::fs::mkdirat(&fd, sys::long_name(250), rustix::fs::Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fd = rustix::fs::openat(&fd, sys::long_name(250), flags, rustix::fs::Mode::empty()).unwrap().into();
    }
    drop(fd);
    std::fs::remove_dir_all(mnt.join(sys::long_name(250))).unwrap();
    assert_eq!(sys::names(&mnt), ["empty", "file", "full"]);
}

#[test]
fn symlink_loops_and_other_devices() {
    let Some((world, mnt)) = mounted("symlink_loops_and_other_devices") else { return };
    sys::symlink(b"b", &mnt.join("a")).unwrap();
    sys::symlink(b"a", &mnt.join("b")).unwrap();
    sys::symlink(b"self", &mnt.join("self")).unwrap();
    expect_errno(sys::stat(&mnt.join("a")), Errno::LOOP, "a loop of two");
    expect_errno(sys::open(&mnt.join("self/x"), OFlags::RDONLY, 0), Errno::LOOP, "through a loop of one");
    expect_errno(sys::open(&mnt.join("a"), OFlags::RDONLY | OFlags::NOFOLLOW, 0), Errno::LOOP, "O_NOFOLLOW");
    std::fs::write(world.out().join("host"), "").unwrap();
    expect_errno(sys::rename(&mnt.join("file"), &world.out().join("x")), Errno::XDEV, "rename out of the mount");
    expect_errno(sys::rename(&world.out().join("host"), &mnt.join("x")), Errno::XDEV, "rename into the mount");
    expect_errno(sys::link(&world.out().join("host"), &mnt.join("x")), Errno::XDEV, "link into the mount");
    let other = world.mount("other", None);
    expect_errno(sys::rename(&mnt.join("file"), &other.join("x")), Errno::XDEV, "rename between branches");
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let Some(world) = World::start("a_read_only_mount_refuses_every_change") else { return };
    let base = world.base("p");
    std::fs::write(base.join("file"), "data").unwrap();
    std::fs::create_dir(base.join("dir")).unwrap();
    let mnt = world.mount_with("b", Some(&base), &["--ro"]);
    let p = |name: &str| mnt.join(name);
    assert_eq!(std::fs::read(p("file")).unwrap(), b"data");
    expect_errno(sys::open(&p("file"), OFlags::WRONLY, 0), Errno::ROFS, "open for writing");
    expect_errno(sys::open(&p("new"), OFlags::WRONLY | OFlags::CREATE, 0o644), Errno::ROFS, "create");
    expect_errno(sys::mkdir(&p("new"), 0o755), Errno::ROFS, "mkdir");
    expect_errno(sys::unlink(&p("file")), Errno::ROFS, "unlink");
    expect_errno(sys::rmdir(&p("dir")), Errno::ROFS, "rmdir");
    expect_errno(sys::rename(&p("file"), &p("new")), Errno::ROFS, "rename");
    expect_errno(sys::link(&p("file"), &p("new")), Errno::ROFS, "link");
    expect_errno(sys::symlink(b"x", &p("new")), Errno::ROFS, "symlink");
    expect_errno(sys::chmod(&p("file"), 0o600), Errno::ROFS, "chmod");
    expect_errno(sys::lchown(&p("file"), Some(1), None), Errno::ROFS, "chown");
    expect_errno(sys::utimens(&p("file"), (0, 0), (0, 0)), Errno::ROFS, "utimens");
    expect_errno(sys::setxattr(&p("file"), "user.x", b"", XattrFlags::empty()), Errno::ROFS, "setxattr");
    world.umount(&mnt);
    assert_eq!(world.diff("b").total(), 0);
}

#[test]
fn extended_attributes_refused() {
    let Some((_world, mnt)) = mounted("extended_attributes_refused") else { return };
    let f = mnt.join("file");
    sys::setxattr(&f, "user.a", b"12345", XattrFlags::empty()).unwrap();
    expect_errno(sys::getxattr(&f, "user.no"), Errno::NODATA, "a missing attribute");
    expect_errno(sys::removexattr(&f, "user.no"), Errno::NODATA, "removing a missing attribute");
    expect_errno(sys::getxattr_into(&f, "user.a", 4), Errno::RANGE, "a buffer too small");
    expect_errno(rustix::fs::llistxattr(&f, &mut [0_u8; 3]), Errno::RANGE, "a list buffer too small");
    expect_errno(sys::setxattr(&f, "user.a", b"", XattrFlags::CREATE), Errno::EXIST, "CREATE of an attribute there is");
    expect_errno(sys::setxattr(&f, "user.b", b"", XattrFlags::REPLACE), Errno::NODATA, "REPLACE of none");
    let name = format!("user.{}", sys::long_name(251));
    expect_errno(sys::setxattr(&f, &name, b"", XattrFlags::empty()), Errno::RANGE, "an attribute name of 256 bytes");
    let name = format!("user.{}", sys::long_name(250));
    sys::setxattr(&f, &name, b"v", XattrFlags::empty()).unwrap();
    assert_eq!(sys::getxattr(&f, &name).unwrap(), b"v");
    for space in ["user.", "trusted.", "security."] {
        expect_errno(sys::setxattr(&f, space, b"", XattrFlags::empty()), Errno::INVAL, "a name space without a name");
        expect_errno(sys::getxattr(&f, space), Errno::INVAL, "reading a name space");
        expect_errno(sys::removexattr(&f, space), Errno::INVAL, "removing a name space");
    }
    expect_errno(sys::setxattr(&f, "nonsense.x", b"", XattrFlags::empty()), Errno::OPNOTSUPP, "an unknown name space");
    sys::symlink(b"file", &mnt.join("link")).unwrap();
    expect_errno(sys::setxattr(&mnt.join("link"), "user.x", b"", XattrFlags::empty()), Errno::PERM, "user.* on a link");
    assert_eq!(sys::getxattr(&f, "user.a").unwrap(), b"12345");
}

#[test]
fn another_user_is_refused_as_on_a_disk() {
    let Some((world, mnt)) = mounted("another_user_is_refused_as_on_a_disk") else { return };
    sys::chmod(&mnt, 0o755).unwrap();
    sys::chmod(&mnt.join("file"), 0o600).unwrap();
    std::fs::write(mnt.join("readable"), "r").unwrap();
    sys::chmod(&mnt.join("readable"), 0o644).unwrap();
    sys::chmod(&mnt.join("full"), 0o700).unwrap();
    sys::mkdir(&mnt.join("sticky"), 0o777).unwrap();
    sys::chmod(&mnt.join("sticky"), 0o1777).unwrap();
    std::fs::write(mnt.join("sticky/roots"), "").unwrap();
    sys::mkdir(&mnt.join("theirs"), 0o755).unwrap();
    sys::lchown(&mnt.join("theirs"), Some(65534), Some(65534)).unwrap();
    let bin = world.public_copies(&[Path::new(env!("CARGO_BIN_EXE_agentfs-harness"))]);
    let probe = |op: &str, paths: &[&str]| {
        let mut command = world.command(bin.join("agentfs-harness"));
        command.args(["probe", "errno", op]).args(paths.iter().map(|p| mnt.join(p))).uid(65534).gid(65534);
        run::run(&mut command, Duration::from_secs(20)).success().stdout.trim().to_owned()
    };
    let cases: [(&str, &[&str], &str); 24] = [
        ("stat", &["file"], "OK"),
        ("open-r", &["file"], "EACCES"),
        ("open-w", &["readable"], "EACCES"),
        ("open-r", &["readable"], "OK"),
        ("create", &["new"], "EACCES"),
        ("mkdir", &["new"], "EACCES"),
        ("unlink", &["readable"], "EACCES"),
        ("rmdir", &["empty"], "EACCES"),
        ("rename", &["readable", "x"], "EACCES"),
        ("stat", &["full/sub"], "EACCES"),
        ("readdir", &["full"], "EACCES"),
        ("chmod", &["readable"], "EPERM"),
        ("chown", &["readable"], "EPERM"),
        ("utimens", &["readable"], "EPERM"),
        ("setxattr", &["readable"], "EACCES"),
        ("truncate", &["readable"], "EACCES"),
        ("unlink", &["sticky/roots"], "EPERM"),
        ("rename", &["sticky/roots", "sticky/x"], "EPERM"),
        ("create", &["sticky/own"], "OK"),
        ("unlink", &["sticky/own"], "OK"),
        ("create", &["theirs/f"], "OK"),
        ("chown", &["theirs/f"], "EPERM"),
        ("set-trusted", &["theirs/f"], "EPERM"),
        ("mknod-dev", &["theirs/null"], "EPERM"),
    ];
    for (op, paths, errno) in cases {
        assert_eq!(probe(op, paths), errno, "{op} {paths:?} as user 65534");
    }
    let own = sys::lstat(&mnt.join("theirs/f")).unwrap();
    assert_eq!((own.st_uid, own.st_gid), (65534, 65534), "new files belong to who made them");
    // A directory with setgid hands its group on.
    sys::lchown(&mnt.join("theirs"), None, Some(4321)).unwrap();
    sys::chmod(&mnt.join("theirs"), 0o2777).unwrap();
    assert_eq!(probe("create", &["theirs/g"]), "OK");
    assert_eq!(probe("mkdir", &["theirs/d"]), "OK");
    assert_eq!(sys::lstat(&mnt.join("theirs/g")).unwrap().st_gid, 4321);
    let dir = sys::lstat(&mnt.join("theirs/d")).unwrap();
    assert_eq!((dir.st_gid, dir.st_mode & 0o2000), (4321, 0o2000), "and to directories the bit too");
    // A write by somebody else strips setuid.
    std::fs::write(mnt.join("tool"), "x").unwrap();
    sys::chmod(&mnt.join("tool"), 0o6777).unwrap();
    assert_eq!(probe("append", &["tool"]), "OK");
    assert_eq!(sys::lstat(&mnt.join("tool")).unwrap().st_mode & 0o7777, 0o777);
}
