//! System calls by path, with the errno as the error.

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
pub use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Result of a system call.
pub type Res<T> = Result<T, Errno>;

/// Symbolic name of an errno, `E?` for those that no test expects.
pub fn errno_name(e: Errno) -> &'static str {
    macro_rules! names {
        ($($rustix:ident $name:literal)*) => { match e { $(Errno::$rustix => $name,)* _ => "E?" } };
    }
    names! {
        PERM "EPERM" NOENT "ENOENT" INTR "EINTR" IO "EIO" NXIO "ENXIO" BADF "EBADF" AGAIN "EAGAIN" NOMEM "ENOMEM"
        ACCESS "EACCES" BUSY "EBUSY" EXIST "EEXIST" XDEV "EXDEV" NODEV "ENODEV" NOTDIR "ENOTDIR" ISDIR "EISDIR"
        INVAL "EINVAL" MFILE "EMFILE" NOTTY "ENOTTY" TXTBSY "ETXTBSY" FBIG "EFBIG" NOSPC "ENOSPC" SPIPE "ESPIPE"
        ROFS "EROFS" MLINK "EMLINK" RANGE "ERANGE" NAMETOOLONG "ENAMETOOLONG" NOSYS "ENOSYS" NOTEMPTY "ENOTEMPTY"
        LOOP "ELOOP" NODATA "ENODATA" OVERFLOW "EOVERFLOW" OPNOTSUPP "EOPNOTSUPP" STALE "ESTALE" DQUOT "EDQUOT"
        CONNABORTED "ECONNABORTED" NOTCONN "ENOTCONN" TOOBIG "E2BIG"
    }
}

/// The errno of an I/O error.
pub fn of_io(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

/// Panics unless the call failed with exactly this errno.
#[track_caller]
pub fn expect_errno<T>(result: Res<T>, errno: Errno, what: &str) {
    match result {
        Ok(_) => panic!("{what}: succeeded, should be {}", errno_name(errno)),
        Err(e) => assert_eq!(e, errno, "{what}: {} ({e}), should be {}", errno_name(e), errno_name(errno)),
    }
}

/// `open(2)`.
pub fn open(path: &Path, flags: OFlags, mode: u32) -> Res<File> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode)).map(File::from)
}

/// `stat(2)` of the link itself.
pub fn lstat(path: &Path) -> Res<Stat> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

/// `stat(2)`.
pub fn stat(path: &Path) -> Res<Stat> {
    rustix::fs::statat(CWD, path, AtFlags::empty())
}

/// `mkdir(2)`.
pub fn mkdir(path: &Path, mode: u32) -> Res<()> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode))
}

/// `rmdir(2)`.
pub fn rmdir(path: &Path) -> Res<()> {
    rustix::fs::rmdir(path)
}

/// `unlink(2)`.
pub fn unlink(path: &Path) -> Res<()> {
    rustix::fs::unlink(path)
}

/// `rename(2)`.
pub fn rename(from: &Path, to: &Path) -> Res<()> {
    rustix::fs::rename(from, to)
}

/// `renameat2(2)`.
pub fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Res<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags)
}

/// `link(2)`, not following symbolic links.
pub fn link(from: &Path, to: &Path) -> Res<()> {
    rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())
}

/// `symlink(2)`; `target` is any bytes.
pub fn symlink(target: &[u8], path: &Path) -> Res<()> {
    rustix::fs::symlink(target, path)
}

/// `readlink(2)`.
pub fn readlink(path: &Path) -> Res<Vec<u8>> {
    rustix::fs::readlink(path, Vec::new()).map(std::ffi::CString::into_bytes)
}

/// `mknod(2)`.
pub fn mknod(path: &Path, kind: FileType, mode: u32, dev: u64) -> Res<()> {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), dev)
}

/// `chmod(2)`.
pub fn chmod(path: &Path, mode: u32) -> Res<()> {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))
}

/// `lchown(2)`.
pub fn lchown(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Res<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// `truncate(2)`.
pub fn truncate(path: &Path, size: u64) -> Res<()> {
    // rustix has no truncate(2); open and ftruncate(2) differ only in the permission check.
    open(path, OFlags::WRONLY, 0).and_then(|f| rustix::fs::ftruncate(f, size))
}

/// `utimensat(2)` of the link itself; (seconds, nanoseconds) of atime and mtime.
pub fn utimens(path: &Path, atime: (i64, i64), mtime: (i64, i64)) -> Res<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: atime.0, tv_nsec: atime.1 as _ },
        last_modification: Timespec { tv_sec: mtime.0, tv_nsec: mtime.1 as _ },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// `lsetxattr(2)`.
pub fn setxattr(path: &Path, name: &str, value: &[u8], flags: XattrFlags) -> Res<()> {
    rustix::fs::lsetxattr(path, name, value, flags)
}

/// `lgetxattr(2)` of any size.
pub fn getxattr(path: &Path, name: &str) -> Res<Vec<u8>> {
    let mut value = vec![0; 65536];
    let len = rustix::fs::lgetxattr(path, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

/// `lgetxattr(2)` into a buffer of `room` bytes; the length of the value.
pub fn getxattr_into(path: &Path, name: &str, room: usize) -> Res<usize> {
    rustix::fs::lgetxattr(path, name, &mut vec![0_u8; room])
}

/// `llistxattr(2)`, sorted.
pub fn listxattr(path: &Path) -> Res<Vec<Vec<u8>>> {
    let mut list = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut list)?;
    let mut names: Vec<Vec<u8>> =
        list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    Ok(names)
}

/// `lremovexattr(2)`.
pub fn removexattr(path: &Path, name: &str) -> Res<()> {
    rustix::fs::lremovexattr(path, name)
}

/// Names in a directory, sorted, without `.` and `..`; (name, `d_ino`, `d_type` as `S_IFMT` bits or 0).
pub fn readdir(path: &Path) -> Res<Vec<(Vec<u8>, u64, u32)>> {
    let dir = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::new(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            let kind = if entry.file_type() == FileType::Unknown { 0 } else { entry.file_type().as_raw_mode() };
            entries.push((name, entry.ino(), kind));
        }
    }
    entries.sort();
    Ok(entries)
}

/// The names of [`readdir`] as text.
pub fn names(path: &Path) -> Vec<String> {
    let entries = readdir(path).unwrap_or_else(|e| panic!("readdir {}: {e}", path.display()));
    entries.iter().map(|(n, _, _)| String::from_utf8_lossy(n).into_owned()).collect()
}

/// Deterministic bytes: the same for the same seed and length, and no two blocks alike.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// SHA-256 of bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, read in pieces of 1 MiB, in hex.
pub fn sha256_file(path: &Path) -> Res<String> {
    let mut file = open(path, OFlags::RDONLY | OFlags::NOFOLLOW, 0)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) => return Err(of_io(&e)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").ok();
        s
    })
}

/// A name of so many bytes.
pub fn long_name(len: usize) -> String {
    "n".repeat(len)
}

/// Bytes of a path.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// The kernel's version, major and minor.
pub fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
