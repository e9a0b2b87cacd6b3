#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they fail"
)]

mod between;
mod commands;
mod commits;
mod diffs;
mod grounds;
mod merge_conflicts;
mod merges;
mod model;
mod removals;
mod undos;

use super::Branches;
use crate::content::Contents;
use crate::core::change::Change;
use crate::core::clock::HostClock;
use crate::core::ids::{BranchId, ContentId, ObjectId};
use crate::core::record::{Body, DirentRecord, FileBody, ObjectRecord};
use crate::core::state::Core;
use crate::core::view::View;
use crate::store::{MemStore, Store};
use nix::sys::uio::pwrite;
use shm_transport::control::{BranchInfo, Command, Diff, ErrorCode, Failure, SnapshotInfo};
use shm_transport::wire::{FileKind, Timestamp};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A store, a base directory, and what a branch's programs would do.
struct World {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    core: Arc<Core>,
    branches: Branches,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["base", "base/d", "store"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("base/f"), "one").unwrap();
        std::fs::write(dir.path().join("base/d/g"), "two").unwrap();
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let (core, branches) = Self::start(&dir, &store);
        Self { dir, store, core, branches }
    }

    fn start(dir: &tempfile::TempDir, store: &Arc<dyn Store>) -> (Arc<Core>, Branches) {
        let contents = Contents::open(&dir.path().join("store/contents"), 16).unwrap();
        let core = Core::open(Arc::clone(store), Arc::new(contents), Arc::new(HostClock)).unwrap();
        let allowed = vec![dir.path().to_owned()];
        let branches = Branches::open(Arc::clone(&core), dir.path().join("store"), allowed, 7).unwrap();
        (core, branches)
    }

    /// As after the daemon's death.
    fn restart(&mut self) {
        (self.core, self.branches) = Self::start(&self.dir, &self.store);
    }

    fn base(&self) -> PathBuf {
        std::fs::canonicalize(self.dir.path().join("base")).unwrap()
    }

    fn ino(&self, path: &str) -> ObjectId {
        ObjectId(std::fs::symlink_metadata(self.base().join(path)).unwrap().ino())
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, command: &Command) -> Result<T, Failure> {
        self.branches.handle(command).map(|value| serde_json::from_value(value).unwrap())
    }

    fn refused(&self, command: &Command) -> ErrorCode {
        let failure = self.branches.handle(command).unwrap_err();
        assert!(!failure.message.is_empty() && failure.hint.is_some(), "{failure:?}");
        failure.code
    }

    fn make(&self, name: &str) -> BranchId {
        let info: BranchInfo = self.ask(&create(name, Some(self.base()), None, false)).unwrap();
        assert!(info.made);
        BranchId(info.id)
    }

    fn snapshot(&self, branch: &str, name: &str) {
        self.ask::<SnapshotInfo>(&Command::SnapshotCreate { branch: branch.into(), name: name.into() }).unwrap();
    }

    fn fork(&self, name: &str, from: &str) -> BranchId {
        BranchId(self.ask::<BranchInfo>(&create(name, None, Some(from), false)).unwrap().id)
    }

    fn diff(&self, name: &str) -> Vec<String> {
        self.diff_between(None, name)
    }

    fn diff_between(&self, old: Option<&str>, new: &str) -> Vec<String> {
        let diff: Diff = self.ask(&asked(old, new)).unwrap();
        let counts = diff.added + diff.modified + diff.deleted + diff.retyped + diff.renamed;
        assert_eq!(diff.changes.len() as u64, counts);
        diff.changes
            .into_iter()
            .map(|c| {
                let mark = if c.metadata_only { " meta" } else { "" };
                let edited = if c.edited { " edited" } else { "" };
                let from = c.from.map(|from| format!(" from {from}")).unwrap_or_default();
                format!("{:?} {} {} {}{mark}{from}{edited}", c.kind, c.path, c.object, c.size)
            })
            .collect()
    }

    fn view(&self, id: BranchId) -> View {
        self.core.branch(id).unwrap().view().clone()
    }

    fn change(&self, id: BranchId, edit: impl FnOnce(&View, &mut Change)) {
        let view = self.view(id);
        let mut change = Change::new(&view);
        edit(&view, &mut change);
        change.commit(self.store.as_ref()).unwrap();
    }

    /// A content file of the branch's head.
    fn content(&self, id: BranchId, object: ObjectId, text: &str) -> ContentId {
        let content = self.core.new_content().unwrap();
        let file = self.core.contents.create(content).unwrap();
        pwrite(file.as_fd(), text.as_bytes(), 0).unwrap();
        self.change(id, |_, change| change.content(content, object));
        content
    }

    /// Copies the attributes of a base object up, with another body.
    fn base_record(&self, view: &View, change: &mut Change, path: &str, body: Body) -> (ObjectId, ObjectRecord) {
        let base = view.base.as_ref().unwrap();
        let mut at = base.root();
        for name in path.split('/') {
            at = base.lookup(at, name.as_bytes()).unwrap().unwrap().object;
        }
        let stat = base.stat(at).unwrap();
        if view.object(at).unwrap().is_none() {
            change.preimage(at, &stat.identity());
        }
        base.pin(at, &mut change.batch);
        let a = stat.attr;
        let record = ObjectRecord {
            mode: a.mode & 0o7777,
            uid: a.uid,
            gid: a.gid,
            nlink: a.nlink,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            btime: a.ctime,
            own_times: false,
            body,
        };
        (at, record)
    }

    /// Writes a base file.
    fn write(&self, id: BranchId, path: &str, text: &str) {
        let content = self.content(id, self.ino(path), text);
        self.change(id, |view, change| {
            let body = Body::File(FileBody::Content(content));
            let (object, record) = self.base_record(view, change, path, body);
            change.object(object, &record);
        });
    }

    /// Sets a name, with what the base had there.
    fn name(&self, id: BranchId, dir: ObjectId, name: &str, record: DirentRecord) {
        self.change(id, |view, change| {
            let base = view.base_of(dir).and_then(|b| b.lookup(dir, name.as_bytes()).unwrap());
            if dir.is_base() && view.dirent(dir, name.as_bytes()).unwrap().is_none() {
                change.prename(dir, name.as_bytes(), base.map(|s| s.object));
            }
            change.dirent(dir, name.as_bytes(), record, true);
        });
    }

    /// Makes a new file.
    fn add(&self, id: BranchId, dir: ObjectId, name: &str, text: &str) -> ObjectId {
        let object = self.core.new_object().unwrap();
        let content = self.content(id, object, text);
        self.change(id, |_, change| change.object(object, &fresh(Body::File(FileBody::Content(content)))));
        self.name(id, dir, name, DirentRecord::Entry { object, kind: FileKind::Regular });
        object
    }

    /// Replaces a base file by a new one with its attributes, and with its modification time if that is wanted.
    fn add_like(&self, id: BranchId, dir: &str, name: &str, text: &str, time_too: bool) {
        let like = std::fs::metadata(self.base().join(dir).join(name)).unwrap();
        let object = self.core.new_object().unwrap();
        let content = self.content(id, object, text);
        let mtime = Timestamp { sec: like.mtime(), nsec: like.mtime_nsec() as u32 };
        let new = fresh(Body::File(FileBody::Content(content)));
        let record = ObjectRecord {
            mode: like.mode() & 0o7777,
            uid: like.uid(),
            gid: like.gid(),
            mtime: if time_too { mtime } else { new.mtime },
            ..new
        };
        self.change(id, |_, change| change.object(object, &record));
        self.name(id, self.ino(dir), name, DirentRecord::Entry { object, kind: FileKind::Regular });
    }

    /// Makes a file in the base that looks like one of [`Self::add`], but for its times.
    fn add_in_base(&self, name: &str, text: &str) {
        let path = self.base().join(name);
        std::fs::write(&path, text).unwrap();
        std::os::unix::fs::chown(&path, Some(1), Some(2)).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    }

    /// Sets the time of base files back.
    fn age(&self, paths: &[&str]) {
        for path in paths {
            let file = std::fs::File::options().write(true).open(self.base().join(path)).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5000)).unwrap();
        }
    }

    /// Makes a new directory.
    fn mkdir(&self, id: BranchId, dir: ObjectId, name: &str) -> ObjectId {
        let object = self.core.new_object().unwrap();
        let body = Body::Directory { parent: dir, name: name.into() };
        self.change(id, |_, change| change.object(object, &fresh(body)));
        self.name(id, dir, name, DirentRecord::Entry { object, kind: FileKind::Directory });
        object
    }

    /// Removes a base file.
    fn unlink(&self, id: BranchId, dir: &str, name: &str) {
        let (dir_id, path) =
            if dir.is_empty() { (self.ino(""), name.into()) } else { (self.ino(dir), format!("{dir}/{name}")) };
        self.change(id, |view, change| {
            let (object, record) = self.base_record(view, change, &path, Body::File(FileBody::Base));
            change.object(object, &ObjectRecord { nlink: 0, ..record });
        });
        self.name(id, dir_id, name, DirentRecord::Whiteout);
    }

    /// Moves the base directory `d` to `name` in the root.
    fn move_d(&self, id: BranchId, name: &str) {
        let (root, d) = (self.ino(""), self.ino("d"));
        self.change(id, |view, change| {
            let body = Body::Directory { parent: root, name: name.into() };
            let (object, record) = self.base_record(view, change, "d", body);
            change.object(object, &record);
        });
        self.name(id, root, "d", DirentRecord::Whiteout);
        self.name(id, root, name, DirentRecord::Entry { object: d, kind: FileKind::Directory });
    }
}

fn fresh(body: Body) -> ObjectRecord {
    let time = Timestamp { sec: 1000, nsec: 5 };
    ObjectRecord {
        mode: 0o640,
        uid: 1,
        gid: 2,
        nlink: if matches!(body, Body::Directory { .. }) { 2 } else { 1 },
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        own_times: true,
        body,
    }
}

fn asked(old: Option<&str>, new: &str) -> Command {
    Command::Diff { branch: new.into(), against: old.map(Into::into), limit: 100, skip: 0, sources: false }
}

fn create(name: &str, base: Option<PathBuf>, from: Option<&str>, reuse: bool) -> Command {
    Command::BranchCreate {
        name: name.into(),
        base,
        from: from.map(Into::into),
        frozen: false,
        reuse,
        limits: shm_transport::control::Limits::default(),
    }
}
