//! Which mounts a branch has, whether their frontends are attached or not. The store keeps it, so that a
//! daemon that starts afresh knows who may come back and what they may hold.

use super::codec::{Malformed, Reader, Writer};
use super::division::Division;
use super::error::{FsError, FsResult};
use super::ids::BranchId;
use super::keys;
use super::state::{Branch, Core, lock};
use crate::store::Batch;
use shm_transport::wire::SessionId;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Version of the record's layout.
const V: u8 = 1;
/// Changes whenever the host starts, which ends every mount.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A mount of a branch: from its first attach until it is told to be gone for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The mount's session.
    pub session: SessionId,
    /// The branch.
    pub branch: BranchId,
    /// Makes no changes.
    pub read_only: bool,
    /// Where it was mounted, as its frontend said.
    pub mountpoint: PathBuf,
    /// The host's start that it lives in; empty when that could not be told.
    boot: Vec<u8>,
}

impl Member {
    /// A mount that lives now.
    pub fn new(session: SessionId, branch: BranchId, read_only: bool, mountpoint: &Path) -> Self {
        Self { session, branch, read_only, mountpoint: mountpoint.to_owned(), boot: boot_id() }
    }

    /// To bytes; session and branch stand in the key.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u8(u8::from(self.read_only)).bytes(&self.boot).bytes(self.mountpoint.as_os_str().as_bytes());
        w.finish()
    }

    /// From key and bytes.
    pub(crate) fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, Malformed> {
        let (Some(branch), Some(session)) = (keys::number(key, 0), keys::number(key, 1)) else {
            return Err(Malformed);
        };
        let mut r = Reader::new(bytes, V)?;
        let (read_only, boot) = (r.u8()? != 0, r.bytes()?.to_vec());
        let mountpoint = PathBuf::from(OsStr::from_bytes(r.bytes()?));
        let (session, branch) = (SessionId(session), BranchId(branch));
        r.end().map(|()| Self { session, branch, read_only, mountpoint, boot })
    }

    /// As if it had been mounted in another start of the host.
    #[cfg(test)]
    pub(super) fn set_boot(&mut self, boot: &str) {
        self.boot = boot.into();
    }

    /// Whether the host was started again since: nothing of the mount can be left.
    fn is_of_earlier_boot(&self, boot: &[u8]) -> bool {
        !boot.is_empty() && !self.boot.is_empty() && self.boot != boot
    }
}

fn boot_id() -> Vec<u8> {
    match std::fs::read(BOOT_ID) {
        Ok(bytes) => bytes.trim_ascii().to_vec(),
        Err(error) => {
            tracing::debug!(%error, "cannot tell this start of the host from others");
            Vec::new()
        }
    }
}

impl Core {
    /// Every mount that was not told to be gone: attached, on its way back, or lost.
    pub fn members(&self) -> FsResult<Vec<Member>> {
        self.scan_members(&keys::prefix(b'L', &[]))
    }

    /// Those of one branch.
    pub fn members_of(&self, branch: BranchId) -> FsResult<Vec<Member>> {
        self.scan_members(&keys::prefix(b'L', &[branch.0]))
    }

    fn scan_members(&self, prefix: &[u8]) -> FsResult<Vec<Member>> {
        let mut found = Vec::new();
        self.store.scan(prefix, &mut |key, value| {
            let inside = key.starts_with(prefix);
            if inside {
                found.push(Member::decode(key, value));
            }
            inside
        });
        found.into_iter().map(|member| member.map_err(|_| FsError::Damaged("session"))).collect()
    }

    /// Whether the mount has the branch only because processes were bound to it.
    pub fn is_bound(&self, member: &Member) -> bool {
        let bytes = self.store.get(&keys::division(member.session));
        let division = bytes.and_then(|bytes| Division::decode(&bytes).ok()).unwrap_or_default();
        division.views.iter().any(|(_, branch)| *branch == member.branch)
    }

    /// Records a mount at its first attach.
    pub fn join(&self, member: &Member) -> FsResult<()> {
        let mut known: Vec<_> = self.members()?.into_iter().filter(|known| known.session == member.session).collect();
        if !known.is_empty() {
            // Besides the one that it mounts a session has the branches that processes were bound to.
            known.retain(|known| known.branch == member.branch && known.read_only == member.read_only);
            // A session is one mount of one branch for as long as it lives.
            return if known.is_empty() { Err(FsError::Invalid) } else { Ok(()) };
        }
        // Of a few bytes, and without it nothing can be deleted on a full disk.
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        batch.put(keys::member(member.branch, member.session), member.encode());
        self.store.commit(&batch)?;
        Ok(())
    }

    /// A mount is gone for good, whether it was detached or will never come back: drops its membership and
    /// the replies recorded for it, and, when it was the last one of its branch, gives back the objects
    /// without a name. Answers whether the session was known.
    pub fn end_session(&self, id: SessionId) -> FsResult<bool> {
        let ended: Vec<Member> = self.members()?.into_iter().filter(|member| member.session == id).collect();
        let mut batch = Batch { reclaims: true, ..Batch::default() };
        for letter in [b'R', b'V', b'Y'] {
            let replies = keys::prefix(letter, &[id.0]);
            self.store.scan(&replies, &mut |key, _| {
                let ours = key.starts_with(&replies);
                if ours {
                    batch.delete(key);
                }
                ours
            });
        }
        for member in &ended {
            batch.delete(keys::member(member.branch, id));
        }
        let known = !batch.is_empty();
        if known {
            self.store.commit(&batch)?;
        }
        for member in ended {
            match self.branch(member.branch) {
                Ok(branch) => {
                    lock(&branch.sessions).retain(|s| *s != id);
                    self.reclaim_if_unmounted(&branch)?;
                }
                // Deleted meanwhile, and all that it had.
                Err(FsError::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(known)
    }

    fn reclaim_if_unmounted(&self, branch: &Branch) -> FsResult<()> {
        if self.members_of(branch.id)?.is_empty() { super::orphan::reclaim_all(self, branch) } else { Ok(()) }
    }

    /// Ends the sessions that an earlier start of the host took with it, and gives back what nobody can hold
    /// any more. What fails is tried again at the next start.
    pub(super) fn settle(&self) {
        let boot = boot_id();
        let members = self.members().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot tell which mounts there were");
            Vec::new()
        });
        for member in members.into_iter().filter(|member| member.is_of_earlier_boot(&boot)) {
            if let Err(error) = self.end_session(member.session) {
                tracing::warn!(session = %member.session, %error, "a mount of before the host's start is not ended");
            }
        }
        let mut held: BTreeSet<BranchId> = BTreeSet::new();
        self.store.scan(&keys::prefix(b'U', &[]), &mut |key, _| {
            let branch = key.first().filter(|letter| **letter == b'U').and_then(|_| keys::number(key, 0));
            held.extend(branch.map(BranchId));
            branch.is_some()
        });
        for id in held {
            let settled = self.branch(id).and_then(|branch| self.reclaim_if_unmounted(&branch));
            if let Err(error) = settled {
                tracing::warn!(branch = %id, %error, "files without a name are not given back");
            }
        }
    }
}
