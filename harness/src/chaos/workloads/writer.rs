//! A program that changes a directory without pause and knows every operation that was acknowledged: an
//! error, a lost or a doubled operation ends it with a message.

mod names;
mod shared;

use super::{Place, Workload};
use crate::chaos::journal::{Journal, io};
use crate::chaos::random::Random;
use crate::probe::{Expected, Model, look};
use crate::sys;
use names::Names;
use rustix::fs::{OFlags, RenameFlags, XattrFlags};
use shared::Shared;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const FILES_MAX: usize = 60;
const DIRS_MAX: usize = 6;
const SIZE_MAX: usize = 96 << 10;

/// See the module.
pub(super) struct Writer {
    dir: PathBuf,
    place: Place,
    random: Random,
    serial: u64,
    names: Names,
    shared: Shared,
    orphan: Option<(File, Vec<u8>)>,
}

type Done = Result<(), String>;

impl Workload for Writer {
    fn step(&mut self, journal: &mut Journal) -> Done {
        for _ in 0..8 {
            self.one(journal)?;
        }
        Ok(())
    }

    fn finish(&mut self, journal: &mut Journal) -> Done {
        let model = self.names.model(journal.operations());
        let wrong = model.check(&self.dir);
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        self.check_orphan(journal)?;
        self.orphan = None;
        self.shared.finish(&self.place.control)?;
        self.place.control.save(&model)
    }
}

/// Whether all is as the model says, and no entry of the shared log or the races is lost or doubled.
pub(super) fn verify(place: &Place) -> Done {
    let model: Model = place.control.load()?;
    let wrong = model.check(&place.dir);
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    shared::verify(place)
}

impl Writer {
    pub(super) fn begin(place: &Place, journal: &mut Journal) -> Result<Self, String> {
        Ok(Self {
            dir: place.dir.clone(),
            place: place.clone(),
            random: Random::new(place.seed),
            serial: 0,
            names: Names::default(),
            shared: Shared::begin(place, journal)?,
            orphan: None,
        })
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.serial += 1;
        let dirs: Vec<&String> = self.names.dirs.iter().collect();
        let n = self.random.below(dirs.len() * 2 + 1);
        dirs.get(n).map_or_else(|| format!("{prefix}{}", self.serial), |d| format!("{d}/{prefix}{}", self.serial))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn target(&mut self) -> (String, u64, PathBuf) {
        let n = self.random.below(self.names.files.len());
        let (name, id) = self.names.files.iter().nth(n).map(|(name, id)| (name.clone(), *id)).unwrap_or_default();
        let path = self.at(&name);
        (name, id, path)
    }

    fn one(&mut self, j: &mut Journal) -> Done {
        if self.names.files.len() < 4 {
            return self.create(j);
        }
        match self.random.below(100) {
            0..=11 if self.names.files.len() < FILES_MAX => self.create(j),
            12..=26 => self.append(j),
            27..=36 => self.overwrite(j),
            37..=45 => self.rename_fresh(j),
            46..=50 => self.rename_over(j),
            51..=53 => self.exchange(j),
            54..=60 => self.remove(j),
            61..=65 => self.link(j),
            66..=69 => self.truncate(j),
            70..=72 => self.chmod(j),
            73..=76 => self.xattr(j),
            77..=81 => self.directory(j),
            82..=84 => self.symlink(j),
            85..=87 => self.orphan(j),
            88..=93 => self.shared.step(j),
            _ => self.verify_one(j),
        }
    }

    fn create(&mut self, j: &mut Journal) -> Done {
        let name = self.fresh("f");
        let data = sys::pattern(self.serial, self.random.below(20_000));
        let path = self.at(&name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = j.act(&format!("create {name}"), || sys::open(&path, flags, 0o640))?;
        j.act(&format!("write {} to {name}", data.len()), || io(file.write_all(&data)))?;
        if self.random.below(4) == 0 {
            j.act(&format!("fsync {name}"), || io(file.sync_all()))?;
        }
        self.names.created(name, self.serial, data, 0o640);
        Ok(())
    }

    fn append(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let data = sys::pattern(self.random.next_u64(), 1 + self.random.below(3000));
        let mut file =
            j.act(&format!("open {name} to append"), || sys::open(&path, OFlags::WRONLY | OFlags::APPEND, 0))?;
        j.act(&format!("append {} to {name}", data.len()), || io(file.write_all(&data)))?;
        let inode = self.names.inode(id);
        inode.data.extend_from_slice(&data);
        let (size, want) = (j.act(&format!("stat {name}"), || sys::lstat(&path))?.st_size as usize, inode.data.len());
        if size != want {
            return Err(format!("{name} is {size} bytes after an append, should be {want}"));
        }
        if want > SIZE_MAX {
            j.act(&format!("truncate {name} to 100"), || sys::truncate(&path, 100))?;
            inode.data.truncate(100);
        }
        Ok(())
    }

    fn overwrite(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let len = 1 + self.random.below(6000);
        let file = j.act(&format!("open {name} to write"), || sys::open(&path, OFlags::WRONLY, 0))?;
        // Over and over at the same place: the last must win.
        for _ in 0..=self.random.below(3) {
            let data = sys::pattern(self.random.next_u64(), len);
            let inode = self.names.inode(id);
            let at = inode.data.len().min(SIZE_MAX) / 2;
            j.act(&format!("write {len} at {at} of {name}"), || io(file.write_all_at(&data, at as u64)))?;
            if inode.data.len() < at + len {
                inode.data.resize(at + len, 0);
            }
            inode.data[at..at + len].copy_from_slice(&data);
        }
        Ok(())
    }

    fn rename_fresh(&mut self, j: &mut Journal) -> Done {
        let (name, _, path) = self.target();
        let new = self.fresh("r");
        let to = self.at(&new);
        if self.random.below(2) == 0 {
            // Fails when it is run twice, whichever way.
            j.act(&format!("rename {name} to {new}, not over another"), || {
                sys::rename_with(&path, &to, RenameFlags::NOREPLACE)
            })?;
        } else {
            j.act(&format!("rename {name} to {new}"), || sys::rename(&path, &to))?;
        }
        self.names.renamed(&name, new);
        gone(j, &path, &name)
    }

    fn rename_over(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let (other, other_id, to) = self.target();
        j.act(&format!("rename {name} over {other}"), || sys::rename(&path, &to))?;
        if other_id == id {
            return Ok(()); // Two names of one file: rename(2) does nothing.
        }
        self.names.removed(&other);
        self.names.renamed(&name, other);
        gone(j, &path, &name)
    }

    fn exchange(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let (other, other_id, to) = self.target();
        // Run twice, it is undone.
        j.act(&format!("exchange {name} and {other}"), || sys::rename_with(&path, &to, RenameFlags::EXCHANGE))?;
        self.names.files.insert(name, other_id);
        self.names.files.insert(other, id);
        Ok(())
    }

    fn remove(&mut self, j: &mut Journal) -> Done {
        let (name, _, path) = self.target();
        j.act(&format!("unlink {name}"), || sys::unlink(&path))?;
        self.names.removed(&name);
        gone(j, &path, &name)
    }

    fn link(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let new = self.fresh("l");
        let to = self.at(&new);
        j.act(&format!("link {name} to {new}"), || sys::link(&path, &to))?;
        self.names.linked(id, new);
        let want = self.names.inode(id).nlink;
        let nlink = j.act(&format!("stat {name}"), || sys::lstat(&path))?.st_nlink;
        if nlink == want { Ok(()) } else { Err(format!("{name} has {nlink} names after a link, should have {want}")) }
    }

    fn truncate(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let size = self.random.below(30_000);
        if self.random.below(4) == 0 {
            let flags = OFlags::WRONLY | OFlags::TRUNC;
            j.act(&format!("open {name} and empty it"), || sys::open(&path, flags, 0))?;
            self.names.inode(id).data.clear();
        } else {
            j.act(&format!("truncate {name} to {size}"), || sys::truncate(&path, size as u64))?;
            self.names.inode(id).data.resize(size, 0);
        }
        Ok(())
    }

    fn chmod(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let mode = [0o600, 0o644, 0o755, 0o660][self.random.below(4)];
        j.act(&format!("chmod {name} {mode:o}"), || sys::chmod(&path, mode))?;
        self.names.inode(id).mode = mode;
        Ok(())
    }

    fn xattr(&mut self, j: &mut Journal) -> Done {
        let (name, id, path) = self.target();
        let value = sys::pattern(self.random.next_u64(), 20);
        let inode = self.names.inode(id);
        // Each fails when it is run twice.
        if inode.xattr.is_some() {
            j.act(&format!("removexattr {name}"), || sys::removexattr(&path, "user.churn"))?;
            inode.xattr = None;
        } else {
            let set = || sys::setxattr(&path, "user.churn", &value, XattrFlags::CREATE);
            j.act(&format!("setxattr {name}"), set)?;
            inode.xattr = Some(value);
        }
        Ok(())
    }

    fn directory(&mut self, j: &mut Journal) -> Done {
        if self.names.dirs.len() < DIRS_MAX {
            let name = self.fresh("d");
            let path = self.at(&name);
            j.act(&format!("mkdir {name}"), || sys::mkdir(&path, 0o755))?;
            self.names.dirs.insert(name);
            return Ok(());
        }
        let n = self.random.below(self.names.dirs.len());
        let Some(name) = self.names.dirs.iter().nth(n).cloned() else { return Ok(()) };
        let path = self.at(&name);
        if self.names.is_empty(&name) {
            j.act(&format!("rmdir {name}"), || sys::rmdir(&path))?;
            self.names.dirs.remove(&name);
        } else {
            self.serial += 1;
            let new = format!("d{}", self.serial);
            let to = self.at(&new);
            j.act(&format!("rename directory {name} to {new}"), || sys::rename(&path, &to))?;
            self.names.directory_renamed(&name, &new);
        }
        gone(j, &path, &name)
    }

    fn symlink(&mut self, j: &mut Journal) -> Done {
        let name = self.fresh("s");
        let target = format!("to/{name}");
        let path = self.at(&name);
        j.act(&format!("symlink {name}"), || sys::symlink(target.as_bytes(), &path))?;
        self.names.symlinks.insert(name, target);
        if self.names.symlinks.len() > 10
            && let Some((old, _)) = self.names.symlinks.pop_first()
        {
            let path = self.at(&old);
            j.act(&format!("unlink {old}"), || sys::unlink(&path))?;
        }
        Ok(())
    }

    /// Keeps one file open after its last name is gone, by unlink or by a rename over it, writing to it.
    fn orphan(&mut self, j: &mut Journal) -> Done {
        self.check_orphan(j)?;
        if let Some((file, data)) = &mut self.orphan
            && data.len() < 40_000
        {
            let more = sys::pattern(data.len() as u64, 777);
            j.act("write to the file without a name", || io(file.write_all_at(&more, data.len() as u64)))?;
            data.extend_from_slice(&more);
            return Ok(());
        }
        self.orphan = None;
        let name = self.fresh("o");
        let path = self.at(&name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = j.act(&format!("create {name}"), || sys::open(&path, flags, 0o600))?;
        let data = sys::pattern(self.serial, 5000);
        j.act(&format!("write to {name}"), || io(file.write_all_at(&data, 0)))?;
        if self.random.below(2) == 0 {
            j.act(&format!("unlink {name}, which stays open"), || sys::unlink(&path))?;
        } else {
            let (over, _, from) = self.target();
            j.act(&format!("rename {over} over {name}, which stays open"), || sys::rename(&from, &path))?;
            self.names.renamed(&over, name);
        }
        self.orphan = Some((file, data));
        Ok(())
    }

    fn check_orphan(&self, j: &mut Journal) -> Done {
        let Some((file, data)) = &self.orphan else { return Ok(()) };
        let mut found = vec![0; data.len() + 1];
        let n = j.act("read the file without a name", || io(read_full(file, &mut found)))?;
        if &found[..n] == data.as_slice() {
            Ok(())
        } else {
            Err(format!("a file without a name, open, of {} bytes, reads as {n} other bytes", data.len()))
        }
    }

    fn verify_one(&mut self, j: &mut Journal) -> Done {
        let (name, _, path) = self.target();
        let found: Expected = j.act(&format!("look at {name}"), || look(&path))?;
        let expected = self.names.expected(&name);
        if found == expected { Ok(()) } else { Err(format!("{name} is {found:?}, should be {expected:?}")) }
    }
}

/// Reads until the end of the file or of the buffer.
pub(super) fn read_full(file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    loop {
        match file.read_at(&mut buffer[n..], n as u64)? {
            0 => return Ok(n),
            more => n += more,
        }
    }
}

fn gone(j: &mut Journal, path: &Path, name: &str) -> Done {
    match j.try_act(&format!("stat {name}, which is gone"), || sys::lstat(path))? {
        Err(sys::Errno::NOENT) => Ok(()),
        Err(e) => Err(format!("stat of {name}, which is gone: {e}")),
        Ok(_) => Err(format!("{name} is still there")),
    }
}
