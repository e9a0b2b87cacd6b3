//! What the daemon adds to the steps of a plan, a tree too deep for paths, and a file with holes.

use super::*;
use rustix::fs::{AtFlags, CWD, Mode};
use std::io::Write;

/// Gives each step what the base has now at its place, and the plan its last line, as the daemon does.
pub(super) fn with_expectations(base: &Path, mut steps: Vec<Value>) -> Vec<Value> {
    let was = |path: &Path| {
        let stat = std::fs::symlink_metadata(path).ok()?;
        let mtime = [stat.mtime(), stat.mtime_nsec()];
        Some(json!({"ino": stat.ino(), "mode": stat.mode(), "uid": stat.uid(), "gid": stat.gid(),
            "size": stat.size(), "mtime": mtime}))
    };
    let text = |step: &Value, key: &str| step[key].as_str().map(str::to_owned);
    let moves: Vec<_> = steps.iter().filter_map(|s| Some((text(s, "from")?, text(s, "path")?))).collect();
    let mut inside = Vec::new();
    for step in &mut steps {
        let Some(path) = text(step, "path") else { continue };
        let moved =
            moves.iter().find_map(|(from, to)| Some(format!("{from}/{}", path.strip_prefix(&format!("{to}/"))?)));
        let place = base.join(moved.as_ref().unwrap_or(&path));
        if path.contains('\\') || path.contains('\0') {
            continue;
        }
        if let Some(from) = text(step, "from") {
            step["moved"] = was(&base.join(from)).unwrap_or_default();
        }
        if let Some(at) = was(&place) {
            step["was"] = at;
        }
        let mut left = vec![place];
        while let Some(dir) = left.pop().filter(|_| step["step"] != "attributes") {
            if !dir.is_symlink() && dir.is_dir() && dir.components().count() < 50 {
                for entry in std::fs::read_dir(dir).unwrap() {
                    left.push(entry.unwrap().path());
                    inside.push(json!({"step": "inside", "was": was(left.last().unwrap()).unwrap()}));
                }
            }
        }
    }
    steps.extend(inside);
    let lines = steps.len();
    steps.push(json!({"step": "end", "lines": lines}));
    steps
}

/// Adds what is in a directory that is too deep for paths to the plan.
fn expect_whole(scene: &Scene, dir: &str) {
    let file = scene.plan.journal.as_ref().unwrap().join("plan.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<String> = text.lines().filter(|l| l.contains("\"remove\"")).map(str::to_owned).collect();
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
    let mut at = rustix::fs::open(scene.base().join(dir), flags, Mode::empty()).unwrap();
    while let Ok(next) = rustix::fs::openat(&at, "dir", flags, Mode::empty()) {
        let stat = rustix::fs::fstat(&next).unwrap();
        let was = json!({"ino": stat.st_ino, "mode": stat.st_mode, "uid": stat.st_uid, "gid": stat.st_gid,
            "size": stat.st_size, "mtime": [stat.st_mtime, stat.st_mtime_nsec]});
        lines.push(json!({"step": "inside", "was": was}).to_string());
        at = next;
    }
    lines.push(json!({"step": "end", "lines": lines.len()}).to_string());
    std::fs::write(file, lines.join("\n") + "\n").unwrap();
}

#[test]
fn deep_trees_are_removed_without_many_descriptors() {
    let scene = Scene::new(
        |base| {
            // Deeper than the 1024 descriptors and the 4096 bytes that one path may have.
            let open = |dir: &std::os::fd::OwnedFd, name: &str| {
                rustix::fs::openat(dir, name, rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY, Mode::empty())
                    .unwrap()
            };
            let mut at = rustix::fs::open(base, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
            for name in std::iter::once("deep").chain(std::iter::repeat_n("dir", 1500)) {
                rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
                at = open(&at, name);
            }
        },
        &|_| vec![json!({"step": "remove", "path": "deep"})],
    );
    expect_whole(&scene, "deep");
    assert!(is_applied(&scene.go(false)));
    assert!(rustix::fs::statat(CWD, scene.base().join("deep"), AtFlags::empty()).is_err());
    assert!(!staging_left(scene.base()));
}

#[test]
fn holes_stay_holes() {
    let scene = Scene::new(|_| {}, &|contents| {
        let mut body = contents.file("sparse", b"");
        let path = contents.0.join("sparse");
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(32 << 20)).unwrap();
        file.write_all(b"in the middle").unwrap();
        body["size"] = json!(64 << 20);
        vec![make("sparse", meta(0o100644, 1), body)]
    });
    assert!(is_applied(&scene.go(false)));
    let file = scene.base().join("sparse");
    let stat = std::fs::metadata(&file).unwrap();
    assert_eq!(stat.len(), 64 << 20);
    assert!(stat.blocks() < 2048, "{} blocks", stat.blocks());
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(&bytes[32 << 20..(32 << 20) + 13], b"in the middle");
    assert!(bytes[..32 << 20].iter().all(|b| *b == 0));
}
