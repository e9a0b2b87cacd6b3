//! The plan as the daemon wrote it, checked and turned into bytes.

use super::path::RelPath;
use crate::error::{CliError, Doing, Kind, Result};
use rustix::ffi::CString;
use rustix::fs::{FileType, Mode, OFlags};
use shm_transport::control::escape::{escape, unescape};
use shm_transport::control::{LINE_MAX, PlanBody, PlanMeta, PlanStep, PlanWas};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Attributes that an object shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    /// Kind and permission bits.
    pub(super) mode: u32,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Access time, seconds and nanoseconds.
    pub(super) atime: (i64, u32),
    /// Modification time, seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Extended attributes.
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
}

/// What a new object holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// A directory.
    Directory,
    /// The bytes of a content file.
    File { content: Option<PathBuf>, size: u64 },
    /// A symbolic link.
    Symlink { target: CString },
    /// FIFO, socket or device.
    Special { rdev: u32 },
}

/// What a step must find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// At its path; `None` where the name was free.
    pub(super) was: Option<PlanWas>,
    /// At the source of a move.
    pub(super) moved: Option<PlanWas>,
}

/// All of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The steps, in order.
    pub(super) steps: Vec<Step>,
    /// Of each step, what it must find.
    pub(super) expected: Vec<Expected>,
    /// By inode number, what may be in directories that are taken away.
    pub(super) inside: HashMap<u64, PlanWas>,
}

impl Plan {
    /// What the step of that number must find.
    pub(super) fn expected(&self, n: usize) -> Expected {
        self.expected.get(n).copied().unwrap_or_default()
    }

    fn add(&mut self, step: PlanStep) -> Result<()> {
        let expected = match &step {
            PlanStep::Inside { was } => {
                self.inside.insert(was.ino, *was);
                return Ok(());
            }
            PlanStep::Move { moved, was, .. } => Expected { was: *was, moved: *moved },
            PlanStep::Remove { was, .. }
            | PlanStep::Make { was, .. }
            | PlanStep::Link { was, .. }
            | PlanStep::Attributes { was, .. } => Expected { was: *was, moved: None },
            PlanStep::End { .. } => return Err(damaged("a line follows the last one")),
        };
        self.steps.push(Step::parse(step)?);
        self.expected.push(expected);
        Ok(())
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Take away what is at `path`.
    Remove { path: RelPath },
    /// Move what was at `from` before the commit.
    Move { from: RelPath, path: RelPath },
    /// Put something new at `path`.
    Make { path: RelPath, meta: Meta, body: Body },
    /// Give what is at `target` another name.
    Link { target: RelPath, path: RelPath },
    /// Change attributes only.
    Attributes { path: RelPath, meta: Meta },
}

impl Step {
    /// Where it acts.
    pub(super) fn path(&self) -> &RelPath {
        match self {
            Self::Remove { path }
            | Self::Move { path, .. }
            | Self::Make { path, .. }
            | Self::Link { path, .. }
            | Self::Attributes { path, .. } => path,
        }
    }

    fn parse(step: PlanStep) -> Result<Self> {
        let place = |text: &str| {
            let path = RelPath::parse(text)?;
            if path.is_root() {
                return Err(CliError::new(Kind::Store, "the commit plan replaces the base itself"));
            }
            if path.first().starts_with(shm_transport::control::STAGING_PREFIX.as_bytes()) {
                return Err(CliError::new(Kind::Denied, format!("{path} has a name that commits use for themselves"))
                    .hint("rename it on the branch"));
            }
            Ok(path)
        };
        Ok(match step {
            PlanStep::Remove { path, .. } => Self::Remove { path: place(&path)? },
            PlanStep::Move { from, path, .. } => Self::Move { from: place(&from)?, path: place(&path)? },
            PlanStep::Make { path, object, .. } => Self::Make {
                path: place(&path)?,
                meta: Meta::parse(object.meta)?,
                body: match object.body {
                    PlanBody::Directory => Body::Directory,
                    PlanBody::File { content, size } => Body::File { content, size },
                    PlanBody::Symlink { target } => Body::Symlink { target: text(&target)? },
                    PlanBody::Special { rdev } => Body::Special { rdev },
                },
            },
            PlanStep::Link { target, path, .. } => Self::Link { target: place(&target)?, path: place(&path)? },
            PlanStep::Attributes { path, meta, .. } => {
                Self::Attributes { path: RelPath::parse(&path)?, meta: Meta::parse(meta)? }
            }
            PlanStep::Inside { .. } | PlanStep::End { .. } => return Err(damaged("this is no step")),
        })
    }
}

impl Meta {
    fn parse(meta: PlanMeta) -> Result<Self> {
        let mut xattrs = Vec::with_capacity(meta.xattrs.len());
        for (name, value) in &meta.xattrs {
            xattrs.push((text(name)?, unescape(value).map_err(damaged)?));
        }
        let PlanMeta { mode, uid, gid, atime, mtime, .. } = meta;
        Ok(Self { mode, uid, gid, atime, mtime, xattrs })
    }

    /// As it stands in a plan.
    pub(super) fn to_plan(&self) -> PlanMeta {
        let Self { mode, uid, gid, atime, mtime, .. } = *self;
        let xattrs = self.xattrs.iter().map(|(n, v)| (escape(n.to_bytes()), escape(v))).collect();
        PlanMeta { mode, uid, gid, atime, mtime, xattrs }
    }
}

fn text(escaped: &str) -> Result<CString> {
    CString::new(unescape(escaped).map_err(damaged)?).map_err(damaged)
}

fn damaged(error: impl std::fmt::Display) -> CliError {
    CliError::new(Kind::Store, format!("the commit plan is damaged: {error}"))
}

/// Reads a plan, one step a line. The file must be the caller's own, and whole.
pub(super) fn read(file: &Path) -> Result<Plan> {
    let doing = || format!("read {}", file.display());
    let mut lines = BufReader::new(open(file)?);
    let mut plan = Plan::default();
    let mut line = Vec::new();
    let mut count = 0;
    loop {
        line.clear();
        let length = (&mut lines).take(LINE_MAX as u64).read_until(b'\n', &mut line).doing(doing)?;
        if length == 0 || line.pop() != Some(b'\n') {
            return Err(damaged(format!("{} breaks off after {count} lines", file.display())));
        }
        let step: PlanStep = serde_json::from_slice(&line).map_err(damaged)?;
        if let PlanStep::End { lines } = step {
            let whole = lines == count;
            return if whole { Ok(plan) } else { Err(damaged(format!("it has {count} of {lines} lines"))) };
        }
        plan.add(step)?;
        count += 1;
    }
}

/// The directory around it was checked to be in a store of the caller; but others may be let into it.
fn open(file: &Path) -> Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = rustix::fs::open(file, flags, Mode::empty()).doing(|| format!("read {}", file.display()))?;
    let stat = rustix::fs::fstat(&open).doing(|| format!("look at {}", file.display()))?;
    let me = rustix::process::geteuid().as_raw();
    if !FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_uid != me || stat.st_mode & 0o022 != 0 {
        return Err(CliError::new(
            Kind::Denied,
            format!("{} is not a file of yours that only you can write: it is not carried out", file.display()),
        )
        .hint("see who can write to the store; its directory should have mode 0700"));
    }
    Ok(open.into())
}
