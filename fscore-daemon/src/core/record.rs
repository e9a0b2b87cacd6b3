//! Values of the store: the nouns of the version tree. Each has `encode` and `decode`.

mod base;

pub use base::{BaseRecord, SealRecord};

use super::codec::{Malformed, Reader, Writer};
use super::ids::{BaseId, BranchId, ContentId, EpochId, ObjectId};
use shm_transport::wire::{FileKind, RequestId, Timestamp};

/// Version of every record layout in this file that has only one.
const V: u8 = 1;
/// Of a branch that has limits.
const V_QUOTA: u8 = 2;
/// Of a snapshot that is automatic.
const V_AUTOMATIC: u8 = 2;
/// Of an epoch that has a base of its own.
const V_FOUNDED: u8 = 2;

/// What a branch may hold of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of content; none for no limit.
    pub bytes: Option<u64>,
    /// Objects that it made.
    pub inodes: Option<u64>,
}

/// A branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchRecord {
    /// Its name.
    pub name: String,
    /// Its head: the one epoch of the branch that is not frozen.
    pub head: EpochId,
    /// Its base, if any.
    pub base: Option<BaseId>,
    /// Whether the base is declared frozen.
    pub frozen_base: bool,
    /// Its root directory.
    pub root: ObjectId,
    /// The snapshot it was made from: branch and epoch.
    pub from: Option<(BranchId, EpochId)>,
    /// Owner.
    pub uid: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Its limits.
    pub quota: Quota,
}

/// A node of the version tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// What it inherits from; none for the first of a tree, which inherits the base.
    pub parent: Option<EpochId>,
    /// The branch it belongs to.
    pub branch: BranchId,
    /// Of the first of a tree: the sealed base that it inherits, in place of the branch's.
    pub base: Option<BaseId>,
}

/// A named frozen epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The epoch.
    pub epoch: EpochId,
    /// When it was made.
    pub created: Timestamp,
    /// Nobody named it, and it goes when there are enough younger ones.
    pub automatic: bool,
}

/// A name in a directory, as one epoch has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirentRecord {
    /// The name is gone.
    Whiteout,
    /// The name leads to an object.
    Entry {
        /// The object.
        object: ObjectId,
        /// Its kind.
        kind: FileKind,
    },
}

/// Where a regular file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileBody {
    /// Still in the base: size, blocks and data come from there.
    Base,
    /// No bytes were ever written: `size` zeros.
    Hole {
        /// Size in bytes.
        size: u64,
    },
    /// In a content file, whose own size, blocks, atime and mtime are the file's. Written in place only
    /// by the epoch that owns it (`ContentRecord::epoch`); any other copies it first.
    Content(ContentId),
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A regular file.
    File(FileBody),
    /// A directory; a base directory (by its object number) keeps its base entries but for those
    /// that dirent records override.
    Directory {
        /// The directory that it is in now.
        parent: ObjectId,
        /// Its name there; empty for a root.
        name: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: Vec<u8>,
    },
    /// FIFO, socket or device.
    Special {
        /// Which.
        kind: FileKind,
        /// Device number.
        rdev: u32,
    },
}

/// An object, as one epoch has it. Nearest ancestor wins; an object of the base without a record is as
/// the base has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Permission bits (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; 0 for an orphan or a removed directory.
    pub nlink: u32,
    /// Access time; counts unless the body is `File(Content)`, or `File(Base)` without `own_times`.
    pub atime: Timestamp,
    /// Modification time; as `atime`.
    pub mtime: Timestamp,
    /// Change time; a content file's own later change time wins.
    pub ctime: Timestamp,
    /// Birth time.
    pub btime: Timestamp,
    /// For `File(Base)`: the times above were set on this branch and count instead of the base's.
    pub own_times: bool,
    /// What it is.
    pub body: Body,
}

impl ObjectRecord {
    /// Its kind.
    pub fn kind(&self) -> FileKind {
        match &self.body {
            Body::File(_) => FileKind::Regular,
            Body::Directory { .. } => FileKind::Directory,
            Body::Symlink { .. } => FileKind::Symlink,
            Body::Special { kind, .. } => *kind,
        }
    }

    /// What says that an object is gone for good, which an older state may have.
    #[must_use]
    pub fn tombstone(&self) -> Self {
        let body = match &self.body {
            Body::File(_) => Body::File(FileBody::Hole { size: 0 }),
            other @ (Body::Directory { .. } | Body::Symlink { .. } | Body::Special { .. }) => other.clone(),
        };
        Self { nlink: 0, body, ..self.clone() }
    }
}

/// All extended attributes of an object, as one epoch has them, ordered by name. Overrides the base's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XattrSet(pub Vec<(Vec<u8>, Vec<u8>)>);

/// A content file's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRecord {
    /// The object that it was made for.
    pub object: ObjectId,
    /// The epoch that may write it in place.
    pub epoch: EpochId,
}

/// What a base object was when a branch first changed it; commit compares it with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseIdentity {
    /// Kind and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Change time.
    pub ctime: Timestamp,
}

/// The reply that a mutation's batch recorded, so that it is never run twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyRecord {
    /// The request.
    pub id: RequestId,
    /// The reply, as encoded for the wire.
    pub reply: Vec<u8>,
}

/// A commit under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRecord {
    /// The branch.
    pub branch: BranchId,
    /// The epoch that the plan was made from (frozen when it was prepared).
    pub epoch: EpochId,
    /// When it was prepared.
    pub created: Timestamp,
    /// The ground that has what it replaces, if other branches or snapshots need that.
    pub ground: Option<EpochId>,
}

fn put_time(w: &mut Writer, t: Timestamp) {
    w.i64(t.sec).u32(t.nsec);
}
fn time(r: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
    let t = Timestamp { sec: r.i64()?, nsec: r.u32()? };
    if t.nsec < 1_000_000_000 { Ok(t) } else { Err(Malformed) }
}
fn kind(r: &mut Reader<'_>) -> Result<FileKind, Malformed> {
    FileKind::from_mode(u32::from(r.u8()?) << 12).ok_or(Malformed)
}
fn text(r: &mut Reader<'_>) -> Result<String, Malformed> {
    String::from_utf8(r.bytes()?.to_vec()).map_err(|_| Malformed)
}
fn flag(r: &mut Reader<'_>) -> Result<bool, Malformed> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

impl BranchRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let limited = self.quota != Quota::default();
        // Without limits as before there were any, for releases that know none.
        let mut w = Writer::new(if limited { V_QUOTA } else { V });
        w.bytes(self.name.as_bytes()).u64(self.head.0);
        w.u8(u8::from(self.base.is_some())).u64(self.base.map_or(0, |b| b.0));
        w.u8(u8::from(self.frozen_base)).u64(self.root.0);
        let (branch, epoch) = self.from.unwrap_or((BranchId(0), EpochId(0)));
        w.u8(u8::from(self.from.is_some())).u64(branch.0).u64(epoch.0).u32(self.uid);
        put_time(&mut w, self.created);
        for limit in [self.quota.bytes, self.quota.inodes].into_iter().filter(|_| limited) {
            w.u8(u8::from(limit.is_some())).u64(limit.unwrap_or(0));
        }
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut r, version) = Reader::up_to(bytes, V_QUOTA)?;
        let name = text(&mut r)?;
        let head = EpochId(r.u64()?);
        let (based, base) = (flag(&mut r)?, BaseId(r.u64()?));
        let (frozen_base, root) = (flag(&mut r)?, ObjectId(r.u64()?));
        let (forked, branch, epoch) = (flag(&mut r)?, BranchId(r.u64()?), EpochId(r.u64()?));
        let (uid, created) = (r.u32()?, time(&mut r)?);
        let mut limit = || Ok((flag(&mut r)?, r.u64()?)).map(|(limited, max)| limited.then_some(max));
        let quota = if version >= V_QUOTA { Quota { bytes: limit()?, inodes: limit()? } } else { Quota::default() };
        r.end()?;
        let (base, from) = (based.then_some(base), forked.then_some((branch, epoch)));
        Ok(Self { name, head, base, frozen_base, root, from, uid, created, quota })
    }
}

impl EpochRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(if self.base.is_some() { V_FOUNDED } else { V });
        w.u8(u8::from(self.parent.is_some())).u64(self.parent.map_or(0, |p| p.0)).u64(self.branch.0);
        if let Some(base) = self.base {
            w.u64(base.0);
        }
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut r, version) = Reader::up_to(bytes, V_FOUNDED)?;
        let (has, parent, branch) = (flag(&mut r)?, EpochId(r.u64()?), BranchId(r.u64()?));
        let base = if version >= V_FOUNDED { Some(BaseId(r.u64()?)) } else { None };
        r.end()?;
        if has && base.is_some() {
            return Err(Malformed);
        }
        Ok(Self { parent: has.then_some(parent), branch, base })
    }
}

impl SnapshotRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(if self.automatic { V_AUTOMATIC } else { V });
        w.u64(self.epoch.0);
        put_time(&mut w, self.created);
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut r, version) = Reader::up_to(bytes, V_AUTOMATIC)?;
        let it = Self { epoch: EpochId(r.u64()?), created: time(&mut r)?, automatic: version >= V_AUTOMATIC };
        r.end().map(|()| it)
    }
}

impl DirentRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        match self {
            Self::Whiteout => w.u64(0).u8(0),
            Self::Entry { object, kind } => w.u64(object.0).u8(kind.dtype()),
        };
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let object = ObjectId(r.u64()?);
        let it = if object.0 == 0 {
            r.u8()?;
            Self::Whiteout
        } else {
            Self::Entry { object, kind: kind(&mut r)? }
        };
        r.end().map(|()| it)
    }
}

impl ObjectRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u32(self.mode).u32(self.uid).u32(self.gid).u32(self.nlink);
        for t in [self.atime, self.mtime, self.ctime, self.btime] {
            put_time(&mut w, t);
        }
        w.u8(u8::from(self.own_times)).u8(self.kind().dtype());
        match &self.body {
            Body::File(FileBody::Base) => w.u8(0).u64(0),
            Body::File(FileBody::Hole { size }) => w.u8(1).u64(*size),
            Body::File(FileBody::Content(id)) => w.u8(2).u64(id.0),
            Body::Directory { parent, name } => w.u64(parent.0).bytes(name),
            Body::Symlink { target } => w.bytes(target),
            Body::Special { rdev, .. } => w.u32(*rdev),
        };
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let (mode, uid, gid, nlink) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let (atime, mtime, ctime, btime) = (time(&mut r)?, time(&mut r)?, time(&mut r)?, time(&mut r)?);
        let own_times = flag(&mut r)?;
        let body = match kind(&mut r)? {
            FileKind::Regular => Body::File(match (r.u8()?, r.u64()?) {
                (0, 0) => FileBody::Base,
                (1, size) => FileBody::Hole { size },
                (2, id) => FileBody::Content(ContentId(id)),
                _ => return Err(Malformed),
            }),
            FileKind::Directory => Body::Directory { parent: ObjectId(r.u64()?), name: r.bytes()?.to_vec() },
            FileKind::Symlink => Body::Symlink { target: r.bytes()?.to_vec() },
            kind @ (FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice) => {
                Body::Special { kind, rdev: r.u32()? }
            }
        };
        r.end()?;
        Ok(Self { mode, uid, gid, nlink, atime, mtime, ctime, btime, own_times, body })
    }
}

impl XattrSet {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u32(self.0.len() as u32);
        for (name, value) in &self.0 {
            w.bytes(name).bytes(value);
        }
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let count = r.u32()?;
        let mut set = Vec::new();
        for _ in 0..count {
            set.push((r.bytes()?.to_vec(), r.bytes()?.to_vec()));
        }
        r.end().map(|()| Self(set))
    }
}

impl ContentRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u64(self.object.0).u64(self.epoch.0);
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let it = Self { object: ObjectId(r.u64()?), epoch: EpochId(r.u64()?) };
        r.end().map(|()| it)
    }
}

impl BaseIdentity {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u32(self.mode).u32(self.uid).u32(self.gid).u64(self.size);
        put_time(&mut w, self.mtime);
        put_time(&mut w, self.ctime);
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let (mode, uid, gid, size) = (r.u32()?, r.u32()?, r.u32()?, r.u64()?);
        let it = Self { mode, uid, gid, size, mtime: time(&mut r)?, ctime: time(&mut r)? };
        r.end().map(|()| it)
    }
}

impl ReplyRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u64(self.id.0).bytes(&self.reply);
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let it = Self { id: RequestId(r.u64()?), reply: r.bytes()?.to_vec() };
        r.end().map(|()| it)
    }
}

impl CommitRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u64(self.branch.0).u64(self.epoch.0);
        put_time(&mut w, self.created);
        w.u8(u8::from(self.ground.is_some())).u64(self.ground.map_or(0, |epoch| epoch.0));
        w.finish()
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let (branch, epoch, created) = (BranchId(r.u64()?), EpochId(r.u64()?), time(&mut r)?);
        let (has, ground) = (flag(&mut r)?, EpochId(r.u64()?));
        r.end().map(|()| Self { branch, epoch, created, ground: has.then_some(ground) })
    }
}
