//! Automatic snapshots: named by the time, and the oldest go when there are enough.

use super::Branches;
use super::info::refuse;
use crate::core::ids::BranchId;
use crate::core::keys;
use crate::core::record::SnapshotRecord;
use crate::core::state::lock;
use shm_transport::control::{Checkpoint, ErrorCode, Failure};
use shm_transport::wire::Timestamp;
use std::time::Instant;

impl Branches {
    /// Takes an automatic snapshot, unless nothing changed since the last one of any kind, and keeps so many of them.
    pub(super) fn checkpoint(&self, branch: &str, keep: u32) -> Result<Checkpoint, Failure> {
        if keep == 0 {
            return Err(refuse(ErrorCode::Usage, "no automatic snapshot is to be kept")
                .hint("keep 1 at least, or take none")
                .done());
        }
        let began = Instant::now();
        let _mutation = lock(&self.mutation);
        let id = self.find(branch)?;
        let snapshot = if self.is_saved(id)? {
            None
        } else {
            let created = self.core.clock.now();
            let taken = self.snapshots_of(id)?;
            let name = free_name(created, |name| taken.iter().any(|(other, _)| other == name));
            Some(self.keep_head(id, branch, (&name, true), began, None)?)
        };
        let mut deleted = Vec::new();
        let mut automatic: Vec<(String, SnapshotRecord)> =
            self.snapshots_of(id)?.into_iter().filter(|(_, record)| record.automatic).collect();
        automatic.sort_by_key(|(_, record)| record.epoch);
        let needed = self.made_from(id)?;
        let many = automatic.len().saturating_sub(keep as usize);
        for (name, record) in automatic.into_iter().take(many) {
            // A branch was made from it.
            if needed.iter().any(|(_, epoch)| *epoch == record.epoch) {
                continue;
            }
            self.forget_snapshot(id, &name, &record, None)?;
            deleted.push(name);
        }
        Ok(Checkpoint { snapshot, deleted })
    }

    /// Whether a snapshot shows what the branch shows: nothing was recorded since. A write in place goes to a content that
    /// was recorded since, too.
    fn is_saved(&self, id: BranchId) -> Result<bool, Failure> {
        let view = self.loaded(id)?.view().clone();
        let mut changed = false;
        let prefix = keys::changes(view.head());
        self.core.store.scan(&prefix, &mut |key, _| {
            changed = key.starts_with(&prefix);
            false
        });
        let below = view.chain.get(1).copied();
        let named = self.snapshots_of(id)?.iter().any(|(_, record)| Some(record.epoch) == below);
        Ok(named && !changed)
    }
}

/// `auto-YYYYMMDDTHHMMSS.mmmZ`: names that sort as the times do. Of a millisecond that has one, the next.
fn free_name(time: Timestamp, is_taken: impl Fn(&str) -> bool) -> String {
    let mut millis = time.sec.max(0).cast_unsigned() * 1000 + u64::from(time.nsec / 1_000_000);
    loop {
        let name = format!("auto-{}", stamp(millis));
        if !is_taken(&name) {
            return name;
        }
        millis += 1;
    }
}

fn stamp(millis: u64) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{millis:03}Z")
}

/// The date so many days after 1970-01-01. Years begin in March here, so that the leap day is the last one.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
