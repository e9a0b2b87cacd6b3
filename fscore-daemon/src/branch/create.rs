//! New branches. A handful of records each, whatever the size of the base or of the source.

use super::info::{check_name, fail, fail_store, refuse};
use super::mark::Mark;
use super::quota::changed;
use super::{Branches, base_check, base_list};
use crate::core::ids::{BaseId, BranchId, EpochId, ObjectId};
use crate::core::keys;
use crate::core::record::{BaseRecord, Body, BranchRecord, EpochRecord, ObjectRecord, Quota};
use crate::core::state::lock;
use crate::store::Batch;
use shm_transport::control::{BranchInfo, ErrorCode, Failure, Limits};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) base: Option<&'a Path>,
    pub(super) from: Option<&'a str>,
    pub(super) frozen: bool,
    pub(super) limits: Limits,
}

/// What a new branch begins with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) base: Option<BaseId>,
    /// The copy that it shows in place of that.
    pub(super) sealed: Option<BaseId>,
    pub(super) frozen: bool,
    pub(super) root: ObjectId,
    /// The branch and the frozen epoch that it continues.
    pub(super) from: Option<(BranchId, EpochId)>,
    /// The limits of its source.
    pub(super) quota: Quota,
}

impl Default for Start {
    fn default() -> Self {
        Self { base: None, sealed: None, frozen: false, root: ObjectId(0), from: None, quota: Quota::default() }
    }
}

impl Branches {
    pub(super) fn create(&self, wanted: &Wanted<'_>, reuse: bool, mark: Option<&Mark>) -> Result<BranchInfo, Failure> {
        let began = Instant::now();
        check_name("branch", wanted.name)?;
        if wanted.base.is_some() && wanted.from.is_some() {
            return Err(refuse(ErrorCode::Usage, "a branch is made either of a base or from a branch or snapshot")
                .hint("give --base or --from, not both")
                .done());
        }
        let _mutation = lock(&self.mutation);
        let checked = wanted
            .base
            .map(|path| base_check::check(path, wanted.frozen, &self.store_dir, &self.allow_base, &self.core))
            .transpose()?;
        let existing = lock(&self.names).get(wanted.name).copied();
        if let Some(id) = existing {
            return self.reuse(id, wanted, checked, reuse);
        }
        let mut batch = Batch::default();
        let start = match (&checked, wanted.from) {
            (Some(base), _) => {
                let (id, root) = self.base_id(base, &mut batch)?;
                Start { base: Some(id), frozen: wanted.frozen, root, ..Start::default() }
            }
            (None, Some(source)) => self.start_from(source)?,
            (None, None) => {
                let root = self.core.new_object().map_err(fail)?;
                Start { root, ..Start::default() }
            }
        };
        let info = self.make(wanted, &start, batch, mark)?;
        let warnings = checked.map_or_else(Vec::new, |c| c.warnings);
        Ok(BranchInfo { warnings, micros: Some(began.elapsed().as_micros() as u64), ..info })
    }

    /// Makes a branch, with what the batch has already.
    pub(super) fn make(
        &self,
        wanted: &Wanted<'_>,
        start: &Start,
        mut batch: Batch,
        mark: Option<&Mark>,
    ) -> Result<BranchInfo, Failure> {
        let id = self.core.new_branch().map_err(fail)?;
        let parent = match (start.from, start.base) {
            (Some((_, epoch)), _) => Some(epoch),
            (None, Some(base)) if start.sealed.is_none() => Some(self.ground_for(base, &mut batch)?),
            (None, _) => None,
        };
        let epoch = self.core.new_epoch().map_err(fail)?;
        let record = BranchRecord {
            name: wanted.name.to_owned(),
            head: epoch,
            base: start.base,
            frozen_base: start.frozen,
            root: start.root,
            from: start.from,
            uid: self.uid,
            created: self.core.clock.now(),
            quota: changed(start.quota, &wanted.limits),
        };
        batch.put(keys::branch(id), record.encode());
        let first = EpochRecord { parent, branch: id, base: start.sealed };
        batch.put(keys::epoch(epoch), first.encode());
        if start.base.is_none() && start.from.is_none() {
            batch.put(keys::changed_object(epoch, start.root), []);
            batch.put(keys::object(start.root, epoch), self.empty_root(start.root).encode());
        }
        Mark::put(mark, &mut batch, None);
        self.core.store.commit(&batch).map_err(|e| fail(e.into()))?;
        lock(&self.names).insert(wanted.name.to_owned(), id);
        Ok(BranchInfo { made: true, ..self.info(id)? })
    }

    pub(super) fn reuse(
        &self,
        id: BranchId,
        wanted: &Wanted<'_>,
        checked: Option<base_check::Checked>,
        reuse: bool,
    ) -> Result<BranchInfo, Failure> {
        let name = wanted.name;
        if !reuse {
            return Err(refuse(ErrorCode::Exists, format!("branch {name} exists"))
                .hint("choose another name, or use the branch as it is")
                .done());
        }
        let info = self.info(id)?;
        let record = self.record(id)?;
        let fits = match (wanted.from, &checked) {
            (Some(source), _) => {
                let source = self.record(self.source(source)?.0)?;
                (source.base, source.root) == (record.base, record.root)
            }
            (None, Some(checked)) => self.base_of(&record)?.is_some_and(|base| checked.is(&base)),
            (None, None) => record.base.is_none(),
        };
        if !fits {
            let shown = info.base.as_deref().map_or_else(|| "no base".into(), |b| format!("the base {}", b.display()));
            return Err(refuse(
                ErrorCode::Exists,
                format!("branch {name} exists and has {shown}, or had another directory there"),
            )
            .hint("choose another name for a branch of this base")
            .done());
        }
        // What there was to know was told when it was made.
        Ok(info)
    }

    /// The number of a base and of its root; one that is known is used again.
    pub(super) fn base_id(&self, base: &base_check::Checked, batch: &mut Batch) -> Result<(BaseId, ObjectId), Failure> {
        let known =
            self.scan(b'A', |key, value| Some((BaseId(keys::number(key, 0)?), BaseRecord::decode(value).ok()?)))?;
        if let Some((id, record)) = known.into_iter().find(|(_, record)| record.seal.is_none() && base.is(record)) {
            return Ok((id, record.root));
        }
        let record =
            BaseRecord { path: base.path.as_os_str().as_bytes().to_vec(), dev: base.dev, root: base.root, seal: None };
        // First, so that every daemon to come takes it along.
        let mut paths = self.core.base_paths();
        paths.push(base.path.clone());
        base_list::write(&self.store_dir, paths).map_err(|e| fail_store("write the list of bases", &e))?;
        let id = self.core.new_base().map_err(fail)?;
        batch.put(keys::base(id), record.encode());
        Ok((id, record.root))
    }

    fn base_of(&self, branch: &BranchRecord) -> Result<Option<BaseRecord>, Failure> {
        let bytes = branch.base.and_then(|base| self.core.store.get(&keys::base(base)));
        bytes.map(|bytes| BaseRecord::decode(&bytes).map_err(|e| fail(e.into()))).transpose()
    }

    fn empty_root(&self, root: ObjectId) -> ObjectRecord {
        let now = self.core.clock.now();
        ObjectRecord {
            mode: 0o755,
            uid: self.uid,
            gid: nix::unistd::getegid().as_raw(),
            nlink: 2,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            own_times: true,
            body: Body::Directory { parent: root, name: Vec::new() },
        }
    }

    fn start_from(&self, source: &str) -> Result<Start, Failure> {
        let (branch, epoch) = self.source(source)?;
        let epoch = match epoch {
            Some(epoch) => epoch,
            None => self.freeze(branch, |_, _| {})?,
        };
        let record = self.record(branch)?;
        let BranchRecord { base, frozen_base: frozen, root, quota, .. } = record;
        Ok(Start { base, sealed: None, frozen, root, from: Some((branch, epoch)), quota })
    }

    /// What `BRANCH`, `BRANCH@SNAPSHOT` or `SNAPSHOT` means; without an epoch it is a branch's head.
    pub(super) fn source(&self, text: &str) -> Result<(BranchId, Option<EpochId>), Failure> {
        if let Some((branch, snapshot)) = text.split_once('@') {
            let id = self.find(branch)?;
            return Ok((id, Some(self.snapshot(id, branch, snapshot)?.epoch)));
        }
        let known = lock(&self.names).get(text).copied();
        if let Some(id) = known {
            return Ok((id, None));
        }
        let mut found = Vec::new();
        for (id, record) in self.records()? {
            found.extend(
                self.snapshots_of(id)?
                    .into_iter()
                    .filter(|(name, _)| name == text)
                    .map(|(_, snapshot)| (id, snapshot.epoch, record.name.clone())),
            );
        }
        match found.as_slice() {
            [(id, epoch, _)] => Ok((*id, Some(*epoch))),
            [] => Err(refuse(ErrorCode::NotFound, format!("there is no branch or snapshot {text:?}"))
                .hint("`agentfs branch list` and `agentfs snapshot list` show them")
                .done()),
            several => {
                let list: Vec<_> = several.iter().map(|(_, _, branch)| format!("{branch}@{text}")).collect();
                Err(refuse(ErrorCode::Usage, format!("several branches have a snapshot {text}"))
                    .hint(format!("name one of {}", list.join(", ")))
                    .done())
            }
        }
    }
}
