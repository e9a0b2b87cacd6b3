//! Names in a directory of a base.

use super::look::Look;
use super::{Base, BaseEntry, Host};
use crate::core::error::{FsError, FsResult, sys};
use crate::core::ids::ObjectId;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use shm_transport::control::STAGING_PREFIX;
use shm_transport::wire::{FileKind, Timestamp};
use std::os::fd::OwnedFd;

/// Object, kind, and birth time where the object was looked at.
type Seen = (ObjectId, FileKind, Timestamp);

/// What a visitor of a directory is given; it answers whether to go on.
pub(super) type Visit<'a> = dyn FnMut(&[u8], ObjectId, FileKind, Timestamp) -> bool + 'a;

impl Base {
    /// Every name in a directory, in the host's order. Imports nothing.
    pub fn list(&self, dir: ObjectId) -> FsResult<Vec<BaseEntry>> {
        let mut entries = Vec::new();
        self.each(dir, &mut |name, object, kind| {
            entries.push(BaseEntry { name: name.to_vec(), object, kind });
            true
        })?;
        Ok(entries)
    }

    /// Visits every name in a directory, until `visit` answers `false`.
    pub fn each(&self, dir: ObjectId, visit: &mut dyn FnMut(&[u8], ObjectId, FileKind) -> bool) -> FsResult<()> {
        if let Some(sealed) = &self.sealed {
            return sealed.each(dir, visit);
        }
        let fd = match self.directory(dir) {
            Ok(fd) => fd,
            Err(FsError::NotFound | FsError::Stale) => return Ok(()),
            Err(e) => return Err(e),
        };
        self.each_in(dir, &fd, &mut |name, object, kind, _| visit(name, object, kind))
    }

    /// The same by the directory's descriptor, with the birth time where the object was looked at.
    pub(super) fn each_in(&self, dir: ObjectId, parent: &OwnedFd, visit: &mut Visit<'_>) -> FsResult<()> {
        let within = self.look(parent)?;
        let fd = self.reopen(parent, OFlag::O_DIRECTORY).map_err(sys("open base directory"))?;
        let mut listing = Dir::from_fd(fd).map_err(sys("list base directory"))?;
        for entry in listing.iter() {
            let entry = entry.map_err(sys("list base directory"))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || self.is_staging(dir, name) {
                continue;
            }
            let kind = entry.file_type().map(kind_of);
            let told = kind.filter(|kind| match self.host {
                Host::Plain => true,
                Host::Subvolumes => *kind != FileKind::Directory,
                Host::Overlay => false,
            });
            let found = match told {
                Some(kind) => self.told(dir, name, &Look { ino: entry.ino(), kind, ..within }),
                None => Ok(None),
            };
            let found = match found {
                Ok(None) => self.seen(
                    dir,
                    parent,
                    name,
                    &Look { ino: entry.ino(), kind: kind.unwrap_or(within.kind), ..within },
                ),
                found => found,
            };
            match found {
                Ok(Some((object, kind, born))) if !visit(name, object, kind, born) => break,
                // What has no number cannot be shown.
                Ok(_) | Err(FsError::Overflow) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether a name is that of what a commit puts into the root for the time that it takes.
    pub(super) fn is_staging(&self, dir: ObjectId, name: &[u8]) -> bool {
        dir == self.root() && name.starts_with(STAGING_PREFIX.as_bytes())
    }

    /// What an entry stands for, as it says itself; `None` when only a look at the object can tell.
    fn told(&self, dir: ObjectId, name: &[u8], entry: &Look) -> FsResult<Option<Seen>> {
        let (object, claimed) = self.number_and_claim(dir, name, &entry.unborn())?;
        Ok((!claimed).then_some((object, entry.kind, Timestamp::default())))
    }

    /// What an entry stands for, by a look at the object; `None` when it is gone. Under a mount there is what
    /// the entry says.
    fn seen(&self, dir: ObjectId, parent: &OwnedFd, name: &[u8], entry: &Look) -> FsResult<Option<Seen>> {
        let look = match self.open_name(parent, name) {
            Ok(fd) => self.look(&fd)?,
            Err(Errno::EXDEV) => entry.unborn(),
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(sys("look at a base directory's entry")(e)),
        };
        Ok(Some((self.number(dir, name, &look)?, look.kind, look.born())))
    }
}

fn kind_of(t: nix::dir::Type) -> FileKind {
    use nix::dir::Type;
    match t {
        Type::Fifo => FileKind::Fifo,
        Type::CharacterDevice => FileKind::CharDevice,
        Type::Directory => FileKind::Directory,
        Type::BlockDevice => FileKind::BlockDevice,
        Type::File => FileKind::Regular,
        Type::Symlink => FileKind::Symlink,
        Type::Socket => FileKind::Socket,
    }
}
