//! Requests: what a frontend may ask of the daemon.

use super::{NodeId, SetAttr};
use rkyv::{Archive, Deserialize, Serialize};

/// Who asks: the ids of the calling thread as the kernel gives them in the mount's user namespace.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Thread id; 0 when it is not visible from the frontend's pid namespace.
    pub pid: u32,
}

/// One request: an operation on one object on behalf of one caller.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who asks.
    pub caller: Caller,
    /// The object operated on; the directory for operations on a name.
    pub node: NodeId,
    /// What to do.
    pub op: Op,
}

/// The operations. "Payload" is the buffer that travels with the slot: `in` is filled by the
/// frontend before it submits, `out` by the daemon before it completes. No operation but `Ioctl` uses both.
/// `fh` is whatever the daemon answered at open; file handles are hints, state is found by node.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Find a name. Reply `Entry`; for a missing name an entry with `NodeId::NONE` or `ENOENT`.
    Lookup {
        /// The name, `1..=NAME_MAX` bytes without `/` and NUL.
        name: Vec<u8>,
    },
    /// The kernel holds these nodes no longer (lookup count 0). Payload in: `count` little-endian
    /// u64 node ids. Reply `Ok`.
    Forget {
        /// How many ids stand in the payload, at most `limits::FORGET_MAX`.
        count: u32,
    },
    /// Attributes. Reply `Attr`.
    GetAttr,
    /// Attributes, birth time included. Reply `Attr`.
    Statx,
    /// Change attributes. Reply `Attr`.
    SetAttr(SetAttr),
    /// Target of a symbolic link. Reply `Data`, payload out.
    ReadLink,
    /// Make a symbolic link; the target is the payload in. Reply `Entry`.
    Symlink {
        /// Name of the new link.
        name: Vec<u8>,
    },
    /// Make a file that is not opened: regular, FIFO, socket or device. Reply `Entry`.
    Mknod {
        /// Its name.
        name: Vec<u8>,
        /// Kind and permission bits as the program gave them.
        mode: u32,
        /// Device number for devices.
        rdev: u32,
        /// The program's umask, which counts where the directory has no default list (POSIX ACL).
        umask: u32,
    },
    /// Make a directory. Reply `Entry`.
    Mkdir {
        /// Its name.
        name: Vec<u8>,
        /// Permission bits as the program gave them.
        mode: u32,
        /// As for `Mknod`.
        umask: u32,
    },
    /// Make a regular file and open it. Reply `Created`; when the name exists, `EEXIST` with `O_EXCL` and otherwise
    /// `ESTALE`, upon which the kernel looks again.
    Create {
        /// Its name.
        name: Vec<u8>,
        /// Permission bits as the program gave them.
        mode: u32,
        /// `open(2)` flags.
        flags: u32,
        /// As for `Mknod`.
        umask: u32,
    },
    /// Make a nameless regular file in this directory and open it (`O_TMPFILE`). Reply `Created`.
    Tmpfile {
        /// Permission bits as the program gave them.
        mode: u32,
        /// `open(2)` flags.
        flags: u32,
        /// As for `Mknod`.
        umask: u32,
    },
    /// Remove a name that is not a directory. Reply `Ok`.
    Unlink {
        /// The name.
        name: Vec<u8>,
    },
    /// Remove an empty directory. Reply `Ok`.
    Rmdir {
        /// The name.
        name: Vec<u8>,
    },
    /// Rename. Reply `Ok`.
    Rename {
        /// The old name, in `node`.
        name: Vec<u8>,
        /// The new directory.
        new_parent: NodeId,
        /// The new name.
        new_name: Vec<u8>,
        /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE` of `renameat2(2)`.
        flags: u32,
    },
    /// Give the object `target` another name in the directory `node`. Reply `Entry`.
    Link {
        /// The object.
        target: NodeId,
        /// The new name.
        name: Vec<u8>,
    },
    /// Open a file. Reply `Opened`.
    Open {
        /// `open(2)` flags, `O_TRUNC` included.
        flags: u32,
        /// With `O_TRUNC`: strip setuid and setgid (`FUSE_OPEN_KILL_SUIDGID`).
        kill_suidgid: bool,
    },
    /// The last descriptor of an open is closed. Reply `Ok`.
    Release {
        /// From `Opened`.
        fh: u64,
        /// `open(2)` flags of that open.
        flags: u32,
    },
    /// Read. Reply `Data`, payload out; fewer bytes than asked for means end of file.
    Read {
        /// From `Opened`.
        fh: u64,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes, at most the payload's capacity.
        size: u32,
    },
    /// Write the payload in. Reply `Written`.
    Write {
        /// From `Opened`.
        fh: u64,
        /// Where, in bytes.
        offset: u64,
        /// Strip setuid and setgid (`FUSE_WRITE_KILL_SUIDGID`).
        kill_suidgid: bool,
    },
    /// A descriptor is closed. Reply `Ok` or an error kept from an earlier write.
    Flush {
        /// From `Opened`.
        fh: u64,
    },
    /// Make a file durable. Reply `Ok`.
    Fsync {
        /// From `Opened`.
        fh: u64,
        /// Only what is needed to read the data back.
        datasync: bool,
    },
    /// Make the whole branch durable. Reply `Ok`.
    SyncFs,
    /// Open a directory. Reply `Opened`.
    OpenDir,
    /// List a directory. Reply `Data`; payload out as `dirent` describes.
    ReadDir {
        /// From `Opened`.
        fh: u64,
        /// 0 for the beginning, else the `off` of the last entry seen.
        cookie: u64,
        /// Room in the caller's buffer, in bytes.
        size: u32,
        /// Whether each entry carries its lookup (`READDIRPLUS`).
        plus: bool,
    },
    /// Close a directory. Reply `Ok`.
    ReleaseDir {
        /// From `Opened`.
        fh: u64,
    },
    /// Make a directory's entries durable. Reply `Ok`.
    FsyncDir {
        /// Only what is needed to read the data back.
        datasync: bool,
    },
    /// Read an extended attribute. Reply `XattrSize` for size 0, else `Data` and payload out.
    GetXattr {
        /// Its name.
        name: Vec<u8>,
        /// Room in the caller's buffer, in bytes.
        size: u32,
    },
    /// Write an extended attribute; the value is the payload in. Reply `Ok`.
    SetXattr {
        /// Its name.
        name: Vec<u8>,
        /// `XATTR_CREATE`, `XATTR_REPLACE`.
        flags: u32,
        /// With an access list (POSIX ACL): strip setgid, the caller is not of the group (`FUSE_SETXATTR_ACL_KILL_SGID`).
        clear_setgid: bool,
    },
    /// List extended attributes, each name NUL-terminated. Reply `XattrSize` or `Data`.
    ListXattr {
        /// Room in the caller's buffer, in bytes.
        size: u32,
    },
    /// Remove an extended attribute. Reply `Ok`.
    RemoveXattr {
        /// Its name.
        name: Vec<u8>,
    },
    /// Space and inodes. Reply `StatFs`.
    StatFs,
    /// Allocate, punch or zero a range. Reply `Ok`.
    Fallocate {
        /// From `Opened`.
        fh: u64,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        length: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
    },
    /// Find data or a hole (`SEEK_DATA`, `SEEK_HOLE`). Reply `Offset`.
    Lseek {
        /// From `Opened`.
        fh: u64,
        /// From where, in bytes.
        offset: u64,
        /// `SEEK_DATA` or `SEEK_HOLE`.
        whence: u32,
    },
    /// Copy between two files of this mount. Reply `Offset`: the bytes copied.
    CopyFileRange {
        /// From `Opened` of the source.
        fh: u64,
        /// Where in the source, in bytes.
        offset: u64,
        /// The destination.
        to: NodeId,
        /// Where in the destination, in bytes.
        to_offset: u64,
        /// How much, in bytes.
        length: u64,
    },
    /// A command to the control file (`ioctl(2)`); its data is the payload in. Reply `Ioctl`. The one operation that
    /// has a payload both ways: the answer stands at [`limits::IOCTL_OUT_AT`](super::limits::IOCTL_OUT_AT), so that
    /// the data survives an answer that was begun.
    Ioctl {
        /// From `Opened`.
        fh: u64,
        /// The command, as `ioctl(2)` got it.
        cmd: u32,
        /// Room in the caller's buffer, in bytes.
        out_size: u32,
    },
}
