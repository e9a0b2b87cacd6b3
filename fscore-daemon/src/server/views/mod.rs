//! The views of a mount: its own branch, and the branches that processes were bound to. An object's node says which view it
//! belongs to; only the root has that of whoever asks.
//!
//! ```text
//! process   who asks, by /proc
//! bind      the commands
//! list      who is bound
//! ```
//!
//! A mount without bindings pays one look at a flag for each request.

mod bind;
mod list;
mod process;

#[cfg(test)]
mod tests;

pub(super) use bind::{First, bind, unbind};
pub(super) use list::shown;

use crate::core::division::{Binding, Division};
use crate::core::error::FsError;
use crate::core::ids::BranchId;
use crate::core::keys;
use crate::core::session::{Session, mutates};
use crate::core::state::{Core, lock};
use crate::store::Batch;
use process::{Process, is_within};
use shm_transport::wire::{NodeId, Op, Reply, Request, SessionId, ViewSlot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

/// Most processes that are known to be bound, at one mount.
const BINDINGS_MAX: usize = 4096;
/// How often it is looked which of them have ended.
const PRUNE_PAUSE: Duration = Duration::from_secs(1);
/// The same where all processes of the host must be looked at.
const PRUNE_GROUPS_PAUSE: Duration = Duration::from_secs(10);

/// All views of a mount.
#[derive(Debug)]
pub(super) struct Views {
    core: Arc<Core>,
    main: Arc<Session>,
    /// There were others beside the main one.
    several: AtomicBool,
    /// Held, shared, by requests that touch the root; exclusively to begin a division: what was answered before is over then.
    gate: RwLock<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    others: BTreeMap<ViewSlot, Arc<Session>>,
    division: Division,
    /// When the mount was divided last, or the daemon took it up divided.
    began: Instant,
    pruned: Instant,
    pruned_groups: Instant,
    /// Control groups in which nobody was found at the last look.
    deserted: BTreeSet<Vec<u8>>,
}

/// What a request is run in.
pub(super) struct Chosen<'a> {
    pub(super) session: Arc<Session>,
    _gate: Option<RwLockReadGuard<'a, ()>>,
}

impl Views {
    /// With those that the mount had before the daemon started.
    pub(super) fn open(core: Arc<Core>, main: Arc<Session>) -> Result<Self, FsError> {
        let division = match core.store.get(&keys::division(main.id)) {
            Some(bytes) => Division::decode(&bytes)?,
            None => Division::default(),
        };
        let mut others = BTreeMap::new();
        for (slot, branch) in &division.views {
            match core.branch(*branch).and_then(|branch| core.count_usage(&branch).map(|()| branch)) {
                Ok(branch) => {
                    others.insert(*slot, main.beside(branch, *slot));
                }
                Err(error) => tracing::error!(session = %main.id, %branch, %error, "a bound branch cannot be shown"),
            }
        }
        main.divide(!division.bindings.is_empty());
        let now = Instant::now();
        let several = AtomicBool::new(!division.views.is_empty());
        let deserted = BTreeSet::new();
        let state = State { others, division, began: now, pruned: now, pruned_groups: now, deserted };
        let state = Mutex::new(state);
        Ok(Self { core, main, several, gate: RwLock::new(()), state })
    }

    /// The view of the branch that is mounted.
    pub(super) fn main(&self) -> &Arc<Session> {
        &self.main
    }

    /// The view that a request is for; an error where it is for two.
    pub(super) fn choose(&self, request: &Request) -> Result<Chosen<'_>, FsError> {
        // A division that begins meanwhile waits for what this answers.
        let gate = touches_root(request).then(|| self.enter());
        if !self.several.load(Ordering::Acquire) {
            return Ok(Chosen { session: Arc::clone(&self.main), _gate: gate });
        }
        let mut asks = None;
        let mut slot_of = |node: NodeId| match node {
            NodeId::ROOT => match asks {
                Some(slot) => Ok(slot),
                None => self.of_caller(request).inspect(|slot| asks = Some(*slot)),
            },
            node => Ok(node.slot()),
        };
        let slot = match listed(&request.op).filter(|_| request.node == NodeId::ROOT) {
            Some(slot) => slot,
            None => slot_of(request.node)?,
        };
        if let Some(other) = other(&request.op)
            && slot_of(other)? != slot
        {
            return Err(FsError::OtherView);
        }
        let session = if slot == ViewSlot::MAIN {
            Arc::clone(&self.main)
        } else {
            lock(&self.state).others.get(&slot).cloned().ok_or(FsError::Stale)?
        };
        Ok(Chosen { session, _gate: gate })
    }

    /// Every view: for what concerns objects of all.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        let state = lock(&self.state);
        std::iter::once(&self.main).chain(state.others.values()).cloned().collect()
    }

    fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view of the process that asks. One that cannot be looked at gets an error, never another branch.
    fn of_caller(&self, request: &Request) -> Result<ViewSlot, FsError> {
        let mut state = lock(&self.state);
        self.prune(&mut state);
        if state.division.bindings.is_empty() {
            return Ok(ViewSlot::MAIN);
        }
        let Some(caller) = Process::of_thread(request.caller.pid).map_err(unreadable)? else {
            // Whom nobody can see is bound to nothing. Who was there and is gone has no change to make any more.
            let gone = request.caller.pid != 0 && mutates(&request.op);
            return if gone { Err(FsError::Stale) } else { Ok(ViewSlot::MAIN) };
        };
        let Some((binding, inherited)) = state.find(caller) else { return Ok(ViewSlot::MAIN) };
        let slot = binding.slot;
        if inherited && state.division.bindings.len() < BINDINGS_MAX {
            // It stays bound when the processes above it end first, and so do those between.
            let named = |p: &Process| state.division.bindings.iter().any(|b| b.pid == p.pid && b.start == p.start);
            let between: Vec<Process> = caller.line().take_while(|process| !named(process)).collect();
            state.division.bindings.extend(between.into_iter().map(|process| Binding {
                slot,
                pid: process.pid,
                start: process.start,
                cgroup: None,
                inherited: true,
            }));
            self.record(&state);
        }
        Ok(slot)
    }

    /// Forgets processes that ended.
    fn prune(&self, state: &mut State) {
        if state.division.bindings.is_empty() || state.pruned.elapsed() < PRUNE_PAUSE {
            return;
        }
        state.pruned = Instant::now();
        // What cannot be looked at is not gone.
        let groups = if state.division.bindings.iter().any(|b| b.cgroup.is_some())
            && state.pruned_groups.elapsed() >= PRUNE_GROUPS_PAUSE
        {
            state.pruned_groups = Instant::now();
            process::all_cgroups().ok()
        } else {
            None
        };
        let before = state.division.bindings.len();
        let mut deserted = BTreeSet::new();
        let is_gone = |binding: &Binding| match (&binding.cgroup, &groups) {
            (Some(outer), Some(groups)) => {
                let empty = !groups.iter().any(|group| is_within(group, outer));
                // A process may have moved on under the look's way: the second one counts.
                empty && !deserted.insert(outer.clone()) | state.deserted.contains(outer)
            }
            (Some(_), None) => false,
            (None, _) => Process::of(binding.pid).is_ok_and(|found| found.is_none_or(|f| f.start != binding.start)),
        };
        let gone: Vec<bool> = state.division.bindings.iter().map(is_gone).collect();
        let mut gone = gone.into_iter();
        state.division.bindings.retain(|_| !gone.next().unwrap_or(false));
        if groups.is_some() {
            state.deserted = deserted;
        }
        if state.division.bindings.len() != before {
            self.record(state);
            self.main.divide(!state.division.bindings.is_empty());
        }
    }

    /// Keeps the division across the death of the daemon.
    fn record(&self, state: &State) {
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        batch.put(keys::division(self.main.id), state.division.encode());
        if let Err(error) = self.core.store.commit(&batch) {
            tracing::error!(session = %self.main.id, %error, "the bindings of processes are not recorded");
        }
    }
}

impl State {
    /// The binding that counts for a process: its own, that of the nearest process above it, or that of its control group,
    /// whichever is the inner one; and whether it should get one of its own.
    fn find(&self, caller: Process) -> Option<(&Binding, bool)> {
        let bindings = &self.division.bindings;
        let grouped = bindings.iter().filter_map(|b| Some((b, b.cgroup.as_deref()?)));
        let mut grouped = grouped.peekable();
        let group = grouped.peek().is_some().then(|| caller.cgroup()).flatten().unwrap_or_default();
        let above = caller.line().find_map(|process| {
            let named = |b: &&Binding| {
                // Bound by its group, it is not followed by who was started before and is outside of that group.
                let followed = process == caller || b.cgroup.as_ref().is_none_or(|outer| is_within(&group, outer));
                b.pid == process.pid && b.start == process.start && followed
            };
            Some((bindings.iter().rev().find(named)?, process))
        });
        let around = grouped.filter(|(_, outer)| is_within(&group, outer)).max_by_key(|(_, outer)| outer.len());
        match (above, around) {
            // A process outside of the group was bound before the group was made.
            (Some((_, process)), Some((binding, outer)))
                if !process.cgroup().is_some_and(|group| is_within(&group, outer)) =>
            {
                Some((binding, false))
            }
            (Some((binding, process)), _) => Some((binding, process != caller && binding.cgroup.is_none())),
            (None, around) => around.map(|(binding, _)| (binding, false)),
        }
    }
}

/// The branches that processes of a mount were bound to.
pub(super) fn branches_of(core: &Core, mount: SessionId) -> Result<Vec<BranchId>, FsError> {
    let Some(bytes) = core.store.get(&keys::division(mount)) else { return Ok(Vec::new()) };
    Ok(Division::decode(&bytes)?.views.into_iter().map(|(_, branch)| branch).collect())
}

fn unreadable(source: std::io::Error) -> FsError {
    FsError::Io { what: "look at a process", source }
}

/// Whether what is answered depends on who asks.
fn touches_root(request: &Request) -> bool {
    request.node == NodeId::ROOT || other(&request.op) == Some(NodeId::ROOT)
}

/// The second object of an operation.
fn other(op: &Op) -> Option<NodeId> {
    if let Op::Rename { new_parent: other, .. } | Op::Link { target: other, .. } | Op::CopyFileRange { to: other, .. } =
        op
    {
        Some(*other)
    } else {
        None
    }
}

/// Bits of a handle that are the listing's own.
const HANDLE_BITS: u32 = 48;

/// The view whose root is being listed: that of who opened it.
fn listed(op: &Op) -> Option<ViewSlot> {
    if let Op::ReadDir { fh, .. } | Op::ReleaseDir { fh } = op {
        Some(ViewSlot((fh >> HANDLE_BITS) as u16))
    } else {
        None
    }
}

/// The reply to an OPENDIR of the root, whose handle says in which view it was opened.
pub(super) fn with_view(request: &Request, slot: ViewSlot, reply: Reply) -> Reply {
    if let Reply::Opened(mut opened) = reply
        && request.node == NodeId::ROOT
        && matches!(request.op, Op::OpenDir)
    {
        opened.fh |= u64::from(slot.0) << HANDLE_BITS;
        return Reply::Opened(opened);
    }
    reply
}
