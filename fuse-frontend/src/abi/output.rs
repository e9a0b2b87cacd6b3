//! Structures that the kernel is sent.

use shm_transport::wire::{Attr, Entry, FsStat, Opened, Timestamp};
use zerocopy::{Immutable, IntoBytes};

macro_rules! layout {
    ($($(#[$doc:meta])* struct $name:ident = $size:literal { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(IntoBytes, Immutable, Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct $name { $(pub(crate) $field: $kind),* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

layout! {
    /// `struct fuse_out_header`: before every reply and notification.
    struct OutHeader = 16 { len: u32, error: i32, unique: u64 }
    /// `struct fuse_attr`. Times are signed seconds.
    struct AttrBody = 88 {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32,
        rdev: u32, blksize: u32, flags: u32,
    }
    /// `struct fuse_entry_out`.
    struct EntryOut = 128 {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64,
        entry_valid_nsec: u32, attr_valid_nsec: u32, attr: AttrBody,
    }
    /// `struct fuse_attr_out`.
    struct AttrOut = 104 { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: AttrBody }
    /// `struct fuse_sx_time`.
    struct SxTime = 16 { sec: i64, nsec: u32, reserved: i32 }
    /// `struct fuse_statx_out`, with its `struct fuse_statx`.
    struct StatxOut = 288 {
        attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2],
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16,
        ino: u64, size: u64, blocks: u64, attributes_mask: u64,
        atime: SxTime, btime: SxTime, ctime: SxTime, mtime: SxTime,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    }
    /// `struct fuse_open_out`.
    struct OpenOut = 16 { fh: u64, open_flags: u32, backing_id: i32 }
    /// The reply to CREATE and TMPFILE: an entry and an open file.
    struct CreateOut = 144 { entry: EntryOut, open: OpenOut }
    /// `struct fuse_write_out`, also for COPY_FILE_RANGE.
    struct WriteOut = 8 { size: u32, padding: u32 }
    /// `struct fuse_getxattr_out`.
    struct GetXattrOut = 8 { size: u32, padding: u32 }
    /// `struct fuse_lseek_out` and `struct fuse_copy_file_range_out`.
    struct OffsetOut = 8 { offset: u64 }
    /// `struct fuse_ioctl_out`; the data stands behind it.
    struct IoctlOut = 16 { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    /// `struct fuse_notify_inval_entry_out`; the name and a NUL stand behind it.
    struct InvalEntryOut = 16 { parent: u64, namelen: u32, flags: u32 }
    /// `struct fuse_notify_inval_inode_out`.
    struct InvalInodeOut = 24 { ino: u64, off: i64, len: i64 }
    /// `struct fuse_statfs_out`.
    struct StatFsOut = 80 {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        bsize: u32, namelen: u32, frsize: u32, padding: u32, spare: [u32; 6],
    }
}

const NS_PER_S: u64 = 1_000_000_000;

impl From<&Attr> for AttrBody {
    fn from(a: &Attr) -> Self {
        Self {
            ino: a.ino,
            size: a.size,
            blocks: a.blocks,
            atime: a.atime.sec,
            mtime: a.mtime.sec,
            ctime: a.ctime.sec,
            atimensec: a.atime.nsec,
            mtimensec: a.mtime.nsec,
            ctimensec: a.ctime.nsec,
            mode: a.mode,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: a.rdev,
            blksize: a.blksize,
            flags: 0,
        }
    }
}

impl AttrOut {
    /// Attributes that may be kept for `valid_ns` nanoseconds.
    pub(crate) fn new(attr: &Attr, valid_ns: u64) -> Self {
        Self {
            attr_valid: valid_ns / NS_PER_S,
            attr_valid_nsec: (valid_ns % NS_PER_S) as u32,
            dummy: 0,
            attr: attr.into(),
        }
    }
}

impl From<Timestamp> for SxTime {
    fn from(t: Timestamp) -> Self {
        Self { sec: t.sec, nsec: t.nsec, reserved: 0 }
    }
}

impl StatxOut {
    /// Attributes that may be kept for `valid_ns` nanoseconds. A birth time of 0 is one that is not known.
    pub(crate) fn new(attr: &Attr, valid_ns: u64) -> Self {
        let born = attr.btime != Timestamp::default();
        Self {
            attr_valid: valid_ns / NS_PER_S,
            attr_valid_nsec: (valid_ns % NS_PER_S) as u32,
            mask: libc::STATX_BASIC_STATS | if born { libc::STATX_BTIME } else { 0 },
            blksize: attr.blksize,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode as u16,
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime.into(),
            btime: attr.btime.into(),
            ctime: attr.ctime.into(),
            mtime: attr.mtime.into(),
            // As `new_decode_dev` of `linux/kdev_t.h`.
            rdev_major: (attr.rdev & 0xf_ff00) >> 8,
            rdev_minor: (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00),
            ..Self::default()
        }
    }
}

impl From<&Entry> for EntryOut {
    fn from(e: &Entry) -> Self {
        Self {
            nodeid: e.node.0,
            generation: e.generation,
            entry_valid: e.entry_valid_ns / NS_PER_S,
            attr_valid: e.attr_valid_ns / NS_PER_S,
            entry_valid_nsec: (e.entry_valid_ns % NS_PER_S) as u32,
            attr_valid_nsec: (e.attr_valid_ns % NS_PER_S) as u32,
            attr: (&e.attr).into(),
        }
    }
}

impl From<&Opened> for OpenOut {
    fn from(o: &Opened) -> Self {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        Self {
            fh: o.fh,
            open_flags: flag(o.direct_io, super::fopen::DIRECT_IO)
                | flag(o.keep_cache, super::fopen::KEEP_CACHE)
                | flag(o.cache_dir, super::fopen::CACHE_DIR)
                | flag(o.no_flush, super::fopen::NOFLUSH),
            backing_id: 0,
        }
    }
}

impl From<&FsStat> for StatFsOut {
    fn from(s: &FsStat) -> Self {
        Self {
            blocks: s.blocks,
            bfree: s.bfree,
            bavail: s.bavail,
            files: s.files,
            ffree: s.ffree,
            bsize: s.bsize,
            namelen: s.namelen,
            frsize: s.bsize,
            ..Self::default()
        }
    }
}
