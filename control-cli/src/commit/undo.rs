//! Taking a commit back that could not be done whole: [`super::apply`] backwards. It, too, can be
//! interrupted and done again.

use super::path::RelPath;
use super::plan::Step;
use super::tree;
use super::work::{At, Work, absent_name, mark, new_name, old_name};
use super::{apply, fault, journal::Journal};
use crate::error::{Doing, Result};
use std::io;
use std::os::fd::AsFd;

/// Takes back what was done; durable on return.
pub(super) fn undo(work: &Work, journal: &Journal) -> Result<()> {
    restore_attributes(work, journal)?;
    let staging = || "read the staging directory".to_owned();
    if work.staged(mark::TAKEN).doing(staging)? {
        for (n, step) in work.steps.iter().enumerate().rev() {
            let path = step.path();
            match step {
                Step::Remove { .. } if work.early.contains(&n) => {}
                Step::Remove { .. } => put_back(work, n, path).at("put back", path)?,
                Step::Move { .. } | Step::Make { .. } | Step::Link { .. } => {
                    withdraw(work, n, path).and_then(|()| put_back(work, n, path)).at("put back", path)?;
                }
                Step::Attributes { .. } => {}
            }
        }
        // From here on a missing staged object no longer means that it was put into place.
        fault::point().and_then(|()| work.unmark(mark::TAKEN)).doing(staging)?;
    }
    for (n, source) in work.moves.iter().rev() {
        let Some(Step::Move { from, .. }) = work.steps.get(*n) else { continue };
        let run = || {
            let new = new_name(*n);
            if !work.staged(&new)? {
                return Ok(());
            }
            fault::point()?;
            let (dir, name) = work.source(source)?;
            tree::shift(work.stage(), &new, dir.as_fd(), &name)
        };
        run().at("put back", from)?;
    }
    for &n in work.early.iter().rev() {
        if let Some(step) = work.steps.get(n) {
            put_back(work, n, step.path()).at("put back", step.path())?;
        }
    }
    fault::point().and_then(|()| apply::sync(work)).doing(|| "sync the base".into())
}

fn restore_attributes(work: &Work, journal: &Journal) -> Result<()> {
    let staging = || "read the staging directory".to_owned();
    if !work.staged(mark::SAVED).doing(staging)? {
        return Ok(());
    }
    let mut saved = journal.saved_attributes()?;
    // New directories too: what was put into them is taken out again.
    apply::open_up(&work.base, work.attributes().into_iter().map(|(path, _)| path))?;
    saved.sort_by_key(|step| std::cmp::Reverse(step.path().depth()));
    for step in &saved {
        let Step::Attributes { path, meta } = step else { continue };
        fault::point()
            .and_then(|()| apply::write_attributes(&work.base, path, meta))
            .at("restore the attributes of", path)?;
    }
    fault::point().and_then(|()| work.unmark(mark::SAVED)).doing(staging)
}

/// Takes what a step put into place back into staging.
fn withdraw(work: &Work, n: usize, path: &RelPath) -> io::Result<()> {
    let new = new_name(n);
    if work.staged(&new)? {
        return Ok(());
    }
    fault::point()?;
    let (dir, name) = work.base.parent(path)?;
    tree::shift(dir.as_fd(), &name, work.stage(), &new)
}

/// Puts what a step took away back.
fn put_back(work: &Work, n: usize, path: &RelPath) -> io::Result<()> {
    let old = old_name(n);
    if work.staged(&old)? {
        fault::point()?;
        let (dir, name) = work.base.parent(path)?;
        tree::shift(work.stage(), &old, dir.as_fd(), &name)?;
    }
    work.unmark(&absent_name(n))
}
