//! System calls that the daemon has a use for. Every other one fails with `ENOSYS`, as on a kernel that does not have
//! it, and is written to the audit log: the C library knows how to go on without a call, and a daemon that
//! was killed for one would be started again only to make it again.
//!
//! Not among them, whoever asks: programs, processes, namespaces and mounts; sockets and connections of one's
//! own; modes, owners and attributes of files; memory that is executed.

use super::SandboxError;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use shm_transport::mem::sys;
use std::collections::BTreeMap;

/// Files and descriptors.
const FILES: &[i64] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_fgetxattr,
    libc::SYS_listxattr,
    libc::SYS_flistxattr,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Sockets that are there or that connect to us, and waiting.
const EVENTS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Threads, memory, time, and who we are.
const PROCESS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
];

/// Those that only this architecture still has beside the newer ones.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// `CLONE_NEW*` of `linux/sched.h`: a new namespace of any kind.
const NAMESPACES: u64 = 0x7e02_0080;
/// `PR_SET_VMA`: gives a piece of memory a name.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// Confines all threads of the process.
pub(super) fn restrict() -> Result<(), SandboxError> {
    // The C library makes every thread by this call, unless there is none: its arguments cannot be filtered. So the
    // other filter lets it through, and this one refuses it, which is not worth a line in the log each time.
    let quiet = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    install(quiet, SeccompAction::Allow, refuse(), false)?;
    let plain = [FILES, EVENTS, PROCESS, OLDER, &[libc::SYS_clone3]].into_iter().flatten();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = plain.map(|call| (*call, Vec::new())).collect();
    rules.extend(by_argument().map_err(unavailable)?);
    install(rules, refuse(), SeccompAction::Allow, true)
}

fn refuse() -> SeccompAction {
    SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or_default())
}

fn unavailable(error: seccompiler::BackendError) -> SandboxError {
    SandboxError::Unavailable(format!("no system call filter: {error}"))
}

fn install(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    other: SeccompAction,
    listed: SeccompAction,
    log: bool,
) -> Result<(), SandboxError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(unavailable)?;
    let filter = SeccompFilter::new(rules, other, listed, arch).map_err(unavailable)?;
    let program: BpfProgram = filter.try_into().map_err(unavailable)?;
    let program: Vec<_> =
        program.into_iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    match sys::install_filter(&program, log) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            Err(SandboxError::Unavailable(format!("the kernel does not filter system calls: {e}")))
        }
        other => other.map_err(super::failed("restrict the system calls")),
    }
}

/// Calls that are allowed for some arguments.
fn by_argument() -> Result<Vec<(i64, Vec<SeccompRule>)>, seccompiler::BackendError> {
    let own = u64::from(std::process::id());
    let thread = libc::CLONE_THREAD as u64;
    let executable = libc::PROT_EXEC as u64;
    let is = |index, value| SeccompCondition::new(index, Dword, Eq, value);
    let one = |index, value| is(index, value).and_then(|c| SeccompRule::new(vec![c]));
    let mask = |index, bits, value| {
        SeccompCondition::new(index, Dword, MaskedEq(bits), value).and_then(|c| SeccompRule::new(vec![c]))
    };
    let null = |index| SeccompCondition::new(index, Qword, Eq, 0);
    Ok(vec![
        // A thread, and no process.
        (libc::SYS_clone, vec![mask(0, thread | NAMESPACES, thread)?]),
        (libc::SYS_ioctl, vec![one(1, libc::FICLONE)?, one(1, libc::FIONBIO)?]),
        (libc::SYS_mmap, vec![mask(2, executable, 0)?]),
        (libc::SYS_mprotect, vec![mask(2, executable, 0)?]),
        (libc::SYS_prctl, vec![one(0, libc::PR_SET_NAME as u64)?, one(0, PR_SET_VMA)?]),
        // One's own limits, to read them.
        (libc::SYS_prlimit64, vec![SeccompRule::new(vec![is(0, 0)?, null(2)?])?]),
        (libc::SYS_tgkill, vec![one(0, own)?]),
        // Times of an open file, and of none by its path.
        (libc::SYS_utimensat, vec![SeccompRule::new(vec![null(1)?])?]),
    ])
}
