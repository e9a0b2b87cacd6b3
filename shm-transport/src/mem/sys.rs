//! System calls that no crate of ours wraps safely, each as small as it can be.

use crate::wire::limits::{IOCTL_MAX, XATTR_SIZE_MAX};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Turns the result of a call that returns a new descriptor into its owner.
fn owned(returned: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(returned) {
        // SAFETY: the caller just got this number from a call that makes a descriptor for it alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn done(returned: libc::c_long) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A private, detached, read-only view of the directory `dir`: `open_tree(2)` clones the mount that it
/// lies on (without mounts below it), `mount_setattr(2)` makes the clone read-only, `noatime`,
/// `nosuid`, `nodev`, and private. Nothing can be written through descriptors opened beneath it, not
/// even by passthrough. Needs `CAP_SYS_ADMIN`; the clone goes when the last descriptor into it closes.
pub fn read_only_clone(dir: &Path) -> io::Result<OwnedFd> {
    const EMPTY: &CStr = c"";
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a terminated string that lives through the call; the rest are plain numbers.
    let tree = owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        // The access-time policy is a field of several bits: it is cleared before one is set.
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is a static, terminated string; `attributes` lives through the call and `size` is its length.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            EMPTY.as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        )
    })?;
    Ok(tree)
}

/// `openat2(2)`: opens `path` below `dir` and nowhere else. No component may be a symbolic link, leave
/// the directory, or cross a mount; `flags` and `mode` are those of `open(2)`, close-on-exec is added.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    use nix::sys::stat::Mode;
    let how = OpenHow::new()
        .flags(OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    Ok(openat2(dir, path, how)?)
}

/// A file of a FUSE file system, for ioctls of which the kernel itself moves no more than the command says.
#[derive(Debug)]
pub struct FuseFile(OwnedFd);

impl FuseFile {
    /// Opens the regular file at `path` for reading, if it is one of a FUSE file system and has this inode number.
    /// Nothing else is opened, whatever it is: a FIFO would wait, a device would begin to work.
    pub fn open(path: &Path, ino: u64) -> io::Result<Option<Self>> {
        use nix::fcntl::{OFlag, open};
        use nix::sys::stat::{Mode, SFlag, fstat};
        let place = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let found = fstat(&place)?;
        let is_file = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        if !is_file || found.st_ino != ino || !is_fuse(place.as_fd())? {
            return Ok(None);
        }
        let again = format!("/proc/self/fd/{}", place.as_raw_fd());
        Ok(Some(Self(open(again.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)))
    }

    /// An open file, if it is one of a FUSE file system.
    pub fn of(fd: OwnedFd) -> io::Result<Option<Self>> {
        Ok(is_fuse(fd.as_fd())?.then_some(Self(fd)))
    }

    /// `ioctl(2)` with `_IOWR(kind, number, buffer)`. The buffer may be written even if the call fails.
    pub fn exchange(&self, kind: u8, number: u8, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.len() > IOCTL_MAX {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let cmd = 3 << 30 | (buffer.len() as libc::c_ulong) << 16 | libc::c_ulong::from(kind) << 8;
        let cmd = cmd | libc::c_ulong::from(number);
        // SAFETY: the file is one of a FUSE file system (checked when `self` was made), whose kernel side reads and
        // writes as many bytes as the command says, the buffer's length, which is writable by its borrow.
        let returned = unsafe { libc::ioctl(self.0.as_raw_fd(), cmd, buffer.as_mut_ptr()) };
        if returned >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Connects to a Unix stream socket; `WouldBlock` when whoever listens there has had no room for it for so long.
pub fn connect_within(socket: &Path, limit: std::time::Duration) -> io::Result<std::os::unix::net::UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket as make, sockopt};
    use nix::sys::time::TimeVal;
    let fd = make(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    // Zero would be for ever.
    let limit = TimeVal::new(seconds, i64::from(limit.subsec_micros().max(1)));
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(socket)?)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(0, 0))?;
    Ok(fd.into())
}

/// `ioctl(SIOCOUTQ)`: what was sent on a stream socket and not yet read on the other side, more than 0 if anything
/// (the kernel counts its own overhead in).
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the command writes one int, which `bytes` is.
    let returned = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    done(libc::c_long::from(returned))?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

fn is_fuse(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};
    Ok(fstatfs(fd)?.filesystem_type() == FUSE_SUPER_MAGIC)
}

/// `ioctl(FICLONE)`: makes `to` share all extents of `from`. `EOPNOTSUPP`, `EXDEV` or `EINVAL` where
/// the filesystem cannot.
pub fn clone_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor number and no memory.
    done(libc::c_long::from(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) }))
}

/// `sync_file_range(2)`: begins to write out all dirty pages of a file, which gives them their place on the
/// disk, and does not wait until they are there.
pub fn begin_writing(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes a descriptor number and plain numbers.
    done(libc::c_long::from(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) }))
}

/// The result of a call that fills `buffer`.
fn filled(returned: isize, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let len = usize::try_from(returned).map_err(|_| io::Error::last_os_error())?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Room that the value of an extended attribute mostly fits in, in bytes.
const XATTR_OFTEN: usize = 1024;

/// All extended attributes, name and value, of the object that `fd` (which may be an `O_PATH`
/// descriptor, also of a symbolic link) stands for, as far as the caller may read them. Goes through
/// `/proc/self/fd`. Empty where the filesystem has none.
pub fn xattrs_of_path_fd(fd: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let mut list = vec![0; XATTR_SIZE_MAX];
    // SAFETY: the path is a terminated string, the buffer is writable for its length.
    let returned = unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let names = match filled(returned, list) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let terminated = CString::new(name)?;
        let mut value = vec![0; XATTR_SIZE_MAX];
        // SAFETY: both strings are terminated, the buffer is writable for its length.
        let returned =
            unsafe { libc::getxattr(path.as_ptr(), terminated.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        match filled(returned, value) {
            Ok(mut value) => {
                value.shrink_to_fit();
                found.push((name.to_vec(), value));
            }
            // Gone since it was listed, or not for us.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EPERM | libc::EACCES | libc::EOPNOTSUPP)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// One extended attribute of the object that `fd` (which may be an `O_PATH` descriptor) stands for. None where there is
/// none, or none for us.
pub fn xattr_of_path_fd(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let path = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let name = CString::new(name)?;
    let mut size = XATTR_OFTEN;
    loop {
        let mut value = vec![0; size];
        // SAFETY: both strings are terminated, the buffer is writable for its length.
        let returned = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        return match filled(returned, value) {
            Ok(value) => Ok(Some(value)),
            Err(e) => match e.raw_os_error() {
                Some(libc::ENODATA | libc::EPERM | libc::EACCES | libc::EOPNOTSUPP) => Ok(None),
                Some(libc::ERANGE) if size < XATTR_SIZE_MAX => {
                    size = XATTR_SIZE_MAX;
                    continue;
                }
                _ => Err(e),
            },
        };
    }
}

/// `close_range(2)` with `CLOSE_RANGE_CLOEXEC`: no descriptor from `first` on survives the next
/// `execve(2)`. For a process that becomes a long-lived one and must keep nothing of its starter open.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: the arguments are plain numbers, and no descriptor is closed now: a flag is set on each.
    done(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// `capset(2)` for the calling thread: it has exactly the capabilities `effective` and may take back those
/// in `permitted` (bit n is the capability of number n); none is passed on by `execve(2)`. Only what the
/// thread has can be named.
pub fn set_capabilities(effective: u64, permitted: u64) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits for each set.
    const VERSION: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION, 0];
    let half = |shift: u32| [(effective >> shift) as u32, (permitted >> shift) as u32, 0];
    let sets: [[u32; 3]; 2] = [half(0), half(32)];
    // SAFETY: both arrays have the layout of `__user_cap_header_struct` and of two `__user_cap_data_struct`
    // (all fields are 32 bits wide) and live through the call.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// Takes every capability out of the bounding set and of the ambient set of the calling thread, so that
/// nothing that it executes can have one. `EPERM` without `CAP_SETPCAP`.
pub fn clear_bounding_set() -> io::Result<()> {
    let none: libc::c_ulong = 0;
    let clear = libc::c_ulong::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).unwrap_or_default();
    // SAFETY: this prctl takes plain numbers.
    done(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, none, none, none) }))?;
    for capability in 0..64 as libc::c_ulong {
        // SAFETY: this prctl takes plain numbers.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, none, none, none) };
        match done(libc::c_long::from(dropped)) {
            // Past the last one that this kernel knows.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// `seccomp(2)`: from now on all threads of the process make system calls only as `filter` lets them. With `log`, what
/// it refuses is written to the system's audit log. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
pub fn install_filter(filter: &[libc::sock_filter], log: bool) -> io::Result<()> {
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // The kernel only reads the program, whatever the field's type says.
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | if log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    // SAFETY: `program` and the `len` instructions that it points to live through the call, which copies them.
    let returned =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match returned {
        // The number of a thread that could not be brought along.
        1.. => Err(io::Error::other("a thread of the process has a filter of its own")),
        other => done(other),
    }
}

/// What the kernel says to a system call whose arguments are all -1, which none of the calls that this is for can
/// accept: no address and no descriptor has that value. Tells a call that a filter refuses from one that it lets through.
/// `None` where it succeeds nevertheless.
pub fn refusal_of(call: Forbidden) -> Option<io::Error> {
    let none: libc::c_long = -1;
    // SAFETY: each call of `Forbidden` fails on these arguments before it touches memory of this process.
    let returned = unsafe { libc::syscall(call.number(), none, none, none, none, none, none) };
    (returned == -1).then(io::Error::last_os_error)
}

/// Calls that a confined process has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// `bpf(2)`.
    Bpf,
    /// `io_uring_setup(2)`.
    IoUring,
    /// `keyctl(2)`.
    Keyctl,
    /// `ptrace(2)`.
    Ptrace,
    /// `process_vm_writev(2)`.
    ProcessWrite,
    /// `setns(2)`.
    SetNs,
    /// `open_tree(2)`.
    OpenTree,
    /// `open_by_handle_at(2)`.
    OpenByHandle,
    /// `init_module(2)`.
    InitModule,
    /// `execveat(2)`.
    ExecAt,
    /// `clone3(2)`.
    Clone3,
}

impl Forbidden {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Bpf,
        Self::IoUring,
        Self::Keyctl,
        Self::Ptrace,
        Self::ProcessWrite,
        Self::SetNs,
        Self::OpenTree,
        Self::OpenByHandle,
        Self::InitModule,
        Self::ExecAt,
        Self::Clone3,
    ];

    fn number(self) -> libc::c_long {
        match self {
            Self::Bpf => libc::SYS_bpf,
            Self::IoUring => libc::SYS_io_uring_setup,
            Self::Keyctl => libc::SYS_keyctl,
            Self::Ptrace => libc::SYS_ptrace,
            Self::ProcessWrite => libc::SYS_process_vm_writev,
            Self::SetNs => libc::SYS_setns,
            Self::OpenTree => libc::SYS_open_tree,
            Self::OpenByHandle => libc::SYS_open_by_handle_at,
            Self::InitModule => libc::SYS_init_module,
            Self::ExecAt => libc::SYS_execveat,
            Self::Clone3 => libc::SYS_clone3,
        }
    }
}

#[cfg(test)]
mod tests;
