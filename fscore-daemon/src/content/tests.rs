#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::uio::{pread, pwrite};

use super::{Contents, CopyKind, Host};
use crate::core::ids::ContentId;

fn contents(open_files_max: usize) -> (Contents, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Contents::open(&dir.path().join("contents"), open_files_max).unwrap(), dir)
}

/// Descriptors of this process on files below `dir`.
fn open_below(dir: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    all.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.starts_with(dir) && to != dir)).count()
}

/// A mounted filesystem, unmounted when dropped; `None` where mounting is not allowed.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        match mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(e) => {
                eprintln!("not run: cannot mount a tmpfs: {e}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(e) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {e}", self.0.display());
        }
    }
}

#[test]
fn a_content_is_made_found_and_removed() {
    let (contents, dir) = contents(8);
    let id = ContentId(0x12_3456);
    assert_eq!(contents.get(id).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(contents.stat(id).unwrap_err().kind(), io::ErrorKind::NotFound);
    let content = contents.create(id).unwrap();
    pwrite(content.as_fd(), b"hello", 3).unwrap();
    assert_eq!(contents.path(id), dir.path().join("contents/12/34/0000000000123456"));
    let metadata = fs::metadata(contents.path(id)).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (8, 0o600));
    assert_eq!(contents.stat(id).unwrap().st_size, 8);
    assert!(Arc::ptr_eq(&content, &contents.get(id).unwrap()), "the descriptor is cached");
    content.sync(true).unwrap();
    content.sync(false).unwrap();

    contents.remove(id).unwrap();
    contents.remove(id).unwrap();
    assert_eq!(contents.get(id).unwrap_err().kind(), io::ErrorKind::NotFound);
    let mut bytes = [0; 5];
    assert_eq!(pread(content.as_fd(), &mut bytes, 3), Ok(5), "who has it open keeps it");
    assert!(contents.space().unwrap().blocks() > 0);
}

#[test]
fn a_leftover_is_replaced() {
    let (contents, _dir) = contents(8);
    let old = contents.create(ContentId(1)).unwrap();
    pwrite(old.as_fd(), b"left by a crash", 0).unwrap();
    let new = contents.create(ContentId(1)).unwrap();
    assert_eq!(contents.stat(ContentId(1)).unwrap().st_size, 0);
    assert!(Arc::ptr_eq(&new, &contents.get(ContentId(1)).unwrap()));
}

#[test]
fn idle_descriptors_are_bounded_and_everything_stays_reachable() {
    let (contents, dir) = contents(64);
    for id in 0..10_000 {
        let content = contents.create(ContentId(id)).unwrap();
        pwrite(content.as_fd(), &id.to_le_bytes(), 0).unwrap();
    }
    assert!(open_below(dir.path()) <= 64 + 1, "{}", open_below(dir.path()));
    for id in (0..10_000).rev() {
        let mut bytes = [0; 8];
        pread(contents.get(ContentId(id)).unwrap().as_fd(), &mut bytes, 0).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), id);
        assert_eq!(contents.stat(ContentId(id)).unwrap().st_size, 8);
    }
    assert!(open_below(dir.path()) <= 64 + 1, "{}", open_below(dir.path()));
    // One in steady use is not displaced by a walk over all others.
    let steady = contents.get(ContentId(5)).unwrap();
    for id in 100..5000 {
        contents.get(ContentId(id)).unwrap();
        contents.get(ContentId(5)).unwrap();
    }
    assert!(Arc::ptr_eq(&steady, &contents.get(ContentId(5)).unwrap()));
}

#[test]
fn ids_finds_all_and_nothing_else() {
    let (contents, dir) = contents(4);
    let made: BTreeSet<u64> = [0, 1, 255, 256, 65_535, 65_536, 1 << 24, u64::MAX].into();
    for id in &made {
        contents.create(ContentId(*id)).unwrap();
    }
    let root = dir.path().join("contents");
    fs::write(root.join("stray"), "").unwrap();
    fs::write(root.join("00/00/stray"), "").unwrap();
    fs::write(root.join("00/00/0000000000000100"), "in the wrong place").unwrap();
    let found: BTreeSet<u64> = contents.ids().unwrap().map(|id| id.unwrap().0).collect();
    assert_eq!(found, made);
}

#[test]
fn many_threads_use_few_descriptors() {
    let (contents, _dir) = contents(16);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let contents = &contents;
            scope.spawn(move || {
                for round in 0..500 {
                    let own = ContentId((thread << 32) | round);
                    let content = contents.create(own).unwrap();
                    pwrite(content.as_fd(), &round.to_le_bytes(), 0).unwrap();
                    drop(content);
                    let earlier = ContentId((thread << 32) | (round / 2));
                    let mut bytes = [0; 8];
                    pread(contents.get(earlier).unwrap().as_fd(), &mut bytes, 0).unwrap();
                    assert_eq!(u64::from_le_bytes(bytes), round / 2);
                    if round % 97 == 0 {
                        contents.get(own).unwrap().sync(true).unwrap();
                    }
                }
            });
        }
    });
}

/// A source with data, a hole, data, and a hole at its end, modified long ago.
fn sparse(path: &Path) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.write_all_at(&[1; 5000], 0).unwrap();
    file.write_all_at(&vec![2; 70_001], 40 << 20).unwrap();
    file.set_len(100 << 20).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    file.set_times(fs::FileTimes::new().set_modified(old).set_accessed(old + Duration::from_secs(9))).unwrap();
    file
}

fn assert_copied(contents: &Contents, id: ContentId, source: &File) -> CopyKind {
    let (content, kind) = contents.copy_from(id, source.as_fd(), None).unwrap();
    let (from, to) = (source.metadata().unwrap(), fs::metadata(contents.path(id)).unwrap());
    assert_eq!(to.len(), from.len());
    assert_eq!((to.mtime(), to.mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!((to.atime(), to.atime_nsec()), (1_000_000_009, 123_456_789));
    assert!(to.blocks() * 512 < 2 << 20, "holes are kept: {} blocks", to.blocks());
    for at in [0, 4096, 5000, 1 << 20, (40 << 20) - 100, (40 << 20) + 69_990, (100 << 20) - 50] {
        let (mut a, mut b) = ([9; 300], [8; 300]);
        let n = source.read_at(&mut a, at).unwrap();
        assert_eq!(pread(content.as_fd(), &mut b, at as i64), Ok(n));
        assert_eq!(a[..n], b[..n], "at {at}");
    }
    kind
}

#[test]
fn a_copy_keeps_bytes_holes_and_times() {
    let (contents, dir) = contents(8);
    let source = sparse(&dir.path().join("source"));
    match assert_copied(&contents, ContentId(1), &source) {
        CopyKind::Reflinked => eprintln!("the filesystem of {} reflinks", dir.path().display()),
        CopyKind::Copied { bytes } => assert!((75_001..200_000).contains(&bytes), "{bytes}"),
    }
    let empty = File::create_new(dir.path().join("empty")).unwrap();
    drop(empty);
    let empty = File::open(dir.path().join("empty")).unwrap();
    let (content, _) = contents.copy_from(ContentId(2), empty.as_fd(), None).unwrap();
    assert_eq!(nix::sys::stat::fstat(content.as_fd()).unwrap().st_size, 0);
}

/// From a filesystem of another kind, and from files that tell no size.
#[test]
fn a_copy_across_filesystems() {
    let (contents, dir) = contents(8);
    let Some(mounted) = Mounted::tmpfs(&dir.path().join("other"), "8m") else { return };
    let source = sparse(&mounted.0.join("source"));
    assert!(matches!(assert_copied(&contents, ContentId(1), &source), CopyKind::Copied { .. }));
    let proc = File::open("/proc/self/status").unwrap();
    let (_, kind) = contents.copy_from(ContentId(2), proc.as_fd(), None).unwrap();
    assert_eq!(kind, CopyKind::Copied { bytes: 0 }, "what fstat says is what is copied");
}

#[test]
fn a_failed_copy_leaves_nothing() {
    let (contents, dir) = contents(8);
    let Some(mounted) = Mounted::tmpfs(&dir.path().join("small"), "256k") else { return };
    let small = Contents::open(&mounted.0.join("contents"), 8).unwrap();
    let source = File::create_new(dir.path().join("source")).unwrap();
    source.write_all_at(&vec![7; 1 << 20], 0).unwrap();
    let source = File::open(dir.path().join("source")).unwrap();
    let error = small.copy_from(ContentId(1), source.as_fd(), None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
    assert_eq!(small.ids().unwrap().count(), 0);

    // Writing until it is full, removing, and going on.
    let mut made = 0;
    let full = (0..).find_map(|id| {
        let content = small.create(ContentId(id)).ok()?;
        made = id;
        pwrite(content.as_fd(), &[5; 16 << 10], 0).err()
    });
    assert_eq!(full, Some(Errno::ENOSPC));
    for id in 0..=made {
        small.remove(ContentId(id)).unwrap();
    }
    let content = small.create(ContentId(0)).unwrap();
    assert_eq!(pwrite(content.as_fd(), &[5; 16 << 10], 0), Ok(16 << 10));
    content.sync(true).unwrap();
    drop(contents);
}

/// A host whose next syncs fail.
#[derive(Debug, Default)]
struct Failing(Mutex<Vec<Errno>>);

impl Failing {
    fn next(&self) -> io::Result<()> {
        self.0.lock().unwrap().pop().map_or(Ok(()), |errno| Err(errno.into()))
    }
}

impl Host for Failing {
    fn creates(&self, _: ContentId) -> io::Result<()> {
        Ok(())
    }
    fn removes(&self, _: ContentId) -> io::Result<()> {
        Ok(())
    }
    fn sync_file(&self, _: ContentId, _: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        self.next()
    }
    fn sync_directory(&self, _: &str, _: BorrowedFd<'_>) -> io::Result<()> {
        self.next()
    }
    fn sync_all(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        self.next()
    }
}

fn failing() -> (Contents, Arc<Failing>, tempfile::TempDir) {
    let (dir, host) = (tempfile::tempdir().unwrap(), Arc::new(Failing::default()));
    let contents = Contents::open_on(&dir.path().join("contents"), 1, Arc::clone(&host) as Arc<dyn Host>).unwrap();
    (contents, host, dir)
}

fn errno(result: io::Result<()>) -> Option<Errno> {
    result.err().map(|e| Errno::from_raw(e.raw_os_error().unwrap()))
}

/// Which pages a broken disk lost is not known: nobody is told any more that something is durable.
#[test]
fn after_an_io_error_every_sync_fails() {
    for by in 0..3 {
        let (contents, host, _dir) = failing();
        let (one, other) = (contents.create(ContentId(1)).unwrap(), contents.create(ContentId(2)).unwrap());
        assert_eq!((errno(contents.sync_all()), contents.failed_sync()), (None, None));
        host.0.lock().unwrap().push(Errno::EIO);
        let failed = match by {
            0 => one.sync(true),
            1 => contents.sync_all(),
            _ => {
                // The bytes reach the disk, the name does not.
                host.0.lock().unwrap().insert(0, Errno::EIO);
                other.sync(true)
            }
        };
        assert_eq!(errno(failed), Some(Errno::EIO));
        host.0.lock().unwrap().clear();
        assert!(contents.failed_sync().unwrap().contains("cannot be made durable"));
        let again = contents.get(ContentId(1)).unwrap();
        for result in [one.sync(false), other.sync(true), again.sync(true), contents.sync_all(), contents.check_syncs()]
        {
            assert_eq!(errno(result), Some(Errno::EIO));
        }
        assert!(one.is_dirty());
    }
}

/// A file without space concerns itself alone, and whoever wants everything to be durable.
#[test]
fn a_sync_without_space_sticks_to_its_file() {
    let (contents, host, _dir) = failing();
    let content = contents.create(ContentId(1)).unwrap();
    host.0.lock().unwrap().push(Errno::ENOSPC);
    assert_eq!(errno(content.sync(true)), Some(Errno::ENOSPC));
    drop(content);
    contents.create(ContentId(2)).unwrap().sync(false).unwrap();
    let again = contents.get(ContentId(1)).unwrap();
    assert_eq!(errno(again.sync(false)), Some(Errno::ENOSPC), "also through another descriptor");
    assert_eq!(errno(contents.sync_all()), Some(Errno::ENOSPC));
    assert!(contents.failed_sync().is_some());
    contents.remove(ContentId(1)).unwrap();
    contents.sync_all().unwrap();
    contents.create(ContentId(1)).unwrap().sync(false).unwrap();
    assert_eq!(contents.failed_sync(), None);
}

/// An xfs image on a loop device, where it can be made.
#[test]
fn a_copy_is_shared_where_the_filesystem_can() {
    let dir = tempfile::tempdir().unwrap();
    let (image, at) = (dir.path().join("image"), dir.path().join("xfs"));
    fs::create_dir(&at).unwrap();
    File::create_new(&image).unwrap().set_len(400 << 20).unwrap();
    match Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).status() {
        Ok(status) if status.success() => {}
        other => {
            eprintln!("not run: mkfs.xfs: {other:?}");
            return;
        }
    }
    match Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).status() {
        Ok(status) if status.success() => {}
        other => {
            eprintln!("not run: cannot mount an xfs image: {other:?}");
            return;
        }
    }
    let mounted = Mounted(at);
    let contents = Contents::open(&mounted.0.join("contents"), 8).unwrap();
    let source = sparse(&mounted.0.join("source"));
    assert_eq!(assert_copied(&contents, ContentId(1), &source), CopyKind::Reflinked);
    let (content, _) = contents.copy_from(ContentId(2), source.as_fd(), None).unwrap();
    pwrite(content.as_fd(), b"changed", 0).unwrap();
    let mut bytes = [0; 7];
    source.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [1; 7], "the source stays as it is");
}
