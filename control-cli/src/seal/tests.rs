//! Copies of real directories, also of such as do not stand still.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use super::copy::Copying;
use super::tree::Root;
use shm_transport::control::seal::{Entry, data};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

struct Place {
    _temp: tempfile::TempDir,
    base: PathBuf,
    to: PathBuf,
}

fn place() -> Place {
    let temp = tempfile::tempdir().unwrap();
    let (base, to) = (temp.path().join("base"), temp.path().join("copy"));
    fs::create_dir(&base).unwrap();
    for low in 0..=0xff {
        fs::create_dir_all(to.join(data(low)).parent().unwrap()).unwrap();
    }
    Place { _temp: temp, base, to }
}

fn copy(place: &Place, progress: &mut dyn FnMut()) -> (Vec<Entry>, u64) {
    let root = Root::open(&place.base).unwrap();
    let mut copying = Copying::new(&root, &place.to, false);
    let entries = copying.run(&mut |_, _, _| progress()).unwrap();
    (entries, copying.changed)
}

fn named<'a>(entries: &'a [Entry], name: &str) -> &'a Entry {
    entries.iter().find(|entry| entry.name == name.as_bytes()).unwrap()
}

fn bytes(place: &Place, entry: &Entry) -> Vec<u8> {
    fs::read(place.to.join(data(entry.ino))).unwrap()
}

fn is_of(entry: &Entry, path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    let told = (entry.ino, entry.mode, entry.size, u64::from(entry.nlink), entry.uid, entry.gid);
    assert_eq!(told, (meta.ino(), meta.mode(), meta.size(), meta.nlink(), meta.uid(), meta.gid()), "{path:?}");
    let times = (entry.mtime.0, i64::from(entry.mtime.1), entry.ctime.0, i64::from(entry.ctime.1));
    assert_eq!(times, (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()), "{path:?}");
}

#[test]
fn the_list_has_everything_and_the_bytes_are_the_files() {
    let place = place();
    let base = &place.base;
    fs::create_dir_all(base.join("d/e")).unwrap();
    fs::write(base.join("d/f"), "bytes").unwrap();
    fs::set_permissions(base.join("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(base.join("d/f"), base.join("g")).unwrap();
    std::os::unix::fs::symlink("nowhere/at all", base.join("l")).unwrap();
    let sparse = fs::File::create(base.join("s")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"end", (8 << 20) - 3).unwrap();
    nix::unistd::mkfifo(&base.join("p"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let (entries, changed) = copy(&place, &mut || {});
    assert_eq!((entries.len(), changed), (8, 0));
    assert_eq!((entries[0].parent, entries[0].name.as_slice()), (0, b"".as_slice()));
    is_of(&entries[0], base);
    for (name, path) in [("d", "d"), ("e", "d/e"), ("f", "d/f"), ("g", "g"), ("l", "l"), ("s", "s"), ("p", "p")] {
        is_of(named(&entries, name), &base.join(path));
    }
    assert_eq!(named(&entries, "l").target, b"nowhere/at all");
    assert_eq!(named(&entries, "f").ino, named(&entries, "g").ino);
    assert_eq!(bytes(&place, named(&entries, "g")), b"bytes");
    let copied = place.to.join(data(named(&entries, "s").ino));
    assert_eq!(fs::read(&copied).unwrap(), fs::read(base.join("s")).unwrap());
    assert!(fs::metadata(&copied).unwrap().blocks() * 512 < 1 << 20, "holes stay holes");
}

#[test]
fn what_changes_between_two_looks_is_copied_again_until_all_is_of_one_moment() {
    let place = place();
    for n in 0..5 {
        fs::write(place.base.join(format!("f{n}")), "old").unwrap();
    }
    let base = place.base.clone();
    let mut calls = 0;
    // After the directory was looked at, and before and between its files.
    let (entries, changed) = copy(&place, &mut || {
        calls += 1;
        if calls == 3 {
            for n in 0..5 {
                fs::write(base.join(format!("f{n}")), "newer").unwrap();
            }
            fs::remove_file(base.join("f4")).unwrap();
            fs::create_dir(base.join("d")).unwrap();
            fs::rename(base.join("f3"), base.join("d/f3")).unwrap();
        }
    });
    assert_eq!(changed, 0, "it stood still afterwards");
    assert!(!entries.iter().any(|entry| entry.name == b"f4"));
    for (name, path) in [("f0", "f0"), ("f1", "f1"), ("f2", "f2"), ("f3", "d/f3"), ("d", "d")] {
        is_of(named(&entries, name), &base.join(path));
    }
    for name in ["f0", "f1", "f2", "f3"] {
        assert_eq!(bytes(&place, named(&entries, name)), b"newer", "{name}");
    }
    assert_eq!(named(&entries, "f3").parent, named(&entries, "d").ino);
}

#[test]
fn a_file_that_is_written_all_the_time_is_never_mixed() {
    const SIZE: usize = 1 << 20;
    let place = place();
    let path = place.base.join("f");
    fs::write(&path, vec![0; SIZE]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Bursts with pauses, each of which leaves one byte everywhere.
            let file = fs::File::options().write(true).open(&path).unwrap();
            for n in 1..=u8::MAX {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                for at in (0..SIZE).step_by(SIZE / 16) {
                    file.write_all_at(&vec![n; SIZE / 16], at as u64).unwrap();
                }
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        let (entries, _) = copy(&place, &mut || {});
        stop.store(true, Ordering::Relaxed);
        let copied = bytes(&place, named(&entries, "f"));
        assert_eq!(copied.len(), SIZE);
        assert!(copied.iter().all(|byte| *byte == copied[0]), "one version of it, whole");
    });
}

#[test]
fn a_directory_that_never_stands_still_is_told_and_its_list_is_one_tree() {
    let place = place();
    fs::create_dir_all(place.base.join("a/b")).unwrap();
    fs::write(place.base.join("a/b/f"), "f").unwrap();
    let (base, mut n) = (place.base.clone(), 0);
    // Each time that a file is copied there is another one to copy.
    let (entries, changed) = copy(&place, &mut || {
        n += 1;
        fs::write(base.join(format!("new{n}")), "new").unwrap();
        let (from, to) = if n % 2 == 1 { ("a/b", "b") } else { ("b", "a/b") };
        fs::rename(base.join(from), base.join(to)).unwrap();
    });
    assert!(changed > 0);
    let places: Vec<_> = entries.iter().map(|entry| (entry.parent, entry.name.clone())).collect();
    assert!(places.is_sorted() && places.windows(2).all(|pair| pair[0] != pair[1]));
    for entry in entries.iter().skip(1) {
        assert!(entries.iter().any(|dir| dir.ino == entry.parent && dir.is_directory()), "{entry:?}");
    }
    if let Some(f) = entries.iter().find(|entry| entry.name == b"f") {
        assert_eq!(bytes(&place, f), b"f");
    }
}
