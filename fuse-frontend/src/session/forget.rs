//! What the kernel forgets, told to the daemon in batches.

use super::{Daemon, Session};
use crate::convert::Forgotten;
use crate::pending::Under;
use shm_transport::FsTransport;
use shm_transport::wire::limits::FORGET_MAX;
use shm_transport::wire::{Caller, NodeId, Op, Request, RequestId};
use std::time::{Duration, Instant};

/// How long forgotten nodes are collected before the daemon is told.
const DELAY: Duration = Duration::from_millis(20);

/// Nodes of count 0 that the daemon does not know of yet.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    nodes: Vec<NodeId>,
    since: Option<Instant>,
}

impl Forgetting {
    fn push(&mut self, node: NodeId) {
        self.nodes.push(node);
        self.since.get_or_insert_with(Instant::now);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.nodes.len() >= FORGET_MAX || self.since.is_some_and(|since| now.duration_since(since) >= DELAY)
    }

    /// Has the daemon told at once.
    pub(super) fn hurry(&mut self) {
        self.since = self.since.map(|since| since.checked_sub(DELAY).unwrap_or(since));
    }

    /// How long until the daemon should be told.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| DELAY.saturating_sub(now.duration_since(since)))
    }
}

impl<D: Daemon> Session<D> {
    /// FORGET and BATCH_FORGET.
    pub(super) fn forget(&mut self, forgotten: Forgotten<'_>) {
        match forgotten {
            Forgotten::One(node, lookups) => self.lower(node, lookups),
            Forgotten::Many(forgets) => forgets.iter().for_each(|(node, lookups)| self.lower(node, lookups)),
        }
    }

    /// The kernel knows `node` by `lookups` fewer.
    pub(super) fn lower(&mut self, node: NodeId, lookups: u64) {
        match self.counts.lower(node, lookups) {
            Ok(true) if node != NodeId::ROOT => self.forgetting.push(node),
            Ok(_) => {}
            // The count stays too high: the object is kept too long, which is the safe side.
            Err(error) => tracing::warn!(%error, "a lookup count cannot be lowered"),
        }
    }

    /// Tells the daemon when it is time.
    pub(super) fn send_forgets(&mut self, now: Instant) {
        // A request of the kernel is more urgent; and without a daemon, nodes only pile up here.
        while self.forgetting.is_due(now) && self.has_room() && self.may_submit() && self.daemon.connected() {
            let Some(lease) = self.spare.take() else { break };
            let count = self.forgetting.nodes.len().min(FORGET_MAX);
            let batch: Vec<NodeId> =
                self.forgetting.nodes.drain(..count).filter(|node| self.counts.count(*node) == 0).collect();
            if self.forgetting.nodes.is_empty() {
                self.forgetting.since = None;
            }
            let bytes: Vec<u8> = batch.iter().flat_map(|node| node.0.to_le_bytes()).collect();
            let fits = self.daemon.transport_ref().payload(&lease).copy_in(0, &bytes);
            if batch.is_empty() || !fits {
                self.spare = Some(lease);
                continue;
            }
            let op = Op::Forget { count: batch.len() as u32 };
            self.submit_own(lease, &Request { caller: Caller::default(), node: NodeId::ROOT, op }, bytes.len() as u32);
        }
    }

    /// Sends a request of our own without payload, if a slot is free.
    pub(super) fn tell(&mut self, request: &Request) {
        if !self.may_submit() {
            return;
        }
        if let Some(lease) = self.spare.take().or_else(|| self.daemon.transport().lease()) {
            self.submit_own(lease, request, 0);
        }
    }

    fn submit_own(&mut self, lease: shm_transport::Lease, request: &Request, payload_len: u32) {
        let slot = lease.slot;
        let id = RequestId(self.own_id);
        self.own_id = self.own_id.wrapping_add(2) & !crate::abi::UNIQUE_RESEND;
        self.pending.put(slot, Under::Own);
        match self.daemon.transport().submit(lease, id, request, payload_len) {
            Ok(()) => {}
            Err((Some(lease), error)) => {
                tracing::error!(%error, "a request of the frontend itself cannot be sent");
                self.pending.put(slot, Under::Idle);
                self.spare = Some(lease);
            }
            Err((None, error)) => self.lose(&error),
        }
    }
}
