//! A collection ends at any of its writes.

use super::*;
use crate::store::faulty::{FaultyDisk, Loss};
use crate::store::{LogStore, Options};

/// A store with something of every kind to fold, and to remove.
fn ripe(world: &World) {
    world.done(&create("a", Some(world.dir.join("base")), None));
    let mut dice = Dice::new(5);
    let many = |rig: &mut Rig, round: usize| {
        for n in 0..40 {
            put(rig, NodeId::ROOT, &format!("n{n}"), &format!("{round} {n}"));
        }
    };
    world.with("a", |rig| many(rig, 0));
    world.done(&snapshot("a", "big"));
    for round in 0..6 {
        world.with("a", |rig| {
            put(rig, NodeId::ROOT, "n1", &format!("again {round}"));
            put(rig, NodeId::ROOT, &format!("only{round}"), "x");
            if round > 0 {
                unlink(rig, NodeId::ROOT, &format!("only{}", round - 1));
            }
            act(rig, &mut dice);
        });
        world.done(&snapshot("a", &format!("s{round}")));
    }
    world.done(&create("b", None, Some("a@s3")));
    world.with("b", |rig| many(rig, 1));
    world.done(&snapshot("b", "kept"));
    world.with("b", |rig| unlink(rig, NodeId::ROOT, "n7"));
    world.done(&create("c", None, Some("b")));
    world.with("c", |rig| put(rig, NodeId::ROOT, "n8", "of c"));
    world.done(&delete("c"));
    for gone in ["big", "s1", "s2", "s4"] {
        world.done(&forget("a", gone));
    }
}

const SMALL: Options =
    Options { segment_bytes: 1 << 20, headroom_bytes: 512, checkpoint_bytes: 1 << 22, threads: false };

fn copy_tree(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// The power goes at every write and every sync of the log; what was not synced is lost, or is not.
#[test]
fn an_end_at_any_write_changes_nothing() {
    let disk = FaultyDisk::new();
    let store: Arc<dyn Store> = Arc::new(LogStore::open_on(Arc::new(disk.clone()), SMALL).unwrap());
    let world = World::new(store);
    ripe(&world);
    world.core.contents.sync_all().unwrap();
    world.core.sync().unwrap();
    let expected = world.states();
    let begun = disk.ops();
    let (before, dir) = (disk.after_kill(), tempfile::tempdir().unwrap());
    copy_tree(&world.dir, &dir.path().join("before"));
    let told = world.gc();
    assert!(told.folded >= 4 && told.contents >= 6, "{told:?}");
    assert_eq!(world.states(), expected);
    let writes = disk.ops() - begun;
    assert!(writes >= 8, "{writes}");
    for cut in 0..writes {
        for loss in [Loss::All, Loss::Nothing] {
            let context = format!("cut at {cut} of {writes}, {loss:?}");
            let disk = before.after_kill();
            let at = dir.path().join(format!("{cut}-{loss:?}"));
            // The base stays where it is, and its inode numbers with it.
            std::fs::create_dir(&at).unwrap();
            copy_tree(&dir.path().join("before/store"), &at.join("store"));
            let open = |disk: &FaultyDisk| {
                let store: Arc<dyn Store> = Arc::new(LogStore::open_on(Arc::new(disk.clone()), SMALL).unwrap());
                World::open(at.clone(), store)
            };
            let world = open(&disk);
            disk.cut_power_at(disk.ops() + cut);
            drop(world.ask::<Collected>(&Command::Gc { branches: Vec::new(), dry_run: false }));
            drop(world);
            let world = open(&disk.after_power_cut(loss));
            assert_eq!(world.states(), expected, "{context}");
            world.sound(&context);
            world.gc();
            assert_eq!(world.states(), expected, "{context}");
            world.sound(&context);
            std::fs::remove_dir_all(&at).unwrap();
        }
    }
}
