//! A base directory of the host: opened once, read-only, and only ever beneath its own root.
//!
//! Objects are named by host inode number. Where each was last seen (a *locator*: parent and name)
//! stands in the store, so that a daemon that starts afresh finds what the kernel still holds.

use super::error::{FsError, FsResult, io, sys};
use super::ids::{BaseId, ObjectId};
use super::keys;
use super::record::{BaseIdentity, BaseRecord};
use super::state::lock;
use crate::store::{Batch, Store};
use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, fstat};
use shm_transport::wire::{Attr, FileKind, Timestamp};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Most descriptors of base directories and files kept open, each.
const OPEN_MAX: usize = 256;
/// Deepest directory that is resolved; deeper paths do not fit `PATH_MAX` many times over.
const DEPTH_MAX: usize = 4096;
/// Longest relative path handed to one system call, in bytes.
const PATH_CHUNK: usize = 4000;
/// How often a resolution that a rename disturbed is tried.
const RESOLVE_TRIES: usize = 64;

/// What the base says of one object, from one `fstat`.
#[derive(Debug, Clone, Copy)]
pub struct BaseStat {
    /// The object.
    pub object: ObjectId,
    /// Its kind.
    pub kind: FileKind,
    /// Its attributes.
    pub attr: Attr,
}

/// A name in a base directory.
#[derive(Debug, Clone)]
pub struct BaseEntry {
    /// The name.
    pub name: Vec<u8>,
    /// The object.
    pub object: ObjectId,
    /// Its kind.
    pub kind: FileKind,
}

/// An opened base.
pub struct Base {
    /// Its number.
    pub id: BaseId,
    /// Its record.
    pub record: BaseRecord,
    root: Arc<OwnedFd>,
    dev: u64,
    store: Arc<dyn Store>,
    dirs: Mutex<HashMap<ObjectId, Arc<OwnedFd>>>,
    files: Mutex<HashMap<ObjectId, Arc<OwnedFd>>>,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Opens a host directory read-only: through a private clone of its mount that nobody can write
/// through, where we may make one; else as it is.
pub fn open_root(path: &Path) -> FsResult<OwnedFd> {
    match shm_transport::mem::sys::read_only_clone(path) {
        Ok(fd) => Ok(fd),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EINVAL)) => {
            tracing::debug!(path = %path.display(), error = %e, "no private mount clone; reading the base in place");
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            nix::fcntl::open(path, flags, Mode::empty()).map_err(sys("open base"))
        }
        Err(e) => Err(io("open base")(e)),
    }
}

impl Base {
    /// Opens a base again by its record. The root must still be the directory that it was.
    pub fn open(id: BaseId, record: BaseRecord, store: Arc<dyn Store>) -> FsResult<Self> {
        let root = open_root(Path::new(OsStr::from_bytes(&record.path)))?;
        let stat = fstat(&root).map_err(sys("stat base"))?;
        if stat.st_ino != record.root.0 {
            return Err(FsError::Io {
                what: "base directory was replaced",
                source: std::io::Error::from_raw_os_error(libc::ESTALE),
            });
        }
        Ok(Self {
            id,
            record,
            dev: stat.st_dev,
            root: Arc::new(root),
            store,
            dirs: Mutex::default(),
            files: Mutex::default(),
        })
    }

    /// The root directory.
    pub fn root(&self) -> ObjectId {
        self.record.root
    }

    /// `None` when nothing has that name, or it lies on another file system (a mount point's inside is
    /// not part of the base).
    pub fn lookup(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<BaseStat>> {
        let parent = match self.directory(dir) {
            Ok(parent) => parent,
            Err(FsError::NotFound | FsError::Stale) => return Ok(None),
            Err(e) => return Err(e),
        };
        let fd = match open_beneath(&parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
            Ok(fd) => fd,
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EXDEV | nix::errno::Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(sys("look up in base")(e)),
        };
        let stat = fstat(&fd).map_err(sys("stat in base"))?;
        if stat.st_dev != self.dev && FileKind::from_mode(stat.st_mode) == Some(FileKind::Directory) {
            // A subvolume: its numbers are those of another file system.
            return Ok(None);
        }
        let found = self.represent(&stat)?;
        self.remember(dir, [(name, found.object)])?;
        if found.kind == FileKind::Directory {
            keep(&self.dirs, found.object, Arc::new(fd));
        }
        Ok(Some(found))
    }

    /// Notes where objects were seen.
    pub fn remember<'a>(&self, dir: ObjectId, seen: impl IntoIterator<Item = (&'a [u8], ObjectId)>) -> FsResult<()> {
        let mut batch = Batch::default();
        for (name, object) in seen {
            let key = keys::locator(self.id, object, dir, name);
            if object != self.record.root && self.store.get(&key).is_none() {
                batch.put(key, []);
            }
        }
        if !batch.is_empty() {
            self.store.commit(&batch)?;
        }
        Ok(())
    }

    fn represent(&self, stat: &FileStat) -> FsResult<BaseStat> {
        let object = ObjectId(stat.st_ino);
        let kind = FileKind::from_mode(stat.st_mode).ok_or(FsError::Overflow)?;
        if !object.is_base() || stat.st_dev != self.dev {
            return Err(FsError::Overflow);
        }
        Ok(BaseStat { object, kind, attr: attr_of(stat) })
    }

    /// Attributes of an object, by where it was seen.
    pub fn stat(&self, object: ObjectId) -> FsResult<BaseStat> {
        let fd = self.find(object, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        self.represent(&fstat(&fd).map_err(sys("stat in base"))?)
    }

    /// A directory's descriptor (`O_PATH`).
    pub fn directory(&self, dir: ObjectId) -> FsResult<Arc<OwnedFd>> {
        if dir == self.record.root {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(fd) = lock(&self.dirs).get(&dir) {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(self.find(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?);
        keep(&self.dirs, dir, Arc::clone(&fd));
        Ok(fd)
    }

    /// A regular file's descriptor, for reading.
    pub fn file(&self, object: ObjectId) -> FsResult<Arc<OwnedFd>> {
        if let Some(fd) = lock(&self.files).get(&object) {
            return Ok(Arc::clone(fd));
        }
        // Non-blocking, so that what turned into a FIFO meanwhile cannot hold us up; `find` then
        // refuses it by its number.
        let fd = Arc::new(self.find(object, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)?);
        keep(&self.files, object, Arc::clone(&fd));
        Ok(fd)
    }

    /// Attributes through a descriptor of [`Self::file`]: size, times and data of one moment.
    pub fn stat_fd(&self, fd: &OwnedFd) -> FsResult<BaseStat> {
        self.represent(&fstat(fd).map_err(sys("stat in base"))?)
    }

    /// Every name in a directory, in the host's order. Imports nothing.
    pub fn list(&self, dir: ObjectId) -> FsResult<Vec<BaseEntry>> {
        let parent = match self.directory(dir) {
            Ok(parent) => parent,
            Err(FsError::NotFound | FsError::Stale) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&parent, ".", flags, Mode::empty()).map_err(sys("open base directory"))?;
        let mut listing = Dir::from_fd(fd).map_err(sys("list base directory"))?;
        let mut entries = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(sys("list base directory"))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || entry.ino() >= ObjectId::FIRST_NEW {
                continue;
            }
            let kind = match entry.file_type().map(kind_of) {
                Some(kind) => kind,
                None => match self.lookup(dir, name)? {
                    Some(found) => found.kind,
                    None => continue,
                },
            };
            entries.push(BaseEntry { name: name.to_vec(), object: ObjectId(entry.ino()), kind });
        }
        Ok(entries)
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, object: ObjectId) -> FsResult<Vec<u8>> {
        let fd = self.find(object, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let target = nix::fcntl::readlinkat(&fd, "").map_err(sys("read link in base"))?;
        Ok(target.as_bytes().to_vec())
    }

    /// All extended attributes of an object that the base's file system lets us read.
    pub fn xattrs(&self, object: ObjectId) -> FsResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let fd = self.find(object, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        shm_transport::mem::sys::xattrs_of_path_fd(fd.as_fd()).map_err(io("read attributes in base"))
    }

    /// Places where the object was seen: parent and name.
    pub fn locators(&self, object: ObjectId) -> Vec<(ObjectId, Vec<u8>)> {
        let prefix = keys::locators(self.id, object);
        let mut found = Vec::new();
        self.store.scan(&prefix, &mut |key, _| {
            if !key.starts_with(&prefix) {
                return false;
            }
            if let (Some(parent), Some(name)) = (keys::number(key, 2), keys::tail(key, 3)) {
                found.push((ObjectId(parent), name.to_vec()));
            }
            true
        });
        found
    }

    /// Opens an object by where it was seen; `Stale` when it is nowhere any more.
    fn find(&self, object: ObjectId, flags: OFlag) -> FsResult<OwnedFd> {
        if object == self.record.root {
            let flags = if flags.contains(OFlag::O_PATH) { flags } else { flags | OFlag::O_DIRECTORY };
            return nix::fcntl::openat(&self.root, ".", flags | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(sys("open base"));
        }
        for (parent, name) in self.locators(object) {
            let opened = match self.cached_directory(parent) {
                Some(dir) => open_beneath(&dir, &name, flags),
                None => self.walk(parent, &name, flags)?,
            };
            match opened {
                Ok(fd) => {
                    if fstat(&fd).is_ok_and(|s| s.st_ino == object.0 && s.st_dev == self.dev) {
                        return Ok(fd);
                    }
                }
                Err(e @ (nix::errno::Errno::EMFILE | nix::errno::Errno::ENFILE | nix::errno::Errno::EACCES)) => {
                    return Err(sys("open in base")(e));
                }
                Err(_) => {}
            }
        }
        Err(FsError::Stale)
    }

    fn cached_directory(&self, dir: ObjectId) -> Option<Arc<OwnedFd>> {
        if dir == self.record.root {
            return Some(Arc::clone(&self.root));
        }
        lock(&self.dirs).get(&dir).map(Arc::clone)
    }

    /// Opens `name` in `parent` by the path of names that leads there from the root, or from the nearest
    /// directory that is open.
    fn walk(&self, parent: ObjectId, name: &[u8], flags: OFlag) -> FsResult<nix::Result<OwnedFd>> {
        let mut names = vec![name.to_vec()];
        let mut at = parent;
        let mut dir = loop {
            if let Some(fd) = self.cached_directory(at) {
                break fd;
            }
            // A directory has one name; an older locator of a moved one fails below and says stale.
            let Some((up, name)) = self.locators(at).pop() else { return Ok(Err(nix::errno::Errno::ESTALE)) };
            if names.len() >= DEPTH_MAX {
                return Err(FsError::NameTooLong);
            }
            names.push(name);
            at = up;
        };
        while let Some(first) = names.pop() {
            let mut path = first;
            while names.last().is_some_and(|n| path.len() + 1 + n.len() <= PATH_CHUNK) {
                path.push(b'/');
                path.extend(names.pop().unwrap_or_default());
            }
            let last = names.is_empty();
            let how = if last { flags } else { OFlag::O_PATH | OFlag::O_DIRECTORY };
            match open_beneath(&dir, &path, how) {
                Ok(fd) if last => return Ok(Ok(fd)),
                Ok(fd) => dir = Arc::new(fd),
                Err(e) => return Ok(Err(e)),
            }
        }
        Ok(Err(nix::errno::Errno::ESTALE))
    }

    /// Drops cached descriptors, e.g. when a file was seen to be replaced.
    pub fn forget(&self, object: ObjectId) {
        lock(&self.files).remove(&object);
        lock(&self.dirs).remove(&object);
    }
}

/// Keeps a descriptor within the bound; an arbitrary older one makes room.
fn keep(cache: &Mutex<HashMap<ObjectId, Arc<OwnedFd>>>, object: ObjectId, fd: Arc<OwnedFd>) {
    let mut cache = lock(cache);
    if cache.len() >= OPEN_MAX
        && !cache.contains_key(&object)
        && let Some(victim) = cache.keys().next().copied()
    {
        cache.remove(&victim);
    }
    cache.insert(object, fd);
}

fn open_beneath(dir: &OwnedFd, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    // The kernel asks for another try when something was renamed during the resolution; a file that
    // somebody holds a lease on says the same for much longer, and must not hold us up.
    for _ in 0..RESOLVE_TRIES {
        match openat2(dir, path, how) {
            Err(nix::errno::Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(nix::errno::Errno::EAGAIN)
}

fn kind_of(t: nix::dir::Type) -> FileKind {
    use nix::dir::Type;
    match t {
        Type::Fifo => FileKind::Fifo,
        Type::CharacterDevice => FileKind::CharDevice,
        Type::Directory => FileKind::Directory,
        Type::BlockDevice => FileKind::BlockDevice,
        Type::File => FileKind::Regular,
        Type::Symlink => FileKind::Symlink,
        Type::Socket => FileKind::Socket,
    }
}

/// The kernel's 32-bit encoding of a device number (`new_encode_dev` of `linux/kdev_t.h`).
pub fn encode_rdev(dev: u64) -> u32 {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// A `stat` as attributes. Birth time is not part of it.
pub fn attr_of(stat: &FileStat) -> Attr {
    let time = |sec: i64, nsec: i64| Timestamp { sec, nsec: nsec as u32 };
    Attr {
        ino: stat.st_ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        btime: Timestamp::default(),
        mode: stat.st_mode,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: encode_rdev(stat.st_rdev),
        blksize: 4096,
    }
}

impl BaseStat {
    /// What a commit compares.
    pub fn identity(&self) -> BaseIdentity {
        let a = &self.attr;
        BaseIdentity { mode: a.mode, uid: a.uid, gid: a.gid, size: a.size, mtime: a.mtime, ctime: a.ctime }
    }
}
