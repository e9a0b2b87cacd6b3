//! A tiny file system in memory behind the `Handler` trait: what the daemon is to a frontend.
#![allow(dead_code, reason = "shared by several tests")]

use shm_transport::mem::Payload;
use shm_transport::wire::{
    Attr, Entry, Errno, FileKind, FsStat, NodeId, Op, Opened, Reply, Request, RequestId, SetAttr, SetTime, Timestamp,
    dirent,
};
use shm_transport::{Context, Handler};
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

const HOUR_NS: u64 = 3_600_000_000_000;

struct Object {
    attr: Attr,
    data: Vec<u8>,
    names: BTreeMap<Vec<u8>, u64>,
}

struct Tree {
    objects: HashMap<u64, Object>,
    next: u64,
    forgotten: Vec<u64>,
    listings: u32,
    replies: HashMap<RequestId, Reply>,
    /// Mutations that ran, for finding one that ran twice.
    ran: HashMap<RequestId, u32>,
}

/// The file system.
pub struct TreeFs {
    tree: Mutex<Tree>,
}

fn attr(ino: u64, mode: u32) -> Attr {
    let t = Timestamp { sec: 1_600_000_000, nsec: 0 };
    let nlink = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
    Attr {
        ino,
        size: 0,
        blocks: 0,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
        mode,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
    }
}

impl Default for TreeFs {
    fn default() -> Self {
        let root = Object { attr: attr(1, libc::S_IFDIR | 0o755), data: Vec::new(), names: BTreeMap::new() };
        let tree = Tree {
            objects: HashMap::from([(1, root)]),
            next: 2,
            forgotten: Vec::new(),
            listings: 0,
            replies: HashMap::new(),
            ran: HashMap::new(),
        };
        Self { tree: Mutex::new(tree) }
    }
}

impl Tree {
    fn entry(&self, node: u64) -> Result<Entry, Errno> {
        let attr = self.objects.get(&node).ok_or(Errno::ESTALE)?.attr;
        Ok(Entry { node: NodeId(node), generation: 0, attr, entry_valid_ns: HOUR_NS, attr_valid_ns: HOUR_NS })
    }

    fn find(&self, dir: u64, name: &[u8]) -> Result<u64, Errno> {
        let dir = self.objects.get(&dir).ok_or(Errno::ESTALE)?;
        dir.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn make(&mut self, dir: u64, name: &[u8], mode: u32, data: Vec<u8>) -> Result<Entry, Errno> {
        if self.find(dir, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let node = self.next;
        self.next += 1;
        let mut attr = attr(node, mode);
        attr.size = data.len() as u64;
        self.objects.insert(node, Object { attr, data, names: BTreeMap::new() });
        self.objects.get_mut(&dir).ok_or(Errno::ESTALE)?.names.insert(name.to_vec(), node);
        self.entry(node)
    }

    fn unlink(&mut self, dir: u64, name: &[u8]) -> Result<Reply, Errno> {
        let node = self.find(dir, name)?;
        self.objects.get_mut(&dir).ok_or(Errno::ESTALE)?.names.remove(name);
        self.objects.get_mut(&node).ok_or(Errno::ESTALE)?.attr.nlink -= 1;
        Ok(Reply::Ok)
    }

    fn set_attr(&mut self, node: u64, change: &SetAttr) -> Result<Reply, Errno> {
        let object = self.objects.get_mut(&node).ok_or(Errno::ESTALE)?;
        if let Some(mode) = change.mode {
            object.attr.mode = object.attr.mode & libc::S_IFMT | mode;
        }
        if let Some(size) = change.size {
            object.data.resize(size as usize, 0);
            object.attr.size = size;
        }
        for (time, field) in [(change.atime, &mut object.attr.atime), (change.mtime, &mut object.attr.mtime)] {
            if let Some(SetTime::At(at)) = time {
                *field = at;
            }
        }
        Ok(Reply::Attr { attr: object.attr, valid_ns: HOUR_NS })
    }

    fn list(&self, node: u64, cookie: u64, size: u32, plus: bool) -> Result<Vec<u8>, Errno> {
        let dir = self.objects.get(&node).ok_or(Errno::ESTALE)?;
        let mut writer = dirent::Writer::new(size as usize, plus);
        let dots = [(b".".to_vec(), node), (b"..".to_vec(), 1)];
        let names = dots.into_iter().chain(dir.names.iter().map(|(name, node)| (name.clone(), *node)));
        for (at, (name, child)) in (1..).zip(names) {
            if at <= cookie {
                continue;
            }
            let entry = if at > 2 { Some(self.entry(child)?) } else { None };
            let kind = self.objects.get(&child).and_then(|o| FileKind::from_mode(o.attr.mode));
            if !writer.push(&name, child, kind.map_or(0, FileKind::dtype), at, entry.as_ref()) {
                break;
            }
        }
        Ok(writer.into_bytes())
    }

    fn run(&mut self, request: &Request, payload: &mut Payload<'_>, len: u32) -> Result<Reply, Errno> {
        let node = request.node.0;
        let opened = |cache_dir| Opened { fh: 7, keep_cache: true, cache_dir, direct_io: false, no_flush: true };
        let bytes = || payload.to_vec(len as usize).ok_or(Errno::EIO);
        Ok(match &request.op {
            Op::Lookup { name } => Reply::Entry(self.entry(self.find(node, name)?)?),
            Op::Forget { .. } => {
                let ids = bytes()?;
                self.forgotten.extend(ids.chunks_exact(8).filter_map(|c| Some(u64::from_le_bytes(c.try_into().ok()?))));
                Reply::Ok
            }
            Op::GetAttr => Reply::Attr { attr: self.entry(node)?.attr, valid_ns: HOUR_NS },
            Op::SetAttr(change) => self.set_attr(node, change)?,
            Op::ReadLink => {
                let target = &self.objects.get(&node).ok_or(Errno::ESTALE)?.data;
                Reply::Data { len: put(payload, target)? }
            }
            Op::Symlink { name } => Reply::Entry(self.make(node, name, libc::S_IFLNK | 0o777, bytes()?)?),
            Op::Mkdir { name, mode, umask } => {
                Reply::Entry(self.make(node, name, libc::S_IFDIR | mode & !umask, Vec::new())?)
            }
            Op::Create { name, mode, .. } => {
                Reply::Created(self.make(node, name, libc::S_IFREG | mode, Vec::new())?, opened(false))
            }
            Op::Unlink { name } | Op::Rmdir { name } => self.unlink(node, name)?,
            Op::Rename { name, new_parent, new_name, .. } => {
                let moved = self.find(node, name)?;
                self.objects.get_mut(&node).ok_or(Errno::ESTALE)?.names.remove(name);
                self.objects.get_mut(&new_parent.0).ok_or(Errno::ESTALE)?.names.insert(new_name.clone(), moved);
                Reply::Ok
            }
            Op::Open { flags, .. } => {
                if flags & libc::O_TRUNC as u32 != 0 {
                    self.set_attr(node, &SetAttr { size: Some(0), ..SetAttr::default() })?;
                }
                Reply::Opened(opened(false))
            }
            Op::OpenDir => Reply::Opened(opened(true)),
            Op::Read { offset, size, .. } => {
                let data = &self.objects.get(&node).ok_or(Errno::ESTALE)?.data;
                let from = (*offset as usize).min(data.len());
                let to = (from + *size as usize).min(data.len());
                Reply::Data { len: put(payload, data.get(from..to).unwrap_or_default())? }
            }
            Op::Write { offset, .. } => {
                let bytes = bytes()?;
                let object = self.objects.get_mut(&node).ok_or(Errno::ESTALE)?;
                let end = *offset as usize + bytes.len();
                if object.data.len() < end {
                    object.data.resize(end, 0);
                }
                object.data.get_mut(*offset as usize..end).ok_or(Errno::EIO)?.copy_from_slice(&bytes);
                object.attr.size = object.data.len() as u64;
                Reply::Written { size: len }
            }
            Op::ReadDir { cookie, size, plus, .. } => {
                self.listings += 1;
                let listing = self.list(node, *cookie, *size, *plus)?;
                Reply::Data { len: put(payload, &listing)? }
            }
            Op::Release { .. } | Op::ReleaseDir { .. } | Op::Fsync { .. } | Op::FsyncDir { .. } | Op::SyncFs => {
                Reply::Ok
            }
            Op::StatFs => Reply::StatFs(FsStat {
                blocks: 1000,
                bfree: 500,
                bavail: 500,
                files: 100,
                ffree: 50,
                bsize: 4096,
                namelen: 255,
            }),
            Op::GetXattr { .. } => return Err(Errno::ENODATA),
            Op::ListXattr { size: 0 } => Reply::XattrSize { size: 0 },
            Op::ListXattr { .. } => Reply::Data { len: 0 },
            _ => return Err(Errno::EOPNOTSUPP),
        })
    }
}

fn put(payload: &mut Payload<'_>, bytes: &[u8]) -> Result<u32, Errno> {
    if payload.copy_in(0, bytes) { Ok(bytes.len() as u32) } else { Err(Errno::EIO) }
}

fn is_mutation(op: &Op) -> bool {
    matches!(
        op,
        Op::Symlink { .. }
            | Op::Mkdir { .. }
            | Op::Create { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. }
    )
}

impl TreeFs {
    /// Nodes that the frontend said the kernel forgot.
    pub fn forgotten(&self) -> Vec<u64> {
        self.tree.lock().unwrap().forgotten.clone()
    }

    /// Parts of listings that were asked for.
    pub fn listings(&self) -> u32 {
        self.tree.lock().unwrap().listings
    }

    /// Mutations that ran more than once.
    pub fn ran_twice(&self) -> usize {
        self.tree.lock().unwrap().ran.values().filter(|count| **count > 1).count()
    }
}

impl Handler for TreeFs {
    fn may_block(&self, _: &Context, _: &Request) -> bool {
        false
    }

    fn handle(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Reply {
        let mut tree = self.tree.lock().unwrap();
        if is_mutation(&request.op) {
            if let Some(reply) = tree.replies.get(&ctx.id) {
                return *reply;
            }
            *tree.ran.entry(ctx.id).or_default() += 1;
        }
        let reply = tree.run(request, payload, payload_len).unwrap_or_else(Reply::Error);
        if is_mutation(&request.op) {
            tree.replies.insert(ctx.id, reply);
        }
        reply
    }
}
