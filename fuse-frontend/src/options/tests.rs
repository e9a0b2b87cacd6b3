#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

#[test]
fn an_fstab_line() {
    let mut options = Options::default();
    options
        .add("rw,noauto,nofail,x-systemd.automount,base=/srv/a\\,b,store=/var/s,allow_other,noatime", false)
        .unwrap();
    let wanted = Options {
        base: Some("/srv/a,b".into()),
        store: Some("/var/s".into()),
        allow_other: Some(true),
        flags: vec![MountFlag::NoAtime],
        ..Options::default()
    };
    assert_eq!(options, wanted);
}

#[test]
fn later_options_win() {
    let mut options = Options::default();
    options.add("ro,nosuid", false).unwrap();
    options.add("rw", false).unwrap();
    assert!(!options.read_only);
    assert!(options.no_suid_dev);
}

#[test]
fn unknown_options_are_told_or_passed_over() {
    let mut options = Options::default();
    let failure = options.add("bases=/x", false).unwrap_err();
    assert!(failure.message.contains("bases=/x"), "{}", failure.message);
    assert!(options.add("bases=/x", true).is_ok());
    assert!(options.add("base=relative", true).is_err());
    assert!(options.add("base", true).is_err());
}

#[test]
fn a_remount_is_told_from_a_mount() {
    assert!(Options::asks_remount("rw,remount,ro") && !Options::asks_remount("ro,base=/remount"));
    let mut options = Options::default();
    options.add("rw,user_id=0,noexec,remount,ro", true).unwrap();
    assert!(options.remount && options.read_only);
    assert_eq!(options.flags, [MountFlag::NoExec]);
}

#[test]
fn numbers_have_bounds() {
    let mut options = Options::default();
    options
        .add("attr_timeout=0.25,entry_timeout=0,max_write=65536,max_background=12,direct_io,writeback_cache", false)
        .unwrap();
    let caching = Caching { names_ms: Some(0), attributes_ms: Some(250), missing_ms: None, direct_io: true };
    assert_eq!((options.caching, options.writeback), (caching, true));
    assert_eq!((options.max_write, options.max_background), (Some(65536), Some(12)));
    for wrong in [
        "max_write=4095",
        "max_write=1048577",
        "max_background=49",
        "attr_timeout=inf",
        "entry_timeout=NaN",
        "negative_timeout=",
    ] {
        assert!(options.add(wrong, true).is_err(), "{wrong}");
    }
}
