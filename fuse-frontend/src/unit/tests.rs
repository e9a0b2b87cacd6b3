#![allow(clippy::unwrap_used, reason = "tests")]
use super::config::UnitConfig;
use super::held::Held;
use crate::options::Options;
use shm_transport::wire::SessionId;
use shm_transport::{Geometry, SessionFds};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

fn parse(text: &str) -> Result<UnitConfig, String> {
    UnitConfig::parse("work", Path::new("/etc/agentfs/mounts/work.conf"), text).map_err(|failure| failure.message)
}

#[test]
fn a_file_says_what_is_mounted() {
    let read =
        parse("# a comment\nbranch = fix 1\n\nbase=/srv/p\nmountpoint = /mnt/a b\noptions = ro,noatime\n").unwrap();
    let options = Options {
        base: Some(PathBuf::from("/srv/p")),
        read_only: true,
        flags: vec![crate::mount::MountFlag::NoAtime],
        ..Options::default()
    };
    assert_eq!(read, UnitConfig { branch: "fix 1".into(), mountpoint: PathBuf::from("/mnt/a b"), options });
    assert_eq!(parse("mountpoint=/mnt\n").unwrap().branch, "work", "the unit's name");
}

#[test]
fn a_file_that_says_something_else_is_refused() {
    for (text, why) in [
        ("", "no line says where the mountpoint is"),
        ("mountpoint = /mnt/wo", "the last line has no end"),
        ("branch = a\n", "no line says where the mountpoint is"),
        ("mountpoint\n", "line 1 is no KEY = VALUE"),
        ("mountpoint =\n", "line 1: \"mountpoint\" has no value"),
        ("mountpoint = /a\nmountpoint = /b\n", "line 2: \"mountpoint\" stands there twice"),
        ("mountpoint = mnt\n", "mountpoint is not an absolute path"),
        ("mountpoint = /mnt\nbase = x\n", "base is not an absolute path"),
        ("mountpoint = /mnt\nbrunch = x\n", "line 2: \"brunch\" is not known"),
        ("mountpoint = /mnt\noptions = ro,what\n", "the mount option \"what\" is not known"),
        ("mountpoint = /mnt\noptions = allow_base=/srv\n", "allow_base is the daemon's"),
    ] {
        let message = parse(text).unwrap_err();
        assert!(message.contains(why) && message.starts_with("/etc/agentfs/mounts/work.conf"), "{text:?}: {message}");
    }
}

#[test]
fn a_name_is_no_path() {
    assert!(UnitConfig::read("../../tmp/x").is_err());
    assert!(UnitConfig::read("").is_err());
}

/// `/dev/null` stands for a mount that lives: it polls without an error.
fn handed(without: Option<&str>) -> Vec<(String, OwnedFd)> {
    let session = SessionFds::create(Geometry { queues: 1, slots: 4 }, SessionId(7)).unwrap();
    let names = ["region", "table", "submissions", "completions"];
    let row = names.iter().zip(session.row()).map(|(name, fd)| ((*name).to_owned(), fd.try_clone_to_owned().unwrap()));
    let fuse = ("fuse".to_owned(), File::open("/dev/null").unwrap().into());
    // The manager gives them back in the order that it likes.
    std::iter::once(fuse).chain(row.rev()).filter(|(name, _)| Some(name.as_str()) != without).collect()
}

#[test]
fn a_mount_comes_back_by_the_names_of_its_descriptors() {
    let Held::Mount(_, session) = Held::of(handed(None)) else { panic!("a mount was handed over") };
    assert_eq!(session.header().unwrap().session(), SessionId(7));
    assert!(matches!(Held::of(Vec::new()), Held::Nothing));
}

#[test]
fn a_mount_that_ended_is_recognised() {
    for missing in ["fuse", "region", "table", "submissions", "completions"] {
        assert!(matches!(Held::of(handed(Some(missing))), Held::Dead), "{missing}");
    }
    // The end of a pipe without a reader polls with the error that an ended mount has.
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let mut handed = handed(Some("fuse"));
    handed.push(("fuse".into(), writer.as_fd().try_clone_to_owned().unwrap()));
    assert!(matches!(Held::of(handed), Held::Dead));
}
