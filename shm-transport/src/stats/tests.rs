#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::path::PathBuf;

/// A store directory whose segment goes with it.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn file(&self) -> PathBuf {
        crate::mem::segment::file_of(&name_of(self.path()).unwrap().0)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(self.file()) {
            assert_eq!(e.kind(), io::ErrorKind::NotFound);
        }
    }
}

#[test]
fn a_reader_sees_what_is_counted_also_after_the_writer_is_gone() {
    let store = Store::new();
    assert_eq!(StatsReader::open(store.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    let writer = StatsWriter::create(store.path(), 1234).unwrap();
    let mount = writer.mount(SessionId(7), "fix-1", Path::new("/mnt/a"), true, 99).unwrap();
    drop(mount.begin());
    let running = mount.begin();
    mount.count(true, 10, 20);
    writer.add(Counter::Attaches, 3);
    let reader = StatsReader::open(store.path()).unwrap();
    let sample = reader.sample().unwrap();
    assert_eq!((sample.pid, sample.alive, sample.started), (std::process::id() as i32, true, 1234));
    let counter = |name| sample.counters.iter().find(|(n, _)| *n == name).unwrap().1;
    assert_eq!((counter("requests"), counter("errors"), counter("attaches")), (1, 1, 3));
    let row = &sample.mounts[0];
    assert_eq!((row.branch.as_str(), row.mountpoint.as_str(), row.read_only), ("fix-1", "/mnt/a", true));
    assert_eq!((row.requests, row.errors, row.bytes_read, row.bytes_written, row.in_flight), (1, 1, 10, 20, 1));
    assert_eq!(mount.requests(), 1);
    drop(running);
    drop(mount);
    assert!(reader.sample().unwrap().mounts.is_empty());
    writer.raise(Counter::Syncs, 5);
    writer.raise(Counter::Syncs, 4);
    assert!(reader.sample().unwrap().counters.contains(&("syncs", 5)));
    drop(writer);
    assert!(StatsReader::open(store.path()).is_ok());
}

#[test]
fn an_end_in_order_removes_the_segment_and_tells_who_reads_it() {
    let store = Store::new();
    let writer = StatsWriter::create(store.path(), 1).unwrap();
    let reader = StatsReader::open(store.path()).unwrap();
    writer.ended().unwrap();
    assert!(!store.file().exists());
    assert!(reader.sample().unwrap().ended);
    writer.ended().unwrap();
    // Somebody else's of the same name stays.
    let next = StatsWriter::create(store.path(), 2).unwrap();
    writer.ended().unwrap();
    assert_eq!(StatsReader::open(store.path()).unwrap().sample().unwrap().started, 2);
    next.ended().unwrap();
    assert!(!store.file().exists());
}

#[test]
fn a_segment_of_another_user_is_neither_used_nor_removed() {
    let store = Store::new();
    drop(StatsWriter::create(store.path(), 1).unwrap());
    if std::os::unix::fs::chown(store.file(), Some(4_000_000_000), None).is_err() {
        eprintln!("skipped: a_segment_of_another_user_is_neither_used_nor_removed: needs root");
        return;
    }
    let denied = io::ErrorKind::PermissionDenied;
    assert_eq!(StatsWriter::create(store.path(), 2).unwrap_err().kind(), denied);
    assert_eq!(StatsReader::open(store.path()).unwrap_err().kind(), denied);
    assert!(store.file().exists());
    let unseen = StatsWriter::unseen(3);
    unseen.add(Counter::Requests, 1);
    unseen.ended().unwrap();
    assert!(store.file().exists());
}

#[test]
fn the_pages_of_a_segment_are_there_before_they_are_used() {
    let store = Store::new();
    let hole = std::fs::File::create(store.file()).unwrap();
    hole.set_len((WORDS * size_of::<u64>()) as u64).unwrap();
    let writer = StatsWriter::create(store.path(), 1).unwrap();
    assert!(hole.metadata().unwrap().blocks() * 512 >= (WORDS * size_of::<u64>()) as u64);
    writer.ended().unwrap();
}

#[test]
fn the_segment_of_a_dead_daemon_is_taken_over() {
    let store = Store::new();
    let first = StatsWriter::create(store.path(), 1).unwrap();
    first.add(Counter::Requests, 5);
    // A kill leaves the row in use.
    let mount = first.mount(SessionId(1), "b", Path::new("/m"), false, 0).unwrap();
    let second = StatsWriter::create(store.path(), 2).unwrap();
    let sample = StatsReader::open(store.path()).unwrap().sample().unwrap();
    assert_eq!((sample.started, sample.mounts.len(), sample.counters[0].1), (2, 0, 0));
    drop((mount, second));
}

#[test]
fn a_segment_of_another_length_is_replaced_by_the_writer_and_refused_by_the_reader() {
    let store = Store::new();
    std::fs::write(store.file(), b"short").unwrap();
    assert!(StatsReader::open(store.path()).is_err());
    let writer = StatsWriter::create(store.path(), 1).unwrap();
    assert!(StatsReader::open(store.path()).unwrap().sample().is_some());
    drop(writer);
}

#[test]
fn rows_run_out_and_come_back_and_long_names_are_cut() {
    let store = Store::new();
    let writer = StatsWriter::create(store.path(), 1).unwrap();
    let long = "x".repeat(1000);
    let mut mounts: Vec<_> = (0..MOUNTS_MAX as u64)
        .map(|n| writer.mount(SessionId(n), &long, Path::new(&long), false, 0).unwrap())
        .collect();
    assert!(writer.mount(SessionId(0), "b", Path::new("/"), false, 0).is_none());
    mounts.pop();
    assert!(writer.mount(SessionId(0), "b", Path::new("/"), false, 0).is_some());
    let sample = StatsReader::open(store.path()).unwrap().sample().unwrap();
    assert_eq!((sample.mounts[0].branch.len(), sample.mounts[0].mountpoint.len()), (BRANCH_MAX, MOUNTPOINT_MAX));
}

#[test]
fn any_bits_give_a_sample_or_none_and_never_hang() {
    let store = Store::new();
    let writer = StatsWriter::create(store.path(), 1).unwrap();
    let reader = StatsReader::open(store.path()).unwrap();
    for pattern in [u64::MAX, 1, 0x0101_0101_0101_0101, u64::MAX - 1] {
        for word in writer.segment.iter() {
            word.store(pattern, Relaxed);
        }
        writer.set(0, MAGIC);
        let sample = reader.sample().unwrap();
        assert!(sample.mounts.len() <= MOUNTS_MAX);
    }
}
