//! Mounting: `fuser` opens `/dev/fuse`, calls mount(2) or fusermount3, and answers the kernel's INIT with
//! what we ask for. From then on the descriptor is ours; nobody here touches the mount.

use crate::feature;
use crate::options::{BACKGROUND_MAX, Options};
use fuser::{Config, Filesystem, InitFlags, KernelConfig, MountOption, Session, SessionACL};
use nix::mount::MsFlags;
use shm_transport::control::{ErrorCode, Failure};
use shm_transport::wire::limits::PAYLOAD_MAX;
use shm_transport::{Caching, FuseState};
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// What we ask the kernel for; what it does not offer is left out. Reasons stand in
/// `specs/adr/0004-mount-options.md`. Only on demand: WRITEBACK_CACHE. Never asked for: AUTO_INVAL_DATA, POSIX_LOCKS,
/// FLOCK_LOCKS, NO_OPEN_SUPPORT, NO_OPENDIR_SUPPORT.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(feature::ACL);
/// Readahead of the mount, in KiB: one full payload.
const READ_AHEAD_KIB: usize = PAYLOAD_MAX / 1024;

/// What to mount.
#[derive(Debug, Clone)]
pub(crate) struct MountRequest {
    /// Shown as the source in `/proc/mounts`.
    pub(crate) branch: String,
    /// Where.
    pub(crate) mountpoint: PathBuf,
    /// Read-only.
    pub(crate) read_only: bool,
    /// Other users may enter.
    pub(crate) allow_other: bool,
    /// The kernel checks permissions.
    pub(crate) default_permissions: bool,
    /// Set-id bits and device nodes count.
    pub(crate) suid_dev: bool,
    /// Flags of mount(8) that are passed on.
    pub(crate) flags: Vec<MountFlag>,
    /// Features of the kernel that are not made use of.
    pub(crate) without: InitFlags,
    /// How long the daemon may be away before requests fail; for ever if nothing is said.
    pub(crate) give_up_after: Option<Duration>,
    /// What the kernel may keep.
    pub(crate) caching: Caching,
    /// The kernel writes back when it likes.
    pub(crate) writeback: bool,
    /// Longest write, in bytes.
    pub(crate) max_write: u32,
    /// Background requests (readahead, and writing back) the kernel may have under way.
    pub(crate) max_background: u16,
}

impl MountRequest {
    /// As options say; root's mounts are open to others unless these say no.
    pub(crate) fn new(branch: String, mountpoint: PathBuf, options: &Options) -> Result<Self, Failure> {
        let root = nix::unistd::geteuid().is_root();
        Ok(Self {
            branch,
            mountpoint,
            read_only: options.read_only,
            allow_other: options.allow_other.unwrap_or(root),
            default_permissions: !options.no_default_permissions,
            suid_dev: root && !options.no_suid_dev,
            flags: options.flags.clone(),
            without: feature::flags_of(&options.without)?,
            give_up_after: options.give_up_after,
            caching: options.caching,
            writeback: options.writeback,
            max_write: options.max_write.unwrap_or(PAYLOAD_MAX as u32),
            max_background: options.max_background.unwrap_or(BACKGROUND_MAX),
        })
    }
}

/// Flags of mount(8) that mean the same here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountFlag {
    NoExec,
    NoAtime,
    Sync,
    DirSync,
}

impl MountFlag {
    fn flag(self) -> MsFlags {
        match self {
            Self::NoExec => MsFlags::MS_NOEXEC,
            Self::NoAtime => MsFlags::MS_NOATIME,
            Self::Sync => MsFlags::MS_SYNCHRONOUS,
            Self::DirSync => MsFlags::MS_DIRSYNC,
        }
    }

    fn option(self) -> MountOption {
        match self {
            Self::NoExec => MountOption::NoExec,
            Self::NoAtime => MountOption::NoAtime,
            Self::Sync => MountOption::Sync,
            Self::DirSync => MountOption::DirSync,
        }
    }
}

/// The file system that `fuser` sees: it negotiates and serves nothing.
struct Negotiator {
    state: Arc<Mutex<FuseState>>,
    wanted: MountRequest,
}

impl Filesystem for Negotiator {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = &self.wanted;
        let offered = config.capabilities() - wanted.without;
        let mut flags = WANTED & offered;
        if wanted.writeback {
            flags |= InitFlags::FUSE_WRITEBACK_CACHE & offered;
        }
        if wanted.caching.direct_io {
            flags |= InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP & offered;
        }
        if !flags.contains(feature::ACL) {
            flags -= feature::ACL;
        }
        let refused = |what: &str| io::Error::other(format!("the kernel refuses {what}"));
        config.add_capabilities(flags).map_err(|_| refused("flags that it offered"))?;
        config.set_max_write(wanted.max_write).map_err(|_| refused("writes of that size"))?;
        config.set_max_background(wanted.max_background).map_err(|_| refused("so many background requests"))?;
        // Setting it is the only way to learn what the kernel offers; the error names the nearest.
        let max_readahead = config.set_max_readahead(PAYLOAD_MAX as u32).unwrap_or_else(|offered| offered);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = FuseState {
            minor: config.kernel_abi().1,
            // Resends need no consent at INIT; that the kernel has them is only known here.
            flags: (flags | (offered & InitFlags::FUSE_HAS_RESEND)).bits(),
            max_write: wanted.max_write,
            max_readahead,
            max_background: u32::from(wanted.max_background),
            read_only: wanted.read_only,
            caching: wanted.caching,
        };
        Ok(())
    }
}

/// A file system that is mounted and that nobody serves yet. Dropping it unmounts.
pub(crate) struct Mounted {
    session: Session<Negotiator>,
    state: FuseState,
    /// Where, resolved before the mount.
    pub(crate) mountpoint: PathBuf,
}

impl Mounted {
    /// The descriptor.
    pub(crate) fn fuse(&self) -> BorrowedFd<'_> {
        self.session.as_fd()
    }

    /// What INIT settled.
    pub(crate) fn state(&self) -> &FuseState {
        &self.state
    }

    /// Somebody else holds the descriptor: it stays mounted.
    pub(crate) fn leave(self) {
        let session = ManuallyDrop::new(self.session);
        tracing::debug!(fd = session.as_fd().as_raw_fd(), "the mount is left to the holder");
    }
}

/// Mounts.
pub(crate) fn mount(request: &MountRequest) -> Result<Mounted, Failure> {
    let mountpoint = check_mountpoint(&request.mountpoint)?;
    check_device()?;
    let state = Arc::new(Mutex::new(FuseState::default()));
    let mut wanted = request.clone();
    if !request.default_permissions {
        // With ACLs the kernel checks every access, asked to or not.
        wanted.without |= feature::ACL;
    }
    let negotiator = Negotiator { state: Arc::clone(&state), wanted };
    let session = Session::new(negotiator, &mountpoint, &options(request))
        .map_err(|e| refused(&mountpoint, request.allow_other, &e))?;
    let state = *state.lock().unwrap_or_else(PoisonError::into_inner);
    raise_read_ahead(&mountpoint);
    for missing in feature::missing(state.flags) {
        tracing::warn!(mountpoint = %mountpoint.display(), "without {missing}");
    }
    Ok(Mounted { session, state, mountpoint })
}

/// Gives what is mounted there the flags of mount(8); whatever else a mount was made with stays as it is. The kernel
/// refuses to make it read-only while files are open for writing.
pub(crate) fn remount(mountpoint: &Path, options: &Options) -> Result<(), Failure> {
    let mountpoint = check_mountpoint(mountpoint)?;
    let mut flags = MsFlags::MS_REMOUNT;
    if options.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    if options.no_suid_dev {
        flags |= MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    }
    flags.extend(options.flags.iter().map(|flag| flag.flag()));
    nix::mount::mount(None::<&str>, &mountpoint, None::<&str>, flags, None::<&str>).map_err(|errno| {
        let message = format!("cannot give {} other flags: {}", mountpoint.display(), errno.desc());
        match errno as i32 {
            libc::EBUSY => failure(ErrorCode::Busy, message, "close what is open for writing there"),
            libc::EPERM => failure(ErrorCode::Denied, message, "only root may do that"),
            _ => failure(ErrorCode::Usage, message, "unmount it and mount it anew"),
        }
    })
}

fn options(request: &MountRequest) -> Config {
    // `fuser` drops `Subtype` on its way to mount(2) but passes custom options as they are, and
    // fusermount3 takes the same spelling.
    let mut options = vec![MountOption::FSName(request.branch.clone()), MountOption::CUSTOM("subtype=agentfs".into())];
    if request.default_permissions {
        options.push(MountOption::DefaultPermissions);
    }
    if request.read_only {
        options.push(MountOption::RO);
    }
    if request.suid_dev {
        options.extend([MountOption::Suid, MountOption::Dev]);
    } else {
        options.extend([MountOption::NoSuid, MountOption::NoDev]);
    }
    options.extend(request.flags.iter().map(|flag| flag.option()));
    let mut config = Config::default();
    config.mount_options = options;
    config.acl = if request.allow_other { SessionACL::All } else { SessionACL::Owner };
    config
}

fn failure(code: ErrorCode, message: String, hint: impl Into<String>) -> Failure {
    Failure { code, message, hint: Some(hint.into()) }
}

/// The mountpoint without symbolic links, checked before anything is mounted.
pub(crate) fn check_mountpoint(mountpoint: &Path) -> Result<PathBuf, Failure> {
    let shown = mountpoint.display();
    let resolved = fs::canonicalize(mountpoint).and_then(|path| Ok((fs::metadata(&path)?, path)));
    match resolved {
        Ok((found, path)) if found.is_dir() => Ok(path),
        Ok(_) => Err(failure(
            ErrorCode::Usage,
            format!("the mountpoint {shown} is not a directory"),
            "name an existing, empty directory",
        )),
        Err(e) => Err(match e.raw_os_error() {
            Some(libc::ENOENT) => failure(
                ErrorCode::NotFound,
                format!("the mountpoint {shown} does not exist"),
                format!("make it first: mkdir -p {shown}"),
            ),
            Some(libc::ENOTCONN) => failure(
                ErrorCode::Busy,
                format!("a file system whose server died is still mounted on {shown}"),
                format!("unmount it first: umount {shown} (as a user: fusermount3 -u {shown})"),
            ),
            Some(libc::EACCES) => failure(
                ErrorCode::Denied,
                format!("you may not reach the mountpoint {shown}"),
                "choose a directory of your own",
            ),
            _ => failure(
                ErrorCode::Usage,
                format!("the mountpoint {shown} cannot be used: {e}"),
                "name an existing, empty directory",
            ),
        }),
    }
}

/// A mountpoint at, inside or around the base would hide the base from the daemon.
pub(crate) fn check_apart(mountpoint: &Path, base: &Path) -> Result<(), Failure> {
    let base = fs::canonicalize(base).unwrap_or_else(|_| base.to_owned());
    let how = if mountpoint.starts_with(&base) {
        "lies inside"
    } else if base.starts_with(mountpoint) {
        "would hide"
    } else {
        return Ok(());
    };
    Err(failure(
        ErrorCode::Usage,
        format!("the mountpoint {} {how} the base directory {}", mountpoint.display(), base.display()),
        "mount elsewhere, or let `agentfs run` mount over the base in a mount namespace of its own",
    ))
}

fn check_device() -> Result<(), Failure> {
    match fs::metadata("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(e) => Err(failure(
            ErrorCode::Internal,
            format!("/dev/fuse cannot be used: {e}"),
            "load the module (modprobe fuse); in a container, give it the device (--device /dev/fuse)",
        )),
    }
}

fn refused(mountpoint: &Path, allow_other: bool, error: &io::Error) -> Failure {
    let shown = mountpoint.display();
    let text = error.to_string();
    let text = text.trim();
    let message = format!("cannot mount on {shown}: {text}");
    if text.contains("user_allow_other") || (allow_other && text.contains("allow_other")) {
        return failure(
            ErrorCode::Denied,
            message,
            "leave allow_other out, or let the administrator put user_allow_other into /etc/fuse.conf",
        );
    }
    if text.contains("determine username") {
        return failure(
            ErrorCode::Denied,
            message,
            "fusermount3 mounts only for users with a name: give yours an entry in /etc/passwd, or use `agentfs run`",
        );
    }
    if text.contains("no write access to mountpoint") {
        return failure(ErrorCode::Denied, message, "mount on a directory of your own");
    }
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => failure(
            ErrorCode::Denied,
            message,
            "your user must be able to open /dev/fuse for reading and writing (mode 0666 is usual)",
        ),
        Some(libc::EBUSY) => failure(ErrorCode::Busy, message, "something is mounted there: choose another directory"),
        Some(libc::ENOENT) => failure(
            ErrorCode::Denied,
            message,
            "as a user, install the package fuse3, whose fusermount3 mounts for you",
        ),
        _ => failure(
            ErrorCode::Internal,
            message,
            "mounting needs root, a user namespace (agentfs run), or fusermount3 of the package fuse3",
        ),
    }
}

/// Raises the readahead of the mount, where we may: it is worth a fifth of cached reading speed.
fn raise_read_ahead(mountpoint: &Path) {
    // The device number comes from mountinfo: asking the mount itself would wait for a server.
    let Some(device) = fs::read("/proc/self/mountinfo").ok().and_then(|table| device_of(&table, mountpoint)) else {
        return;
    };
    let knob = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&knob, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%error, knob, "the readahead stays as it is");
    }
}

/// `MAJOR:MINOR` of the topmost mount on `mountpoint`, from the text of `mountinfo`.
fn device_of(table: &[u8], mountpoint: &Path) -> Option<String> {
    use std::os::unix::ffi::OsStrExt;
    let wanted = mountpoint.as_os_str().as_bytes();
    table
        .split(|&b| b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&b| b == b' ');
            let device = fields.nth(2)?;
            let found = unescape(fields.nth(1)?);
            (found == wanted).then(|| String::from_utf8(device.to_vec()).ok()).flatten()
        })
        .next_back()
}

/// Blanks, tabs, newlines and backslashes stand as `\NNN`, octal, in mountinfo.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}
