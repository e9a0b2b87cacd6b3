//! A base directory of the host: opened once, read-only, and only ever beneath its own root.
//!
//! The host cannot open an object by its number, so each is found by where it was seen. That is kept in
//! memory: reading a base writes nothing. Only for what a branch changed it is recorded too ([`Base::pin`]).
//! An object whose place is not known is searched for.
//!
//! ```text
//! grounds  where bases are opened
//! look     one statx, one open without effects
//! number   (device, inode number) -> object number
//! places   where objects were seen
//! find     object number -> object, by its places
//! search   what to do when no place is known
//! read_dir names in a directory
//! sealed   a copy in the store, which needs none of the above
//! ```

mod find;
mod grounds;
mod look;
mod number;
mod places;
mod read_dir;
mod sealed;
mod search;
#[cfg(test)]
mod tests;

pub use self::grounds::Grounds;
pub use self::number::of_root;

use self::find::Found;
use self::look::Look;
use self::number::Windows;
use self::places::{Place, Places};
use self::sealed::Sealed;
use self::search::Walk;
use super::error::{FsError, FsResult, io, sys};
use super::ids::{BaseId, ObjectId};
use super::nowait;
use super::record::{BaseIdentity, BaseRecord};
use super::state::lock;
use crate::store::Store;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode};
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, fstatfs};
use shm_transport::wire::{Attr, FileKind, Timestamp};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Most descriptors of base directories and files kept open, each.
const OPEN_MAX: usize = 256;
/// File systems with subvolumes: a directory's entry does not tell the number of a subvolume in it.
const SUBVOLUMES: [i64; 2] = [0x9123_683e, 0xca45_1a4e];

/// What the base says of one object, from one look at it.
#[derive(Debug, Clone, Copy)]
pub struct BaseStat {
    /// The object.
    pub object: ObjectId,
    /// Its kind.
    pub kind: FileKind,
    /// Its attributes.
    pub attr: Attr,
    /// Its inode number on the host, which is not the object's where that was taken.
    pub host_ino: u64,
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

/// What a base lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    /// One file system with inode numbers that stay.
    Plain,
    /// Subvolumes, each with inode numbers of its own.
    Subvolumes,
    /// Layers: inode numbers of directories may change, birth times do.
    Overlay,
}

/// Open descriptors by object.
type Cache = Mutex<HashMap<ObjectId, Arc<OwnedFd>>>;

/// An opened base.
pub struct Base {
    /// Its number.
    pub id: BaseId,
    /// Its record.
    pub record: BaseRecord,
    root: Arc<OwnedFd>,
    sealed: Option<Sealed>,
    host: Host,
    /// The root's device, see [`Look::device`].
    device: u64,
    store: Arc<dyn Store>,
    windows: Windows,
    places: Mutex<Places>,
    walk: Mutex<Walk>,
    dirs: Cache,
    files: Cache,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Opens a host directory read-only: through a private clone of its mount that nobody can write
/// through, where we may make one; else as it is.
fn open_root(path: &Path) -> FsResult<OwnedFd> {
    match shm_transport::mem::sys::read_only_clone(path) {
        Ok(fd) => Ok(fd),
        Err(e) if is_no_clone(&e) => {
            tracing::debug!(path = %path.display(), error = %e, "no private mount clone; reading the base in place");
            open_root_in_place(path)
        }
        Err(e) => Err(io("open base")(e)),
    }
}

fn open_root_in_place(path: &Path) -> FsResult<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(sys("open base"))
}

/// Whether the system does not let us clone mounts here.
fn is_no_clone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EINVAL))
}

impl Base {
    /// Opens a base again by its record. The root must still be the directory that it was, unless there is a copy of it.
    pub fn open(grounds: &Grounds, id: BaseId, record: BaseRecord, store: Arc<dyn Store>) -> FsResult<Self> {
        if let Some(seal) = &record.seal {
            let sealed = Sealed::open(&grounds.copy(&seal.name)?, record.root)?;
            return Self::assemble((sealed.directory()?, Some(sealed)), (Host::Plain, 0), (id, record, store));
        }
        let root = grounds.open(Path::new(OsStr::from_bytes(&record.path)))?;
        Self::beneath(root, id, record, store)
    }

    fn beneath(root: OwnedFd, id: BaseId, record: BaseRecord, store: Arc<dyn Store>) -> FsResult<Self> {
        let FsType(magic) = fstatfs(&root).map_err(sys("stat base"))?.filesystem_type();
        let host = match magic {
            m if m == OVERLAYFS_SUPER_MAGIC.0 => Host::Overlay,
            m if SUBVOLUMES.contains(&m) => Host::Subvolumes,
            _ => Host::Plain,
        };
        let look = Look::at(&root)?;
        if host != Host::Overlay && number::of_root(look.ino) != record.root {
            return Err(FsError::Io {
                what: "base directory was replaced",
                source: std::io::Error::from_raw_os_error(libc::ESTALE),
            });
        }
        Self::assemble((root, None), (host, look.device), (id, record, store))
    }

    fn assemble(
        (root, sealed): (OwnedFd, Option<Sealed>),
        (host, device): (Host, u64),
        (id, record, store): (BaseId, BaseRecord, Arc<dyn Store>),
    ) -> FsResult<Self> {
        let (root, windows) = (Arc::new(root), Windows::load(id, store.as_ref())?);
        let (places, walk, dirs, files) = Default::default();
        Ok(Self { id, record, root, sealed, host, device, store, windows, places, walk, dirs, files })
    }

    /// Whether it is a copy of a directory as it was once.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Where a copy has the bytes of a regular file.
    pub fn copy_of(&self, object: ObjectId) -> Option<PathBuf> {
        self.sealed.as_ref().map(|sealed| sealed.path(object))
    }

    /// The root directory.
    pub fn root(&self) -> ObjectId {
        self.record.root
    }

    fn look(&self, fd: impl AsFd) -> FsResult<Look> {
        let mut look = Look::at(fd)?;
        if self.host == Host::Overlay {
            // That of the layer which has the object now: the first write on the host changes it.
            look.attr.btime = Timestamp::default();
        }
        Ok(look)
    }

    /// The number of what was seen at a name.
    fn number(&self, dir: ObjectId, name: &[u8], look: &Look) -> FsResult<ObjectId> {
        Ok(self.number_and_claim(dir, name, look)?.0)
    }

    /// The same, and whether a branch holds on to the object.
    fn number_and_claim(&self, dir: ObjectId, name: &[u8], look: &Look) -> FsResult<(ObjectId, bool)> {
        let directory = look.kind == FileKind::Directory;
        let device = if look.device == self.device { 0 } else { look.device };
        if self.host == Host::Overlay && (directory || device != 0 || !number::is_plain(look.ino)) {
            return Ok((number::by_place(dir, name, look.kind), false));
        }
        for reuse in 0..=u32::MAX {
            let object = self.windows.number(self.store.as_ref(), device, look.ino, reuse)?;
            // A number that a branch holds on to stays that object's, whatever the host gives it to.
            match self.claim(object) {
                None => return Ok((object, false)),
                Some(born) if look::may_be_same(born, look.born()) => return Ok((object, true)),
                Some(_) => {}
            }
        }
        Err(FsError::Overflow)
    }

    /// `None` when nothing has that name. A directory that another file system is mounted on is an empty one.
    pub fn lookup(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<BaseStat>> {
        if let Some(sealed) = &self.sealed {
            return sealed.lookup(dir, name);
        }
        let parent = match self.directory(dir) {
            Ok(parent) => parent,
            Err(FsError::NotFound | FsError::Stale) => return Ok(None),
            Err(e) => return Err(e),
        };
        self.lookup_in(dir, &parent, name)
    }

    fn lookup_in(&self, dir: ObjectId, parent: &OwnedFd, name: &[u8]) -> FsResult<Option<BaseStat>> {
        if matches!(name, b"." | b"..") || self.is_staging(dir, name) {
            return Ok(None);
        }
        let fd = match self.open_name(parent, name) {
            Ok(fd) => fd,
            Err(Errno::EXDEV) => return self.mount_point(dir, parent, name),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(sys("look up in base")(e)),
        };
        let look = self.look(&fd)?;
        let found = represent(self.number(dir, name, &look)?, &look);
        self.note(found.object, &look, dir, name);
        if found.kind == FileKind::Directory {
            keep(&self.dirs, found.object, Arc::new(fd));
        }
        Ok(Some(found))
    }

    /// What a mount covers. The mounted file system is not touched: it may be one that does not answer.
    fn mount_point(&self, dir: ObjectId, parent: &OwnedFd, name: &[u8]) -> FsResult<Option<BaseStat>> {
        let mut covered = None;
        self.each_in(dir, parent, &mut |entry, object, kind, _| {
            if entry == name {
                covered = Some((object, kind));
            }
            covered.is_none()
        })?;
        let Some((object, FileKind::Directory)) = covered else { return Ok(None) };
        lock(&self.places).seen(object, Timestamp::default(), dir, name);
        self.covered(object, parent).map(Some)
    }

    fn covered(&self, object: ObjectId, parent: &OwnedFd) -> FsResult<BaseStat> {
        let mut look = self.look(parent)?.unborn();
        (look.attr.mode, look.attr.nlink) = (libc::S_IFDIR | 0o755, 2);
        Ok(represent(object, &look))
    }

    /// Notes where objects were seen. Writes nothing but further names of what a branch changed.
    pub fn remember<'a>(&self, dir: ObjectId, seen: impl IntoIterator<Item = (&'a [u8], ObjectId)>) -> FsResult<()> {
        if self.is_sealed() {
            return Ok(());
        }
        for (name, object) in seen {
            if self.claim(object).is_none() {
                lock(&self.places).seen(object, Timestamp::default(), dir, name);
            } else {
                // A branch holds on to it: this name is to be known after a restart too.
                self.lookup(dir, name)?;
            }
        }
        Ok(())
    }

    /// Attributes of an object, by where it was seen.
    pub fn stat(&self, object: ObjectId) -> FsResult<BaseStat> {
        if let Some(sealed) = &self.sealed {
            return sealed.stat(object);
        }
        match self.find(object)? {
            Found::Here(_, look) => Ok(represent(object, &look)),
            Found::Covered(place) => self.covered(object, self.directory(place.parent)?.as_ref()),
        }
    }

    /// An object's descriptor (`O_PATH`).
    fn opened(&self, object: ObjectId) -> FsResult<(OwnedFd, Look)> {
        match self.find(object)? {
            Found::Here(fd, look) => Ok((fd, look)),
            Found::Covered(_) => Err(FsError::Stale),
        }
    }

    /// A directory's descriptor (`O_PATH`).
    pub fn directory(&self, dir: ObjectId) -> FsResult<Arc<OwnedFd>> {
        if let Some(fd) = self.cached_directory(dir) {
            return Ok(fd);
        }
        let (fd, look) = self.opened(dir)?;
        if look.kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        let fd = Arc::new(fd);
        keep(&self.dirs, dir, Arc::clone(&fd));
        Ok(fd)
    }

    /// A regular file's descriptor, for reading. Where somebody holds a lease on the file, this waits until
    /// it is given back, as every `open(2)` does, or until the kernel takes it.
    pub fn file(&self, object: ObjectId) -> FsResult<Arc<OwnedFd>> {
        if let Some(fd) = lock(&self.files).get(&object) {
            return Ok(Arc::clone(fd));
        }
        if let Some(sealed) = &self.sealed {
            return sealed.file(object).inspect(|fd| keep(&self.files, object, Arc::clone(fd)));
        }
        let (fd, look) = self.opened(object)?;
        if look.kind != FileKind::Regular {
            return Err(FsError::Invalid);
        }
        // The very inode that was looked at: no FIFO or device can have come to its place.
        let fd = Arc::new(self.reopen(&fd, OFlag::empty()).map_err(sys("open in base"))?);
        keep(&self.files, object, Arc::clone(&fd));
        Ok(fd)
    }

    fn reopen(&self, fd: &OwnedFd, flags: OFlag) -> nix::Result<OwnedFd> {
        let wait = if nowait::is_active() { OFlag::O_NONBLOCK } else { OFlag::empty() };
        let flags = flags | wait | OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let open = || nix::fcntl::open(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(), flags, Mode::empty());
        match open() {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.let_go();
                open()
            }
            other => other,
        }
    }

    /// Attributes through a descriptor of [`Self::file`]: size, times and data of one moment.
    pub fn stat_fd(&self, object: ObjectId, fd: &OwnedFd) -> FsResult<BaseStat> {
        if let Some(sealed) = &self.sealed {
            return sealed.stat(object);
        }
        Ok(represent(object, &self.look(fd)?))
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, object: ObjectId) -> FsResult<Vec<u8>> {
        if let Some(sealed) = &self.sealed {
            return sealed.read_link(object);
        }
        let (fd, _) = self.opened(object)?;
        let target = nix::fcntl::readlinkat(&fd, "").map_err(sys("read link in base"))?;
        Ok(target.as_bytes().to_vec())
    }

    /// All extended attributes of an object that the base's file system lets us read.
    pub fn xattrs(&self, object: ObjectId) -> FsResult<Vec<(Vec<u8>, Vec<u8>)>> {
        if let Some(sealed) = &self.sealed {
            return sealed.xattrs(object);
        }
        match self.find(object)? {
            Found::Here(fd, _) => {
                shm_transport::mem::sys::xattrs_of_path_fd(fd.as_fd()).map_err(io("read attributes in base"))
            }
            Found::Covered(_) => Ok(Vec::new()),
        }
    }

    /// One extended attribute of a directory.
    pub fn xattr_of_directory(&self, dir: ObjectId, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        if let Some(sealed) = &self.sealed {
            return Ok(sealed.xattr(dir, name));
        }
        let fd = match self.directory(dir) {
            Err(FsError::Stale | FsError::NotFound | FsError::NotDirectory) => return Ok(None),
            fd => fd?,
        };
        shm_transport::mem::sys::xattr_of_path_fd(fd.as_fd(), name).map_err(io("read an attribute in base"))
    }

    /// Where the base has a directory: parent and name.
    pub fn place_of(&self, dir: ObjectId) -> FsResult<(ObjectId, Vec<u8>)> {
        if let Some(sealed) = &self.sealed {
            return sealed.places(dir).into_iter().next().ok_or(FsError::Stale);
        }
        self.find(dir)?;
        self.place(dir).map(|p| (p.parent, p.name.into())).ok_or(FsError::Stale)
    }

    /// Places where the object was seen, or is expected: parent and name.
    pub fn locators(&self, object: ObjectId) -> Vec<(ObjectId, Vec<u8>)> {
        if let Some(sealed) = &self.sealed {
            return sealed.places(object);
        }
        let (mut places, _) = lock(&self.places).of(object);
        for (place, _) in self.recorded(object) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places.into_iter().map(|Place { parent, name }| (parent, name.into())).collect()
    }

    fn cached_directory(&self, dir: ObjectId) -> Option<Arc<OwnedFd>> {
        if dir == self.record.root {
            return Some(Arc::clone(&self.root));
        }
        lock(&self.dirs).get(&dir).map(Arc::clone)
    }

    /// Closes what is kept open, for somebody who needs descriptors now.
    fn let_go(&self) {
        lock(&self.files).clear();
        lock(&self.dirs).clear();
    }

    /// Drops cached descriptors, e.g. when a file was seen to be replaced.
    pub fn forget(&self, object: ObjectId) {
        lock(&self.files).remove(&object);
        lock(&self.dirs).remove(&object);
    }
}

fn represent(object: ObjectId, look: &Look) -> BaseStat {
    BaseStat { object, kind: look.kind, attr: Attr { ino: object.0, ..look.attr }, host_ino: look.ino }
}

/// Keeps a descriptor within the bound; an arbitrary older one makes room.
fn keep(cache: &Cache, object: ObjectId, fd: Arc<OwnedFd>) {
    let mut cache = lock(cache);
    if cache.len() >= OPEN_MAX
        && !cache.contains_key(&object)
        && let Some(victim) = cache.keys().next().copied()
    {
        cache.remove(&victim);
    }
    cache.insert(object, fd);
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
