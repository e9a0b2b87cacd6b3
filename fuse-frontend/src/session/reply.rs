//! Replies to the kernel, and the lookup counts that go with them.

use super::{Daemon, Life, Session};
use crate::channel::Written;
use crate::decode::Header;
use crate::encode::{self, Expect, First, Outgoing};
use crate::notifier;
use crate::pending::Under;
use shm_transport::Lease;
use shm_transport::wire::limits::{IOCTL_NAMES_AT, IOCTL_OUT_AT};
use shm_transport::wire::{Errno, NodeId, Op, Reply, Request, dirent};
use shm_transport::{Completion, FsTransport};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;

impl<D: Daemon> Session<D> {
    /// A reply has come.
    pub(super) fn completed(&mut self, completion: Completion) -> io::Result<Life> {
        let slot = completion.lease.slot;
        match self.pending.take(slot) {
            Under::Kernel { unique, expect } => return self.answer(unique, expect, completion),
            Under::Orphan(id) if self.adopting && !super::adopt::is_own(id) => {
                self.pending.put(slot, Under::Parked(completion));
            }
            Under::Orphan(_) | Under::Own | Under::Idle => self.daemon.transport().release(completion.lease),
            Under::Parked(earlier) => {
                // A transport that completes one slot twice is broken; neither lease may be lost.
                self.daemon.transport().release(earlier.lease);
            }
        }
        Ok(Life::Goes)
    }

    /// Answers a request with an error of our own.
    pub(super) fn answer_error(&mut self, header: &Header, errno: Errno) -> io::Result<Life> {
        let written = self.kernel.send(encode::error(header.unique, errno).as_bytes())?;
        Ok(if written == Written::Unmounted { Life::Ended } else { Life::Goes })
    }

    /// Answers a request with what the daemon said.
    pub(super) fn answer(&mut self, unique: u64, expect: Expect, completion: Completion) -> io::Result<Life> {
        let Completion { lease, id, reply } = completion;
        let outgoing = encode::reply(unique, expect, &reply).unwrap_or_else(|| {
            tracing::error!(?id, ?expect, ?reply, "the daemon's reply does not fit the question; it becomes EIO");
            Outgoing::Fixed(encode::error(unique, Errno::EIO))
        });
        let mut listing = None;
        if let Outgoing::Listing { len, .. } = outgoing {
            // The counts must be of exactly the bytes that the kernel gets, which the daemon cannot
            // change under us.
            listing = self.daemon.transport_ref().payload(&lease).to_vec(len as usize);
        }
        let taught = taught(&outgoing, &reply, listing.as_deref());
        let (outgoing, taught) = match taught {
            Some(taught) if self.raise(&taught) => (outgoing, taught),
            _ => (Outgoing::Fixed(encode::error(unique, Errno::EIO)), Vec::new()),
        };
        let written = match outgoing {
            Outgoing::Fixed(fixed) => self.kernel.send(fixed.as_bytes()),
            Outgoing::Payload { header, len } => {
                self.kernel.send_payload(&header, &self.daemon.transport_ref().payload(&lease), len)
            }
            Outgoing::Listing { unique, len } => {
                let mut bytes = encode::data_header(unique, len).as_bytes().to_vec();
                bytes.extend(listing.unwrap_or_default());
                self.kernel.send(&bytes)
            }
            Outgoing::Ioctl { unique, result, len, first } => self.answer_ioctl(unique, result, len, first, &lease),
        }?;
        self.daemon.transport().release(lease);
        match written {
            Written::Delivered => Ok(Life::Goes),
            Written::Unmounted => Ok(Life::Ended),
            Written::Unwanted => {
                self.take_back(&taught, expect, &reply);
                Ok(Life::Goes)
            }
            Written::Invalid => {
                tracing::error!(?id, ?expect, ?reply, "the kernel refuses a reply; the request fails with EIO");
                self.take_back(&taught, expect, &reply);
                let again = self.kernel.send(encode::error(unique, Errno::EIO).as_bytes())?;
                Ok(if again == Written::Unmounted { Life::Ended } else { Life::Goes })
            }
        }
    }

    /// The result of an ioctl with `len` bytes of data, after what is to be done first.
    fn answer_ioctl(&self, unique: u64, result: i32, len: u32, first: First, lease: &Lease) -> io::Result<Written> {
        let (mut data, mut names) = (vec![0; len as usize], vec![0; first.expire as usize]);
        let payload = self.daemon.transport_ref().payload(lease);
        if !payload.copy_out(IOCTL_OUT_AT, &mut data) || !payload.copy_out(IOCTL_NAMES_AT, &mut names) {
            return self.kernel.send(encode::error(unique, Errno::EIO).as_bytes());
        }
        let mut bytes = encode::ioctl_head(unique, result, len);
        bytes.extend(data);
        if first == (First { settle: 0, expire: 0 }) {
            return self.kernel.send(&bytes);
        }
        // What was answered before has gone to the kernel by now.
        let settle = Duration::from_millis(first.settle.into());
        let under_way = Arc::clone(&self.notifying);
        let left = self
            .kernel
            .duplicate()
            .and_then(|kernel| notifier::expire_then_answer(kernel, settle, names, (unique, bytes), under_way));
        match left {
            Ok(()) => Ok(Written::Delivered),
            Err(error) => {
                tracing::error!(%error, "names of the root cannot be let expire; the request fails with EIO");
                self.kernel.send(encode::error(unique, Errno::EIO).as_bytes())
            }
        }
    }

    /// Raises the counts of nodes that the kernel is about to learn of. `false` (nothing raised) when
    /// the table cannot be written.
    fn raise(&mut self, nodes: &[NodeId]) -> bool {
        for (done, node) in nodes.iter().enumerate() {
            if let Err(error) = self.counts.raise(*node, 1) {
                tracing::error!(%error, "lookup counts cannot be kept; the request fails with EIO");
                for node in nodes.iter().take(done) {
                    self.lower(*node, 1);
                }
                return false;
            }
        }
        true
    }

    /// The kernel did not take the reply: it has learnt of no node and holds no open file.
    fn take_back(&mut self, taught: &[NodeId], expect: Expect, reply: &Reply) {
        for node in taught {
            self.lower(*node, 1);
        }
        let opened = match (expect, reply) {
            (Expect::Opened { node, flags, dir }, Reply::Opened(opened)) => Some((node, opened.fh, flags, dir)),
            (Expect::Created { flags }, Reply::Created(entry, opened)) => Some((entry.node, opened.fh, flags, false)),
            _ => None,
        };
        if let Some((node, fh, flags, dir)) = opened {
            let op = if dir { Op::ReleaseDir { fh } } else { Op::Release { fh, flags } };
            self.tell(&Request { caller: shm_transport::wire::Caller::default(), node, op });
        }
    }
}

/// The nodes that a reply teaches the kernel of. `None` when a listing is malformed.
fn taught(outgoing: &Outgoing, reply: &Reply, listing: Option<&[u8]>) -> Option<Vec<NodeId>> {
    match (outgoing, reply) {
        (Outgoing::Listing { .. }, _) => {
            let mut reader = dirent::Reader::new(listing?, true);
            // The kernel looks `.` and `..` up by itself and does not count them.
            let nodes = reader.by_ref().filter(|e| e.node != NodeId::NONE && e.name != b"." && e.name != b"..");
            let nodes = nodes.map(|e| e.node).collect();
            if reader.malformed() {
                tracing::error!("the daemon's directory listing is malformed; it becomes EIO");
                return None;
            }
            Some(nodes)
        }
        (Outgoing::Fixed(fixed), Reply::Entry(entry) | Reply::Created(entry, _)) if !fixed.is_error() => {
            Some(if entry.node == NodeId::NONE { Vec::new() } else { vec![entry.node] })
        }
        _ => Some(Vec::new()),
    }
}
