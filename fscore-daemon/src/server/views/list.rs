//! What a mount shows beside its own branch, for who asks.

use super::process::{Process, all_cgroups, is_within};
use crate::core::division::{Binding, Division};
use crate::core::keys;
use crate::core::state::Core;
use shm_transport::control::{Bound, Shown};
use shm_transport::wire::SessionId;

/// The branches, and the living processes that were bound to each.
pub(in crate::server) fn shown(core: &Core, session: SessionId) -> Vec<Shown> {
    let bytes = core.store.get(&keys::division(session));
    let division = bytes.and_then(|bytes| Division::decode(&bytes).ok()).unwrap_or_default();
    let mut groups = None;
    let mut lives = |binding: &Binding| {
        let itself =
            Process::of(binding.pid).is_ok_and(|found| found.is_some_and(|found| found.start == binding.start));
        let in_group = |outer| {
            groups.get_or_insert_with(|| all_cgroups().unwrap_or_default()).iter().any(|group| is_within(group, outer))
        };
        itself || binding.cgroup.as_deref().is_some_and(in_group)
    };
    let of_view = division.views.iter().map(|(slot, branch)| {
        let name = core.branch_record(*branch).map_or_else(|_| String::new(), |record| record.name);
        let named = division.bindings.iter().filter(|binding| binding.slot == *slot && !binding.inherited);
        let bound = named.filter(|binding| lives(binding)).map(|binding| Bound {
            branch: name.clone(),
            pid: binding.pid,
            cgroup: binding.cgroup.as_ref().map(|group| String::from_utf8_lossy(group).into_owned()),
        });
        let bound = bound.collect();
        Shown { branch: name, bound }
    });
    of_view.collect()
}
