//! Which object is which, when the host changes what is at a name.

use super::*;
use std::io::Write;

#[test]
fn an_edited_file_stays_the_object() {
    let ground = Ground::new(|b| std::fs::write(b.join("f"), "old").unwrap());
    let before = ground.find("f");
    std::fs::OpenOptions::new().append(true).open(ground.at("f")).unwrap().write_all(b" and new").unwrap();
    let after = ground.base.stat(before.object).unwrap();
    assert_eq!((after.object, after.attr.size), (before.object, 11));
    assert_eq!(after.attr.btime, before.attr.btime);
    assert_eq!(ground.find("f").object, before.object);
}

#[test]
fn a_replaced_file_is_another_object() {
    let ground = Ground::new(|b| std::fs::write(b.join("f"), "old").unwrap());
    let old = ground.find("f").object;
    std::fs::write(ground.at("new"), "new").unwrap();
    std::fs::rename(ground.at("new"), ground.at("f")).unwrap();
    assert!(is_stale(&ground.base.stat(old)));
    let new = ground.find("f").object;
    assert_ne!(new, old);
    assert_eq!(ground.read(new), b"new");
}

#[test]
fn a_renamed_file_stays_the_object() {
    let ground = Ground::new(|b| std::fs::write(b.join("f"), "same").unwrap());
    let object = ground.find("f").object;
    std::fs::rename(ground.at("f"), ground.at("g")).unwrap();
    assert!(ground.lookup("f").is_none());
    assert_eq!(ground.read(object), b"same");
    assert_eq!(ground.find("g").object, object);
}

#[test]
fn a_deleted_file_is_gone() {
    let ground = Ground::new(|b| std::fs::write(b.join("f"), "").unwrap());
    let object = ground.find("f").object;
    std::fs::remove_file(ground.at("f")).unwrap();
    assert!(is_stale(&ground.base.stat(object)));
    assert!(is_stale(&ground.base.file(object)));
}

#[test]
fn a_file_that_is_truncated_while_open_has_the_size_of_its_bytes() {
    let ground = Ground::new(|b| std::fs::write(b.join("f"), "0123456789").unwrap());
    let object = ground.find("f").object;
    let fd = ground.base.file(object).unwrap();
    std::fs::OpenOptions::new().write(true).open(ground.at("f")).unwrap().set_len(4).unwrap();
    assert_eq!(ground.base.stat_fd(object, &fd).unwrap().attr.size, 4);
    assert_eq!(ground.read(object), b"0123");
}

/// Deletes a file and makes files until one has its inode number. `None` where the host gives new ones.
fn reuse(ground: &Ground, old: &str) -> Option<String> {
    let ino = std::fs::metadata(ground.at(old)).unwrap().ino();
    std::fs::remove_file(ground.at(old)).unwrap();
    // Times are those of a clock that ticks: the birth times must differ.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let names: Vec<_> = (0..200).map(|n| format!("again{n}")).collect();
    for name in names {
        std::fs::write(ground.at(&name), "another").unwrap();
        if std::fs::metadata(ground.at(&name)).unwrap().ino() == ino {
            return Some(name);
        }
    }
    None
}

#[test]
fn a_reused_inode_number_is_not_the_old_object() {
    let ground = Ground::new(|b| std::fs::write(b.join("f"), "old").unwrap());
    let old = ground.find("f");
    ground.base.let_go();
    let Some(name) = reuse(&ground, "f") else {
        println!("skipped: reused_inode_number: this file system gives no inode number twice");
        return;
    };
    assert!(is_stale(&ground.base.stat(old.object)), "nobody has looked the new one up");
    assert!(is_stale(&ground.base.file(old.object)));
    // Nothing holds on to the old one: the number is the new one's, and the birth time tells them apart.
    let new = ground.find(&name);
    assert_eq!(new.object, old.object);
    assert_ne!(new.attr.btime, old.attr.btime);
    assert_eq!(ground.read(new.object), b"another");
}

#[test]
fn a_number_that_a_branch_holds_on_to_stays_its_objects() {
    let mut ground = Ground::new(|b| std::fs::write(b.join("f"), "old").unwrap());
    let old = ground.find("f").object;
    ground.pin(old);
    ground.base.let_go();
    let Some(name) = reuse(&ground, "f") else {
        println!("skipped: number_stays: this file system gives no inode number twice");
        return;
    };
    let new = ground.find(&name).object;
    assert_ne!(new, old);
    assert!(new.is_base());
    assert_eq!(ground.read(new), b"another");
    ground.walk(ground.base.root());
    assert!(is_stale(&ground.base.stat(old)));
    ground.restart();
    assert_eq!(ground.find(&name).object, new, "the same number after a restart");
    assert!(is_stale(&ground.base.stat(old)));
}

#[test]
fn names_lead_nowhere_else() {
    let ground = Ground::new(|b| {
        std::fs::write(b.join("f"), "").unwrap();
        std::os::unix::fs::symlink("..", b.join("up")).unwrap();
    });
    for name in [&b".."[..], b".", b"up/base", b"../base", b"/etc"] {
        assert!(!matches!(ground.base.lookup(ground.base.root(), name), Ok(Some(_))), "{name:?}");
    }
    let up = ground.find("up");
    assert_eq!(up.kind, FileKind::Symlink);
    assert!(ground.base.lookup(up.object, b"base").is_err(), "a link is no directory");
    let long = ground.base.lookup(ground.base.root(), &[b'n'; 256]);
    assert!(matches!(long, Err(FsError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENAMETOOLONG)));
}
