//! What the processes of a world hold open.

use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::os::linux::fs::MetadataExt;

/// Descriptors by holder and kind, and distinct memfds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Census(pub(super) BTreeMap<String, usize>);

fn kind(target: &str) -> Option<&'static str> {
    Some(match target {
        t if t.starts_with("/memfd:") => "memfd",
        t if t.starts_with("/dev/fuse") => "fuse",
        t if t.starts_with("socket:") => "socket",
        t if t.starts_with("pipe:") => "pipe",
        t if t.starts_with("anon_inode:") => "anon_inode",
        // Files come and go with the cache of the daemon.
        _ => return None,
    })
}

impl Census {
    /// Counts now.
    pub(super) fn take(world: &World) -> Self {
        let mut counts = BTreeMap::new();
        let mut memfds = BTreeSet::new();
        let all = [
            ("agentfsd", None, "daemon"),
            ("agentfs-fuse", Some("--hold"), "holder"),
            ("agentfs-fuse", Some("--serve"), "frontends"),
        ];
        for (name, arg, role) in all {
            let processes = world.processes(name, arg);
            counts.insert(format!("{role} processes"), processes.len());
            for process in processes {
                let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
                for path in entries.flatten().map(|e| e.path()) {
                    let Ok(target) = std::fs::read_link(&path) else { continue };
                    let Some(kind) = kind(&target.to_string_lossy()) else { continue };
                    *counts.entry(format!("{role} {kind}")).or_insert(0) += 1;
                    if kind == "memfd" {
                        memfds.extend(std::fs::metadata(&path).map(|m| (m.st_dev(), m.st_ino())));
                    }
                }
            }
        }
        counts.insert("distinct memfds".into(), memfds.len());
        Self(counts)
    }

    /// The counts that differ in a later census.
    pub(super) fn changes(&self, later: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(later.0.keys()).collect();
        let count = |of: &Self, name: &str| of.0.get(name).copied().unwrap_or(0);
        names
            .into_iter()
            .filter(|name| count(self, name) != count(later, name))
            .map(|name| format!("{name}: {} before, {} after", count(self, name), count(later, name)))
            .collect()
    }
}
