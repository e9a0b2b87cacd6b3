//! The FUSE kernel ABI: what stands in the bytes that `/dev/fuse` gives and takes.
//!
//! Source of every number and layout: `include/uapi/linux/fuse.h` of Linux 6.18 (protocol 7.45). The
//! kernel is trusted with its own mount, yet nothing here panics or over-allocates on odd bytes: they
//! are typed errors.

pub(crate) mod input;
pub(crate) mod opcode;
pub(crate) mod output;

#[cfg(test)]
mod tests;

/// Bytes of a request that are read to private memory: `fuse_in_header` and `fuse_write_in`, so that
/// the data of a WRITE begins at offset 0 of the payload buffer.
pub(crate) const HEAD: usize = size_of::<input::InHeader>() + size_of::<input::WriteIn>();

/// Flag of INIT by which the kernel says that it resends when asked (`FUSE_HAS_RESEND`).
pub(crate) const HAS_RESEND: u64 = 1 << 39;

/// Mark on the unique of a request that the kernel sends again (`FUSE_UNIQUE_RESEND`).
pub(crate) const UNIQUE_RESEND: u64 = 1 << 63;

/// `FATTR_*`: which fields of a `SetAttrIn` count.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const CTIME: u32 = 1 << 10;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FOPEN_*`: what the kernel may do with an opened file.
pub(crate) mod fopen {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
    pub(crate) const NOFLUSH: u32 = 1 << 5;
}

/// `FUSE_OPEN_KILL_SUIDGID` of `open_in.open_flags`.
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID` of `write_in.write_flags`.
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_SETXATTR_ACL_KILL_SGID` of `setxattr_in.setxattr_flags`.
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// `FUSE_FSYNC_FDATASYNC` of `fsync_in.fsync_flags`.
pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;

/// Notification code by which a server asks for every unanswered request again
/// (`FUSE_NOTIFY_RESEND`, Linux 6.9).
pub(crate) const NOTIFY_RESEND: i32 = 7;

/// Notification code that drops what is cached of an inode (`FUSE_NOTIFY_INVAL_INODE`).
pub(crate) const NOTIFY_INVAL_INODE: i32 = 2;
/// Notification code about a name (`FUSE_NOTIFY_INVAL_ENTRY`).
pub(crate) const NOTIFY_INVAL_ENTRY: i32 = 3;
/// `FUSE_EXPIRE_ONLY` of `notify_inval_entry_out.flags` (Linux 6.2): the name is looked up again, and what hangs on it
/// stays. Before, the name is dropped.
pub(crate) const EXPIRE_ONLY: u32 = 1 << 0;
