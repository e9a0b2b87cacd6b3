//! Taking a commit back that could not be done whole: [`super::apply`] backwards. It, too, can be
//! interrupted and done again.

use super::expect::{self, Ours};
use super::path::RelPath;
use super::plan::{Body, Step};
use super::tree;
use super::work::{At, Wanted, Work, absent_name, mark, new_name, old_name};
use super::{apply, fault, journal::Journal};
use crate::error::{Doing, Result};
use std::io;
use std::os::fd::AsFd;

/// Takes back what was done; durable on return.
pub(super) fn undo(work: &Work, journal: &Journal) -> Result<()> {
    restore_attributes(work, journal)?;
    let staging = || "read the staging directory".to_owned();
    if work.staged(mark::TAKEN).doing(staging)? {
        for (n, step) in work.plan.steps.iter().enumerate().rev() {
            let path = step.path();
            match step {
                Step::Remove { .. } if work.early.contains(&n) => {}
                Step::Remove { .. } => put_back(work, n, path).at("put back", path)?,
                Step::Move { .. } | Step::Make { .. } | Step::Link { .. } => {
                    withdraw(work, n, step).and_then(|()| put_back(work, n, path)).at("put back", path)?;
                }
                Step::Attributes { .. } => {}
            }
        }
        // From here on a missing staged object no longer means that it was put into place.
        fault::point().and_then(|()| work.unmark(mark::TAKEN)).doing(staging)?;
    }
    for (n, source) in work.moves.iter().rev() {
        let Some(Step::Move { from, .. }) = work.plan.steps.get(*n) else { continue };
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
        if let Some(step) = work.plan.steps.get(n) {
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
    let saved = journal.saved_attributes()?;
    // New directories too: what was put into them is taken out again.
    apply::open_up(&work.base, work.attributes().into_iter().map(|(path, ..)| path))?;
    let mut order: Vec<_> = saved.steps.iter().zip(&saved.expected).collect();
    order.sort_by_key(|(step, _)| std::cmp::Reverse(step.path().depth()));
    for (step, expected) in order {
        let (Step::Attributes { path, meta }, Some(was)) = (step, expected.was) else { continue };
        let wanted = Wanted::Object(was.ino);
        match fault::point().and_then(|()| apply::write_attributes(&work.base, path, meta, wanted)) {
            // Somebody put another object there, which has attributes of its own.
            Err(e) if expect::is_changed(&e) || e.kind() == io::ErrorKind::NotFound => {}
            other => other.at("restore the attributes of", path)?,
        }
    }
    fault::point().and_then(|()| work.unmark(mark::SAVED)).doing(staging)
}

/// Takes what a step put into place back into staging. What somebody else has put there since stays.
fn withdraw(work: &Work, n: usize, step: &Step) -> io::Result<()> {
    let new = new_name(n);
    if work.staged(&new)? {
        return Ok(());
    }
    let expected = work.plan.expected(n);
    let ours = match step {
        Step::Make { body: Body::Directory, .. } => Ours::Directory,
        Step::Make { meta, .. } => Ours::Made(meta),
        Step::Move { .. } => Ours::Moved(&expected),
        Step::Link { target, .. } => Ours::Link(target),
        Step::Remove { .. } | Step::Attributes { .. } => return Ok(()),
    };
    let (dir, name) = work.base.parent(step.path())?;
    if !tree::exists(dir.as_fd(), &name)? {
        return Ok(());
    }
    let refuse = || {
        let kept = if work.staged(&old_name(n)).unwrap_or(true) {
            format!(
                "; what was there before is kept as {} in the commit's own directory",
                old_name(n).to_string_lossy()
            )
        } else {
            String::new()
        };
        expect::changed(format!("something else stands there now: move it away{kept}"))
    };
    if !expect::is_ours(work, dir.as_fd(), &name, &ours)? {
        return Err(refuse());
    }
    fault::point()?;
    tree::shift(dir.as_fd(), &name, work.stage(), &new)?;
    if expect::is_ours(work, work.stage(), &new, &ours)? {
        return Ok(());
    }
    tree::shift(work.stage(), &new, dir.as_fd(), &name)?;
    Err(refuse())
}

/// Puts what a step took away back.
fn put_back(work: &Work, n: usize, path: &RelPath) -> io::Result<()> {
    let old = old_name(n);
    if work.staged(&old)? {
        fault::point()?;
        let (dir, name) = work.base.parent(path)?;
        match tree::shift(work.stage(), &old, dir.as_fd(), &name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(expect::changed("something else stands there now: move it away"));
            }
            other => other?,
        }
    }
    work.unmark(&absent_name(n))
}
