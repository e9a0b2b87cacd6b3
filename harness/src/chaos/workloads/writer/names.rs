//! What the writer's directory holds, as far as it was acknowledged.

use crate::probe::{Expected, Model};
use crate::sys;
use std::collections::{BTreeMap, BTreeSet};

/// A regular file.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) data: Vec<u8>,
    pub(super) mode: u32,
    pub(super) nlink: u64,
    pub(super) xattr: Option<Vec<u8>>,
}

/// All names, as paths below the writer's directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    inodes: BTreeMap<u64, Inode>,
    pub(super) files: BTreeMap<String, u64>,
    pub(super) dirs: BTreeSet<String>,
    pub(super) symlinks: BTreeMap<String, String>,
}

impl Names {
    pub(super) fn inode(&mut self, id: u64) -> &mut Inode {
        self.inodes.entry(id).or_default()
    }

    pub(super) fn created(&mut self, name: String, id: u64, data: Vec<u8>, mode: u32) {
        self.inodes.insert(id, Inode { data, mode, nlink: 1, xattr: None });
        self.files.insert(name, id);
    }

    pub(super) fn linked(&mut self, id: u64, name: String) {
        self.inode(id).nlink += 1;
        self.files.insert(name, id);
    }

    pub(super) fn renamed(&mut self, from: &str, to: String) {
        if let Some(id) = self.files.remove(from) {
            self.files.insert(to, id);
        }
    }

    pub(super) fn removed(&mut self, name: &str) {
        if let Some(id) = self.files.remove(name) {
            let inode = self.inode(id);
            inode.nlink -= 1;
            if inode.nlink == 0 {
                self.inodes.remove(&id);
            }
        }
    }

    pub(super) fn is_empty(&self, dir: &str) -> bool {
        let below = format!("{dir}/");
        let mut names = self.files.keys().chain(&self.dirs).chain(self.symlinks.keys());
        !names.any(|n| n.starts_with(&below))
    }

    pub(super) fn directory_renamed(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let moved = |name: String| match name.strip_prefix(&below) {
            Some(rest) => format!("{to}/{rest}"),
            None if name == from => to.to_owned(),
            None => name,
        };
        self.files = std::mem::take(&mut self.files).into_iter().map(|(n, id)| (moved(n), id)).collect();
        self.dirs = std::mem::take(&mut self.dirs).into_iter().map(moved).collect();
        self.symlinks = std::mem::take(&mut self.symlinks).into_iter().map(|(n, t)| (moved(n), t)).collect();
    }

    pub(super) fn expected(&self, name: &str) -> Expected {
        let inode = &self.inodes[&self.files[name]];
        Expected::File {
            sha: sys::sha256(&inode.data),
            size: inode.data.len() as u64,
            mode: inode.mode,
            nlink: inode.nlink,
            xattr: inode.xattr.clone(),
        }
    }

    pub(super) fn model(&self, operations: u64) -> Model {
        let mut names: BTreeMap<String, Expected> =
            self.files.keys().map(|name| (name.clone(), self.expected(name))).collect();
        names.extend(self.dirs.iter().map(|d| (d.clone(), Expected::Dir)));
        names.extend(
            self.symlinks.iter().map(|(name, target)| (name.clone(), Expected::Symlink { target: target.clone() })),
        );
        Model { names, operations }
    }
}
