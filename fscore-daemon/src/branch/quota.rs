//! Limits of branches: setting them, and what is told of them.

use super::Branches;
use super::info::{fail, fail_branch};
use crate::core::ids::BranchId;
use crate::core::keys;
use crate::core::record::{BranchRecord, Quota};
use crate::core::state::lock;
use crate::store::Batch;
use shm_transport::control::{BranchInfo, Failure, Limits, QuotaInfo};

/// The limits with those that are to be set.
pub(super) fn changed(quota: Quota, limits: &Limits) -> Quota {
    Quota {
        bytes: limits.bytes.map_or(quota.bytes, shm_transport::control::Limit::max),
        inodes: limits.inodes.map_or(quota.inodes, shm_transport::control::Limit::max),
    }
}

impl Branches {
    /// Sets limits, if any are given, and tells of them.
    pub(super) fn quota(&self, name: &str, limits: &Limits) -> Result<BranchInfo, Failure> {
        let _mutation = lock(&self.mutation);
        let id = self.find(name)?;
        if !limits.is_empty() {
            let branch = self.loaded(id)?;
            let quota = changed(self.record(id)?.quota, limits);
            self.core
                .set_quota(&branch, quota, || {
                    let record = BranchRecord { quota, ..self.core.branch_record(id)? };
                    let mut batch = Batch::default();
                    batch.put(keys::branch(id), record.encode());
                    self.core.store.commit(&batch)?;
                    Ok(())
                })
                .map_err(|e| fail_branch(name, e))?;
        }
        self.counted_info(id)
    }

    /// As [`Self::info`], with what is used of the limits, counted if need be.
    pub(super) fn counted_info(&self, id: BranchId) -> Result<BranchInfo, Failure> {
        let mut info = self.info(id)?;
        if let Some(told) = info.quota.as_mut().filter(|told| told.bytes_used.is_none()) {
            let record = self.record(id)?;
            let usage = self.core.usage_of(id, record.root).map_err(fail)?;
            (told.bytes_used, told.inodes_used) = (Some(usage.bytes), Some(usage.inodes));
        }
        Ok(info)
    }

    /// The limits, and what is known to be used.
    pub(super) fn quota_info(&self, id: BranchId, quota: Quota) -> Option<QuotaInfo> {
        let usage = self.core.loaded_branch(id).and_then(|branch| branch.ledger.usage());
        (quota != Quota::default()).then_some(QuotaInfo {
            bytes: quota.bytes,
            inodes: quota.inodes,
            bytes_used: usage.map(|usage| usage.bytes),
            inodes_used: usage.map(|usage| usage.inodes),
        })
    }
}
