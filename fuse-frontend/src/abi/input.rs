//! Structures that the kernel sends.

use zerocopy::{FromBytes, Immutable, KnownLayout};

macro_rules! layout {
    ($($(#[$doc:meta])* struct $name:ident = $size:literal { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(FromBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $name { $(pub(crate) $field: $kind),* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

layout! {
    /// `struct fuse_in_header`: before every request.
    struct InHeader = 40 {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        total_extlen: u16, padding: u16,
    }
    /// `struct fuse_forget_in`.
    struct ForgetIn = 8 { nlookup: u64 }
    /// `struct fuse_forget_one`: one element of a BATCH_FORGET.
    struct ForgetOne = 16 { nodeid: u64, nlookup: u64 }
    /// `struct fuse_batch_forget_in`.
    struct BatchForgetIn = 8 { count: u32, dummy: u32 }
    /// `struct fuse_getattr_in`.
    struct GetAttrIn = 16 { getattr_flags: u32, dummy: u32, fh: u64 }
    /// `struct fuse_statx_in`.
    struct StatxIn = 24 { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32 }
    /// `struct fuse_mknod_in`.
    struct MknodIn = 16 { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// `struct fuse_mkdir_in`.
    struct MkdirIn = 8 { mode: u32, umask: u32 }
    /// `struct fuse_rename_in`.
    struct RenameIn = 8 { newdir: u64 }
    /// `struct fuse_rename2_in`.
    struct Rename2In = 16 { newdir: u64, flags: u32, padding: u32 }
    /// `struct fuse_link_in`.
    struct LinkIn = 8 { oldnodeid: u64 }
    /// `struct fuse_setattr_in`. Times are signed seconds.
    struct SetAttrIn = 88 {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64,
        atime: i64, mtime: i64, ctime: i64, atimensec: u32, mtimensec: u32, ctimensec: u32,
        mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    /// `struct fuse_open_in`, for OPEN and OPENDIR.
    struct OpenIn = 8 { flags: u32, open_flags: u32 }
    /// `struct fuse_create_in`, for CREATE and TMPFILE.
    struct CreateIn = 16 { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    /// `struct fuse_release_in`, for RELEASE and RELEASEDIR.
    struct ReleaseIn = 24 { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    /// `struct fuse_read_in`, for READ, READDIR and READDIRPLUS.
    struct ReadIn = 40 {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    /// `struct fuse_write_in`.
    struct WriteIn = 40 {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    /// `struct fuse_fsync_in`, for FSYNC and FSYNCDIR.
    struct FsyncIn = 16 { fh: u64, fsync_flags: u32, padding: u32 }
    /// `struct fuse_setxattr_in` as it is sent without `FUSE_SETXATTR_EXT`; with it, 8 bytes of flags follow.
    struct SetXattrIn = 8 { size: u32, flags: u32 }
    /// `struct fuse_getxattr_in`, for GETXATTR and LISTXATTR.
    struct GetXattrIn = 8 { size: u32, padding: u32 }
    /// `struct fuse_interrupt_in`.
    struct InterruptIn = 8 { unique: u64 }
    /// `struct fuse_fallocate_in`.
    struct FallocateIn = 32 { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// `struct fuse_lseek_in`.
    struct LseekIn = 24 { fh: u64, offset: u64, whence: u32, padding: u32 }
    /// `struct fuse_ioctl_in`; the data stands behind it.
    struct IoctlIn = 32 { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    /// `struct fuse_copy_file_range_in`.
    struct CopyFileRangeIn = 56 {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
}
