//! Files, sockets and processes beyond what the daemon serves, taken away by Landlock.

use super::{Needs, SandboxError};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The newest kernel interface whose restrictions are asked for. An older kernel applies those that it has.
const NEWEST: ABI = ABI::V6;

/// What older interfaces lack, with the first one that has it.
const LATER: [(ABI, &str); 5] = [
    (ABI::V2, "renames kept within the allowed directories (Linux 5.19)"),
    (ABI::V3, "truncation kept within the store (Linux 6.2)"),
    (ABI::V4, "no TCP (Linux 6.7)"),
    (ABI::V5, "no control of devices (Linux 6.10)"),
    (ABI::V6, "no signals and abstract sockets to others (Linux 6.12)"),
];

/// Confines the calling thread. Answers what this kernel cannot take away.
pub(super) fn restrict(needs: &Needs<'_>) -> Result<Vec<String>, SandboxError> {
    let status = ruleset(needs)?.restrict_self().map_err(refused)?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => {
            let lacks = LATER.iter().filter(|(abi, _)| effective_abi < *abi);
            Ok(lacks.map(|(_, what)| (*what).to_owned()).collect())
        }
        LandlockStatus::NotEnabled => {
            Err(SandboxError::Unavailable("Landlock is not enabled (kernel parameter lsm=landlock,...)".into()))
        }
        LandlockStatus::NotImplemented => {
            Err(SandboxError::Unavailable("the kernel has no Landlock (Linux 5.13 and later can)".into()))
        }
    }
}

fn refused(error: RulesetError) -> SandboxError {
    super::failed("restrict the reachable files")(io::Error::other(error))
}

fn ruleset(needs: &Needs<'_>) -> Result<RulesetCreated, SandboxError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = make_bitflags!(AccessFs::{
        WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
    });
    let socket = make_bitflags!(AccessFs::{MakeSock | RemoveFile});
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(refused)?;
    for dir in needs.grounds.dirs() {
        rules = beneath(rules, dir, read)?;
    }
    rules = at(rules, needs.store, read | write)?;
    rules = at(rules, needs.socket_dir, socket)?;
    // Who serves a mount, and who listens on a socket; the kernel shows nothing more of foreign processes then.
    rules = at(rules, Path::new("/proc"), read)?;
    // The counters' segment goes with the daemon. It is mapped already.
    match PathFd::new("/dev/shm") {
        Ok(dir) => beneath(rules, dir, AccessFs::RemoveFile.into()),
        // Then there are no counters either.
        Err(_) => Ok(rules),
    }
}

fn at(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, SandboxError> {
    let dir = PathFd::new(path).map_err(|e| super::failed(format!("open {}", path.display()))(io::Error::other(e)))?;
    beneath(rules, dir, access)
}

fn beneath(rules: RulesetCreated, dir: impl AsFd, access: BitFlags<AccessFs>) -> Result<RulesetCreated, SandboxError> {
    rules.add_rule(PathBeneath::new(dir, access)).map_err(refused)
}
