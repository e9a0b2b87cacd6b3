//! Content files: each recorded one is there and is needed, and no other is.

use super::finding::{Finding, Repair};
use super::path::Paths;
use super::tables::Tables;
use crate::content::{Contents, Ids};
use crate::core::ids::{BranchId, ContentId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{Body, FileBody};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Largest size that a file can have.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Checks the content files below `dir` against the records.
pub(super) fn check(tables: &Tables, dir: &Path, found: &mut Vec<Finding>) -> io::Result<u64> {
    let mut used: BTreeMap<ContentId, (ObjectId, EpochId)> = BTreeMap::new();
    for (object, versions) in &tables.objects {
        for (epoch, record) in versions {
            if let Body::File(FileBody::Content(id)) = record.body {
                used.insert(id, (*object, *epoch));
            }
        }
    }
    let mut there = BTreeSet::new();
    match Ids::open(dir) {
        Ok(ids) => {
            for id in ids {
                there.insert(id?);
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut paths = Paths::new(tables);
    for (id, owner) in &tables.contents {
        let key = keys::content(*id);
        let removed = tables.epochs.get(&owner.epoch).is_none_or(|epoch| is_dying(tables, epoch.branch));
        let Some((object, epoch)) = used.get(id) else {
            // A change that the index lists and that is not there was lost: they go together.
            let recorded =
                tables.objects.get(&owner.object).is_some_and(|versions| versions.contains_key(&owner.epoch));
            let changed = keys::changed_object(owner.epoch, owner.object);
            let listed = tables.index.contains(&(owner.epoch, keys::tail(&changed, 1).unwrap_or_default().to_vec()));
            if !removed && listed && !recorded {
                let message = format!("the record of object {} is missing, whose bytes are in this file", owner.object);
                let hint = "restore a backup of the store, or copy the content file away before the branch is deleted";
                found.push(Finding::error("object-missing", &key, message).hint(hint).content(*id));
                continue;
            }
            if !removed {
                let message = "no object needs this content file";
                let repair = vec![Repair::Delete(key.clone()), Repair::Remove(*id)];
                found.push(Finding::leftover("content-unreferenced", &key, message).mend(repair).content(*id));
            }
            continue;
        };
        let mut tell = |kind: &str, message: String, hint: &str| {
            let path = paths.of(*object, *epoch);
            found.push(Finding::error(kind, &key, message).at(path).hint(hint).content(*id));
        };
        let file = dir.join(Contents::relative(*id));
        if !there.contains(id) {
            if !removed {
                let message = format!("the content file {} is missing: the file reads as empty", file.display());
                tell("content-missing", message, MISSING);
            }
            continue;
        }
        match file.symlink_metadata() {
            Ok(meta) if !meta.is_file() || meta.nlink() != 1 || meta.len() > SIZE_MAX => {
                let message = format!("{} is no plain file with one name", file.display());
                tell("content-odd", message, "put the file back as it was, from a backup of the store");
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(_) | Err(_) => {}
        }
    }
    for id in there.iter().filter(|id| !tables.contents.contains_key(id)) {
        let message = "a content file without a record";
        let finding = Finding::leftover("content-unrecorded", &keys::content(*id), message);
        found.push(finding.mend(vec![Repair::Remove(*id)]).content(*id));
    }
    Ok(there.len() as u64)
}

const MISSING: &str = "a power loss may take a file that was never synced; else restore it from a backup of the store. \
                       Writing the file anew, or deleting it, settles it";

fn is_dying(tables: &Tables, branch: BranchId) -> bool {
    tables.has_mark(branch)
}
