//! The control door's place in a mount: the directory `.agentfs` in the root, found by name and not listed, and in
//! it the file `control`. No record stands for them. What the file is asked is not the core's: see `server/door`.
//!
//! A base or branch that has (or removed) an entry `.agentfs` of its own keeps it, and the mount has no door.

use super::error::{FsError, FsResult};
use super::session::Session;
use super::view::View;
use shm_transport::control::door::{DIRECTORY, FILE};
use shm_transport::mem::Payload;
use shm_transport::wire::{Attr, Entry, FileKind, NodeId, Op, Opened, Reply, Request, dirent};

/// The directory and the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Directory,
    File,
}

impl Part {
    fn of(node: NodeId) -> Option<Self> {
        match node.without_slot() {
            NodeId::CONTROL_DIR => Some(Self::Directory),
            NodeId::CONTROL_FILE => Some(Self::File),
            _ => None,
        }
    }

    fn node(self) -> NodeId {
        match self {
            Self::Directory => NodeId::CONTROL_DIR,
            Self::File => NodeId::CONTROL_FILE,
        }
    }
}

/// Whether this is the file that is asked by ioctl.
pub fn is_control_file(node: NodeId) -> bool {
    node.without_slot() == NodeId::CONTROL_FILE
}

impl Session {
    /// Serves what concerns the door; `None` for everything else.
    pub(super) fn at_door(&self, view: &View, request: &Request, payload: &mut Payload<'_>) -> FsResult<Option<Reply>> {
        if let Some(part) = Part::of(request.node) {
            return self.of_part(view, part, request, payload).map(Some);
        }
        let (name, other) = named(&request.op);
        // Nothing goes in, and what is in there gets no other name.
        if other.and_then(Part::of).is_some() {
            return Err(FsError::NotPermitted);
        }
        let at = |node, name: Option<&[u8]>| node == NodeId::ROOT && name == Some(DIRECTORY);
        let moved_to = if let Op::Rename { new_parent, new_name, .. } = &request.op {
            at(*new_parent, Some(new_name))
        } else {
            false
        };
        if !(at(request.node, name) || moved_to) || !has_door(view)? {
            return Ok(None);
        }
        if matches!(request.op, Op::Lookup { .. }) {
            return self.door_entry(view, Part::Directory).map(|entry| Some(Reply::Entry(entry)));
        }
        let takes = matches!(request.op, Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. });
        Err(if takes { FsError::NotPermitted } else { FsError::Exists })
    }

    fn of_part(&self, view: &View, part: Part, request: &Request, payload: &mut Payload<'_>) -> FsResult<Reply> {
        let directory = part == Part::Directory;
        match &request.op {
            Op::Lookup { name } if directory && name == FILE => self.door_entry(view, Part::File).map(Reply::Entry),
            Op::Lookup { .. } if directory => Ok(Reply::Entry(self.negative(view, true))),
            Op::GetAttr | Op::Statx => {
                let entry = self.door_entry(view, part)?;
                Ok(Reply::Attr { attr: entry.attr, valid_ns: entry.attr_valid_ns })
            }
            Op::OpenDir if directory => Ok(Reply::Opened(opened(false))),
            Op::ReadDir { cookie, size, plus, .. } if directory => {
                let room = (*size as usize).min(payload.capacity());
                self.list_door(view, *cookie, room, *plus, payload)
            }
            Op::Open { flags, .. } if !directory && flags & libc::O_TRUNC as u32 == 0 => {
                Ok(Reply::Opened(opened(true)))
            }
            Op::Read { .. } if !directory => Ok(Reply::Data { len: 0 }),
            Op::GetXattr { .. } => Err(FsError::NoData),
            Op::ListXattr { size: 0 } => Ok(Reply::XattrSize { size: 0 }),
            Op::ListXattr { .. } => Ok(Reply::Data { len: 0 }),
            Op::StatFs => self.stat_fs(),
            Op::Release { .. }
            | Op::ReleaseDir { .. }
            | Op::Flush { .. }
            | Op::Fsync { .. }
            | Op::FsyncDir { .. }
            | Op::SyncFs => Ok(Reply::Ok),
            Op::ReadLink | Op::Lseek { .. } => Err(FsError::Invalid),
            Op::Lookup { .. } | Op::OpenDir | Op::ReadDir { .. } => Err(FsError::NotDirectory),
            Op::Ioctl { .. } => Err(FsError::NotIoctl),
            Op::Forget { .. }
            | Op::SetAttr(_)
            | Op::Symlink { .. }
            | Op::Mknod { .. }
            | Op::Mkdir { .. }
            | Op::Create { .. }
            | Op::Tmpfile { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. }
            | Op::Link { .. }
            | Op::Open { .. }
            | Op::Read { .. }
            | Op::Write { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. }
            | Op::Fallocate { .. }
            | Op::CopyFileRange { .. } => Err(FsError::NotPermitted),
        }
    }

    fn door_entry(&self, view: &View, part: Part) -> FsResult<Entry> {
        let branch = self.core.branch_record(view.branch)?;
        let (kind, mode, nlink) = match part {
            Part::Directory => (FileKind::Directory, 0o555, 2),
            Part::File => (FileKind::Regular, 0o600, 1),
        };
        let at = branch.created;
        let attr = Attr {
            ino: part.node().0,
            size: 0,
            blocks: 0,
            atime: at,
            mtime: at,
            ctime: at,
            btime: at,
            mode: mode | kind.mode_bits(),
            nlink,
            uid: branch.uid,
            gid: nix::unistd::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
        };
        // The base may get an entry of that name.
        let own = part == Part::File || view.base_of(view.root).is_none();
        let valid = self.valid(view, own);
        Ok(Entry {
            node: NodeId::in_view(part.node().0, self.slot),
            generation: 0,
            attr,
            entry_valid_ns: valid,
            attr_valid_ns: self.valid(view, true),
        })
    }

    fn list_door(&self, view: &View, from: u64, room: usize, plus: bool, payload: &mut Payload<'_>) -> FsResult<Reply> {
        let mut out = dirent::Writer::new(room, plus);
        let file = self.door_entry(view, Part::File)?;
        let directory = FileKind::Directory.dtype();
        let all: [(&[u8], u64, u8, Option<&Entry>); 3] = [
            (b".", NodeId::CONTROL_DIR.0, directory, None),
            (b"..", view.root.0, directory, None),
            (FILE, file.attr.ino, FileKind::Regular.dtype(), plus.then_some(&file)),
        ];
        for (cookie, (name, ino, dtype, entry)) in (1u64..).zip(all) {
            if cookie > from && !out.push(name, ino, dtype, cookie, entry) {
                break;
            }
        }
        let bytes = out.into_bytes();
        if !payload.copy_in(0, &bytes) {
            return Err(FsError::Range);
        }
        Ok(Reply::Data { len: bytes.len() as u32 })
    }
}

fn opened(file: bool) -> Opened {
    Opened { fh: 0, keep_cache: false, cache_dir: false, direct_io: file, no_flush: true }
}

/// Whether the name in the root is free for the door: neither base nor branch ever had it.
fn has_door(view: &View) -> FsResult<bool> {
    if view.dirent(view.root, DIRECTORY)?.is_some() {
        return Ok(false);
    }
    match view.base_of(view.root) {
        Some(base) => Ok(base.lookup(view.root, DIRECTORY)?.is_none()),
        None => Ok(true),
    }
}

/// The name that an operation has for its directory, and the other object that it is about.
fn named(op: &Op) -> (Option<&[u8]>, Option<NodeId>) {
    if let Op::Lookup { name }
    | Op::Symlink { name }
    | Op::Mknod { name, .. }
    | Op::Mkdir { name, .. }
    | Op::Create { name, .. }
    | Op::Unlink { name }
    | Op::Rmdir { name } = op
    {
        (Some(name), None)
    } else if let Op::Rename { name, new_parent: other, .. } | Op::Link { target: other, name } = op {
        (Some(name), Some(*other))
    } else if let Op::CopyFileRange { to, .. } = op {
        (None, Some(*to))
    } else {
        (None, None)
    }
}
