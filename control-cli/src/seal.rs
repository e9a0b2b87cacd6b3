//! Branches of a copy of their base. The copy is made here, with the caller's rights, while the branch does not exist yet.
//!
//! ```text
//! seal   a copy in the store, and the branch of it
//! tree   what a directory has in it
//! copy   bytes, until they and what is said of them are of one moment
//! ```
//!
//! The directory of a copy is locked from the beginning until there is the branch. One that nobody holds, and of which no
//! branch was made, is a leftover: the daemon removes it.

mod copy;
#[cfg(test)]
mod tests;
mod tree;

use crate::args::materialize::Wanted;
use crate::context::{Context, Told};
use crate::error::{CliError, Doing, Kind, Result, kind_of};
use crate::output::{count, size};
use copy::Copying;
use rustix::fs::FlockOperation;
use serde::Serialize;
use shm_transport::control::client::Client;
use shm_transport::control::seal::{self, Seal};
use shm_transport::control::{BranchInfo, Command, Limits};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The branch that is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Branch<'a> {
    pub(crate) name: &'a str,
    pub(crate) base: &'a Path,
    pub(crate) frozen: bool,
    /// One that exists will do.
    pub(crate) reuse: bool,
    pub(crate) limits: Limits,
}

/// A branch, and what was copied for it.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    #[serde(flatten)]
    pub(crate) info: BranchInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    copied: Option<Copied>,
}

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Copied {
    files: u64,
    bytes: u64,
    /// All of them share their blocks with the original.
    cloned: bool,
    /// Why some or all do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_cloned: Option<String>,
    /// Files that changed meanwhile, where the copy is not of one moment for that.
    changed: u64,
    milliseconds: u64,
}

/// Makes a branch of a copy of its base, or takes the one that there is.
pub(crate) fn branch(context: &Context, client: &mut Client, branch: &Branch<'_>, wanted: &Wanted<'_>) -> Result<Made> {
    let command = |copy: Option<&str>| Command::BranchSeal {
        name: branch.name.to_owned(),
        base: branch.base.to_owned(),
        copy: copy.map(str::to_owned),
        frozen: branch.frozen,
        reuse: branch.reuse,
        limits: branch.limits,
    };
    if let Some(info) = context.seal_branch(client, &command(None))? {
        return Ok(Made { info, copied: None });
    }
    let store = client.status().told()?.store;
    let began = Instant::now();
    let copy = Copy::begin(&store)?;
    let copied = fill(context, &copy.dir, wanted);
    context.output.progress_end();
    let copied = Copied { milliseconds: began.elapsed().as_millis() as u64, ..copied? };
    // The daemon may have been replaced meanwhile.
    *client = context.reconnect()?;
    let mut info = match context.seal_branch(client, &command(Some(&copy.name))) {
        Ok(Some(info)) => info,
        Ok(None) => {
            return Err(CliError::new(Kind::Internal, "the daemon made no branch of the copy").hint("look at its log"));
        }
        Err(error) => {
            // It may have been made, and only the answer be lost. A copy that nobody needs the daemon removes.
            let there = context.reconnect().and_then(|mut client| client.branch_show(branch.name).told());
            if !matches!(there, Err(e) if e.kind == Kind::NotFound) {
                copy.keep();
            }
            return Err(error);
        }
    };
    if info.made {
        copy.keep();
    }
    if let Some(why) = &copied.not_cloned {
        info.warnings.push(format!("{} was copied, not cloned: {why}", wanted.base.display()));
    }
    if copied.changed > 0 {
        info.warnings.push(format!(
            "{} changed while {} was copied: each is whole, but they may not be of one moment",
            count(copied.changed, "path", "paths"),
            wanted.base.display()
        ));
    }
    let verb = if copied.cloned { "cloned" } else { "copied" };
    let (files, bytes) = (count(copied.files, "file", "files"), size(copied.bytes));
    let seconds = Duration::from_millis(copied.milliseconds).as_secs_f64();
    context.output.note(&format!("{verb} {files}, {bytes}, in {seconds:.1} s"));
    Ok(Made { info, copied: Some(copied) })
}

/// A copy that is being made. It goes when it is not kept.
#[derive(Debug)]
struct Copy {
    name: String,
    dir: PathBuf,
    kept: bool,
    /// Holds the lock.
    _open: File,
}

impl Copy {
    fn begin(store: &Path) -> Result<Self> {
        let home = seal::home(store);
        let doing = || format!("make a directory in {}", home.display());
        let mut make = DirBuilder::new();
        make.mode(0o700);
        make.recursive(true).create(&home).doing(doing)?;
        make.recursive(false);
        for n in 0_u32.. {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
            let name = format!("{now:x}-{n}");
            let dir = home.join(&name);
            match make.create(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.doing(doing)?,
            }
            let Ok(open) = File::open(&dir) else { continue };
            rustix::fs::flock(&open, FlockOperation::LockExclusive).doing(doing)?;
            // Before it was locked, it may have passed for a leftover.
            let ino = |meta: io::Result<std::fs::Metadata>| meta.map(|meta| meta.ino()).ok();
            if ino(open.metadata()) == ino(std::fs::symlink_metadata(&dir)) {
                return Ok(Self { name, dir, kept: false, _open: open });
            }
        }
        Err(CliError::new(Kind::Busy, "no directory for a copy stays in the store"))
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is a leftover for the daemon.
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// Copies a directory; durable on return.
fn fill(context: &Context, dir: &Path, wanted: &Wanted<'_>) -> Result<Copied> {
    let base = wanted.base;
    let failed = |(path, error): (PathBuf, io::Error)| {
        let at = base.join(path);
        let (at, store) = (at.display(), dir.parent().and_then(Path::parent).unwrap_or(dir).display());
        let kind = if kind_of(&error) == Kind::NoSpace { Kind::NoSpace } else { Kind::Base };
        let error = CliError::new(kind, format!("{at} cannot be copied into the store {store}: {error}"));
        error.hint(if kind == Kind::NoSpace {
            "free space on the store's file system, or use --materialize lazy, which takes none; nothing was kept"
        } else {
            "without --materialize the branch reads the directory as it is; nothing was kept"
        })
    };
    let in_store = |error| failed((PathBuf::new(), error));
    for low in 0..=0xff {
        let place = dir.join(seal::data(low));
        std::fs::create_dir_all(place.parent().unwrap_or(dir)).map_err(in_store)?;
    }
    let tree = tree::Root::open(base).map_err(in_store)?;
    let mut copying = Copying::new(&tree, dir, wanted.clone);
    copying.required = wanted.required;
    let mut shown = Instant::now();
    let entries = copying
        .run(&mut |done, of, bytes| {
            if done == 0 || shown.elapsed() > Duration::from_millis(100) {
                shown = Instant::now();
                context.output.bar(done, of, bytes);
            }
        })
        .map_err(|stop| match stop {
            copy::Stop::Failed(path, error) => failed((path, error)),
            copy::Stop::NotCloned(why) => {
                let store = dir.parent().and_then(Path::parent).unwrap_or(dir).display();
                let message = format!("{} cannot be cloned into the store {store}: {why}", base.display());
                CliError::new(Kind::Base, message).hint(
                    "keep the store on the base's file system (--store DIR), or leave --require-clone out: then it is copied",
                )
            }
        })?;
    let list = Seal { cloned: wanted.clone && copying.not_cloned.is_none(), entries };
    let info = list.info();
    finish(dir, &list).map_err(in_store)?;
    Ok(Copied {
        files: info.files,
        bytes: info.bytes,
        cloned: info.cloned,
        not_cloned: copying.not_cloned,
        changed: copying.changed,
        milliseconds: 0,
    })
}

fn finish(dir: &Path, list: &Seal) -> io::Result<()> {
    let file = seal::list(dir);
    std::fs::write(&file, list.encode())?;
    rustix::fs::syncfs(File::open(dir)?)?;
    File::open(file)?.sync_all()?;
    for above in dir.ancestors().take(3) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}
