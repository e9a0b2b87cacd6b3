//! Where an object is, for people.

use super::tables::Tables;
use crate::core::ids::{EpochId, ObjectId};
use crate::core::record::{Body, DirentRecord};
use shm_transport::control::escape::escape;
use std::collections::BTreeMap;

/// Deeper than any path.
const DEPTH_MAX: usize = 4096;

/// The names of an object: directory and name.
type Names<'a> = Vec<(ObjectId, &'a [u8])>;

/// Finds paths. The index over all names is made when somebody first asks.
#[derive(Debug)]
pub(super) struct Paths<'a> {
    tables: &'a Tables,
    names: Option<BTreeMap<ObjectId, Names<'a>>>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(tables: &'a Tables) -> Self {
        Self { tables, names: None }
    }

    /// The names that records have, or had, for an object.
    pub(super) fn names(&mut self, object: ObjectId) -> &[(ObjectId, &'a [u8])] {
        let tables = self.tables;
        let names = self.names.get_or_insert_with(|| {
            let mut all: BTreeMap<ObjectId, Names<'a>> = BTreeMap::new();
            for (dir, names) in &tables.dirents {
                for (name, versions) in names {
                    let mut objects: Vec<_> = versions
                        .values()
                        .filter_map(|record| match record {
                            DirentRecord::Entry { object, .. } => Some(*object),
                            DirentRecord::Whiteout => None,
                        })
                        .collect();
                    objects.sort_unstable();
                    objects.dedup();
                    for object in objects {
                        all.entry(object).or_default().push((*dir, name));
                    }
                }
            }
            all
        });
        names.get(&object).map_or(&[], Vec::as_slice)
    }

    /// Branch and path, as far as the records tell. What is only in the base stands as `…`.
    pub(super) fn of(&mut self, object: ObjectId, epoch: EpochId) -> Option<String> {
        let (_, branch) = self.tables.branch_of(epoch)?;
        let mut parts = Vec::new();
        let mut at = object;
        while at != branch.root && parts.len() < DEPTH_MAX {
            let Some((dir, name)) = self.place(at, epoch) else {
                parts.push("…".to_owned());
                break;
            };
            parts.push(escape(&name));
            at = dir;
        }
        parts.reverse();
        Some(format!("{}:/{}", branch.name, parts.join("/")))
    }

    /// The same for a name in a directory.
    pub(super) fn of_name(&mut self, dir: ObjectId, name: &[u8], epoch: EpochId) -> Option<String> {
        let above = self.of(dir, epoch)?;
        let slash = if above.ends_with('/') { "" } else { "/" };
        Some(format!("{above}{slash}{}", escape(name)))
    }

    fn place(&mut self, object: ObjectId, epoch: EpochId) -> Option<(ObjectId, Vec<u8>)> {
        if let Some((_, record)) = self.tables.object(object, epoch)
            && let Body::Directory { parent, name } = &record.body
        {
            return Some((*parent, name.clone()));
        }
        let tables = self.tables;
        let leads = |dir, name: &[u8]| {
            let found = tables.dirent(dir, name, epoch);
            matches!(found, Some(DirentRecord::Entry { object: to, .. }) if to == object)
        };
        let names = self.names(object);
        let found = names.iter().find(|(dir, name)| leads(*dir, name)).or_else(|| names.first());
        found.map(|(dir, name)| (*dir, name.to_vec()))
    }
}
