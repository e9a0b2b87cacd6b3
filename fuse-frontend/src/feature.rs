//! Features of the kernel that a mount makes use of, which may be missing or be left out.

use fuser::InitFlags;
use shm_transport::control::{ErrorCode, Failure};

#[cfg(test)]
mod tests;

/// One feature.
#[derive(Debug)]
pub(crate) struct Feature {
    /// As in `--without NAME`.
    pub(crate) name: &'static str,
    flag: InitFlags,
    /// The first Linux that has it.
    since: &'static str,
    /// What is different without it.
    without: &'static str,
}

/// What POSIX ACLs need: the kernel asks for them and checks by them, leaves the umask to us (a default ACL takes its
/// place), and tells when setting one strips setgid.
pub(crate) const ACL: InitFlags =
    InitFlags::FUSE_POSIX_ACL.union(InitFlags::FUSE_DONT_MASK).union(InitFlags::FUSE_SETXATTR_EXT);

/// Every feature that can be left out. `specs/operations.md` §6.1 lists the same.
pub(crate) const FEATURES: &[Feature] = &[
    Feature {
        name: "resend",
        flag: InitFlags::FUSE_HAS_RESEND,
        since: "6.9",
        without: "a request that a killed frontend had read and not yet passed on fails with ESTALE unless its system \
                  call names a path",
    },
    Feature {
        name: "killpriv",
        flag: InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        since: "5.12",
        without: "every write asks for an extended attribute first",
    },
    Feature {
        name: "explicit-inval",
        flag: InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        since: "5.2",
        without: "cached file data goes when a file is seen with another size",
    },
    Feature { name: "posix-acl", flag: ACL, since: "5.13", without: "POSIX ACLs are kept and do not count" },
    Feature {
        name: "cache-symlinks",
        flag: InitFlags::FUSE_CACHE_SYMLINKS,
        since: "4.20",
        without: "every use of a symbolic link costs a request",
    },
    Feature {
        name: "parallel-dirops",
        flag: InitFlags::FUSE_PARALLEL_DIROPS,
        since: "4.7",
        without: "lookups and listings of one directory wait for each other",
    },
    Feature {
        name: "readdirplus",
        flag: InitFlags::FUSE_DO_READDIRPLUS.union(InitFlags::FUSE_READDIRPLUS_AUTO),
        since: "3.9",
        without: "each entry of a listing is looked up by itself",
    },
    Feature {
        name: "atomic-o-trunc",
        flag: InitFlags::FUSE_ATOMIC_O_TRUNC,
        since: "2.6.24",
        without: "opening with O_TRUNC costs two requests",
    },
];

/// The flags of these features. An unknown name is an error that lists the known ones.
pub(crate) fn flags_of<S: AsRef<str>>(names: &[S]) -> Result<InitFlags, Failure> {
    let mut flags = InitFlags::empty();
    for name in names.iter().map(AsRef::as_ref) {
        let Some(feature) = FEATURES.iter().find(|feature| feature.name == name) else {
            let known: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
            return Err(Failure {
                code: ErrorCode::Usage,
                message: format!("there is no feature {name:?} of the kernel to go without"),
                hint: Some(format!("known are {}", known.join(", "))),
            });
        };
        flags |= feature.flag;
    }
    Ok(flags)
}

/// What a mount that settled these flags does without, for people.
pub(crate) fn missing(settled: u64) -> Vec<String> {
    let settled = InitFlags::from_bits_retain(settled);
    let missing = FEATURES.iter().filter(|feature| !settled.contains(feature.flag));
    missing.map(|f| format!("{} (Linux {}): {}", f.name, f.since, f.without)).collect()
}
