//! The plan of a commit: what the command that commits does to the base, step by step.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One line of `plan.jsonl`, in the order of application. Paths are escaped as in [`Change`](super::Change).
///
/// A path names a place in the tree as the steps before have left it; only `from` of a move names one in
/// the base as it was. Attributes, and those of new directories, are set after all other steps.
///
/// `was` is what the base had at a place when it was compared; `None` where the name was free. A step finds that,
/// or nothing, or is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum PlanStep {
    /// Remove what is at `path` (a whole tree for a directory, of which each object has an [`Self::Inside`]).
    Remove {
        /// Where.
        path: String,
        /// What is removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<PlanWas>,
    },
    /// Move an object of the base that the branch moved.
    Move {
        /// From where in the base as it is before the commit.
        from: String,
        /// To where.
        path: String,
        /// What is moved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moved: Option<PlanWas>,
        /// What is replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<PlanWas>,
    },
    /// Make or replace an object.
    Make {
        /// Where.
        path: String,
        /// Everything about it.
        object: PlanObject,
        /// What is replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<PlanWas>,
    },
    /// Give an object made or kept at `target` another name.
    Link {
        /// The first name.
        target: String,
        /// The other name.
        path: String,
        /// What is replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<PlanWas>,
    },
    /// Change attributes of what is at `path`, content stays.
    Attributes {
        /// Where.
        path: String,
        /// The attributes that it shall have.
        meta: PlanMeta,
        /// What is changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<PlanWas>,
    },
    /// No step: an object in a directory that another step takes away. What else is found there was added
    /// meanwhile.
    Inside {
        /// What it was.
        was: PlanWas,
    },
    /// The last line.
    End {
        /// How many lines stand before it.
        lines: u64,
    },
}

/// What the base had when a plan was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanWas {
    /// Its inode number.
    pub ino: u64,
    /// Kind and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; of no account for a directory.
    pub size: u64,
    /// Modification time, seconds and nanoseconds; of no account for a directory.
    pub mtime: (i64, u32),
}

/// Attributes of an object in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanMeta {
    /// Kind and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Access time, seconds and nanoseconds.
    pub atime: (i64, u32),
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, names and values escaped as paths are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(String, String)>,
}

/// An object in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanObject {
    /// Its attributes.
    pub meta: PlanMeta,
    /// What it holds.
    pub body: PlanBody,
}

/// What an object in a plan holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PlanBody {
    /// A directory.
    Directory,
    /// A regular file whose bytes are the store's content file, absolute path; `None` is an empty file.
    File {
        /// The content file.
        content: Option<PathBuf>,
        /// Its size, in bytes.
        size: u64,
    },
    /// A symbolic link, target escaped as paths are.
    Symlink {
        /// Its target.
        target: String,
    },
    /// A FIFO, socket or device.
    Special {
        /// Device number of a device, the kernel's 32-bit encoding.
        rdev: u32,
    },
}
