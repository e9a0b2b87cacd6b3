//! A lazy base that is edited underneath: the table of branch-semantics §3.1, for files that are closed, open, mapped and
//! listed. Without this a reader could get the size of one version with the bytes of another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    reason = "a test reports a broken promise by panicking"
)]

use harness::run::Running;
use harness::{World, procs, sys};
use rustix::fs::OFlags;
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FOLLOWS: Duration = Duration::from_secs(10);

fn old() -> Vec<u8> {
    sys::pattern(1, 9000)
}

/// What becomes of `dir/f` on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Edited,
    Grown,
    Truncated,
    Replaced,
    Deleted,
    Remade,
    Renamed,
    DirectoryRenamed,
}
use Change::{Deleted, DirectoryRenamed, Edited, Grown, Remade, Renamed, Replaced, Truncated};

impl Change {
    fn make(self, base: &Path) {
        let file = base.join("dir/f");
        match self {
            Edited | Grown => {
                let open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
                open.write_all_at(&self.bytes(), 0).unwrap();
            }
            Truncated => sys::truncate(&file, 4000).unwrap(),
            Replaced => {
                std::fs::write(base.join("dir/f~"), self.bytes()).unwrap();
                sys::rename(&base.join("dir/f~"), &file).unwrap();
            }
            Deleted => std::fs::remove_file(&file).unwrap(),
            Remade => {
                std::fs::remove_file(&file).unwrap();
                std::fs::write(&file, self.bytes()).unwrap();
            }
            Renamed => sys::rename(&file, &base.join("dir/g")).unwrap(),
            DirectoryRenamed => sys::rename(&base.join("dir"), &base.join("moved")).unwrap(),
        }
    }

    fn bytes(self) -> Vec<u8> {
        match self {
            Edited => sys::pattern(2, 9000),
            Grown => sys::pattern(2, 20_000),
            Replaced | Remade => sys::pattern(2, 5001),
            Truncated => old()[..4000].to_vec(),
            Deleted | Renamed | DirectoryRenamed => old(),
        }
    }

    /// Whether the object that a program has open is still what is at the name, or elsewhere in the base.
    fn stays(self) -> bool {
        !matches!(self, Replaced | Deleted | Remade)
    }

    /// Where it is now.
    fn path(self) -> Option<&'static str> {
        match self {
            Deleted => None,
            Renamed => Some("dir/g"),
            DirectoryRenamed => Some("moved/f"),
            Edited | Grown | Truncated | Replaced | Remade => Some("dir/f"),
        }
    }
}

/// Maps a file, says so, and tells every 20 ms which of two versions the mapping shows until it is told to end.
const MAPPED: &str = r#"
import mmap, os, sys, time
path, ready, stop, old, new = sys.argv[1:6]
old, new = open(old, "rb").read(), open(new, "rb").read()
fd = os.open(path, os.O_RDONLY)
m = mmap.mmap(fd, len(old), mmap.MAP_SHARED, mmap.PROT_READ)
assert m[:] == old, "before"
open(ready, "w").close()
# Of a shorter version the mapping has what is there, and zeros up to the end of its last page.
n = min(len(old), len(new))
while True:
    last = os.path.exists(stop)
    now = m[:n]
    print("old" if now == old[:n] else "new" if now == new[:n] else "other", flush=True)
    if last:
        break
    time.sleep(0.02)
"#;

struct Mapped {
    running: Running,
    stop: PathBuf,
}

fn map(world: &World, file: &Path, change: Change) -> Mapped {
    let at = |name: &str| world.out().join(name);
    std::fs::write(at("old"), old()).unwrap();
    std::fs::write(at("new"), change.bytes()).unwrap();
    let mut command = world.command("python3");
    command.args(["-c", MAPPED]).arg(file).args([at("ready"), at("stop"), at("old"), at("new")]);
    let running = world.spawn(&mut command);
    assert!(procs::wait_for(FOLLOWS, || at("ready").exists()), "{}", running.stdout());
    Mapped { running, stop: at("stop") }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Reads a whole file from an open descriptor.
fn whole(file: &std::fs::File) -> std::io::Result<Vec<u8>> {
    let mut file = file;
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn follows(name: &str, change: Change) {
    let Some(world) = World::start(name) else { return };
    let base = world.base("project");
    std::fs::create_dir(base.join("dir")).unwrap();
    std::fs::write(base.join("dir/f"), old()).unwrap();
    std::fs::write(base.join("dir/other"), "other").unwrap();
    let mnt = world.mount("b", Some(&base));
    let at = mnt.join("dir/f");
    // Seen, listed, open and mapped before.
    assert_eq!(std::fs::read(&at).unwrap(), old());
    assert_eq!(names(&mnt.join("dir")), ["f", "other"]);
    let open = sys::open(&at, OFlags::RDONLY, 0).unwrap();
    assert_eq!(whole(&open).unwrap(), old());
    let cwd = sys::open(&mnt.join("dir"), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    let mut mapped = map(&world, &at, change);
    change.make(&base);

    // Closed, and listed.
    let new = change.bytes();
    let followed = procs::wait_for(FOLLOWS, || {
        let listed = ["", "dir", "moved"].iter().all(|dir| {
            let (host, branch) = (base.join(dir), mnt.join(dir));
            host.exists() == branch.exists() && (!host.exists() || names(&host) == names(&branch))
        });
        let found = at.exists() == base.join("dir/f").exists();
        listed
            && found
            && change.path().is_none_or(|path| std::fs::read(mnt.join(path)).is_ok_and(|bytes| bytes == new))
    });
    assert!(followed, "{change:?}: the branch does not follow");
    if let Some(path) = change.path() {
        let (host, branch) = (std::fs::metadata(base.join(path)).unwrap(), std::fs::metadata(mnt.join(path)).unwrap());
        let of =
            |m: &std::fs::Metadata| (m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.nlink());
        assert_eq!(of(&branch), of(&host), "{change:?}");
    }

    // Open. What is gone shows what it was, whole, or an error; never what came to its place.
    match whole(&open) {
        Ok(bytes) if change.stays() => assert!(bytes == new, "{change:?}: {} bytes through the open file", bytes.len()),
        Ok(bytes) => assert!(bytes == old(), "{change:?}: {} bytes through the open file", bytes.len()),
        Err(e) => {
            assert!(!change.stays(), "{change:?}: {e}");
            assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::STALE.raw_os_error()), "{change:?}");
        }
    }
    if change.stays() {
        assert_eq!(open.metadata().unwrap().len(), new.len() as u64, "{change:?}: size of the open file");
    }
    drop(cwd);

    // Mapped: one or the other, and of what stays the new one in the end. Beyond its end there is SIGBUS, as on the host.
    std::thread::sleep(Duration::from_millis(200));
    std::fs::write(&mapped.stop, "").unwrap();
    let out = loop {
        match mapped.running.poll() {
            Some(_) => break mapped.running.finish(Duration::from_secs(10)),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(!out.stdout.contains("other"), "{change:?}: {out}");
    let last = out.stdout.lines().last().unwrap_or_default();
    let wanted = if change.stays() { "new" } else { "old" };
    let same_prefix = matches!(change, Truncated | Deleted | Renamed | DirectoryRenamed);
    assert!(last == wanted || (same_prefix && last == "old"), "{change:?}: {out}");

    // No more than the host has is said to have changed.
    assert_eq!(world.diff("b").total(), 0, "{change:?}");
    drop(open);
    world.umount(&mnt);
    world.cli(&["fsck"]);
    world.assert_no_panics();
}

#[test]
fn edited() {
    follows("lazy_edited", Edited);
}

#[test]
fn grown() {
    follows("lazy_grown", Grown);
}

#[test]
fn truncated() {
    follows("lazy_truncated", Truncated);
}

#[test]
fn replaced() {
    follows("lazy_replaced", Replaced);
}

#[test]
fn deleted() {
    follows("lazy_deleted", Deleted);
}

#[test]
fn deleted_and_made_again() {
    follows("lazy_remade", Remade);
}

#[test]
fn renamed() {
    follows("lazy_renamed", Renamed);
}

#[test]
fn moved_with_its_directory() {
    follows("lazy_directory_renamed", DirectoryRenamed);
}

/// Readers of one file on a mount while `write` changes it on the host.
fn read_while(mnt: &Path, mut write: impl FnMut(u64), right: impl Fn(&[u8], u64) + Sync) -> (u64, u64) {
    let (stop, file) = (AtomicBool::new(false), mnt.join("f"));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut read, mut gone) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let bytes = std::fs::File::open(&file).and_then(|mut file| {
                            let mut bytes = Vec::new();
                            file.read_to_end(&mut bytes)?;
                            Ok((bytes, file.metadata()?.len()))
                        });
                        match bytes {
                            Ok((bytes, size)) => {
                                right(&bytes, size);
                                read += 1;
                            }
                            Err(e) => {
                                // The last one where the host gave the number of what is gone to another file at once.
                                let stale = [rustix::io::Errno::STALE, rustix::io::Errno::NOENT, rustix::io::Errno::IO]
                                    .map(rustix::io::Errno::raw_os_error);
                                assert!(e.raw_os_error().is_some_and(|e| stale.contains(&e)), "{e}");
                                gone += 1;
                            }
                        }
                    }
                    (read, gone)
                })
            })
            .collect();
        let until = Instant::now() + Duration::from_secs(6);
        let mut turn = 0;
        while Instant::now() < until {
            write(turn);
            turn += 1;
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    })
}

#[test]
fn a_read_is_of_one_version_while_the_host_replaces_the_file() {
    let Some(world) = World::start("lazy_replace_loop") else { return };
    let base = world.base("project");
    let versions = [vec![b'a'; 3000], vec![b'b'; 200_000]];
    std::fs::write(base.join("f"), &versions[0]).unwrap();
    let mnt = world.mount("b", Some(&base));
    let (read, gone) = read_while(
        &mnt,
        |turn| {
            std::fs::write(base.join("f~"), &versions[(turn % 2) as usize]).unwrap();
            sys::rename(&base.join("f~"), &base.join("f")).unwrap();
            // As long as a reader needs from finding a file to opening it.
            std::thread::sleep(Duration::from_millis(2));
        },
        |bytes, size| {
            assert!(
                versions.iter().any(|v| v == bytes),
                "{} bytes: {:?} … {:?}",
                bytes.len(),
                bytes.first(),
                bytes.last()
            );
            assert_eq!(size, bytes.len() as u64, "the size of the open file is that of its bytes");
        },
    );
    assert!(read > 100, "{read} reads, {gone} of what was gone");
    // In the end it is what the host has.
    let last = std::fs::read(base.join("f")).unwrap();
    assert!(procs::wait_for(FOLLOWS, || std::fs::read(mnt.join("f")).is_ok_and(|bytes| bytes == last)));
    world.assert_no_panics();
}

#[test]
fn a_read_has_no_bytes_that_no_version_has_while_the_host_writes_the_file() {
    let Some(world) = World::start("lazy_write_loop") else { return };
    let base = world.base("project");
    let versions = [vec![b'a'; 3000], vec![b'b'; 200_000]];
    std::fs::write(base.join("f"), &versions[0]).unwrap();
    let mnt = world.mount("b", Some(&base));
    let (read, _) = read_while(
        &mnt,
        // The host itself shows nothing but `a`s and `b`s, and never more than it has.
        |turn| std::fs::write(base.join("f"), &versions[(turn % 2) as usize]).unwrap(),
        |bytes, _| {
            assert!(bytes.len() <= versions[1].len());
            let strange = bytes.iter().position(|byte| !matches!(byte, b'a' | b'b'));
            assert!(strange.is_none(), "of {} bytes, number {strange:?} is of no version", bytes.len());
        },
    );
    assert!(read > 100, "{read} reads");
    let last = std::fs::read(base.join("f")).unwrap();
    assert!(procs::wait_for(FOLLOWS, || std::fs::read(mnt.join("f")).is_ok_and(|bytes| bytes == last)));
    world.assert_no_panics();
}
