//! Replies: what the daemon may answer.

use super::{Attr, Errno, NodeId};
use rkyv::{Archive, Deserialize, Serialize};

/// A looked-up object. Each positive entry that reaches the kernel raises its lookup count by one.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The object; `NodeId::NONE` says that the name does not exist.
    pub node: NodeId,
    /// With `node`, unique for ever within the session.
    pub generation: u64,
    /// Its attributes.
    pub attr: Attr,
    /// How long the kernel may keep the name, in nanoseconds.
    pub entry_valid_ns: u64,
    /// How long the kernel may keep the attributes, in nanoseconds.
    pub attr_valid_ns: u64,
}

/// An opened file or directory.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Handle, echoed in later requests.
    pub fh: u64,
    /// The kernel may keep the pages (or entries) that it has (`FOPEN_KEEP_CACHE`).
    pub keep_cache: bool,
    /// The kernel may cache the directory (`FOPEN_CACHE_DIR`).
    pub cache_dir: bool,
    /// The kernel must not cache this file (`FOPEN_DIRECT_IO`).
    pub direct_io: bool,
    /// No request is wanted at close (`FOPEN_NOFLUSH`).
    pub no_flush: bool,
}

/// What `statfs(2)` tells, counts in units of `bsize` bytes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct FsStat {
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub bfree: u64,
    /// Blocks free for everyone.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub ffree: u64,
    /// Block size, in bytes.
    pub bsize: u32,
    /// Longest name, in bytes.
    pub namelen: u32,
}

/// The answer to one request. `Data` and `Error` may follow any operation that says so.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done, nothing to tell.
    Ok,
    /// It failed.
    Error(Errno),
    /// An entry.
    Entry(Entry),
    /// Attributes and how long they may be kept, in nanoseconds.
    Attr {
        /// The attributes.
        attr: Attr,
        /// How long the kernel may keep them.
        valid_ns: u64,
    },
    /// An opened file or directory.
    Opened(Opened),
    /// A new file, looked up and opened.
    Created(Entry, Opened),
    /// The first `len` bytes of the payload are the answer.
    Data {
        /// How many, in bytes.
        len: u32,
    },
    /// Bytes written.
    Written {
        /// How many.
        size: u32,
    },
    /// Size of an extended attribute or of the list, in bytes.
    XattrSize {
        /// How many bytes.
        size: u32,
    },
    /// An offset or a count of bytes.
    Offset(u64),
    /// Space and inodes.
    StatFs(FsStat),
    /// An ioctl's result, and the data that the caller gets with it, whatever the result.
    Ioctl {
        /// What the call fails with; none for success.
        errno: Option<Errno>,
        /// Bytes of data in the payload, from [`limits::IOCTL_OUT_AT`](super::limits::IOCTL_OUT_AT) on.
        len: u32,
        /// Bytes of names in the root, each with a NUL behind it, from
        /// [`limits::IOCTL_NAMES_AT`](super::limits::IOCTL_NAMES_AT) on: before the caller gets its answer, the kernel is
        /// told to look each of them up again.
        expire: u32,
        /// Milliseconds to wait before that, at most [`limits::IOCTL_SETTLE_MAX`](super::limits::IOCTL_SETTLE_MAX): so long
        /// the kernel keeps what it was told before.
        settle: u32,
    },
}

impl From<Errno> for Reply {
    fn from(e: Errno) -> Self {
        Self::Error(e)
    }
}
