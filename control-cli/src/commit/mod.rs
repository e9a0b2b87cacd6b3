//! Taking a branch's changes into its base directory, with the rights of the caller: all or nothing,
//! whenever it is interrupted.
//!
//! The daemon writes a plan; this module stages everything new in a directory of the base (so that only
//! renames within one file system are left to do), writes *staged* into the journal, and then carries the
//! steps out. From *staged* on a crash is followed by going forward; a step that cannot be done is
//! followed by taking back what was done. What is replaced or removed stays in the staging directory
//! until the journal says *applied*.
//!
//! **How a plan is read.** `from` of a move is a path in the base as it is before the commit. All other
//! paths are those of the tree as the steps before have left it, so that the children of a moved
//! directory are named by its new place; a removal that stands before the move of a directory around
//! it may name the old place. Attributes are set last, on final paths. A replaced directory is replaced
//! with all that is in it.
//!
//! Everything beneath the base is reached by descriptors of directories opened without following any
//! symbolic link.

mod apply;
mod attributes;
mod expect;
mod fault;
mod journal;
mod path;
mod plan;
mod removable;
mod root_time;
mod stage;
mod store;
mod tree;
mod undo;
mod work;

use crate::error::{CliError, Doing, Kind, Result};
use journal::{Journal, State};
use root_time::RootTime;
use rustix::ffi::CString;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use shm_transport::control::{CommitPlan, STAGING_PREFIX};
use shm_transport::mem::sys;
pub(crate) use stage::copy_data;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use store::Contents;
use tree::Tree;
use work::Work;

/// How the system says that there is no such directory: nothing, a symbolic link, another kind, or not for us.
const STAGING_NONE: [Errno; 5] = [Errno::NOENT, Errno::LOOP, Errno::NOTDIR, Errno::ACCESS, Errno::XDEV];

/// What became of a commit.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Everything was applied: tell the daemon that it is finished.
    Applied,
    /// Nothing is applied (any more), and why: tell the daemon that it is aborted.
    RolledBack(Option<CliError>),
    /// It could neither be finished nor taken back now: the next command tries again.
    Pending(CliError),
}

/// Carries a plan out, or what is left of it. `tick` is told the steps done and their number.
pub(crate) fn carry_out(plan: &CommitPlan, store: &Path, resume: bool, tick: &mut dyn FnMut(usize, usize)) -> Outcome {
    let mut commit = match Commit::open(plan, store) {
        Ok(commit) => commit,
        // Nothing is touched by opening; but a commit begun earlier may not be called taken back.
        Err(error) if resume => return Outcome::Pending(error),
        Err(error) => return Outcome::RolledBack(Some(error)),
    };
    commit.run(resume, tick)
}

struct Commit {
    base: Tree,
    contents: Contents,
    journal: Journal,
    staging: CString,
}

impl Commit {
    fn open(plan: &CommitPlan, store: &Path) -> Result<Self> {
        let contents = Contents::open_store(store)?;
        let dir = plan
            .journal
            .as_deref()
            .ok_or_else(|| CliError::new(Kind::Version, "the daemon named no journal for the commit"))?;
        if !contents.holds(dir) {
            return Err(CliError::new(Kind::Denied, format!("the journal {} is not in the store", dir.display())));
        }
        Ok(Self {
            base: Tree::new(open_base(&plan.base)?),
            contents,
            journal: Journal::new(dir),
            staging: staging_name(plan.id, dir)?,
        })
    }

    fn run(&mut self, resume: bool, tick: &mut dyn FnMut(usize, usize)) -> Outcome {
        let state = match if resume { self.journal.state() } else { Ok(State::Preparing) } {
            Ok(state) => state,
            Err(error) => return Outcome::Pending(error),
        };
        let result = match state {
            // It was interrupted before anything of the base was touched.
            State::Preparing if resume => self.clean(false).map(|()| Outcome::RolledBack(None)),
            State::Preparing => return self.begin(tick),
            State::Staged => self.forward(tick),
            State::Undoing => self.back(None),
            State::Undone => self.clean(true).map(|()| Outcome::RolledBack(None)),
            State::Applied => self.clean(true).map(|()| Outcome::Applied),
        };
        result.unwrap_or_else(Outcome::Pending)
    }

    /// A new commit.
    fn begin(&mut self, tick: &mut dyn FnMut(usize, usize)) -> Outcome {
        let staged = self.journal.plan().and_then(|plan| {
            let time = RootTime::around(&self.base, &plan, || self.make_staging())?;
            self.journal.set_root_time(time);
            let total = plan.steps.len() * 2;
            let work = self.work(plan)?;
            stage::stage(&work, &self.contents, |n| tick(n, total))
        });
        if let Err(error) = staged {
            return match self.clean(false) {
                Ok(()) => Outcome::RolledBack(Some(error)),
                Err(_) => Outcome::Pending(error),
            };
        }
        if let Err(error) = self.journal.set(State::Staged) {
            // It may stand there or not. What counts is that it does not when staging is gone.
            return self.back(Some(error)).unwrap_or_else(Outcome::Pending);
        }
        self.forward(tick).unwrap_or_else(Outcome::Pending)
    }

    fn forward(&mut self, tick: &mut dyn FnMut(usize, usize)) -> Result<Outcome> {
        let work = self.work(self.journal.plan()?)?;
        let total = work.plan.steps.len();
        if let Err(error) = apply::apply(&work, &self.journal, |n| tick(total + n, total * 2)) {
            return self.back(Some(error));
        }
        self.journal.set(State::Applied)?;
        self.clean(true)?;
        Ok(Outcome::Applied)
    }

    fn back(&mut self, why: Option<CliError>) -> Result<Outcome> {
        let run = || {
            self.journal.set(State::Undoing)?;
            undo::undo(&self.work(self.journal.plan()?)?, &self.journal)?;
            self.journal.set(State::Undone)?;
            self.clean(true)
        };
        match (run(), why) {
            (Ok(()), why) => Ok(Outcome::RolledBack(why)),
            (Err(error), None) => Err(error),
            (Err(error), Some(why)) => Err(CliError {
                message: format!("{}; and taking the commit back failed: {}", why.message, error.message),
                ..error
            }),
        }
    }

    /// Makes the staging directory. One of that name and of ours can only be what this commit left before.
    fn make_staging(&self) -> Result<()> {
        self.clean(false)?;
        let make = rustix::fs::mkdirat(&self.base, &self.staging, Mode::from_raw_mode(0o700));
        make.doing(|| format!("make the directory {} in the base", self.staging.to_string_lossy())).map_err(|e| {
            match make {
                Err(Errno::EXIST) => e.hint("somebody else made it: remove it, or run the commit again"),
                Err(Errno::ROFS) => {
                    e.hint("the file system of the base is mounted read-only: remount it, then commit again")
                }
                _ if e.kind == Kind::Denied => e.hint("you need write access to the base directory"),
                _ => e,
            }
        })
    }

    /// Opens the staging directory; `None` if there is none of ours. In a base in which others may write,
    /// theirs may stand there.
    fn open_staging(&self) -> std::io::Result<Option<OwnedFd>> {
        let flags = (OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32;
        let open = match sys::open_beneath(self.base.as_fd(), &self.staging, flags, 0) {
            Err(e) if Errno::from_io_error(&e).is_some_and(|e| STAGING_NONE.contains(&e)) => return Ok(None),
            other => other?,
        };
        let stat = rustix::fs::fstat(&open)?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o777 == 0o700;
        Ok(ours.then_some(open))
    }

    fn work(&self, plan: plan::Plan) -> Result<Work> {
        let name = self.staging.to_string_lossy();
        let staging = self.open_staging().doing(|| format!("open {name} in the base"))?.ok_or_else(|| {
            CliError::new(Kind::System, format!("the directory {name}, which this commit made in the base, is gone"))
        })?;
        let base =
            rustix::fs::openat(&self.base, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .doing(|| "open the base".into())?;
        let staging = Tree::new(staging);
        removable::close_again(&staging).doing(|| format!("give a directory in {name} its mode back"))?;
        Ok(Work::new(Tree::new(base), staging, plan))
    }

    /// Throws the staging directory away. `begun`: steps were done.
    fn clean(&self, begun: bool) -> Result<()> {
        let run = || {
            let Some(staging) = self.open_staging()? else { return Ok::<_, std::io::Error>(()) };
            fault::point()?;
            tree::empty(staging.as_fd())?;
            fault::point()?;
            let time = self.journal.root_time().filter(|time| time.is_ours(self.base.as_fd(), begun));
            match rustix::fs::unlinkat(&self.base, &self.staging, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            if let Some(time) = time {
                time.give_back(self.base.as_fd());
            }
            Ok(())
        };
        run().doing(|| format!("remove {}, the commit's own directory, from the base", self.staging.to_string_lossy()))
    }
}

/// Opens the base by a path without symbolic links; the daemon names it so.
fn open_base(base: &Path) -> Result<OwnedFd> {
    let open = || {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(rustix::fs::CWD, base, how, Mode::empty(), rustix::fs::ResolveFlags::NO_SYMLINKS)
    };
    open().map_err(|e| {
        CliError::new(Kind::Base, format!("cannot open the base directory {}: {e}", base.display()))
            .hint("make it available again, then run the commit again")
    })
}

/// Name of the staging directory: of this commit of this store, and of no other store's.
fn staging_name(id: u64, journal: &Path) -> Result<CString> {
    // FNV-1a: only meant to differ between stores.
    let hash = journal
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    CString::new(format!("{STAGING_PREFIX}{id}-{:08x}", hash as u32))
        .map_err(|_| CliError::new(Kind::Internal, "a number contains a NUL byte"))
}

#[cfg(test)]
mod tests;
