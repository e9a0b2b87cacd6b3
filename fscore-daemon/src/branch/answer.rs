//! The answer to `diff`: which two states are compared, and what is told of each changed path.

use super::between::{Between, changed_between, facts};
use super::diff::{shown, word};
use super::facts::Data;
use super::info::{fail, fail_branch, refuse};
use super::paths::{Tree, join};
use super::{Branches, between::Delta};
use crate::content::Contents;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::view::View;
use shm_transport::control::{Change, ChangeKind, Diff, ErrorCode, Failure, LINE_MAX, Source, escape::escape};
use shm_transport::wire::FileKind;

/// What names the base of the other state.
const BASE: &str = "@base";
/// Room for the changes in one answer line, in bytes.
pub(super) const ANSWER_MAX: usize = LINE_MAX / 10 * 9;
/// A branch in use may change under a comparison, which then begins again.
const TRIES: usize = 4;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The new state.
    pub(super) of: &'a str,
    /// The old one; the base of the new one where it is not named.
    pub(super) against: Option<&'a str>,
    pub(super) limit: u32,
    pub(super) skip: u64,
    /// Tell where the bytes are.
    pub(super) sources: bool,
}

impl Branches {
    /// The changes from one state to another.
    pub(super) fn diff(&self, asked: &Asked<'_>) -> Result<Diff, Failure> {
        let mut last = FsError::Stale;
        for _ in 0..TRIES {
            // Not held: a comparison takes long, and freezing must not wait for it.
            let (old, new) = self.states(asked)?;
            let run = || {
                let changed = changed_between(&old, &new)?;
                let mut between = Between::run(&old, &new, &self.core.contents, &changed)?;
                answer(&mut between, &self.core.contents, asked)
            };
            match run() {
                Ok(diff) => return Ok(diff),
                Err(e @ (FsError::Damaged(_) | FsError::Store(_))) => return Err(fail_branch(asked.of, e)),
                Err(e) => last = e,
            }
        }
        Err(fail_branch(asked.of, last))
    }

    /// The old and the new state.
    fn states(&self, asked: &Asked<'_>) -> Result<(View, View), Failure> {
        let against = asked.against.unwrap_or(BASE);
        let (old, new) = match (against, asked.of) {
            (BASE, BASE) => {
                return Err(refuse(ErrorCode::Usage, "the base is compared with itself")
                    .hint(format!("{BASE} is the base of the other state: agentfs diff {BASE} BRANCH"))
                    .done());
            }
            (BASE, of) => {
                let new = self.state(of)?;
                (base_of(&new)?, new)
            }
            (against, BASE) => {
                let old = self.state(against)?;
                let base = base_of(&old)?;
                (old, base)
            }
            (against, of) => (self.state(against)?, self.state(of)?),
        };
        let base = |view: &View| view.base.as_ref().map(|base| base.id);
        if old.root != new.root || base(&old) != base(&new) {
            let message = format!("{against} and {} are not of one base, nor one made from the other", asked.of);
            return Err(refuse(ErrorCode::Usage, message).hint("mount both and compare the directories").done());
        }
        Ok((old, new))
    }

    /// What `BRANCH`, `BRANCH@SNAPSHOT` or `SNAPSHOT` shows.
    pub(super) fn state(&self, text: &str) -> Result<View, Failure> {
        let (branch, epoch) = self.source(text)?;
        match epoch {
            Some(epoch) => self.core.view_at(branch, epoch).map_err(fail),
            None => Ok(self.loaded(branch)?.view().clone()),
        }
    }
}

/// The state without any change.
fn base_of(view: &View) -> Result<View, Failure> {
    let chain = view.ground().map_err(fail)?.into();
    Ok(View { chain, ..view.clone() })
}

/// Counts, and the changes asked for.
pub(super) fn answer(between: &mut Between<'_>, contents: &Contents, asked: &Asked<'_>) -> FsResult<Diff> {
    let mut diff = Diff::default();
    let mut room = ANSWER_MAX;
    let mut full = false;
    let deltas = std::mem::take(&mut between.deltas);
    for (n, ((path, _), delta)) in deltas.iter().enumerate() {
        *match delta.kind {
            ChangeKind::Added => &mut diff.added,
            ChangeKind::Modified => &mut diff.modified,
            ChangeKind::Deleted => &mut diff.deleted,
            ChangeKind::Retyped => &mut diff.retyped,
            ChangeKind::Renamed => &mut diff.renamed,
        } += 1;
        if full || (n as u64) < asked.skip || diff.changes.len() as u64 >= u64::from(asked.limit) {
            continue;
        }
        let change = told(between, contents, path, delta, asked.sources)?;
        let length = serde_json::to_string(&change).map_or(ANSWER_MAX, |text| text.len() + 1);
        full = length > room;
        if !full {
            room -= length;
            diff.changes.push(change);
        }
    }
    Ok(diff)
}

fn told(between: &mut Between<'_>, contents: &Contents, path: &[u8], delta: &Delta, sources: bool) -> FsResult<Change> {
    let mut side = |new: bool, object: Option<ObjectId>| match object.filter(|_| sources) {
        Some(object) => source(if new { &mut between.new } else { &mut between.old }, contents, object),
        None => Ok(None),
    };
    Ok(Change {
        path: shown(path),
        kind: delta.kind,
        object: word(delta.object).into(),
        metadata_only: delta.metadata_only,
        size: delta.size,
        from: delta.from.as_deref().map(escape),
        edited: delta.edited,
        old: side(false, delta.old)?,
        new: side(true, delta.new)?,
    })
}

/// Where the bytes of a file are, or what a link says.
fn source(tree: &mut Tree<'_>, contents: &Contents, object: ObjectId) -> FsResult<Option<Source>> {
    let Some(facts) = facts(tree, contents, object)? else { return Ok(None) };
    let mode = facts.kind.mode_bits() | facts.mode;
    let (path, target) = match facts.data {
        Data::Content(id) => (Some(escape(contents.path(id).as_os_str().as_encoded_bytes())), None),
        Data::Base(object) => match host_path(tree, object)? {
            Some(path) => (Some(path), None),
            None => return Ok(None),
        },
        Data::Symlink(target) => (None, Some(escape(&target))),
        Data::Directory | Data::Hole | Data::Special(_) => (None, None),
    };
    let size = if facts.kind == FileKind::Regular { facts.size } else { 0 };
    Ok(Some(Source { mode, size, path, target }))
}

/// Where the host has a base object.
fn host_path(tree: &mut Tree<'_>, object: ObjectId) -> FsResult<Option<String>> {
    let Some(base) = tree.view.base.clone() else { return Ok(None) };
    if let Some(copy) = base.copy_of(object) {
        return Ok(Some(escape(copy.as_os_str().as_encoded_bytes())));
    }
    for (dir, name) in tree.locators(object) {
        if tree.base_child(dir, &name)?.is_some_and(|stat| stat.object == object)
            && let Some(above) = tree.base_directory(dir)?
        {
            return Ok(Some(escape(&join(&base.record.path, &join(&above, &name)))));
        }
    }
    Ok(None)
}
