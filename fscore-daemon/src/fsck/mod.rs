//! The check of a store: every record decodes and agrees with the others and with the content files.
//!
//! ```text
//! offline   a store that nobody has open: its log and checkpoint too, and repairs
//! tables    all records, decoded
//! versions  the version tree, counters, what belongs to branches and mounts
//! names     names, links, directories, the index of changes
//! contents  content files
//! copies    copies of bases
//! path      where an object is, for people
//! finding   what is told
//! ```
//!
//! A repair only does what loses nothing: it removes what nothing refers to, unless a record that might is damaged or
//! missing, and writes what follows from other records. Everything else is told, with what to do.
#![forbid(unsafe_code)]

mod contents;
mod copies;
mod finding;
mod names;
mod offline;
mod path;
mod tables;
mod versions;

use crate::core::keys;
use crate::core::state::Core;
use crate::store::{LogStore, Store};
pub use finding::{Finding, Repair};
pub use offline::{FsckError, offline};
use shm_transport::control::{FsckReport, FsckSeverity};
use std::io;
use std::path::Path;

/// Most findings in one answer; all are counted.
const LISTED_MAX: usize = 500;

/// What is said of leftovers beside damage.
const KEPT: &str = "kept while there are errors: it may belong to what cannot be read";

/// What a check found.
#[derive(Debug, Default)]
pub struct Found {
    /// Records that were read.
    pub records: u64,
    /// Content files that were seen.
    pub contents: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// Checks records and content files. The store must not change meanwhile.
pub fn check(store: &dyn Store, contents: &Path) -> io::Result<Found> {
    let mut findings = Vec::new();
    let tables = tables::Tables::read(store, &mut findings);
    let reached = versions::check(&tables, &mut findings);
    names::check(&tables, &reached, &mut findings);
    versions::check_belongings(&tables, &mut findings);
    if let Some(store) = contents.parent() {
        copies::check(&tables, store, &mut findings);
    }
    let contents = contents::check(&tables, contents, &mut findings)?;
    withhold(&mut findings);
    Ok(Found { records: tables.records, contents, findings })
}

/// While a record is damaged or missing, nobody knows what it referred to: what seems to be a leftover may be its.
fn withhold(findings: &mut [Finding]) {
    let hides = |finding: &Finding| {
        // A content file names nothing.
        finding.told.severity == FsckSeverity::Error
            && finding.repair.is_empty()
            && !matches!(finding.told.kind.as_str(), "content-missing" | "content-odd" | "copy-broken")
    };
    if !findings.iter().any(hides) {
        return;
    }
    for finding in findings.iter_mut().filter(|finding| finding.told.severity == FsckSeverity::Leftover) {
        finding.repair.clear();
        finding.told.hint = KEPT.into();
    }
}

/// Checks a store that is in use, as it was at one moment. Nobody waits longer for it than for a short read.
pub fn online(core: &Core, store: &LogStore) -> io::Result<Found> {
    let dir = core.contents.root();
    let before = store.snapshot();
    let mut found = check(&before, dir)?;
    // Content files are made before their records and go after them: what changed meanwhile counts as it is now.
    found.findings.retain(|finding| {
        let Some(id) = finding.content else { return true };
        let recorded = store.get(&keys::content(id)).is_some();
        let there = dir.join(crate::content::Contents::relative(id)).exists();
        match finding.told.kind.as_str() {
            "content-unrecorded" => !recorded && there && !core.is_young(id) && !core.is_doomed(id),
            "content-missing" => recorded && !there,
            _ => true,
        }
    });
    Ok(found)
}

/// The answer for the user.
pub fn report(store: &Path, online: bool, found: Found) -> FsckReport {
    let of =
        |severity| found.findings.iter().filter(|f| f.told.severity == severity && !f.told.repaired).count() as u64;
    let (errors, leftovers) = (of(FsckSeverity::Error), of(FsckSeverity::Leftover));
    let repaired = found.findings.iter().filter(|f| f.told.repaired).count() as u64;
    let mut findings: Vec<_> = found.findings.into_iter().map(|finding| finding.told).collect();
    // Errors first, so that a long list of leftovers does not hide them.
    findings.sort_by_key(|finding| (finding.repaired, finding.severity));
    findings.truncate(LISTED_MAX);
    FsckReport {
        store: store.to_owned(),
        online,
        records: found.records,
        contents: found.contents,
        errors,
        leftovers,
        repaired,
        findings,
        notes: Vec::new(),
    }
}
