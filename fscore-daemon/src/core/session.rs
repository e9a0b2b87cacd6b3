//! One mount's end of the core: turns typed requests into operations on its branch's view, and makes
//! every mutation happen exactly once.

use super::attr::attributes;
use super::change::Change;
use super::error::{FsError, FsResult};
use super::ids::{ContentId, EpochId, ObjectId};
use super::keys;
use super::listing::Listings;
use super::member::Member;
use super::record::{ContentRecord, ReplyRecord};
use super::state::{Branch, Core, lock};
use super::view::{Child, View};
use crate::content::Content;
use crate::errno::errno;
use crate::store::Store;
use shm_transport::mem::Payload;
use shm_transport::wire::{
    self, Attr, Caller, Entry, NodeId, Opened, Reply, Request, RequestId, SessionId, SlotIndex, Timestamp, ViewSlot,
    decode_reply, encode_reply,
};
use shm_transport::{Caching, Context};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// How long the kernel may keep what only the branch can change, in nanoseconds: we would tell it.
const OWN_NS: u64 = 3_600_000_000_000;
/// How long it may keep what the host may change under a lazy base.
const LAZY_NS: u64 = 1_000_000_000;

/// How long it may keep what a name in the root leads to, and the root's attributes: whoever binds a process waits for so
/// long.
pub const ROOT_NS: u64 = LAZY_NS;

/// One mutation on its way: who asked, through which slot, on what view.
#[derive(Debug)]
pub struct Op<'a> {
    /// The request's place.
    pub ctx: &'a Context,
    /// Who asks.
    pub caller: Caller,
    /// The view.
    pub view: &'a View,
}

/// A mount of a branch.
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Which of the mount's views it serves.
    pub slot: ViewSlot,
    /// Its branch.
    pub branch: Arc<Branch>,
    /// No changes.
    pub read_only: bool,
    /// What the kernel may keep, at most.
    caching: Caching,
    pub(super) core: Arc<Core>,
    pub(super) listings: Listings,
    /// What an unchanged base file was when its pages were last given out.
    pub(super) seen: Mutex<HashMap<ObjectId, (Timestamp, u64)>>,
    /// Copied up from a base file that changed after its pages were given out: the next open drops them.
    pub(super) doubtful: Mutex<HashSet<ObjectId>>,
    /// Cut to nothing since they were opened: what replaced their bytes is written out when they are closed.
    pub(super) emptied: Mutex<HashSet<ObjectId>>,
    /// Of all views of the mount.
    replies: Arc<Mutex<HashMap<SlotIndex, RequestId>>>,
    /// Processes see different branches: nothing that depends on who asks may be kept by the kernel.
    pub(super) divided: Arc<AtomicBool>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    /// Takes up a session, new or known from before a crash. `mountpoint` is what users are told.
    pub fn open(
        core: Arc<Core>,
        id: SessionId,
        branch: Arc<Branch>,
        read_only: bool,
        mountpoint: &Path,
    ) -> FsResult<Arc<Self>> {
        Self::open_cached(core, id, branch, (read_only, Caching::default()), mountpoint)
    }

    /// The same for a mount whose kernel may keep less than is true for long.
    pub fn open_cached(
        core: Arc<Core>,
        id: SessionId,
        branch: Arc<Branch>,
        (read_only, caching): (bool, Caching),
        mountpoint: &Path,
    ) -> FsResult<Arc<Self>> {
        core.count_usage(&branch)?;
        core.join(&Member::new(id, branch.id, read_only, mountpoint))?;
        let mut replies = HashMap::new();
        let prefix = keys::prefix(b'R', &[id.0]);
        let mut damaged = false;
        core.store.scan(&prefix, &mut |key, value| {
            if !key.starts_with(&prefix) {
                return false;
            }
            match (keys::number(key, 1), ReplyRecord::decode(value)) {
                (Some(slot), Ok(record)) => {
                    replies.insert(SlotIndex(slot as u32), record.id);
                }
                _ => damaged = true,
            }
            true
        });
        if damaged {
            return Err(FsError::Damaged("reply"));
        }
        let mut sessions = lock(&branch.sessions);
        if !sessions.contains(&id) {
            sessions.push(id);
        }
        drop(sessions);
        let replies = Arc::new(Mutex::new(replies));
        Ok(Arc::new(Self::of(core, id, ViewSlot::MAIN, branch, (read_only, caching), replies, Arc::default())))
    }

    fn of(
        core: Arc<Core>,
        id: SessionId,
        slot: ViewSlot,
        branch: Arc<Branch>,
        (read_only, caching): (bool, Caching),
        replies: Arc<Mutex<HashMap<SlotIndex, RequestId>>>,
        divided: Arc<AtomicBool>,
    ) -> Self {
        let listings = Listings::new(core.cookie_key);
        let (seen, doubtful, emptied) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { id, slot, branch, read_only, caching, core, listings, seen, doubtful, emptied, replies, divided }
    }

    /// Another view of the same mount. The caller has recorded that the mount has the branch.
    pub fn beside(&self, branch: Arc<Branch>, slot: ViewSlot) -> Arc<Self> {
        lock(&branch.sessions).push(self.id);
        let (core, replies) = (Arc::clone(&self.core), Arc::clone(&self.replies));
        Arc::new(Self::of(
            core,
            self.id,
            slot,
            branch,
            (self.read_only, self.caching),
            replies,
            Arc::clone(&self.divided),
        ))
    }

    /// Whether processes see different branches through the mount, from now on.
    pub fn divide(&self, divided: bool) {
        self.divided.store(divided, Ordering::Release);
    }

    /// Whether they do.
    pub fn is_divided(&self) -> bool {
        self.divided.load(Ordering::Acquire)
    }

    /// Names of the root.
    pub fn root_names(&self) -> FsResult<Vec<Vec<u8>>> {
        let view = self.branch.view();
        Ok(view.names(view.root)?.into_keys().collect())
    }

    /// The mount is gone for good: gives back what it held.
    pub fn close(&self) -> FsResult<()> {
        self.core.end_session(self.id).map(drop)
    }

    /// Whether the request is known to wait for a disk.
    pub fn may_block(&self, request: &Request) -> bool {
        if let wire::Op::Rename { name, new_parent, new_name, flags } = &request.op {
            return self.would_sync(request.node, name, (*new_parent, new_name), *flags);
        }
        if matches!(request.op, wire::Op::Release { .. }) {
            return lock(&self.emptied).contains(&ObjectId(request.node.without_slot().0));
        }
        matches!(
            request.op,
            wire::Op::Fsync { .. }
                | wire::Op::SyncFs
                | wire::Op::FsyncDir { .. }
                | wire::Op::Fallocate { .. }
                | wire::Op::CopyFileRange { .. }
                | wire::Op::Ioctl { .. }
        )
    }

    /// The user who owns the branch.
    pub fn owner(&self) -> FsResult<u32> {
        self.core.branch_record(self.branch.id).map(|record| record.uid)
    }

    /// Runs one request to its reply.
    pub fn run(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, payload_len: u32) -> Reply {
        if mutates(&request.op) {
            match self.recorded(ctx.id) {
                Ok(Some(reply)) => return self.bounded(request.node, reply),
                Ok(None) => {}
                Err(e) => return Reply::Error(errno(&e)),
            }
            if self.read_only {
                return Reply::Error(errno(&FsError::ReadOnly));
            }
        }
        let ledger = &self.branch.ledger;
        let mut seen = ledger.releases();
        let mut once = || {
            let view = self.branch.view();
            let op = Op { ctx, caller: request.caller, view: &view };
            self.dispatch(&op, request, payload, payload_len as usize)
        };
        let mut result = once();
        if matches!(result, Err(FsError::Quota)) {
            // Refused, nothing was done; a file that was removed just before still counts until the kernel forgets it.
            let since = Instant::now();
            while matches!(result, Err(FsError::Quota)) && ledger.await_release(seen, since) {
                seen = ledger.releases();
                result = once();
            }
        }
        self.reply(request, result)
    }

    /// The reply that tells a result.
    pub(super) fn reply(&self, request: &Request, result: FsResult<Reply>) -> Reply {
        match result {
            Ok(reply) => self.bounded(request.node, reply),
            Err(e) => {
                if matches!(e, FsError::Store(_) | FsError::Damaged(_)) {
                    tracing::error!(session = %self.id, error = %e, "a request failed in the store");
                } else {
                    tracing::debug!(session = %self.id, error = %e, op = ?request.op, "a request failed");
                }
                Reply::Error(errno(&e))
            }
        }
    }

    /// The reply of a mutation that ran before, by any slot of this session.
    fn recorded(&self, id: RequestId) -> FsResult<Option<Reply>> {
        let slot = lock(&self.replies).iter().find(|(_, known)| **known == id).map(|(slot, _)| *slot);
        let Some(slot) = slot else { return Ok(None) };
        let bytes = self.core.store.get(&keys::reply(self.id, slot)).ok_or(FsError::Damaged("reply missing"))?;
        let record = ReplyRecord::decode(&bytes)?;
        let reply = decode_reply(&record.reply).map_err(|_| FsError::Damaged("recorded reply"))?;
        Ok((record.id == id).then_some(reply).inspect(|_| {
            self.core.counts.replays.fetch_add(1, Ordering::Relaxed);
        }))
    }

    /// Commits a mutation together with its reply.
    pub(super) fn finish(&self, op: &Op<'_>, mut change: Change, reply: Reply, store: &dyn Store) -> FsResult<Reply> {
        let bytes = encode_reply(&reply).map_err(|_| FsError::Damaged("reply"))?;
        let record = ReplyRecord { id: op.ctx.id, reply: bytes.to_vec() };
        change.batch.put(keys::reply(self.id, op.ctx.slot), record.encode());
        let removes = change.removes;
        change.commit(store)?;
        if removes {
            self.branch.ledger.expect();
        }
        lock(&self.replies).insert(op.ctx.slot, op.ctx.id);
        Ok(reply)
    }

    /// The object that a node names.
    pub(super) fn object(&self, view: &View, node: NodeId) -> FsResult<ObjectId> {
        match node.without_slot().0 {
            _ if node == NodeId::ROOT => Ok(view.root),
            0 | 1 => Err(FsError::Stale),
            n if n < ObjectId::END && node.slot() == self.slot => Ok(ObjectId(n)),
            _ => Err(FsError::Stale),
        }
    }

    /// The node that names an object.
    pub(super) fn node(&self, view: &View, object: ObjectId) -> FsResult<NodeId> {
        if object == view.root {
            Ok(NodeId::ROOT)
        } else if object.0 <= 1 {
            Err(FsError::Overflow)
        } else {
            Ok(NodeId::in_view(object.0, self.slot))
        }
    }

    /// The reply as it may go out: what the root leads to may be another thing for another process, now or as soon as one
    /// is bound, so the kernel keeps names in the root only briefly.
    fn bounded(&self, node: NodeId, reply: Reply) -> Reply {
        if node != NodeId::ROOT {
            return reply;
        }
        if let Reply::Entry(entry) = reply {
            Reply::Entry(self.brief(entry))
        } else if let Reply::Created(entry, opened) = reply {
            Reply::Created(self.brief(entry), opened)
        } else if let Reply::Attr { attr, valid_ns } = reply {
            Reply::Attr { attr, valid_ns: valid_ns.min(self.root_valid()) }
        } else {
            reply
        }
    }

    /// The entry of a name in the root.
    pub(super) fn brief(&self, entry: Entry) -> Entry {
        Entry { entry_valid_ns: entry.entry_valid_ns.min(self.root_valid()), ..entry }
    }

    fn root_valid(&self) -> u64 {
        if self.is_divided() { 0 } else { ROOT_NS }
    }

    /// How long the kernel may keep attributes that the branch (`own`) or the base gave.
    pub(super) fn valid(&self, view: &View, own: bool) -> u64 {
        self.keep(view, own, self.caching.attributes_ms)
    }

    /// How long it may keep a name.
    pub(super) fn name_valid(&self, view: &View, own: bool) -> u64 {
        self.keep(view, own, self.caching.names_ms)
    }

    fn keep(&self, view: &View, own: bool, most: Option<u32>) -> u64 {
        let true_for = if self.sees_all_changes(view, own) { OWN_NS } else { LAZY_NS };
        most.map_or(true_for, |ms| true_for.min(u64::from(ms) * 1_000_000))
    }

    /// How a file is opened whose pages stay true across opens.
    pub(super) fn opened_own(&self) -> Opened {
        let direct_io = self.caching.direct_io;
        Opened { fh: 0, keep_cache: !direct_io, cache_dir: false, direct_io, no_flush: true }
    }

    /// Whether what the branch (`own`) or the base gave changes only through this mount. Beside a read-only one
    /// there may be another that writes, and its kernel tells this one nothing.
    pub(super) fn sees_all_changes(&self, view: &View, own: bool) -> bool {
        !self.read_only && (own || view.frozen_base)
    }

    /// The entry for a child.
    pub(super) fn entry(&self, view: &View, child: &Child) -> FsResult<Entry> {
        let (attr, own) = attributes(&self.core, view, child.object, child.found)?;
        Ok(Entry {
            node: self.node(view, child.object)?,
            generation: generation(child.object, attr.btime),
            attr,
            entry_valid_ns: self.name_valid(view, child.found.is_none()),
            attr_valid_ns: self.valid(view, own),
        })
    }

    /// The entry that says that a name does not exist.
    pub(super) fn negative(&self, view: &View, own: bool) -> Entry {
        let none = Timestamp::default();
        let attr = Attr {
            ino: 0,
            size: 0,
            blocks: 0,
            atime: none,
            mtime: none,
            ctime: none,
            btime: none,
            mode: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 0,
        };
        Entry {
            node: NodeId::NONE,
            generation: 0,
            attr,
            entry_valid_ns: self.keep(view, own, self.caching.missing_ms),
            attr_valid_ns: 0,
        }
    }

    /// A content file, made empty when a power loss took it before it was ever synced.
    pub(super) fn content(&self, id: ContentId) -> FsResult<Arc<Content>> {
        self.core.content(id)
    }

    /// Whether `epoch` may write the content in place.
    pub(super) fn owned(&self, id: ContentId, epoch: EpochId) -> FsResult<bool> {
        let bytes = self.core.store.get(&keys::content(id)).ok_or(FsError::Damaged("content record missing"))?;
        Ok(ContentRecord::decode(&bytes)?.epoch == epoch)
    }
}

/// Which of the objects that the host gave one inode number to, one after the other. The kernel keeps no
/// inode of an earlier one.
fn generation(object: ObjectId, born: Timestamp) -> u64 {
    if object.is_base() {
        born.sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(u64::from(born.nsec))
    } else {
        0
    }
}

/// Whether the operation needs the record of its reply: everything that writes a batch of its own.
pub fn mutates(op: &wire::Op) -> bool {
    match op {
        wire::Op::SetAttr(_)
        | wire::Op::Symlink { .. }
        | wire::Op::Mknod { .. }
        | wire::Op::Mkdir { .. }
        | wire::Op::Create { .. }
        | wire::Op::Tmpfile { .. }
        | wire::Op::Unlink { .. }
        | wire::Op::Rmdir { .. }
        | wire::Op::Rename { .. }
        | wire::Op::Link { .. }
        | wire::Op::Write { .. }
        | wire::Op::SetXattr { .. }
        | wire::Op::RemoveXattr { .. }
        | wire::Op::Fallocate { .. }
        | wire::Op::CopyFileRange { .. } => true,
        wire::Op::Open { flags, .. } => *flags & libc::O_TRUNC as u32 != 0,
        wire::Op::Lookup { .. }
        | wire::Op::Forget { .. }
        | wire::Op::GetAttr
        | wire::Op::Statx
        | wire::Op::ReadLink
        | wire::Op::Release { .. }
        | wire::Op::Read { .. }
        | wire::Op::Flush { .. }
        | wire::Op::Fsync { .. }
        | wire::Op::SyncFs
        | wire::Op::OpenDir
        | wire::Op::ReadDir { .. }
        | wire::Op::ReleaseDir { .. }
        | wire::Op::FsyncDir { .. }
        | wire::Op::GetXattr { .. }
        | wire::Op::ListXattr { .. }
        | wire::Op::StatFs
        | wire::Op::Lseek { .. }
        // What it changes it records itself.
        | wire::Op::Ioctl { .. } => false,
    }
}
