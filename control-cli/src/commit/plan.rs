//! The plan as the daemon wrote it, checked and turned into bytes.

use super::path::RelPath;
use crate::error::{CliError, Doing, Kind, Result};
use rustix::ffi::CString;
use shm_transport::control::escape::{escape, unescape};
use shm_transport::control::{LINE_MAX, PlanBody, PlanMeta, PlanStep};
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
            if path.first().starts_with(super::STAGING_PREFIX.as_bytes()) {
                return Err(CliError::new(Kind::Denied, format!("{path} has a name that commits use for themselves"))
                    .hint("rename it on the branch"));
            }
            Ok(path)
        };
        Ok(match step {
            PlanStep::Remove { path } => Self::Remove { path: place(&path)? },
            PlanStep::Move { from, path } => Self::Move { from: place(&from)?, path: place(&path)? },
            PlanStep::Make { path, object } => Self::Make {
                path: place(&path)?,
                meta: Meta::parse(object.meta)?,
                body: match object.body {
                    PlanBody::Directory => Body::Directory,
                    PlanBody::File { content, size } => Body::File { content, size },
                    PlanBody::Symlink { target } => Body::Symlink { target: text(&target)? },
                    PlanBody::Special { rdev } => Body::Special { rdev },
                },
            },
            PlanStep::Link { target, path } => Self::Link { target: place(&target)?, path: place(&path)? },
            PlanStep::Attributes { path, meta } => {
                Self::Attributes { path: RelPath::parse(&path)?, meta: Meta::parse(meta)? }
            }
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

/// Reads the steps in a file, one a line.
pub(super) fn read(file: &Path) -> Result<Vec<Step>> {
    let doing = || format!("read {}", file.display());
    let mut lines = BufReader::new(std::fs::File::open(file).doing(doing)?);
    let mut steps = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut lines).take(LINE_MAX as u64).read_until(b'\n', &mut line).doing(doing)?;
        if length == 0 {
            return Ok(steps);
        }
        if line.pop() != Some(b'\n') {
            return Err(damaged(format!("line {} of {} has no end", steps.len() + 1, file.display())));
        }
        steps.push(Step::parse(serde_json::from_slice(&line).map_err(damaged)?)?);
    }
}
