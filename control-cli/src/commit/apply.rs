//! Putting what is staged into place. Every effect is one rename or one mark; doing it again after a
//! crash does what is left.
//!
//! Order: early removals; every moved object is taken out of the base; the steps one after the other;
//! attributes of directories and of what keeps its content, deepest first.

use super::expect;
use super::fault;
use super::path::RelPath;
use super::plan::{Meta, Step};
use super::tree::{self, Tree};
use super::work::{At, Wanted, Work, absent_name, mark, new_name, old_name};
use super::{attributes, journal::Journal};
use crate::error::{Doing, Result};
use rustix::ffi::CStr;
use rustix::fs::AtFlags;
use shm_transport::control::PlanStep;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// From so many directories on, one sync of the whole file system is cheaper than one for each.
const SYNC_EACH_MAX: usize = 256;

/// Does what is left of the commit; durable on return.
pub(super) fn apply(work: &Work, journal: &Journal, mut tick: impl FnMut(usize)) -> Result<()> {
    let placed = work.staged(mark::PLACED).doing(|| "read the staging directory".into())?;
    if !placed {
        for &n in &work.early {
            remove(work, n)?;
        }
        take_moved(work)?;
        for (n, step) in work.plan.steps.iter().enumerate() {
            do_step(work, n, step)?;
            tick(n);
        }
        point().and_then(|()| work.mark(mark::PLACED)).doing(|| "write the staging directory".into())?;
    }
    set_attributes(work, journal)?;
    point().and_then(|()| sync(work)).doing(|| "sync the base".into())
}

fn point() -> io::Result<()> {
    fault::point()
}

fn do_step(work: &Work, n: usize, step: &Step) -> Result<()> {
    match step {
        Step::Remove { .. } if work.early.contains(&n) => Ok(()),
        Step::Remove { .. } => remove(work, n),
        Step::Move { path, .. } => place(work, n, path).at("move something to", path),
        Step::Make { path, .. } => place(work, n, path).at("put into place", path),
        Step::Link { target, path } => {
            prepare_link(work, n, target).and_then(|()| place(work, n, path)).at("link", path)
        }
        Step::Attributes { .. } => Ok(()),
    }
}

/// Takes away what is at a removal's path. That nothing was there is marked too: something that a later
/// step puts there must not be taken for it.
fn remove(work: &Work, n: usize) -> Result<()> {
    let Some(path) = work.plan.steps.get(n).map(Step::path) else { return Ok(()) };
    let was = work.plan.expected(n).was;
    let run = || {
        let (old, absent) = (old_name(n), absent_name(n));
        if work.staged(&absent)? {
            return Ok(());
        }
        if !work.staged(&old)? {
            let taken = work
                .base
                .parent(path)
                .and_then(|(dir, name)| expect::take(work, (dir.as_fd(), &name), &old, was.as_ref()));
            match taken {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return point().and_then(|()| work.mark(&absent)),
                other => other?,
            }
        }
        expect::check_taken(work, &old, was.as_ref())
    };
    run().at("remove", path)
}

fn take_moved(work: &Work) -> Result<()> {
    if work.staged(mark::TAKEN).doing(|| "read the staging directory".into())? {
        return Ok(());
    }
    for (n, source) in &work.moves {
        let new = new_name(*n);
        let run = || {
            let moved = work.plan.expected(*n).moved;
            if !work.staged(&new)? {
                let (dir, name) = work.source(source)?;
                expect::take(work, (dir.as_fd(), &name), &new, moved.as_ref())?;
            }
            // What is in a moved directory goes with it.
            let stat = expect::look(work.stage(), &new)?.ok_or(io::ErrorKind::NotFound)?;
            expect::check(&stat, moved.as_ref())
        };
        let Some(Step::Move { from, .. }) = work.plan.steps.get(*n) else { continue };
        run().at("move", from)?;
    }
    point().and_then(|()| work.mark(mark::TAKEN)).doing(|| "write the staging directory".into())
}

/// Puts the staged object where nothing should be. `false`: there is something, or it was done before; [`place`] tells.
fn place_free(work: &Work, n: usize, path: &RelPath) -> io::Result<bool> {
    let Ok((dir, name)) = work.base.parent(path) else { return Ok(false) };
    point()?;
    match tree::shift(work.stage(), &new_name(n), dir.as_fd(), &name) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes away what is at `path` and puts the staged object there. The staged object is there as long as
/// that is not done.
fn place(work: &Work, n: usize, path: &RelPath) -> io::Result<()> {
    if work.plan.expected(n).was.is_none() && place_free(work, n, path)? {
        return Ok(());
    }
    let (new, old) = (new_name(n), old_name(n));
    if !work.staged(&new)? {
        return Ok(());
    }
    let (dir, name) = work.base.parent(path)?;
    let was = work.plan.expected(n).was;
    if !work.staged(&old)? && tree::exists(dir.as_fd(), &name)? {
        expect::take(work, (dir.as_fd(), &name), &old, was.as_ref())?;
    }
    if work.staged(&old)? {
        expect::check_taken(work, &old, was.as_ref())?;
    }
    point()?;
    match tree::shift(work.stage(), &new, dir.as_fd(), &name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(expect::changed("something was put there")),
        other => other,
    }
}

/// Replaces the staged place of a link by a link to its target.
fn prepare_link(work: &Work, n: usize, target: &RelPath) -> io::Result<()> {
    const FRESH: &CStr = c"fresh-link";
    let new = new_name(n);
    let Some(staged) = tree::identity(work.stage(), &new)? else { return Ok(()) };
    let (dir, name) = work.base.parent(target)?;
    let Some(wanted) = tree::identity(dir.as_fd(), &name)? else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {target} to link to")));
    };
    if staged == wanted {
        return Ok(());
    }
    if work.staged(FRESH)? {
        rustix::fs::unlinkat(work.stage(), FRESH, AtFlags::empty())?;
    }
    point()?;
    rustix::fs::linkat(&dir, &name, work.stage(), FRESH, AtFlags::empty())?;
    point()?;
    Ok(rustix::fs::renameat(work.stage(), FRESH, work.stage(), &new)?)
}

fn set_attributes(work: &Work, journal: &Journal) -> Result<()> {
    if work.staged(mark::SAVED).doing(|| "read the staging directory".into())? {
        open_up(&work.base, work.attributes().into_iter().map(|(path, ..)| path))?;
    } else {
        journal.save_attributes(&read_attributes(work)?)?;
        point().and_then(|()| work.mark(mark::SAVED)).doing(|| "write the staging directory".into())?;
    }
    for (path, meta, wanted) in work.attributes() {
        point().and_then(|()| write_attributes(&work.base, path, meta, wanted)).at("set the attributes of", path)?;
    }
    Ok(())
}

/// What the objects have now whose attributes will change.
fn read_attributes(work: &Work) -> Result<Vec<PlanStep>> {
    let mut old = Vec::new();
    for (n, step) in work.plan.steps.iter().enumerate() {
        let Step::Attributes { path, .. } = step else { continue };
        let was = work.plan.expected(n).was;
        let read = |dir: BorrowedFd<'_>, name: &CStr| {
            let object = attributes::open(dir, name)?;
            expect::check(&rustix::fs::fstat(&object)?, was.as_ref())?;
            attributes::read(object.as_fd())
        };
        let meta = on(&work.base, path, read).at("read the attributes of", path)?;
        let path = shm_transport::control::escape::escape(path.bytes());
        old.push(PlanStep::Attributes { path, meta: meta.to_plan(), was });
    }
    Ok(old)
}

/// Sets the attributes of an object in the base, if it is the one that is meant.
pub(super) fn write_attributes(base: &Tree, path: &RelPath, meta: &Meta, wanted: Wanted) -> io::Result<()> {
    on(base, path, |dir, name| {
        let object = attributes::open(dir, name)?;
        let stat = rustix::fs::fstat(&object)?;
        let found = match wanted {
            Wanted::Object(ino) => stat.st_ino == ino,
            Wanted::NewDirectory => {
                let mine = [rustix::process::geteuid().as_raw(), meta.uid].contains(&stat.st_uid);
                mine && rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()
            }
        };
        if !found {
            return Err(expect::changed("something else was put there"));
        }
        attributes::write(attributes::Object::Found(object.as_fd()), meta)
    })
}

/// Gives the owner back access to directories whose attributes were set before an interruption,
/// outermost first, so that what is in them can be reached.
pub(super) fn open_up<'a>(base: &Tree, paths: impl Iterator<Item = &'a RelPath>) -> Result<()> {
    let mut paths: Vec<_> = paths.collect();
    paths.sort_by_key(|path| path.depth());
    for path in paths {
        match on(base, path, tree::make_accessible) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).at("open", path),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn on<T>(base: &Tree, path: &RelPath, act: impl FnOnce(BorrowedFd<'_>, &CStr) -> io::Result<T>) -> io::Result<T> {
    if path.is_root() {
        return act(base.as_fd(), c".");
    }
    let (dir, name) = base.parent(path)?;
    act(dir.as_fd(), &name)
}

/// Makes every change of the base durable.
pub(super) fn sync(work: &Work) -> io::Result<()> {
    let mut directories: BTreeSet<RelPath> = BTreeSet::from([RelPath::root()]);
    for step in &work.plan.steps {
        directories.extend(step.path().split().map(|(dir, _)| dir));
        if let Step::Move { from, .. } = step {
            directories.extend(from.split().map(|(dir, _)| dir));
        }
    }
    let changed = work.plan.steps.iter().any(|s| matches!(s, Step::Attributes { .. }));
    if directories.len() > SYNC_EACH_MAX || changed {
        return Ok(rustix::fs::syncfs(work.base.open(&RelPath::root())?)?);
    }
    for path in directories {
        match work.base.open(&path) {
            Ok(dir) => rustix::fs::fsync(dir)?,
            // The directory of something removed may be gone itself, or not be readable for us.
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => {}
            // Behind a mount, where no step was done.
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(rustix::fs::syncfs(work.base.open(&RelPath::root())?)?);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
