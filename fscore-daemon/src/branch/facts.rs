//! Attributes and content of one object, of a branch or of its base, and how two of them differ.

use crate::content::Contents;
use crate::core::base::{Base, BaseStat};
use crate::core::error::{FsError, FsResult, io, sys};
use crate::core::ids::{ContentId, ObjectId};
use crate::core::record::{Body, FileBody};
use crate::core::view::View;
use nix::sys::uio::pread;
use shm_transport::control::{PlanMeta, escape::escape};
use shm_transport::wire::{FileKind, Timestamp};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Bytes compared at once.
const CHUNK: usize = 128 << 10;

/// Where the bytes of an object are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// A directory has none.
    Directory,
    /// The file as the base has it.
    Base(ObjectId),
    /// Zeros.
    Hole,
    /// A content file.
    Content(ContentId),
    /// A link's target.
    Symlink(Vec<u8>),
    /// A device's number; 0 for a FIFO or socket.
    Special(u32),
}

/// In what two objects are the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Same {
    /// Mode, owner and extended attributes.
    pub(super) attributes: bool,
    /// Modification time.
    pub(super) time: bool,
    /// Content.
    pub(super) content: bool,
}

impl Same {
    /// In everything that a commit takes over.
    pub(super) fn whole(self) -> bool {
        self.attributes && self.time && self.content
    }

    /// In everything but the time.
    pub(super) fn but_for_time(self) -> bool {
        self.attributes && self.content && !self.time
    }
}

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) kind: FileKind,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) data: Data,
}

fn time(sec: i64, nsec: i64) -> Timestamp {
    Timestamp { sec, nsec: nsec as u32 }
}

impl Facts {
    /// As the base has it.
    pub(super) fn of_base(base: &Base, stat: &BaseStat) -> FsResult<Self> {
        let mut xattrs = base.xattrs(stat.object)?;
        xattrs.sort();
        let a = &stat.attr;
        Ok(Self {
            kind: stat.kind,
            mode: a.mode & 0o7777,
            uid: a.uid,
            gid: a.gid,
            size: a.size,
            atime: a.atime,
            mtime: a.mtime,
            xattrs,
            data: match stat.kind {
                FileKind::Directory => Data::Directory,
                FileKind::Regular => Data::Base(stat.object),
                FileKind::Symlink => Data::Symlink(base.read_link(stat.object)?),
                FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                    Data::Special(a.rdev)
                }
            },
        })
    }

    /// As the branch has it.
    pub(super) fn of_branch(view: &View, contents: &Contents, object: ObjectId) -> FsResult<Self> {
        let set = view.xattrs(object)?.map(|v| v.value.0);
        let base = view.base_of(object);
        let Some(record) = view.object(object)?.map(|v| v.value) else {
            let base = base.ok_or(FsError::Damaged("object missing"))?;
            let facts = Self::of_base(base, &base.stat(object)?)?;
            return Ok(match set {
                Some(xattrs) => Self { xattrs, ..facts },
                None => facts,
            });
        };
        let mut facts = Self {
            kind: record.kind(),
            mode: record.mode & 0o7777,
            uid: record.uid,
            gid: record.gid,
            size: 0,
            atime: record.atime,
            mtime: record.mtime,
            xattrs: Vec::new(),
            data: Data::Directory,
        };
        facts.xattrs = match (set, base) {
            (Some(set), _) => set,
            // A changed object outlives its original; attributes that it had were taken over then.
            (None, Some(base)) => match base.xattrs(object) {
                Err(FsError::Stale) => Vec::new(),
                read => read?,
            },
            (None, None) => Vec::new(),
        };
        facts.xattrs.sort();
        match record.body {
            Body::Directory { .. } => {}
            Body::Symlink { target } => {
                facts.size = target.len() as u64;
                facts.data = Data::Symlink(target);
            }
            Body::Special { rdev, .. } => facts.data = Data::Special(rdev),
            Body::File(FileBody::Hole { size }) => {
                facts.size = size;
                facts.data = Data::Hole;
            }
            Body::File(FileBody::Content(id)) => {
                let stat = contents.stat(id).map_err(io("stat content"))?;
                facts.size = stat.st_size as u64;
                // Times set on a content that an older epoch owns stand in the record.
                if !record.own_times {
                    facts.atime = time(stat.st_atime, stat.st_atime_nsec);
                    facts.mtime = time(stat.st_mtime, stat.st_mtime_nsec);
                }
                facts.data = Data::Content(id);
            }
            Body::File(FileBody::Base) => {
                let stat = base.ok_or(FsError::Damaged("file without a base"))?.stat(object)?;
                facts.size = stat.attr.size;
                facts.data = Data::Base(object);
                if !record.own_times {
                    (facts.atime, facts.mtime) = (stat.attr.atime, stat.attr.mtime);
                }
            }
        }
        Ok(facts)
    }

    /// Whether mode, owner and extended attributes are the same.
    pub(super) fn same_attributes(&self, base: &Self) -> bool {
        // A link has no permission bits of its own.
        let mode = self.kind == FileKind::Symlink || self.mode == base.mode;
        mode && (self.uid, self.gid) == (base.uid, base.gid) && self.xattrs == base.xattrs
    }

    /// Whether the modification times are the same. A directory's follows what happens in it.
    pub(super) fn same_time(&self, base: &Self) -> bool {
        self.kind == FileKind::Directory || self.mtime == base.mtime
    }

    /// As a plan has it.
    pub(super) fn meta(&self) -> PlanMeta {
        PlanMeta {
            mode: self.kind.mode_bits() | self.mode,
            uid: self.uid,
            gid: self.gid,
            atime: (self.atime.sec, self.atime.nsec),
            mtime: (self.mtime.sec, self.mtime.nsec),
            xattrs: self.xattrs.iter().map(|(n, v)| (escape(n), escape(v))).collect(),
        }
    }
}

/// Whether two objects hold the same, as far as their kind goes. `b` may be of `base` alone.
pub(super) fn same_content(contents: &Contents, base: Option<&Arc<Base>>, a: &Facts, b: &Facts) -> FsResult<bool> {
    let files = a.kind == FileKind::Regular && b.kind == FileKind::Regular;
    if a.data == b.data && !(files && a.size != b.size) {
        return Ok(true);
    }
    if !files || a.size != b.size {
        return Ok(false);
    }
    let (a_bytes, b_bytes) = (Bytes::open(contents, base, &a.data)?, Bytes::open(contents, base, &b.data)?);
    let (mut a_piece, mut b_piece) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < a.size {
        let length = usize::try_from(a.size - at).map_or(CHUNK, |left| left.min(CHUNK));
        let (x, y) = (a_bytes.read(&mut a_piece, at, length)?, b_bytes.read(&mut b_piece, at, length)?);
        if x != y {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

/// An opened file's bytes.
enum Bytes {
    Zeros,
    Content(Arc<crate::content::Content>),
    Host(Arc<std::os::fd::OwnedFd>),
}

impl Bytes {
    fn open(contents: &Contents, base: Option<&Arc<Base>>, data: &Data) -> FsResult<Self> {
        Ok(match data {
            Data::Content(id) => Self::Content(contents.get(*id).map_err(io("open content"))?),
            Data::Base(object) => Self::Host(base.ok_or(FsError::Stale)?.file(*object)?),
            Data::Hole | Data::Directory | Data::Symlink(_) | Data::Special(_) => Self::Zeros,
        })
    }

    /// `length` bytes from `at`; zeros after the end.
    fn read<'b>(&self, piece: &'b mut [u8], at: u64, length: usize) -> FsResult<&'b [u8]> {
        let mut done = 0;
        while let Some(rest) = piece.get_mut(done..length).filter(|r| !r.is_empty()) {
            let offset = at as i64 + done as i64;
            let read = match self {
                Self::Zeros => Ok(0),
                Self::Content(content) => pread(content.as_fd(), rest, offset),
                Self::Host(fd) => pread(fd.as_fd(), rest, offset),
            };
            match read {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(read) => done += read,
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(sys("read to compare")(e)),
            }
        }
        Ok(piece.get(..length).unwrap_or_default())
    }
}
