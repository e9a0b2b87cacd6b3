//! Making everything new in the staging directory, complete and durable.

use super::fault;
use super::plan::{Body, Meta, Step};
use super::work::{At, Work, new_name};
use super::{attributes, store::Contents};
use crate::error::{Doing, Result};
use rustix::ffi::CStr;
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// From so many new files on, one sync of the whole file system is cheaper than one for each.
const SYNC_EACH_MAX: usize = 256;
const CHUNK: usize = 1 << 20;
/// Up to this size a file without holes is read and written at once.
const SMALL: u64 = 64 << 10;
/// A file of this size has no hole that anybody would miss.
const BLOCK: u64 = 4096;

/// How bytes come from the store into the base.
struct Copying {
    /// The two may share extents: nothing has said otherwise.
    clones: bool,
    buffer: Vec<u8>,
}

/// Makes every new object; durable on return. `tick` is called once for each step.
pub(super) fn stage(work: &Work, contents: &Contents, mut tick: impl FnMut(usize)) -> Result<()> {
    let files = work.plan.steps.iter().filter(|s| matches!(s, Step::Make { body: Body::File { .. }, .. })).count();
    let each = files <= SYNC_EACH_MAX;
    let mut copying = Copying { clones: true, buffer: Vec::new() };
    for (n, step) in work.plan.steps.iter().enumerate() {
        match step {
            Step::Make { path, meta, body } => {
                let mut make = || make(work.stage(), n, (meta, body), contents, &mut copying, each);
                fault::point().and_then(|()| make()).at("stage", path)?;
            }
            // The place of the link: that it exists says that the step is not done.
            Step::Link { path, .. } => {
                fault::point().and_then(|()| create(work.stage(), &new_name(n)).map(drop)).at("stage", path)?;
            }
            Step::Remove { .. } | Step::Move { .. } | Step::Attributes { .. } => {}
        }
        tick(n);
    }
    let sync = || {
        if each {
            rustix::fs::fsync(work.staging.open(&super::path::RelPath::root())?)?;
            Ok(rustix::fs::fsync(work.base.open(&super::path::RelPath::root())?)?)
        } else {
            Ok::<_, io::Error>(rustix::fs::syncfs(work.staging.open(&super::path::RelPath::root())?)?)
        }
    };
    sync().doing(|| "sync what is staged".into())?;
    fault::point().doing(|| "stage".into())
}

fn create(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?)
}

fn make(
    stage: BorrowedFd<'_>,
    n: usize,
    (meta, body): (&Meta, &Body),
    contents: &Contents,
    copying: &mut Copying,
    sync: bool,
) -> io::Result<()> {
    let name = new_name(n);
    match body {
        // Accessible until all is in it; its attributes come last.
        Body::Directory => return Ok(rustix::fs::mkdirat(stage, &name, Mode::from_raw_mode(0o700))?),
        Body::File { content, size } => {
            let file = create(stage, &name)?;
            if let Some(content) = content {
                copying.copy(contents.open(content)?.as_fd(), file.as_fd(), *size)?;
            } else {
                rustix::fs::ftruncate(&file, *size)?;
            }
            attributes::write(attributes::Object::Open(file.as_fd()), meta)?;
            if sync {
                rustix::fs::fsync(&file)?;
            }
            return Ok(());
        }
        Body::Symlink { target } => rustix::fs::symlinkat(target, stage, &name)?,
        Body::Special { rdev } => {
            let kind = FileType::from_raw_mode(meta.mode);
            if !matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the plan gives it a wrong mode"));
            }
            rustix::fs::mknodat(stage, &name, kind, Mode::from_raw_mode(0o600), device(*rdev))?;
        }
    }
    attributes::write_at(stage, &name, meta)
}

/// From the kernel's 32-bit encoding: 12 bits of major between 8 and 12 bits of minor.
fn device(rdev: u32) -> u64 {
    rustix::fs::makedev((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xfff00))
}

impl Copying {
    /// Copies a content file: shared extents where the file system can, else its data without its holes.
    fn copy(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<()> {
        if self.clone(from, to) {
            return Ok(rustix::fs::ftruncate(to, size)?);
        }
        if size <= SMALL && self.copy_small(from, to, size)? {
            return Ok(());
        }
        copy_data(from, to, size)
    }

    fn clone(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
        let cloned = self.clones.then(|| shm_transport::mem::sys::clone_file(from, to));
        if let Some(Err(e)) = &cloned {
            let never = [Errno::XDEV, Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY];
            self.clones = !Errno::from_io_error(e).is_some_and(|errno| never.contains(&errno));
        }
        matches!(cloned, Some(Ok(())))
    }

    /// `false` for a file with holes, and for one that is shorter than it should be.
    fn copy_small(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<bool> {
        let stat = rustix::fs::fstat(from)?;
        if u64::try_from(stat.st_size) != Ok(size) || size > BLOCK && (stat.st_blocks as u64).saturating_mul(512) < size
        {
            return Ok(false);
        }
        self.buffer.resize(size as usize, 0);
        let mut done = 0;
        while let Some(rest) = self.buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut *rest, done as u64))? {
                0 => return Ok(false),
                length => done += length,
            }
        }
        let mut done = 0;
        while let Some(rest) = self.buffer.get(done..).filter(|rest| !rest.is_empty()) {
            done += rustix::io::retry_on_intr(|| rustix::io::pwrite(to, rest, done as u64))?;
        }
        Ok(true)
    }
}

/// Copies the data of a file without its holes.
pub(crate) fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) if data < size => data,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(size);
        copy_range(from, to, data, at)?;
    }
    Ok(rustix::fs::ftruncate(to, size)?)
}

fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, begin: u64, end: u64) -> io::Result<()> {
    // Space for the whole run at once; where that cannot be asked for, writing tells.
    if let Err(e @ (Errno::NOSPC | Errno::DQUOT)) =
        rustix::fs::fallocate(to, FallocateFlags::empty(), begin, end - begin)
    {
        return Err(e.into());
    }
    let (mut read_at, mut write_at) = (begin, begin);
    let mut buffer = Vec::new();
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        if buffer.is_empty() {
            match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => continue,
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => buffer = vec![0; CHUNK],
                Err(e) => return Err(e.into()),
            }
        }
        let piece = buffer.get_mut(..left.min(CHUNK)).unwrap_or_default();
        let length = match rustix::io::pread(from, piece, read_at) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(to, rest, write_at))?;
            write_at += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
        read_at += length as u64;
    }
    Ok(())
}
