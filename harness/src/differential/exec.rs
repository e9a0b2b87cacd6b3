//! Running operations on one directory.

use super::view::{attributes, list, look};
use super::{HELD, NAMES, Op, Where};
use crate::sys::{self, Res, errno_name};
use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const XATTRS: [&str; 3] = ["user.one", "user.two", "trusted.three"];

/// Runs operations on one directory.
#[derive(Debug)]
pub struct Executor {
    root: PathBuf,
    held: [Option<File>; HELD],
    step: u64,
}

fn io<T>(result: std::io::Result<T>) -> Res<T> {
    result.map_err(|e| sys::of_io(&e))
}

fn bytes(data: &[u8]) -> String {
    format!("{} bytes {}", data.len(), &sys::sha256(data)[..12])
}

fn read(file: &File, at: u32, len: u16) -> Res<String> {
    let mut data = vec![0; len as usize];
    let mut filled = 0;
    while filled < data.len() {
        let n = io(file.read_at(&mut data[filled..], u64::from(at) + filled as u64))?;
        if n == 0 {
            break;
        }
        filled += n;
    }
    Ok(bytes(&data[..filled]))
}

/// As `cp -p` does it.
fn twin(from: &Path, to: &Path) -> Res<()> {
    let stat = sys::lstat(from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(sys::Errno::INVAL);
    }
    let data = io(std::fs::read(from))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
    io(sys::open(to, flags, 0o600)?.write_all(&data))?;
    sys::lchown(to, Some(stat.st_uid), Some(stat.st_gid))?;
    sys::chmod(to, stat.st_mode & 0o7777)?;
    for name in XATTRS {
        if let Ok(value) = sys::getxattr(from, name) {
            sys::setxattr(to, name, &value, XattrFlags::empty())?;
        }
    }
    let mtime = (stat.st_mtime, stat.st_mtime_nsec as i64);
    sys::utimens(to, mtime, mtime)
}

impl Executor {
    /// For one directory.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), held: [const { None }; HELD], step: 0 }
    }

    fn at(&self, path: &Where) -> PathBuf {
        path.iter().fold(self.root.clone(), |p, n| p.join(NAMES[n % NAMES.len()]))
    }

    /// Closes what is held.
    pub fn release(&mut self) {
        self.held = [const { None }; HELD];
    }

    /// Runs one operation; what it answered, and how the paths it named and their directories look
    /// after it.
    pub fn run(&mut self, op: &Op) -> String {
        self.step += 1;
        let mut text = match self.attempt(op) {
            Ok(answer) => answer,
            Err(e) => errno_name(e).to_owned(),
        };
        for path in op.paths() {
            text.push_str(&format!("\n    {} is {}", Self::show(path), look(&self.at(path))));
            if let Some((_, parent)) = path.split_last() {
                let parent = parent.to_vec();
                text.push_str(&format!("\n    {} is {}", Self::show(&parent), look(&self.at(&parent))));
            }
        }
        text
    }

    /// A path as text.
    pub fn show(path: &Where) -> String {
        format!("/{}", path.iter().map(|n| NAMES[n % NAMES.len()]).collect::<Vec<_>>().join("/"))
    }

    fn data(&self, len: u16) -> Vec<u8> {
        sys::pattern(self.step, len as usize)
    }

    fn held(&self, slot: usize) -> Res<&File> {
        self.held[slot % HELD].as_ref().ok_or(sys::Errno::BADF)
    }

    fn open(&self, path: &Where, flags: OFlags) -> Res<File> {
        // A FIFO would block without a peer.
        sys::open(&self.at(path), flags | OFlags::NONBLOCK, 0o644)
    }

    fn attempt(&mut self, op: &Op) -> Res<String> {
        let done = |()| "ok".to_owned();
        match op {
            Op::Create(p, mode, excl) => {
                let excl = if *excl { OFlags::EXCL } else { OFlags::empty() };
                sys::open(&self.at(p), OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | excl, *mode)
                    .map(|_| "ok".to_owned())
            }
            Op::Write(p, at, len) => {
                let file = self.open(p, OFlags::WRONLY)?;
                io(file.write_all_at(&self.data(*len), u64::from(*at))).map(done)
            }
            Op::Append(p, len) => {
                let mut file = self.open(p, OFlags::WRONLY | OFlags::APPEND)?;
                io(file.write_all(&self.data(*len))).map(done)
            }
            Op::Read(p, at, len) => {
                let file = self.open(p, OFlags::RDONLY)?;
                read(&file, *at, *len)
            }
            Op::Truncate(p, size) => {
                let file = self.open(p, OFlags::WRONLY)?;
                rustix::fs::ftruncate(file, u64::from(*size)).map(done)
            }
            Op::OpenTrunc(p) => self.open(p, OFlags::RDWR | OFlags::TRUNC).map(|_| "ok".to_owned()),
            Op::Hold(slot, p) => {
                let file = self.open(p, OFlags::RDWR)?;
                self.held[slot % HELD] = Some(file);
                Ok("ok".to_owned())
            }
            Op::HeldWrite(slot, at, len) => {
                io(self.held(*slot)?.write_all_at(&self.data(*len), u64::from(*at))).map(done)
            }
            Op::HeldRead(slot, at, len) => read(self.held(*slot)?, *at, *len),
            Op::HeldStat(slot) => rustix::fs::fstat(self.held(*slot)?).map(|s| attributes(&s)),
            Op::HeldTruncate(slot, size) => rustix::fs::ftruncate(self.held(*slot)?, u64::from(*size)).map(done),
            Op::Release(slot) => {
                self.held[slot % HELD] = None;
                Ok("ok".to_owned())
            }
            Op::Fsync(p) => io(self.open(p, OFlags::RDONLY)?.sync_all()).map(done),
            Op::Fallocate(p, at, len, mode) => {
                let file = self.open(p, OFlags::RDWR)?;
                let flags = match mode {
                    0 => FallocateFlags::empty(),
                    1 => FallocateFlags::KEEP_SIZE,
                    _ => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                };
                rustix::fs::fallocate(file, flags, u64::from(*at), u64::from(*len)).map(done)
            }
            Op::Copy(from, to, at, len) => self.copy(from, to, u64::from(*at), *len as usize),
            _ => self.attempt_name(op),
        }
    }

    fn attempt_name(&self, op: &Op) -> Res<String> {
        let done = |()| "ok".to_owned();
        match op {
            Op::Unlink(p) => sys::unlink(&self.at(p)).map(done),
            Op::Mkdir(p, mode) => sys::mkdir(&self.at(p), *mode).map(done),
            Op::Rmdir(p) => sys::rmdir(&self.at(p)).map(done),
            Op::Rename(a, b, flags) => {
                sys::rename_with(&self.at(a), &self.at(b), RenameFlags::from_bits_retain(*flags)).map(done)
            }
            Op::Twin(a, b, moved) => {
                let (a, b) = (self.at(a), self.at(b));
                if *moved {
                    sys::rename_with(&a, &b, RenameFlags::empty())?;
                    twin(&b, &a).map(done)
                } else {
                    twin(&a, &b).map(done)
                }
            }
            Op::Link(a, b) => sys::link(&self.at(a), &self.at(b)).map(done),
            Op::Symlink(target, p) => {
                let target = Self::show(target);
                sys::symlink(target.trim_start_matches('/').as_bytes(), &self.at(p)).map(done)
            }
            Op::Readlink(p) => sys::readlink(&self.at(p)).map(|t| String::from_utf8_lossy(&t).into_owned()),
            Op::Fifo(p) => sys::mknod(&self.at(p), FileType::Fifo, 0o600, 0).map(done),
            Op::Chmod(p, mode) => sys::chmod(&self.at(p), *mode).map(done),
            Op::Chown(p, uid, gid) => sys::lchown(&self.at(p), *uid, *gid).map(done),
            Op::Utimens(p, sec, nsec) => sys::utimens(&self.at(p), (*sec, 0), (*sec, i64::from(*nsec))).map(done),
            Op::SetXattr(p, name, len, flags) => {
                let name = XATTRS[name % XATTRS.len()];
                sys::setxattr(&self.at(p), name, &self.data(*len), XattrFlags::from_bits_retain(*flags)).map(done)
            }
            Op::GetXattr(p, name) => sys::getxattr(&self.at(p), XATTRS[name % XATTRS.len()]).map(|v| bytes(&v)),
            Op::RemoveXattr(p, name) => sys::removexattr(&self.at(p), XATTRS[name % XATTRS.len()]).map(done),
            Op::ListXattr(p) => sys::listxattr(&self.at(p)).map(|names| {
                let mut names: Vec<_> = names.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
                names.retain(|n| !n.starts_with("security."));
                names.join(" ")
            }),
            Op::Readdir(p) => Ok(list(&self.at(p))),
            Op::Stat(p) => sys::stat(&self.at(p)).map(|s| attributes(&s)),
            _ => Ok(String::new()),
        }
    }

    fn copy(&self, from: &Where, to: &Where, at: u64, len: usize) -> Res<String> {
        let source = self.open(from, OFlags::RDONLY)?;
        let target = self.open(to, OFlags::WRONLY)?;
        let (mut read_at, mut write_at, mut left) = (at, at / 2, len);
        while left > 0 {
            let n = rustix::fs::copy_file_range(&source, Some(&mut read_at), &target, Some(&mut write_at), left)?;
            if n == 0 {
                break;
            }
            left -= n;
        }
        Ok(format!("{} bytes copied", len - left))
    }
}
