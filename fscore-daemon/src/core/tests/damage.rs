//! Each kind of damage is found by a check of the store, and nothing is found where there is none.

use super::history::errors;
use super::*;
use crate::core::ids::{BranchId, ContentId, EpochId};
use crate::core::record::{Body, ContentRecord, DirentRecord, FileBody, ObjectRecord, ReplyRecord};
use crate::fsck::{self, Found};
use shm_transport::control::FsckSeverity;
use shm_transport::wire::{FileKind, SlotIndex};

/// A mount with files, directories and links, of which the host has some.
fn sample() -> Rig {
    let mut rig = Rig::new(|base| {
        std::fs::create_dir(base.join("d0")).unwrap();
        std::fs::write(base.join("d0/old"), b"old").unwrap();
    });
    let d0 = rig.find(NodeId::ROOT, "d0").node;
    let old = rig.find(d0, "old").node;
    rig.write(old, 0, b"new");
    let dir = rig.entry(NodeId::ROOT, Op::Mkdir { name: "dir".into(), mode: 0o755, umask: 0 }).node;
    let sub = rig.entry(dir, Op::Mkdir { name: "sub".into(), mode: 0o755, umask: 0 }).node;
    let file = rig.entry(sub, Op::Create { name: "file".into(), mode: 0o644, flags: 0, umask: 0 }).node;
    rig.write(file, 0, b"bytes");
    rig.ok(NodeId::ROOT, Op::Link { target: file, name: "link".into() }, &[]);
    rig.freeze();
    rig.write(file, 0, b"BYTES");
    rig.ok(NodeId::ROOT, Op::Unlink { name: "link".into() }, &[]);
    let gone = rig.entry(NodeId::ROOT, Op::Create { name: "gone".into(), mode: 0o644, flags: 0, umask: 0 }).node;
    rig.ok(NodeId::ROOT, Op::Unlink { name: "gone".into() }, &[]);
    assert!(gone.0 > 1);
    rig
}

fn look(rig: &Rig) -> Found {
    fsck::check(rig.core.store.as_ref(), rig.core.contents.root()).unwrap()
}

fn kinds(rig: &Rig) -> Vec<String> {
    look(rig).findings.into_iter().map(|finding| finding.told.kind).collect()
}

fn node(rig: &mut Rig, path: &[&str]) -> ObjectId {
    let found = path.iter().fold(NodeId::ROOT, |at, name| rig.find(at, name).node);
    ObjectId(found.0)
}

fn records(rig: &Rig) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    rig.core.store.scan(&[], &mut |key, value| {
        all.push((key.to_vec(), value.to_vec()));
        true
    });
    all
}

fn change(rig: &Rig, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    change(&mut batch);
    rig.core.store.commit(&batch).unwrap();
}

/// The epoch and record that count for an object now.
fn record(rig: &Rig, object: ObjectId) -> (EpochId, ObjectRecord) {
    let found = rig.branch.view().object(object).unwrap().unwrap();
    (found.epoch, found.value)
}

fn content(rig: &Rig, object: ObjectId) -> ContentId {
    match record(rig, object).1.body {
        Body::File(FileBody::Content(id)) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_store_in_order_has_no_findings() {
    let rig = sample();
    let found = look(&rig);
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    assert!(found.records > 30 && found.contents == 3, "{found:?}");
}

#[test]
fn content_files_that_are_missing_odd_or_nobodys() {
    let mut rig = sample();
    let file = node(&mut rig, &["dir", "sub", "file"]);
    let path = rig.core.contents.path(content(&rig, file));
    let aside = rig.dir.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    let found = look(&rig);
    assert_eq!(errors(&found), ["content-missing"]);
    assert_eq!(found.findings[0].told.path.as_deref(), Some("b:/dir/sub/file"));
    std::fs::create_dir(&path).unwrap();
    assert_eq!(kinds(&rig), ["content-odd"]);
    std::fs::remove_dir(&path).unwrap();
    std::fs::hard_link(&aside, &path).unwrap();
    assert_eq!(kinds(&rig), ["content-odd"]);
    std::fs::remove_file(&aside).unwrap();
    assert_eq!(kinds(&rig), Vec::<String>::new());
    std::fs::write(rig.core.contents.path(ContentId(200)), b"").unwrap();
    assert_eq!(kinds(&rig), ["content-unrecorded"]);
    std::fs::remove_file(rig.core.contents.path(ContentId(200))).unwrap();
    std::fs::write(rig.core.contents.path(ContentId(201)), b"").unwrap();
    let owner = ContentRecord { object: file, epoch: record(&rig, file).0 };
    change(&rig, |batch| batch.put(keys::content(ContentId(201)), owner.encode()));
    assert_eq!(kinds(&rig), ["content-unreferenced"]);
}

#[test]
fn names_and_links_that_do_not_agree() {
    let mut rig = sample();
    let (dir, sub) = (node(&mut rig, &["dir"]), node(&mut rig, &["dir", "sub"]));
    let file = node(&mut rig, &["dir", "sub", "file"]);
    let head = rig.branch.view().head();
    let whole = records(&rig);
    let entry = |object, kind| DirentRecord::Entry { object, kind }.encode();
    let indexed = |batch: &mut Batch, dir: ObjectId, name: &[u8], value: Vec<u8>| {
        batch.put(keys::changed_dirent(head, dir, name), []);
        batch.put(keys::dirent(dir, head, name), value);
    };
    let of_object = |batch: &mut Batch, object: ObjectId, record: &ObjectRecord| {
        batch.put(keys::changed_object(head, object), []);
        batch.put(keys::object(object, head), record.encode());
    };
    let missing = ObjectId(ObjectId::FIRST_NEW + 4000);
    let (_, of_sub) = record(&rig, sub);
    let (_, of_file) = record(&rig, file);
    let moved = |parent: ObjectId| {
        let body = Body::Directory { parent, name: b"sub".to_vec() };
        ObjectRecord { body, ..of_sub.clone() }
    };
    type Damage<'a> = Box<dyn Fn(&mut Batch) + 'a>;
    let damages: Vec<(&str, Damage<'_>)> = vec![
        ("name-dangling", Box::new(|b| indexed(b, dir, b"x", entry(missing, FileKind::Regular)))),
        ("name-kind", Box::new(|b| indexed(b, sub, b"file", entry(file, FileKind::Fifo)))),
        ("link-count", Box::new(|b| indexed(b, sub, b"again", entry(file, FileKind::Regular)))),
        ("link-count", Box::new(|b| of_object(b, file, &ObjectRecord { nlink: 2, ..of_file.clone() }))),
        ("link-count", Box::new(|b| of_object(b, sub, &ObjectRecord { nlink: 9, ..of_sub.clone() }))),
        ("name-place", Box::new(|b| indexed(b, dir, b"twice", entry(sub, FileKind::Directory)))),
        ("directory-lost", Box::new(|b| of_object(b, sub, &moved(missing)))),
        (
            "directory-loop",
            Box::new(|b| {
                // Each inside the other, and nothing above them.
                of_object(b, sub, &moved(dir));
                let body = Body::Directory { parent: sub, name: b"dir".to_vec() };
                of_object(b, dir, &ObjectRecord { body, ..of_sub.clone() });
                indexed(b, sub, b"dir", entry(dir, FileKind::Directory));
            }),
        ),
        ("names-in-removed", Box::new(|b| of_object(b, sub, &ObjectRecord { nlink: 0, ..of_sub.clone() }))),
        (
            "content-record-missing",
            Box::new(|b| {
                let body = Body::File(FileBody::Content(ContentId(700)));
                of_object(b, file, &ObjectRecord { body, ..of_file.clone() });
            }),
        ),
        (
            "content-owner",
            Box::new(|b| {
                let record = ContentRecord { object: sub, epoch: head };
                b.put(keys::content(content(&rig, file)), record.encode());
            }),
        ),
        ("index-missing", Box::new(|b| b.delete(keys::changed_object(head, file)))),
        ("index-stale", Box::new(|b| b.put(keys::changed_object(head, missing), []))),
    ];
    for (kind, damage) in damages {
        change(&rig, |batch| damage(batch));
        let found = kinds(&rig);
        assert!(found.iter().any(|found| found == kind), "{kind}: {found:?}");
        // As it was.
        let now = records(&rig);
        change(&rig, |batch| {
            for (key, _) in &now {
                batch.delete(key.as_slice());
            }
            for (key, value) in &whole {
                batch.put(key.as_slice(), value.as_slice());
            }
        });
        assert_eq!(kinds(&rig), Vec::<String>::new());
    }
}

#[test]
fn a_version_tree_that_does_not_hold() {
    let rig = sample();
    let (head, branch) = (rig.branch.view().head(), rig.branch.id);
    let whole = records(&rig);
    let object = ObjectId(ObjectId::FIRST_NEW);
    let parent = |parent| EpochRecord { parent: Some(parent), branch, base: None }.encode();
    let stranger = BranchId(99);
    let reply =
        ReplyRecord { id: RequestId(2), reply: shm_transport::wire::encode_reply(&Reply::Ok).unwrap().to_vec() };
    type Damage<'a> = Box<dyn Fn(&mut Batch) + 'a>;
    let damages: Vec<(&str, Damage<'_>)> = vec![
        ("epoch-missing", Box::new(|b| b.delete(keys::epoch(head)))),
        ("epoch-missing", Box::new(|b| b.delete(keys::epoch(EpochId(1))))),
        ("branch-missing", Box::new(|b| b.delete(keys::branch(branch)))),
        ("epoch-order", Box::new(|b| b.put(keys::epoch(head), parent(head)))),
        ("epoch-unreachable", Box::new(|b| b.put(keys::epoch(EpochId(40)), parent(EpochId(1))))),
        (
            "branch-broken",
            Box::new(|b| {
                b.put(
                    keys::epoch(head),
                    EpochRecord { parent: Some(EpochId(1)), branch: stranger, base: None }.encode(),
                );
            }),
        ),
        ("base-missing", Box::new(|b| b.delete(keys::base(super::super::ids::BaseId(1))))),
        ("counter-low", Box::new(|b| b.put(keys::meta("next-object"), 7_u64.to_le_bytes()))),
        ("counter-low", Box::new(|b| b.delete(keys::meta("next-content")))),
        ("reply-stale", Box::new(|b| b.put(keys::reply(SessionId(77), SlotIndex(1)), reply.encode()))),
        ("orphan-stale", Box::new(|b| b.put(keys::orphan(branch, ObjectId(5)), []))),
        ("orphan-unmarked", Box::new(|b| b.delete(orphan_of(&rig)))),
        ("preimage-stale", Box::new(|b| b.put(keys::prename(EpochId(41), ObjectId(5), b"x"), [0; 8]))),
        (
            "preimage-missing",
            Box::new(|b| {
                whole.iter().filter(|(key, _)| key[0] == b'p').for_each(|(key, _)| b.delete(key.as_slice()));
            }),
        ),
        (
            "preimage-missing",
            Box::new(|b| {
                whole.iter().filter(|(key, _)| key[0] == b'q').for_each(|(key, _)| b.delete(key.as_slice()));
            }),
        ),
        ("undecodable", Box::new(|b| b.put(keys::object(object, head), [1, 2, 3]))),
        ("undecodable", Box::new(|b| b.put(keys::meta("next-object"), [1]))),
        ("undecodable", Box::new(|b| b.put(keys::meta("unheard-of"), []))),
        ("unknown-key", Box::new(|b| b.put("Z", []))),
    ];
    for (kind, damage) in damages {
        change(&rig, |batch| damage(batch));
        let found = kinds(&rig);
        assert!(found.iter().any(|found| found == kind), "{kind}: {found:?}");
        let now = records(&rig);
        change(&rig, |batch| {
            for (key, _) in &now {
                batch.delete(key.as_slice());
            }
            for (key, value) in &whole {
                batch.put(key.as_slice(), value.as_slice());
            }
        });
        assert_eq!(kinds(&rig), Vec::<String>::new());
    }
}

fn orphan_of(rig: &Rig) -> Vec<u8> {
    records(rig).into_iter().find(|(key, _)| key[0] == b'U').unwrap().0
}

/// Every record of every kind, with one byte taken from its end: found, whatever it is.
#[test]
fn a_shortened_record_is_found() {
    let rig = sample();
    for (key, value) in records(&rig) {
        let Some((_, shorter)) = value.split_last() else { continue };
        change(&rig, |batch| batch.put(key.as_slice(), shorter));
        assert!(kinds(&rig).contains(&"undecodable".to_owned()), "{key:?}");
        change(&rig, |batch| batch.put(key.as_slice(), value.as_slice()));
    }
    assert_eq!(kinds(&rig), Vec::<String>::new());
}

/// A repair would take what a damaged or missing record refers to for a leftover, and remove it.
#[test]
fn nothing_is_removed_while_a_record_is_damaged_or_missing() {
    let rig = sample();
    std::fs::write(rig.core.contents.path(ContentId(200)), b"").unwrap();
    let leftover = look(&rig);
    assert!(leftover.findings.iter().all(|finding| !finding.repair.is_empty()), "{:?}", leftover.findings);
    for (key, value) in records(&rig) {
        let Some((_, shorter)) = value.split_last() else { continue };
        let damages: [&dyn Fn(&mut Batch); 2] = [&|b| b.put(key.as_slice(), shorter), &|b| b.delete(key.as_slice())];
        for damage in damages {
            change(&rig, |batch| damage(batch));
            let found = look(&rig);
            let unmended = |f: &&fsck::Finding| f.told.severity == FsckSeverity::Error && f.repair.is_empty();
            let is_damaged = found.findings.iter().any(|finding| unmended(&finding));
            // What may go by itself: replies and pre-images' names, for instance, refer to nothing.
            let removed = found.findings.iter().filter(|f| f.told.severity == FsckSeverity::Leftover);
            for finding in removed {
                assert_eq!(finding.repair.is_empty(), is_damaged, "{key:?} {:?}", finding.told);
            }
            if matches!(key[0], b'B' | b'E') {
                assert!(is_damaged, "{key:?}: {:?}", found.findings);
            }
            let removes = |step: &fsck::Repair| matches!(step, fsck::Repair::Remove(id) if *id != ContentId(200));
            let lost = found.findings.iter().flat_map(|finding| &finding.repair).find(|step| removes(step));
            assert_eq!(lost, None, "{key:?}: {:?}", found.findings);
            change(&rig, |batch| batch.put(key.as_slice(), value.as_slice()));
        }
    }
}
