//! Reading through a session: what it leaves in the store, and listings of directories.

use super::Rig;
use shm_transport::wire::{NodeId, Op, Reply};

const ROOT: NodeId = NodeId::ROOT;

fn records(rig: &Rig) -> usize {
    let mut count = 0;
    rig.core.store.scan(&[], &mut |_, _| {
        count += 1;
        true
    });
    count
}

#[test]
fn a_walk_leaves_no_records() {
    let mut rig = Rig::new(|b| {
        for dir in ["a", "b"] {
            std::fs::create_dir(b.join(dir)).unwrap();
            for n in 0..100 {
                std::fs::write(b.join(format!("{dir}/{n}")), "").unwrap();
            }
        }
    });
    let before = records(&rig);
    for dir in rig.list(ROOT, true) {
        let node = rig.find(ROOT, &dir).node;
        for name in rig.list(node, true) {
            let file = rig.find(node, &name).node;
            assert_eq!(rig.read(file), b"");
        }
    }
    assert_eq!(records(&rig), before);
}

#[test]
fn a_handle_of_before_a_restart_reads_its_own_directory() {
    let mut rig = Rig::new(|b| {
        std::fs::create_dir_all(b.join("a")).unwrap();
        std::fs::create_dir_all(b.join("b")).unwrap();
        for n in 0..40 {
            std::fs::write(b.join(format!("a/in-a-{n}")), "").unwrap();
            std::fs::write(b.join(format!("b/in-b-{n}")), "").unwrap();
        }
    });
    let (a, b) = (rig.find(ROOT, "a").node, rig.find(ROOT, "b").node);
    let Reply::Opened(opened) = rig.ok(a, Op::OpenDir, &[]).0 else { panic!("opened") };
    let read = |cookie| Op::ReadDir { fh: opened.fh, cookie, size: 300, plus: false };
    let (_, first) = rig.ok(a, read(0), &[]);
    let last = shm_transport::wire::dirent::Reader::new(&first, false).last().unwrap().off;
    // The other directory's reader got the same handle from the daemon before.
    let (_, other) = rig.ok(b, read(last), &[]);
    let names: Vec<_> = shm_transport::wire::dirent::Reader::new(&other, false).map(|e| e.name.to_vec()).collect();
    assert!(!names.is_empty() && names.iter().all(|n| n.starts_with(b"in-b")), "{names:?}");
}

#[test]
fn the_host_gives_a_number_to_another_file() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("f"), "old").unwrap());
    let f = rig.find(ROOT, "f");
    rig.write(f.node, 0, b"mine");
    std::fs::remove_file(rig.base("f")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    for n in 0..200 {
        std::fs::write(rig.base(&format!("n{n}")), "host").unwrap();
    }
    for n in 0..200 {
        let new = rig.find(ROOT, &format!("n{n}"));
        assert_ne!(new.node, f.node);
        assert_eq!(rig.read(new.node), b"host");
    }
    assert_eq!(rig.read(f.node), b"mine");
}

#[test]
fn an_unchanged_file_has_one_generation_before_and_after_its_first_change() {
    let mut rig = Rig::new(|b| std::fs::write(b.join("f"), "old").unwrap());
    let before = rig.find(ROOT, "f");
    rig.write(before.node, 0, b"new");
    let after = rig.find(ROOT, "f");
    assert_eq!((after.node, after.generation), (before.node, before.generation));
    assert_ne!(before.generation, 0);
}
