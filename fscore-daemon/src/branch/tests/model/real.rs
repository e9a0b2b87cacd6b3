//! The core that is judged: its store, its branches, and a mount of each that is used.

use super::super::super::Branches;
use super::super::super::facts::{Data as Held, Facts};
use super::tree::{Data, Id, Object, Tree};
use crate::content::Contents;
use crate::core::clock::HostClock;
use crate::core::ids::ObjectId;
use crate::core::state::Core;
use crate::core::tests::mount::Mount;
use crate::core::view::View;
use crate::fsck;
use crate::store::LogStore;
use shm_transport::control::{Command, Failure, FsckSeverity};
use shm_transport::wire::{Errno, FileKind, NodeId, Op, SessionId, SetAttr, SetTime, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which number the core gave an object of the model.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(pub(super) BTreeMap<Id, ObjectId>);

impl Numbers {
    fn id(&self, object: ObjectId) -> Id {
        let found = self.0.iter().find(|(_, known)| **known == object);
        *found.unwrap_or_else(|| panic!("object {object:?} is none that anybody made")).0
    }
}

/// The time of everything in the base, in seconds.
const BASE_TIME: i64 = 1000;

/// Fills the base.
pub(super) fn make_base(base: &Path) {
    for dir in ["", "a", "a/c", "b"] {
        std::fs::create_dir(base.join(dir)).unwrap();
    }
    for (file, text) in [("c", "base c"), ("a/a", "base a/a"), ("a/c/b", "base a/c/b"), ("b/d", "base b/d")] {
        std::fs::write(base.join(file), text).unwrap();
    }
    std::fs::set_permissions(base.join("c"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::hard_link(base.join("a/a"), base.join("b/a")).unwrap();
    symlink("a/c", base.join("d")).unwrap();
    rustix::fs::setxattr(base.join("b/d"), "user.x", b"of the base", rustix::fs::XattrFlags::empty()).unwrap();
    for path in ["c", "a/a", "a/c/b", "b/d", "d", "a/c", "a", "b", ""] {
        let time = rustix::fs::Timespec { tv_sec: BASE_TIME, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let follow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, base.join(path), &times, follow).unwrap();
    }
}

/// The base as a tree; its objects get numbers from `next` on.
pub(super) fn read_base(base: &Path, numbers: &mut Numbers, next: &mut Id) -> Tree {
    let root = *next;
    let mut tree = Tree::new(root);
    let mut left = vec![(base.to_owned(), None)];
    while let Some((path, place)) = left.pop() {
        let stat = std::fs::symlink_metadata(&path).unwrap();
        let number = ObjectId(stat.ino());
        let known = numbers.0.iter().find(|(_, object)| **object == number).map(|(id, _)| *id);
        let id = known.unwrap_or(*next);
        if known.is_none() {
            *next += 1;
            numbers.0.insert(id, number);
            let data = if stat.is_dir() {
                Data::Directory(BTreeMap::new())
            } else if stat.is_symlink() {
                Data::Symlink(std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else {
                Data::File(std::fs::read(&path).unwrap())
            };
            let time = if stat.is_dir() { 0 } else { stat.mtime() };
            let mut object = Object::new(stat.mode() & 0o7777, time, data);
            if path.ends_with("b/d") {
                object.xattrs.insert("user.x".into(), b"of the base".to_vec());
            }
            tree.objects.insert(id, object);
        }
        if let Some((dir, name)) = place {
            tree.names_mut(dir).insert(name, id);
        }
        if stat.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap().map(Result::unwrap);
            let mut found: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            found.sort();
            left.extend(found.into_iter().map(|name| (path.join(&name), Some((id, name)))));
        }
    }
    tree
}

pub(super) struct Real {
    pub(super) core: Arc<Core>,
    pub(super) branches: Branches,
    pub(super) store: Arc<LogStore>,
    pub(super) mounts: BTreeMap<String, Mount>,
    sessions: u64,
}

impl Real {
    pub(super) fn start(store: LogStore, contents: Contents, dir: PathBuf, allowed: PathBuf) -> Self {
        let store = Arc::new(store);
        let core =
            Core::open(Arc::clone(&store) as Arc<dyn crate::store::Store>, Arc::new(contents), Arc::new(HostClock));
        let core = core.unwrap();
        // Mounts of before are gone.
        for member in core.members().unwrap() {
            core.end_session(member.session).unwrap();
        }
        let branches = Branches::open(Arc::clone(&core), dir, vec![allowed], 0).unwrap();
        Self { core, branches, store, mounts: BTreeMap::new(), sessions: 100 }
    }

    pub(super) fn ask<T: serde::de::DeserializeOwned>(&self, command: &Command) -> Result<T, Failure> {
        self.branches.handle(command).map(|value| serde_json::from_value(value).unwrap())
    }

    /// The state of that name.
    pub(super) fn view(&self, name: &str) -> View {
        self.branches.state(name).unwrap_or_else(|e| panic!("{name}: {e:?}"))
    }

    pub(super) fn unmount(&mut self, branch: &str) {
        if let Some(mount) = self.mounts.remove(branch) {
            mount.session.close().unwrap();
        }
    }

    pub(super) fn mount(&mut self, branch: &str) -> &mut Mount {
        if !self.mounts.contains_key(branch) {
            self.sessions += 1;
            let loaded = self.core.branch(self.branches.find(branch).unwrap()).unwrap();
            self.mounts.insert(branch.into(), Mount::new(&self.core, &loaded, SessionId(self.sessions)));
        }
        self.mounts.get_mut(branch).unwrap()
    }

    /// The node at a path, looked up as the kernel does.
    pub(super) fn node(&mut self, branch: &str, path: &str) -> NodeId {
        let mount = self.mount(branch);
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(NodeId::ROOT, |at, name| mount.find(at, name).node)
    }

    /// Sets a modification time.
    pub(super) fn date(&mut self, branch: &str, node: NodeId, seconds: i64) -> bool {
        let time = SetTime::At(Timestamp { sec: seconds, nsec: 0 });
        self.run(branch, node, Op::SetAttr(SetAttr { mtime: Some(time), ..SetAttr::default() }), &[]).is_some()
    }

    /// Runs an operation; its reply, if it was done.
    pub(super) fn run(&mut self, branch: &str, node: NodeId, op: Op, payload: &[u8]) -> Option<super::Reply> {
        match self.mount(branch).run(node, op, payload).0 {
            super::Reply::Error(_) => None,
            reply => Some(reply),
        }
    }

    /// Whether an operation is refused for a limit.
    pub(super) fn is_refused(&mut self, branch: &str, node: NodeId, op: Op, payload: &[u8]) -> bool {
        matches!(self.mount(branch).run(node, op, payload).0, super::Reply::Error(Errno::EDQUOT))
    }

    /// Nothing that `fsck` finds. After a crash a content file may be left that nothing names.
    #[track_caller]
    pub(super) fn sound(&self, crashed: bool, context: &str) {
        let found = fsck::online(&self.core, &self.store).unwrap();
        let told = found.findings.iter().map(|f| &f.told).filter(|f| !crashed || f.kind != "content-unrecorded");
        let told: Vec<_> = told.filter(|f| f.severity == FsckSeverity::Error || self.mounts.is_empty()).collect();
        assert!(told.is_empty(), "{context}: {told:#?}");
    }

    /// A view as a tree.
    pub(super) fn read(&self, view: &View, numbers: &Numbers) -> Tree {
        let root = numbers.id(view.root);
        let mut tree = Tree::new(root);
        let (mut left, mut done) = (vec![view.root], BTreeSet::new());
        while let Some(object) = left.pop() {
            if !done.insert(object) {
                continue;
            }
            let facts = Facts::of_branch(view, &self.core.contents, object).unwrap();
            let id = numbers.id(object);
            let mut names = BTreeMap::new();
            if facts.kind == FileKind::Directory {
                for (name, (inside, kind)) in view.names(object).unwrap() {
                    let child = view.child(object, &name).unwrap().unwrap();
                    assert_eq!((child.object, child.kind), (inside, kind));
                    names.insert(String::from_utf8(name).unwrap(), numbers.id(inside));
                    left.push(inside);
                }
            }
            let mut made = Object::new(facts.mode, facts.mtime.sec, self.data(view, &facts, names));
            if made.is_dir() {
                made.mtime = 0;
            }
            for (name, value) in facts.xattrs {
                made.xattrs.insert(String::from_utf8(name).unwrap(), value);
            }
            tree.objects.insert(id, made);
        }
        for object in done {
            self.count_links(view, &tree, object, numbers.id(object));
        }
        tree
    }

    fn count_links(&self, view: &View, tree: &Tree, object: ObjectId, id: Id) {
        let Some(record) = view.object(object).unwrap().map(|v| v.value) else { return };
        let links = if tree.is_dir(id) {
            2 + tree.names(id).values().filter(|inside| tree.is_dir(**inside)).count()
        } else {
            tree.links(id)
        };
        assert_eq!(record.nlink as usize, links, "links of {id} ({object:?}) in {:?}", tree.paths());
    }

    fn data(&self, view: &View, facts: &Facts, names: BTreeMap<String, Id>) -> Data {
        match &facts.data {
            Held::Directory => Data::Directory(names),
            Held::Hole => Data::File(vec![0; facts.size as usize]),
            Held::Content(id) => Data::File(std::fs::read(self.core.contents.path(*id)).unwrap()),
            Held::Base(object) => {
                let fd = view.base.as_ref().unwrap().file(*object).unwrap();
                let mut bytes = vec![0; facts.size as usize];
                nix::sys::uio::pread(&*fd, &mut bytes, 0).unwrap();
                Data::File(bytes)
            }
            Held::Symlink(target) => Data::Symlink(target.clone()),
            Held::Special(_) => Data::Fifo,
        }
    }

    /// A mounted branch shows a tree, as programs see it.
    pub(super) fn shows(&mut self, branch: &str, tree: &Tree, context: &str) {
        for (path, id) in tree.directories() {
            let node = self.node(branch, &path);
            let names: Vec<String> = tree.names(id).keys().cloned().collect();
            assert_eq!(self.mount(branch).list(node, true), names, "{context}: {branch}/{path}");
        }
        for (path, id) in tree.paths() {
            let node = self.node(branch, &path);
            let (object, mount) = (&tree.objects[&id], self.mount(branch));
            let attr = mount.attr(node);
            assert_eq!(attr.mode & 0o7777, object.mode, "{context}: {branch}/{path}");
            if let Some(bytes) = object.bytes() {
                assert_eq!(attr.nlink as usize, tree.links(id), "{context}: {branch}/{path}");
                assert!(mount.read(node) == *bytes, "{context}: {branch}/{path}");
            }
        }
    }
}
