//! Running the same operations on two directories and comparing everything a program can see.

mod exec;
mod view;

pub use exec::Executor;
pub use view::{Listing, look, walk};

/// Names that paths are made of: few, so that operations meet.
pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Times before this, in seconds since 1970, were set by an operation and must agree; later ones are
/// the clock's.
pub const SET_TIMES_BEFORE: i64 = 1_400_000_000;
/// How many descriptors are held open over operations.
pub const HELD: usize = 3;

/// A path below the root: indices into [`NAMES`], one to three of them; none is the root itself.
pub type Where = Vec<usize>;

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// `open(O_CREAT)`, perhaps `O_EXCL`.
    Create(Where, u32, bool),
    /// `pwrite` of so many bytes.
    Write(Where, u32, u16),
    /// `write` with `O_APPEND`.
    Append(Where, u16),
    /// `pread`.
    Read(Where, u32, u16),
    /// `ftruncate`.
    Truncate(Where, u32),
    /// `open(O_TRUNC)`.
    OpenTrunc(Where),
    /// `unlink`.
    Unlink(Where),
    /// `mkdir`.
    Mkdir(Where, u32),
    /// `rmdir`.
    Rmdir(Where),
    /// `renameat2` with flags 0, `RENAME_NOREPLACE` (1) or `RENAME_EXCHANGE` (2).
    Rename(Where, Where, u32),
    /// `link`.
    Link(Where, Where),
    /// `symlink` to a relative path.
    Symlink(Where, Where),
    /// `readlink`.
    Readlink(Where),
    /// `mknod` of a FIFO.
    Fifo(Where),
    /// `chmod`.
    Chmod(Where, u32),
    /// `lchown`.
    Chown(Where, Option<u32>, Option<u32>),
    /// `utimensat` with this mtime, before [`SET_TIMES_BEFORE`].
    Utimens(Where, i64, u32),
    /// `lsetxattr` of one of a few names; flags 0, `XATTR_CREATE` (1), `XATTR_REPLACE` (2).
    SetXattr(Where, usize, u16, u32),
    /// `lgetxattr`.
    GetXattr(Where, usize),
    /// `llistxattr`.
    ListXattr(Where),
    /// `lremovexattr`.
    RemoveXattr(Where, usize),
    /// List a directory.
    Readdir(Where),
    /// `stat`, following links.
    Stat(Where),
    /// `fallocate`: 0 plain, 1 `KEEP_SIZE`, 2 `PUNCH_HOLE`.
    Fallocate(Where, u32, u16, u32),
    /// `copy_file_range` until all is copied.
    Copy(Where, Where, u32, u16),
    /// `cp -p` of a file from the first to the second path; with `true`, after a rename to the second, back.
    Twin(Where, Where, bool),
    /// Open for reading and writing and keep the descriptor.
    Hold(usize, Where),
    /// `pwrite` to a kept descriptor.
    HeldWrite(usize, u32, u16),
    /// `pread` from a kept descriptor.
    HeldRead(usize, u32, u16),
    /// `fstat` of a kept descriptor.
    HeldStat(usize),
    /// `ftruncate` of a kept descriptor.
    HeldTruncate(usize, u32),
    /// Close a kept descriptor.
    Release(usize),
    /// `fsync`.
    Fsync(Where),
}

impl Op {
    /// The paths that the operation names.
    pub fn paths(&self) -> Vec<&Where> {
        match self {
            Self::Create(p, ..)
            | Self::Write(p, ..)
            | Self::Append(p, ..)
            | Self::Read(p, ..)
            | Self::Truncate(p, ..)
            | Self::OpenTrunc(p)
            | Self::Unlink(p)
            | Self::Mkdir(p, ..)
            | Self::Rmdir(p)
            | Self::Symlink(_, p)
            | Self::Readlink(p)
            | Self::Fifo(p)
            | Self::Chmod(p, ..)
            | Self::Chown(p, ..)
            | Self::Utimens(p, ..)
            | Self::SetXattr(p, ..)
            | Self::GetXattr(p, ..)
            | Self::ListXattr(p)
            | Self::RemoveXattr(p, ..)
            | Self::Readdir(p)
            | Self::Stat(p)
            | Self::Fallocate(p, ..)
            | Self::Hold(_, p)
            | Self::Fsync(p) => vec![p],
            Self::Rename(a, b, _) | Self::Link(a, b) | Self::Copy(a, b, ..) | Self::Twin(a, b, _) => vec![a, b],
            Self::HeldWrite(..)
            | Self::HeldRead(..)
            | Self::HeldStat(_)
            | Self::HeldTruncate(..)
            | Self::Release(_) => Vec::new(),
        }
    }
}
