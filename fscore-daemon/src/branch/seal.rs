//! Sealed bases: branches of copies of a directory, and the removal of copies that nothing needs.
//!
//! The command that asks for such a branch makes the copy (`<store>/copies/<name>`) beforehand and holds a lock on its
//! directory until it has the answer. So a copy without a record that nobody holds is a leftover of one that was interrupted.

use super::base_check::Checked;
use super::create::{Start, Wanted};
use super::info::{check_name, fail, refuse};
use super::{Branches, base_check};
use crate::core::error::{FsResult, io};
use crate::core::ids::BaseId;
use crate::core::keys;
use crate::core::record::{BaseRecord, EpochRecord, Quota, SealRecord};
use crate::core::state::lock;
use crate::core::view::View;
use crate::store::Batch;
use rustix::fs::FlockOperation;
use shm_transport::control::seal::{self, Seal};
use shm_transport::control::{BranchInfo, ErrorCode, Failure};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

impl Branches {
    /// Makes a branch of a copy; without one, says whether that can be done, or gives the branch that there is.
    pub(super) fn seal(
        &self,
        wanted: &Wanted<'_>,
        copy: Option<&str>,
        reuse: bool,
    ) -> Result<Option<BranchInfo>, Failure> {
        let began = Instant::now();
        check_name("branch", wanted.name)?;
        if copy.is_none() {
            self.sweep().map_err(fail)?;
        }
        let _mutation = lock(&self.mutation);
        let base = wanted.base.unwrap_or(Path::new(""));
        // What is said of a base that others edit is of no concern here.
        let checked = base_check::check(base, true, &self.store_dir, &self.allow_base, &self.core)?;
        if checked.by_path {
            let message = format!("{} cannot be sealed: overlayfs changes inode numbers", base.display());
            return Err(refuse(ErrorCode::Base, message).hint("leave --materialize out").done());
        }
        let existing = lock(&self.names).get(wanted.name).copied();
        if let Some(id) = existing {
            let info = self.reuse(id, wanted, Some(checked), reuse)?;
            if info.sealed.is_none() {
                let message = format!("branch {} exists and reads its base as it is now", wanted.name);
                return Err(refuse(ErrorCode::Exists, message)
                    .hint("leave --materialize out, or choose another name")
                    .done());
            }
            return Ok(Some(info));
        }
        let Some(name) = copy else { return Ok(None) };
        let _copies = lock(&self.copies);
        let (sealed, record) = self.adopt(&checked, name)?;
        let mut batch = Batch::default();
        batch.put(keys::base(sealed), record.encode());
        let (id, root) = self.base_id(&checked, &mut batch)?;
        let start = Start {
            base: Some(id),
            sealed: Some(sealed),
            frozen: wanted.frozen,
            root,
            from: None,
            quota: Quota::default(),
        };
        let made = self.make(wanted, &start, batch, None);
        if made.is_err() {
            self.core.forget_base(sealed);
        }
        let info = made?;
        Ok(Some(BranchInfo { warnings: checked.warnings, micros: Some(began.elapsed().as_micros() as u64), ..info }))
    }

    /// Opens a copy as a base.
    fn adopt(&self, original: &Checked, name: &str) -> Result<(BaseId, BaseRecord), Failure> {
        let bad = |why: String| {
            let message = format!("the copy {name} of {} cannot be used: {why}", original.path.display());
            refuse(ErrorCode::Base, message).hint("run the command again").done()
        };
        if !seal::is_name(name) {
            return Err(bad("that is no name of a copy".into()));
        }
        let list = std::fs::read(seal::list(&seal::home(&self.store_dir).join(name)));
        let list = list.and_then(|bytes| Seal::decode(&bytes)).map_err(|e| bad(e.to_string()))?;
        if list.entries.first().is_none_or(|root| root.ino != original.root.0) {
            return Err(bad("another directory has its place by now".into()));
        }
        let record = BaseRecord {
            path: original.path.as_os_str().as_bytes().to_vec(),
            dev: original.dev,
            root: original.root,
            seal: Some(SealRecord { name: name.to_owned(), info: list.info() }),
        };
        let id = self.core.new_base().map_err(fail)?;
        self.core.adopt_base(id, record.clone()).map_err(fail)?;
        Ok((id, record))
    }

    /// Removes sealed bases that no epoch names, and copies that no branch was made of.
    pub(super) fn sweep(&self) -> FsResult<()> {
        let home = seal::home(&self.store_dir);
        let _copies = lock(&self.copies);
        let scan = |letter: u8, visit: &mut dyn FnMut(&[u8], &[u8])| {
            let prefix = keys::prefix(letter, &[]);
            self.core.store.scan(&prefix, &mut |key, value| {
                let inside = key.starts_with(&prefix);
                if inside {
                    visit(key, value);
                }
                inside
            });
        };
        let (mut known, mut needed, mut unread) = (Vec::new(), BTreeSet::new(), false);
        scan(b'A', &mut |key, value| match (keys::number(key, 0), BaseRecord::decode(value)) {
            (Some(id), Ok(BaseRecord { seal: Some(seal), .. })) => known.push((BaseId(id), seal.name)),
            (_, Ok(_)) => {}
            (_, Err(_)) => unread = true,
        });
        let listing = match std::fs::read_dir(&home) {
            Err(e) if e.kind() == ErrorKind::NotFound && known.is_empty() => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            other => Some(other.map_err(io("list the copies of bases"))?),
        };
        scan(b'E', &mut |_, value| match EpochRecord::decode(value) {
            Ok(record) => needed.extend(record.base),
            Err(_) => unread = true,
        });
        if unread {
            // It may be what needs one of them: `fsck` tells.
            return Ok(());
        }
        let (kept, gone): (Vec<_>, Vec<_>) = known.into_iter().partition(|(id, _)| needed.contains(id));
        for (id, _) in &gone {
            self.core.forget_base(*id);
            for letter in [b'N', b'W'] {
                self.remove_keys(&keys::prefix(letter, &[id.0]))?;
            }
            let mut batch = Batch { reclaims: true, ..Batch::default() };
            batch.delete(keys::base(*id));
            self.core.store.commit(&batch)?;
        }
        if !gone.is_empty() {
            // A power loss must not bring the record back without the copy.
            self.core.store.sync()?;
        }
        let entries = listing.into_iter().flatten().flatten();
        let gone: Vec<_> = entries
            .filter(|entry| !kept.iter().any(|(_, name)| entry.file_name() == name.as_str()))
            .filter_map(|entry| hold(&entry.path()).map(|held| (entry.path(), held)))
            .collect();
        if !gone.is_empty() {
            // Many files take long, and nobody should wait for that. What is left at an end goes with the next start.
            let spawned = std::thread::Builder::new().name("sweeper".into()).spawn(move || {
                for (dir, held) in gone {
                    if let Err(error) = std::fs::remove_dir_all(&dir) {
                        tracing::warn!(dir = %dir.display(), %error, "a copy of a base that nothing needs stays");
                    }
                    drop(held);
                }
            });
            spawned.map_err(io("start a thread"))?;
        }
        Ok(())
    }

    /// Refuses states of which one shows a copy of the base and the other one does not, or shows another copy.
    pub(super) fn same_base(&self, what: &str, one: &View, others: &[&View]) -> Result<(), Failure> {
        let sealed = |view: &View| self.core.sealed_base(&view.chain).map_err(fail);
        let base = sealed(one)?;
        for other in others {
            // Without epochs it is the base of the other.
            if !other.chain.is_empty() && sealed(other)? != base {
                return Err(refuse(ErrorCode::Usage, format!("{what}: one shows a copy of the base, the other one does not"))
                    .hint("make a branch of that state, mount both, and compare or copy what you need: agentfs branch create NAME --from BRANCH@SNAPSHOT")
                    .done());
            }
        }
        Ok(())
    }
}

/// Locks the directory of a copy, unless a command works on it, or somebody removes it already.
fn hold(dir: &Path) -> Option<File> {
    let open = File::open(dir).ok()?;
    rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(open)
}
