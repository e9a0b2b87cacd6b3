//! The search for an object whose place is not known: the daemon was started again while a kernel held on
//! to the object, or the host moved it. Directories are read one after the other until it turns up.
//!
//! What is passed on the way is remembered, and the next search goes on where this one ended, so that all
//! searches after a start cost one walk of the base together.

use super::Base;
use crate::core::error::{FsError, FsResult};
use crate::core::ids::ObjectId;
use crate::core::nowait;
use crate::core::state::lock;
use shm_transport::wire::FileKind;
use std::time::{Duration, Instant};

/// After a walk that found nothing, this many times its length passes before the next one.
const REST: u32 = 10;
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(30);

/// How far the walk got.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Directories to be read.
    left: Vec<ObjectId>,
    /// When the last walk that found nothing ended, and how long it rests.
    fruitless: Option<(Instant, Duration)>,
}

impl Base {
    /// Looks for an object; afterwards its place is known, or `false`.
    pub(super) fn search(&self, wanted: ObjectId) -> FsResult<bool> {
        if nowait::is_active() {
            return Err(FsError::Io {
                what: "search the base",
                source: std::io::Error::from_raw_os_error(libc::EAGAIN),
            });
        }
        let mut walk = lock(&self.walk);
        if self.place(wanted).is_some() {
            // Somebody else's search passed it.
            return Ok(true);
        }
        if walk.fruitless.is_some_and(|(ended, rest)| ended.elapsed() < rest) {
            return Ok(false);
        }
        let began = Instant::now();
        if !walk.left.is_empty() && self.walk(&mut walk, wanted)? {
            return Ok(true);
        }
        // From the start: it may have come to where the walk had been.
        walk.left.push(self.root());
        if self.walk(&mut walk, wanted)? {
            return Ok(true);
        }
        walk.fruitless = Some((Instant::now(), (began.elapsed() * REST).min(REST_MAX)));
        Ok(false)
    }

    fn walk(&self, walk: &mut Walk, wanted: ObjectId) -> FsResult<bool> {
        let mut found = false;
        while !found && let Some(dir) = walk.left.pop() {
            let fd = match self.reach(dir) {
                Ok(Some(fd)) => fd,
                Ok(None) => continue,
                Err(e) => {
                    pass_by(e)?;
                    continue;
                }
            };
            let read = self.each_in(dir, &fd, &mut |name, object, kind, born| {
                if kind == FileKind::Directory {
                    walk.left.push(object);
                }
                if object != wanted {
                    lock(&self.places).seen(object, born, dir, name);
                } else if self.is_at(wanted, dir, &fd, name) {
                    lock(&self.places).seen(object, born, dir, name);
                    found = true;
                }
                true
            });
            if let Err(e) = read {
                pass_by(e)?;
            }
        }
        Ok(found)
    }
}

/// A directory that we may not read, or that went, holds nothing for us; other errors end a search.
fn pass_by(error: FsError) -> FsResult<()> {
    let errno = if let FsError::Io { source, .. } = &error { source.raw_os_error() } else { None };
    let passed = matches!(errno, Some(libc::EACCES | libc::EPERM | libc::ENOENT | libc::ENOTDIR));
    if passed { Ok(()) } else { Err(error) }
}
