//! A program that changes a directory without pause and checks every operation that was acknowledged:
//! an error, a lost or a doubled operation ends it with a message. It is what runs while the daemon or
//! the frontend is killed.

use super::model::{Expected, Model, look};
use crate::sys::{self, Res, errno_name};
use rustix::fs::{OFlags, XattrFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How to churn.
#[derive(Debug, Clone)]
pub struct Churn {
    /// The directory, empty.
    pub dir: PathBuf,
    /// A directory outside of the mount: `stop` ends the program, `progress` counts its operations
    /// (8 bytes little-endian), `model` is what it leaves.
    pub control: PathBuf,
    /// Seed of its choices.
    pub seed: u64,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    data: Vec<u8>,
    mode: u32,
    nlink: u64,
    xattr: Option<Vec<u8>>,
}

struct Machine {
    dir: PathBuf,
    random: u64,
    serial: u64,
    inodes: BTreeMap<u64, Inode>,
    files: BTreeMap<String, u64>,
    dirs: Vec<String>,
    symlinks: BTreeMap<String, String>,
    orphan: Option<(File, Vec<u8>)>,
}

const FILES_MAX: usize = 60;
const SIZE_MAX: usize = 96 << 10;

/// Churns until told to stop; the error tells the first thing that was wrong.
pub fn churn(options: &Churn) -> Result<u64, String> {
    let progress = File::create(options.control.join("progress")).map_err(|e| format!("progress: {e}"))?;
    let stop = options.control.join("stop");
    let mut machine = Machine {
        dir: options.dir.clone(),
        random: options.seed | 1,
        serial: 0,
        inodes: BTreeMap::new(),
        files: BTreeMap::new(),
        dirs: Vec::new(),
        symlinks: BTreeMap::new(),
        orphan: None,
    };
    let mut operations = 0_u64;
    while !stop.exists() {
        for _ in 0..8 {
            machine.step().map_err(|e| format!("operation {operations}: {e}"))?;
            operations += 1;
            progress.write_all_at(&operations.to_le_bytes(), 0).map_err(|e| format!("progress: {e}"))?;
        }
    }
    let model = machine.model(operations);
    let wrong = model.check(&options.dir);
    if !wrong.is_empty() {
        return Err(format!("at the end: {}", wrong.join("; ")));
    }
    machine.check_orphan()?;
    let text = serde_json::to_vec(&model).map_err(|e| e.to_string())?;
    std::fs::write(options.control.join("model"), text).map_err(|e| format!("model: {e}"))?;
    Ok(operations)
}

fn did<T>(result: Res<T>, what: impl FnOnce() -> String) -> Result<T, String> {
    result.map_err(|e| format!("{}: {} ({e})", what(), errno_name(e)))
}

fn io<T>(result: std::io::Result<T>) -> Res<T> {
    result.map_err(|e| sys::of_io(&e))
}

impl Machine {
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % limit.max(1)
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.serial += 1;
        format!("{prefix}{}", self.serial)
    }

    fn pick(&mut self) -> Option<String> {
        let n = self.below(self.files.len());
        self.files.keys().nth(n).cloned()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn step(&mut self) -> Result<(), String> {
        if self.files.len() < 4 {
            return self.create();
        }
        match self.below(100) {
            0..=13 if self.files.len() < FILES_MAX => self.create(),
            14..=33 => self.append(),
            34..=43 => self.overwrite(),
            44..=53 => self.rename_fresh(),
            54..=58 => self.rename_over(),
            59..=66 => self.remove(),
            67..=71 => self.link(),
            72..=75 => self.truncate(),
            76..=79 => self.chmod(),
            80..=83 => self.xattr(),
            84..=87 => self.directory(),
            88..=90 => self.symlink(),
            91..=93 => self.orphan(),
            _ => self.verify(),
        }
    }

    fn create(&mut self) -> Result<(), String> {
        let name = self.fresh("f");
        let len = self.below(20_000);
        let data = sys::pattern(self.serial, len);
        let path = self.at(&name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = did(sys::open(&path, flags, 0o640), || format!("create {name}"))?;
        did(io(file.write_all(&data)), || format!("first write to {name}"))?;
        let id = self.serial;
        self.inodes.insert(id, Inode { data, mode: 0o640, nlink: 1, xattr: None });
        self.files.insert(name, id);
        Ok(())
    }

    fn target(&mut self) -> (String, u64, PathBuf) {
        let name = self.pick().unwrap_or_default();
        let id = self.files.get(&name).copied().unwrap_or(0);
        let path = self.at(&name);
        (name, id, path)
    }

    fn append(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let len = 1 + self.below(3000);
        let data = sys::pattern(self.random, len);
        let mut file = did(sys::open(&path, OFlags::WRONLY | OFlags::APPEND, 0), || format!("open {name}"))?;
        did(io(file.write_all(&data)), || format!("append to {name}"))?;
        let inode = self.inodes.entry(id).or_default();
        inode.data.extend_from_slice(&data);
        let (size, want) = (did(sys::lstat(&path), || format!("stat {name}"))?.st_size as usize, inode.data.len());
        if size != want {
            return Err(format!("{name} is {size} bytes after an append, should be {want}"));
        }
        if want > SIZE_MAX {
            did(sys::truncate(&path, 100), || format!("truncate {name}"))?;
            inode.data.truncate(100);
        }
        Ok(())
    }

    fn overwrite(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let len = 1 + self.below(6000);
        let data = sys::pattern(self.random, len);
        let inode = self.inodes.entry(id).or_default();
        let at = inode.data.len() / 2;
        let file = did(sys::open(&path, OFlags::WRONLY, 0), || format!("open {name}"))?;
        did(io(file.write_all_at(&data, at as u64)), || format!("write to {name}"))?;
        if inode.data.len() < at + len {
            inode.data.resize(at + len, 0);
        }
        inode.data[at..at + len].copy_from_slice(&data);
        Ok(())
    }

    fn rename_fresh(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let new = self.fresh("r");
        did(sys::rename(&path, &self.at(&new)), || format!("rename {name} to {new}"))?;
        self.files.remove(&name);
        self.files.insert(new, id);
        Self::gone(&path, &name)
    }

    fn rename_over(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let Some(other) = self.pick() else { return Ok(()) };
        did(sys::rename(&path, &self.at(&other)), || format!("rename {name} over {other}"))?;
        if self.files.get(&other) == Some(&id) {
            return Ok(()); // Two names of one file: rename(2) does nothing.
        }
        self.files.remove(&name);
        self.drop_link(&other);
        self.files.insert(other, id);
        Self::gone(&path, &name)
    }

    fn drop_link(&mut self, name: &str) {
        if let Some(id) = self.files.remove(name) {
            let inode = self.inodes.entry(id).or_default();
            inode.nlink -= 1;
            if inode.nlink == 0 {
                self.inodes.remove(&id);
            }
        }
    }

    fn gone(path: &Path, name: &str) -> Result<(), String> {
        match sys::lstat(path) {
            Err(sys::Errno::NOENT) => Ok(()),
            Err(e) => Err(format!("stat of removed {name}: {e}")),
            Ok(_) => Err(format!("{name} is still there")),
        }
    }

    fn remove(&mut self) -> Result<(), String> {
        let (name, _, path) = self.target();
        did(sys::unlink(&path), || format!("unlink {name}"))?;
        self.drop_link(&name);
        Self::gone(&path, &name)
    }

    fn link(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let new = self.fresh("l");
        did(sys::link(&path, &self.at(&new)), || format!("link {name} to {new}"))?;
        let inode = self.inodes.entry(id).or_default();
        inode.nlink += 1;
        let nlink = did(sys::lstat(&path), || format!("stat {name}"))?.st_nlink;
        if nlink != inode.nlink {
            return Err(format!("{name} has {nlink} names after a link, should have {}", inode.nlink));
        }
        self.files.insert(new, id);
        Ok(())
    }

    fn truncate(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let size = self.below(30_000);
        did(sys::truncate(&path, size as u64), || format!("truncate {name}"))?;
        self.inodes.entry(id).or_default().data.resize(size, 0);
        Ok(())
    }

    fn chmod(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let mode = [0o600, 0o644, 0o755, 0o660][self.below(4)];
        did(sys::chmod(&path, mode), || format!("chmod {name}"))?;
        self.inodes.entry(id).or_default().mode = mode;
        Ok(())
    }

    fn xattr(&mut self) -> Result<(), String> {
        let (name, id, path) = self.target();
        let value = sys::pattern(self.random, 20);
        let inode = self.inodes.entry(id).or_default();
        // CREATE and REMOVE fail when they are run twice.
        if inode.xattr.is_some() {
            did(sys::removexattr(&path, "user.churn"), || format!("removexattr {name}"))?;
            inode.xattr = None;
        } else {
            did(sys::setxattr(&path, "user.churn", &value, XattrFlags::CREATE), || format!("setxattr {name}"))?;
            inode.xattr = Some(value);
        }
        Ok(())
    }

    fn directory(&mut self) -> Result<(), String> {
        if self.dirs.len() < 5 {
            let name = self.fresh("d");
            did(sys::mkdir(&self.at(&name), 0o755), || format!("mkdir {name}"))?;
            self.dirs.push(name);
            return Ok(());
        }
        let n = self.below(self.dirs.len());
        let name = self.dirs.swap_remove(n);
        did(sys::rmdir(&self.at(&name)), || format!("rmdir {name}"))?;
        Self::gone(&self.at(&name), &name)
    }

    fn symlink(&mut self) -> Result<(), String> {
        let name = self.fresh("s");
        let target = format!("to/{name}");
        did(sys::symlink(target.as_bytes(), &self.at(&name)), || format!("symlink {name}"))?;
        self.symlinks.insert(name, target);
        if self.symlinks.len() > 10
            && let Some((old, _)) = self.symlinks.pop_first()
        {
            did(sys::unlink(&self.at(&old)), || format!("unlink {old}"))?;
        }
        Ok(())
    }

    /// Keeps one file open after its last name is gone, writing to it now and then.
    fn orphan(&mut self) -> Result<(), String> {
        self.check_orphan()?;
        if let Some((file, data)) = &mut self.orphan
            && data.len() < 40_000
        {
            let more = sys::pattern(data.len() as u64, 777);
            did(io(file.write_all_at(&more, data.len() as u64)), || "write to an unlinked file".into())?;
            data.extend_from_slice(&more);
            return Ok(());
        }
        let name = self.fresh("o");
        let path = self.at(&name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = did(sys::open(&path, flags, 0o600), || format!("create {name}"))?;
        let data = sys::pattern(self.serial, 5000);
        did(io(file.write_all_at(&data, 0)), || format!("write {name}"))?;
        did(sys::unlink(&path), || format!("unlink {name}"))?;
        self.orphan = Some((file, data));
        Ok(())
    }

    fn check_orphan(&self) -> Result<(), String> {
        let Some((file, data)) = &self.orphan else { return Ok(()) };
        let mut found = vec![0; data.len() + 1];
        let n = did(io(file.read_at(&mut found, 0)), || "read of an unlinked file".into())?;
        if &found[..n] != data.as_slice() {
            return Err(format!("an unlinked open file of {} bytes reads as {n} other bytes", data.len()));
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), String> {
        let (name, _, path) = self.target();
        let found = did(look(&path), || format!("look at {name}"))?;
        let expected = self.expected(&name);
        if found != expected {
            return Err(format!("{name} is {found:?}, should be {expected:?}"));
        }
        Ok(())
    }

    fn expected(&self, name: &str) -> Expected {
        let inode = &self.inodes[&self.files[name]];
        Expected::File {
            sha: sys::sha256(&inode.data),
            size: inode.data.len() as u64,
            mode: inode.mode,
            nlink: inode.nlink,
            xattr: inode.xattr.clone(),
        }
    }

    fn model(&self, operations: u64) -> Model {
        let mut names: BTreeMap<String, Expected> =
            self.files.keys().map(|name| (name.clone(), self.expected(name))).collect();
        names.extend(self.dirs.iter().map(|d| (d.clone(), Expected::Dir)));
        names.extend(
            self.symlinks.iter().map(|(name, target)| (name.clone(), Expected::Symlink { target: target.clone() })),
        );
        Model { names, operations }
    }
}
