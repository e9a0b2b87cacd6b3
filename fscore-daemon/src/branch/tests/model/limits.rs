//! Limits of branches, as `specs/branch-semantics.md` §12 says it: what an operation needs, and whether it has it.

use super::real::Real;
use super::tree::Id;
use super::world::World;
use crate::core::ids::ObjectId;
use crate::core::keys;
use crate::core::quota::{Usage, charge};
use crate::core::record::{Body, ContentRecord, FileBody, Quota};
use shm_transport::control::{BranchInfo, Command, Limit, Limits};

/// What an operation wants of a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    /// Bytes written up to this end.
    Write(u64),
    /// Another size.
    Resize(u64),
}

impl Real {
    /// The bytes that an operation takes of a branch's limit.
    pub(super) fn needs(&self, branch: &str, object: ObjectId, size: u64, want: Want) -> u64 {
        let view = self.view(branch);
        let body = view.object(object).unwrap().map(|found| found.value.body);
        let owned = match &body {
            Some(Body::File(FileBody::Content(id))) => {
                let record = self.core.store.get(&keys::content(*id)).unwrap();
                ContentRecord::decode(&record).unwrap().epoch == view.head()
            }
            _ => false,
        };
        match want {
            Want::Write(end) if owned => charge(end).saturating_sub(charge(size)),
            Want::Write(end) => charge(end.max(size)),
            Want::Resize(to) if owned => charge(to).saturating_sub(charge(size)),
            // Zeros that nobody wrote take no file.
            Want::Resize(to) if matches!(body, Some(Body::File(FileBody::Hole { .. }))) && to <= size => 0,
            Want::Resize(to) => charge(to),
        }
    }

    /// What a branch uses, as its mount knows it.
    fn usage(&self, branch: &str) -> Option<Usage> {
        self.core.branch(self.branches.find(branch).unwrap()).unwrap().ledger.usage()
    }

    /// What is known of the use of a branch is what its records and content files say.
    #[track_caller]
    pub(super) fn counted(&self, branch: &str, quota: Quota, context: &str) {
        let info: BranchInfo = self.ask(&Command::BranchShow { name: branch.into() }).unwrap();
        let told = info.quota.map_or(Quota::default(), |told| Quota { bytes: told.bytes, inodes: told.inodes });
        assert_eq!(told, quota, "{context}: limits of {branch}");
        if let Some(usage) = self.usage(branch) {
            let id = self.branches.find(branch).unwrap();
            let counted = self.core.usage_of(id, self.view(branch).root).unwrap();
            assert_eq!(usage, counted, "{context}: use of {branch}, as known and as counted");
        }
    }
}

impl World {
    /// Sets limits near what is used, or takes them away.
    pub(super) fn limit(&mut self, name: &str, (a, b, c): (u8, u8, u8)) {
        let id = self.real.branches.find(name).unwrap();
        let used = self.real.core.usage_of(id, self.real.view(name).root).unwrap();
        let some = |number: u8, max: u64| if number.is_multiple_of(4) { Limit::None } else { Limit::Max(max) };
        let limits = Limits {
            bytes: Some(some(a, used.bytes + u64::from(a % 5) * 4096)),
            inodes: Some(some(b, (used.inodes + u64::from(b % 4)).saturating_sub(u64::from(c % 2)))),
        };
        if self.commanded::<BranchInfo>(&Command::BranchQuota { name: name.into(), limits }).is_some() {
            let max = |limit: Option<Limit>| limit.and_then(Limit::max);
            self.line(name).quota = Quota { bytes: max(limits.bytes), inodes: max(limits.inodes) };
        }
    }

    /// Whether a mounted branch has room.
    pub(super) fn has_room(&mut self, name: &str, bytes: u64, inodes: u64) -> bool {
        let quota = self.line(name).quota;
        self.real.mount(name);
        if quota == Quota::default() {
            return true;
        }
        let used = self.real.usage(name).expect("a mounted branch with limits is counted");
        let fits = |used: u64, more: u64, max: Option<u64>| more == 0 || max.is_none_or(|max| used + more <= max);
        fits(used.bytes, bytes, quota.bytes) && fits(used.inodes, inodes, quota.inodes)
    }

    /// Whether what is wanted of a file has room.
    pub(super) fn has_room_for(&mut self, name: &str, id: Id, want: Want) -> bool {
        let size = self.line(name).head.tree.objects[&id].bytes().unwrap().len() as u64;
        let needs = self.real.needs(name, self.numbers.0[&id], size, want);
        self.has_room(name, needs, 0)
    }
}
