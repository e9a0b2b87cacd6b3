//! Copies of bases: each that an epoch names is there, and whole.

use super::finding::{Finding, Repair};
use super::tables::Tables;
use crate::core::ids::BaseId;
use crate::core::keys;
use shm_transport::control::seal::{self, Entry, Seal};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

const RESTORE: &str = "restore copies/ from a backup of the store; what branches changed themselves is not touched";

/// Checks the copies of a store.
pub(super) fn check(tables: &Tables, store: &Path, found: &mut Vec<Finding>) {
    let mut needed: BTreeSet<BaseId> = BTreeSet::new();
    for (id, epoch) in &tables.epochs {
        if let Some(base) = epoch.base {
            needed.insert(base);
            if tables.bases.get(&base).is_none_or(|record| record.seal.is_none()) {
                let message = format!("it shows the copy {base} of a base, of which there is no record");
                found.push(Finding::error("base-missing", &keys::epoch(*id), message));
            }
        }
    }
    for (id, record) in &tables.bases {
        let Some(seal) = &record.seal else { continue };
        let key = keys::base(*id);
        if !needed.contains(id) {
            let finding = Finding::leftover("copy-unneeded", &key, "a copy of a base that no state shows");
            found.push(finding.mend(vec![Repair::Delete(key)]));
            continue;
        }
        let dir = seal::home(store).join(&seal.name);
        let list = std::fs::read(seal::list(&dir)).and_then(|bytes| Seal::decode(&bytes));
        match list {
            Err(e) => {
                let message = format!("the list of the copy {} cannot be read: {e}", dir.display());
                found.push(Finding::error("copy-broken", &key, message).hint(RESTORE));
            }
            Ok(list) => files(&list.entries, &dir, &key, found),
        }
    }
}

/// Each file is there with as many bytes as the list says.
fn files(entries: &[Entry], dir: &Path, key: &[u8], found: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    for entry in entries.iter().filter(|entry| entry.is_file()) {
        if !seen.insert(entry.ino) {
            continue;
        }
        let path = dir.join(seal::data(entry.ino));
        let why = match path.symlink_metadata() {
            Ok(meta) if meta.is_file() && meta.len() == entry.size => continue,
            Ok(meta) => format!("has {} bytes instead of {}, or is no file", meta.len(), entry.size),
            Err(e) if e.kind() == io::ErrorKind::NotFound => "is missing".into(),
            Err(e) => format!("cannot be looked at: {e}"),
        };
        let message = format!("{} {why}", path.display());
        found.push(Finding::error("copy-broken", key, message).hint(RESTORE));
    }
}
