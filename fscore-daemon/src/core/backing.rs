//! Passthrough: which content files the kernel reads and writes itself. `specs/adr/0021-passthrough.md` tells the rules.
//!
//! A *time* of an object begins with an open that is answered with its content file and ends when the last open that was
//! answered since is released. It has a serial number, and stands in the store from before its first reply until it is
//! over: while it lasts the head owns the content and keeps that very file, whatever happens to the branch. So a snapshot
//! finds it there, also one that comes before the mount has attached again.

use super::attr::without_setid;
use super::error::{FsError, FsResult};
use super::ids::{BranchId, ObjectId};
use super::keys;
use super::record::{Body, FileBody};
use super::session::Session;
use super::state::{Core, lock};
use super::view::View;
use crate::content::Content;
use crate::errno::errno;
use crate::store::Batch;
use shm_transport::wire::{NodeId, Op, Opened, PLAIN, Reply, Request};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Files that are opened only for reading are worth a descriptor from this size on.
const READ_MIN: u64 = 128 << 10;

/// The opens of one mount.
#[derive(Debug, Default)]
pub(super) struct Backed {
    active: AtomicBool,
    opens: Mutex<Opens>,
}

#[derive(Debug, Default)]
struct Opens {
    held: HashMap<ObjectId, Held>,
    /// The latest serial number.
    last: u64,
    /// Upper half of the handles that were given out since the session was taken up: its releases count.
    nonce: u32,
}

/// What is open of one object.
#[derive(Debug, Default)]
struct Held {
    /// Opens answered since the session was taken up.
    opens: u64,
    /// There may be opens from before.
    old: bool,
    /// Of the present time.
    serial: Option<u64>,
}

impl Core {
    /// Objects of a branch whose content files the kernel may be writing itself, with the serial numbers.
    pub fn backed(&self, branch: BranchId) -> Vec<(ObjectId, u64)> {
        let prefix = keys::prefix(b'F', &[branch.0]);
        let mut found = Vec::new();
        self.store.scan(&prefix, &mut |key, value| {
            let ours = key.starts_with(&prefix);
            if ours && let (Some(object), Ok(serial)) = (keys::number(key, 1), value.try_into()) {
                found.push((ObjectId(object), u64::from_le_bytes(serial)));
            }
            ours
        });
        found
    }
}

impl Session {
    /// The mount has passthrough. What was open in the time of a former daemon may still be.
    pub fn use_passthrough(&self) -> FsResult<()> {
        if self.read_only || self.has_passthrough() {
            return Ok(());
        }
        // The numbers of contents are never given out twice; these name none.
        let number = self.core.new_content()?.0;
        let mut opens = lock(&self.backed.opens);
        (opens.nonce, opens.last) = (number as u32, number);
        for (object, serial) in self.core.backed(self.branch.id) {
            opens.held.insert(object, Held { opens: 0, old: true, serial: Some(serial) });
        }
        drop(opens);
        self.backed.active.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether the mount has passthrough.
    pub fn has_passthrough(&self) -> bool {
        self.backed.active.load(Ordering::Acquire)
    }

    /// Whether the kernel may be writing the object's content file itself.
    pub(super) fn is_backed(&self, object: ObjectId) -> bool {
        self.has_passthrough() && lock(&self.backed.opens).held.get(&object).is_some_and(|held| held.serial.is_some())
    }

    /// The content file that goes with a reply that says so.
    pub fn backing(&self, node: NodeId) -> FsResult<Arc<Content>> {
        let view = self.branch.view();
        let object = self.object(&view, node)?;
        let (id, _) = self.head_content(&view, object)?.ok_or(FsError::Stale)?;
        self.content(id)
    }

    /// Adds to the reply of an open or release what it means for passthrough.
    pub(super) fn backed_reply(&self, view: &View, request: &Request, reply: Reply) -> Reply {
        if !self.has_passthrough() {
            return reply;
        }
        let done = match (&request.op, reply) {
            (Op::Open { flags, .. }, Reply::Opened(opened)) if !super::door::is_control_file(request.node) => {
                self.back(view, request.node, *flags, opened).map(Reply::Opened)
            }
            (Op::Create { flags, .. } | Op::Tmpfile { flags, .. }, Reply::Created(mut entry, opened)) => {
                let opened = self.back(view, entry.node, *flags, opened);
                entry.attr_valid_ns = if opened.as_ref().is_ok_and(|o| o.backed) { 0 } else { entry.attr_valid_ns };
                opened.map(|opened| Reply::Created(entry, opened))
            }
            (Op::Release { fh, .. }, Reply::Ok) => {
                self.object(view, request.node).and_then(|object| self.released(view, object, *fh))
            }
            (_, reply) => Ok(reply),
        };
        done.unwrap_or_else(|e| Reply::Error(errno(&e)))
    }

    fn back(&self, view: &View, node: NodeId, flags: u32, opened: Opened) -> FsResult<Opened> {
        let object = self.object(view, node)?;
        let plain = flags & PLAIN != 0;
        // Before the opens are looked at: it takes other locks.
        let fit = !plain && self.fits(view, object, flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32)?;
        // From here on nobody puts another content in its place.
        let _in_place = self.branch.contents.shared(object);
        let fit = fit && self.head_content(view, object)?.is_some();
        let mut opens = lock(&self.backed.opens);
        let held = opens.held.entry(object).or_default();
        held.opens += 1;
        // Whoever opened it at the same time got another answer, and all have to have the same.
        if held.serial.is_none() && fit && held.opens == 1 {
            let serial = match self.begin(object) {
                Ok(serial) => serial,
                Err(e) => {
                    held.opens -= 1;
                    return Err(e);
                }
            };
            held.serial = Some(serial);
            opens.last = opens.last.max(serial);
        }
        let serial = opens.held.get(&object).and_then(|held| held.serial);
        let fh = u64::from(opens.nonce) << 32 | u64::from(serial.unwrap_or(opens.last) as u32);
        let backed = serial.is_some();
        Ok(Opened { fh, backed, keep_cache: opened.keep_cache && !backed, ..opened })
    }

    /// Enters the object into the store.
    fn begin(&self, object: ObjectId) -> FsResult<u64> {
        let serial = self.core.new_content()?.0;
        let mut batch = Batch::default();
        batch.put(keys::backed(self.branch.id, object), serial.to_le_bytes());
        self.core.store.commit(&batch)?;
        Ok(serial)
    }

    /// Whether the kernel may have the object's content file. A file that is opened for writing and holds nothing yet, or
    /// only zeros, gets one.
    fn fits(&self, view: &View, object: ObjectId, writes: bool) -> FsResult<bool> {
        let Some(found) = view.object(object)? else { return Ok(false) };
        let Body::File(body) = found.value.body else { return Ok(false) };
        if self.is_backed(object) {
            return Ok(true);
        }
        // What the kernel writes is counted by nobody.
        if self.branch.ledger.is_limited() {
            return Ok(false);
        }
        // Writers without privilege take these bits away, of which only the daemon knows.
        if writes && without_setid(found.value.mode) != found.value.mode {
            return Ok(false);
        }
        match body {
            FileBody::Content(id) if self.owned(id, view.head())? => {
                let size = self.core.contents.stat(id).map_or(0, |stat| stat.st_size.cast_unsigned());
                Ok(writes || size >= READ_MIN)
            }
            FileBody::Hole { .. } if writes => match self.with_own_content(view, object, 0, |_| Ok(())) {
                Ok(()) => Ok(true),
                // Reading goes on, and the first write says why it fails.
                Err(FsError::Store(_) | FsError::Io { .. }) => Ok(false),
                Err(e) => Err(e),
            },
            FileBody::Hole { .. } | FileBody::Content(_) | FileBody::Base => Ok(false),
        }
    }

    /// An open is released.
    fn released(&self, view: &View, object: ObjectId, fh: u64) -> FsResult<Reply> {
        let mut opens = lock(&self.backed.opens);
        let (nonce, last) = (opens.nonce, opens.last);
        if let Some(held) = opens.held.get_mut(&object) {
            if (fh >> 32) as u32 == nonce {
                held.opens = held.opens.saturating_sub(1);
            }
            if let Some(serial) = self.settle(&mut opens, object) {
                return Ok(Reply::Released { backed: true, serial: serial as u32 });
            }
        }
        drop(opens);
        if let Some((id, _)) = self.head_content(view, object)? {
            // By the kernel, unseen.
            self.content(id)?.written();
        }
        Ok(Reply::Released { backed: false, serial: last as u32 })
    }

    /// Ends the object's time if nothing is open any more; gives its serial number if it goes on.
    fn settle(&self, opens: &mut Opens, object: ObjectId) -> Option<u64> {
        let held = opens.held.get(&object)?;
        if held.opens > 0 || held.old {
            return held.serial;
        }
        if let Some(serial) = held.serial {
            let mut batch = Batch { reclaims: true, ..Batch::default() };
            batch.delete(keys::backed(self.branch.id, object));
            if let Err(error) = self.core.store.commit(&batch) {
                tracing::warn!(%error, "a file counts as open until its mount ends");
                return Some(serial);
            }
        }
        opens.held.remove(&object);
        None
    }

    /// The kernel has forgotten the object: whatever was open of it before this daemon is closed.
    pub(super) fn forget_backed(&self, object: ObjectId) {
        if !self.has_passthrough() {
            return;
        }
        let mut opens = lock(&self.backed.opens);
        if let Some(held) = opens.held.get_mut(&object) {
            held.old = false;
            self.settle(&mut opens, object);
        }
    }
}
