//! The commands of a user, and what their JSON says.

use super::{World, logs};
use crate::{mounts, procs};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One path of a diff.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Change {
    /// Path below the root, escaped.
    pub path: String,
    /// `added`, `modified`, `deleted`, `retyped` or `renamed`.
    pub kind: String,
    /// Kind of object.
    pub object: String,
    /// Only attributes differ.
    #[serde(default)]
    pub metadata_only: bool,
    /// Where it was, if it was renamed.
    #[serde(default)]
    pub from: Option<String>,
    /// Renamed, and changed.
    #[serde(default)]
    pub edited: bool,
}

/// A whole diff.
#[derive(Debug, Clone, Deserialize)]
pub struct Changes {
    /// Count of added paths.
    pub added: u64,
    /// Count of modified paths.
    pub modified: u64,
    /// Count of deleted paths.
    pub deleted: u64,
    /// Count of paths of another kind.
    pub retyped: u64,
    /// Count of paths that had another name.
    pub renamed: u64,
    /// The paths.
    pub changes: Vec<Change>,
}

impl Changes {
    /// Path to kind.
    pub fn by_path(&self) -> BTreeMap<String, String> {
        self.changes.iter().map(|c| (c.path.clone(), c.kind.clone())).collect()
    }

    /// Paths of one kind, in order.
    pub fn of_kind(&self, kind: &str) -> Vec<&str> {
        self.changes.iter().filter(|c| c.kind == kind).map(|c| c.path.as_str()).collect()
    }

    /// The kind of one path.
    pub fn kind(&self, path: &str) -> Option<&str> {
        self.changes.iter().find(|c| c.path == path).map(|c| c.kind.as_str())
    }

    /// Whether a path moved here, by itself or with a directory above it (`to`), or away (else).
    pub fn is_moved(&self, path: &str, to: bool) -> bool {
        let moves =
            self.changes.iter().filter_map(|c| if to { c.from.as_ref().map(|_| &c.path) } else { c.from.as_ref() });
        moves
            .into_iter()
            .any(|at| path.strip_prefix(at.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }

    /// How many paths differ.
    pub fn total(&self) -> u64 {
        self.added + self.modified + self.deleted + self.retyped + self.renamed
    }
}

fn os<'a>(words: &[&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(|w| OsStr::new(*w)).collect()
}

impl World {
    /// Runs `agentfs … --json`, which must succeed; what it printed.
    #[track_caller]
    pub fn json(&self, args: &[&OsStr]) -> serde_json::Value {
        let mut args: Vec<OsString> = args.iter().map(Into::into).collect();
        args.push("--json".into());
        let out = self.cli(&args);
        serde_json::from_str(out.stdout.trim()).unwrap_or_else(|e| panic!("not JSON: {e}: {out}"))
    }

    /// `branch create NAME --base BASE`.
    #[track_caller]
    pub fn create_branch(&self, name: &str, base: Option<&Path>) -> serde_json::Value {
        let mut args = os(&["branch", "create", name]);
        if let Some(base) = base {
            args.extend([OsStr::new("--base"), base.as_os_str()]);
        }
        self.json(&args)
    }

    /// `branch create NAME --from FROM`.
    #[track_caller]
    pub fn branch_from(&self, name: &str, from: &str) -> serde_json::Value {
        self.json(&os(&["branch", "create", name, "--from", from]))
    }

    /// Names of all branches.
    #[track_caller]
    pub fn branches(&self) -> Vec<String> {
        let list = self.json(&os(&["branch", "list"]));
        let list = list.as_array().unwrap_or_else(|| panic!("branch list is no list: {list}"));
        list.iter().map(|b| b["name"].as_str().unwrap_or("?").to_owned()).collect()
    }

    /// `mount --branch NAME [--base BASE]` on a new mountpoint.
    #[track_caller]
    pub fn mount(&self, branch: &str, base: Option<&Path>) -> PathBuf {
        self.mount_with(branch, base, &[])
    }

    /// The same with more options.
    #[track_caller]
    pub fn mount_with(&self, branch: &str, base: Option<&Path>, options: &[&str]) -> PathBuf {
        let at = self.mountpoint();
        self.mount_at(branch, base, options, &at);
        at
    }

    /// The same on a given mountpoint.
    #[track_caller]
    pub fn mount_at(&self, branch: &str, base: Option<&Path>, options: &[&str], at: &Path) {
        let mut args = os(&["mount", "--branch", branch]);
        if let Some(base) = base {
            args.extend([OsStr::new("--base"), base.as_os_str()]);
        }
        args.extend(os(options));
        args.push(at.as_os_str());
        self.cli(&args);
        assert!(mounts::is_mounted(at), "`agentfs mount` succeeded but {} is no mountpoint", at.display());
    }

    /// `umount`, and waits until the daemon has seen it.
    #[track_caller]
    pub fn umount(&self, at: &Path) {
        self.cli(&[OsStr::new("umount"), at.as_os_str()]);
        assert!(!mounts::is_mounted(at), "`agentfs umount` succeeded but {} is mounted", at.display());
        let needle = at.display().to_string();
        let detached = procs::wait_for(Duration::from_secs(10), || {
            let listed = self.json(&os(&["mounts"]));
            !listed.as_array().into_iter().flatten().any(|m| m["mountpoint"].as_str() == Some(&needle))
        });
        assert!(detached, "{needle} is unmounted but stays in `agentfs mounts`");
    }

    /// Unmounts and mounts again at the same place: nothing cached remains.
    #[track_caller]
    pub fn remount(&self, branch: &str, at: &Path) {
        self.umount(at);
        self.mount_at(branch, None, &[], at);
    }

    /// `snapshot create`.
    #[track_caller]
    pub fn snapshot(&self, branch: &str, name: &str) {
        self.json(&os(&["snapshot", "create", "--branch", branch, "--name", name]));
    }

    /// `diff`, whole.
    #[track_caller]
    pub fn diff(&self, branch: &str) -> Changes {
        let value = self.json(&os(&["diff", branch]));
        serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("unexpected diff: {e}: {value}"))
    }

    /// `diff` of two states, whole.
    #[track_caller]
    pub fn diff_between(&self, old: &str, new: &str) -> Changes {
        let value = self.json(&os(&["diff", old, new]));
        serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("unexpected diff: {e}: {value}"))
    }

    /// `status`.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        self.json(&os(&["status"]))
    }

    /// Panics if a log of the store tells of a panic.
    #[track_caller]
    pub fn assert_no_panics(&self) {
        let panics = logs::panics(self.store());
        assert!(panics.is_empty(), "the logs tell of panics: {panics:#?}");
    }
}
