//! A host for content files that shares the fate of a faulty disk: what was not synced when the power goes is
//! dropped, torn, or there.

use crate::content::Host;
use crate::content::{Contents, Ids};
use crate::core::ids::ContentId;
use crate::store::faulty::{Dice, FaultyDisk, Loss, Op};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Durable {
    bytes: BTreeMap<ContentId, Vec<u8>>,
    names: BTreeSet<ContentId>,
    directories: BTreeSet<String>,
}

#[derive(Debug)]
pub(crate) struct FaultyHost {
    disk: FaultyDisk,
    dir: PathBuf,
    durable: Mutex<Durable>,
}

fn directory(id: ContentId) -> String {
    let path = Contents::relative(id);
    path[..path.rfind('/').unwrap()].to_owned()
}

fn all(fd: BorrowedFd<'_>) -> Vec<u8> {
    let file = std::fs::File::from(fd.try_clone_to_owned().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

impl FaultyHost {
    pub(crate) fn new(disk: &FaultyDisk, dir: &Path) -> Self {
        Self { disk: disk.clone(), dir: dir.to_owned(), durable: Mutex::default() }
    }

    fn present(&self) -> BTreeSet<ContentId> {
        Ids::open(&self.dir).unwrap().map(Result::unwrap).collect()
    }

    /// Makes in `to` what is there when the power is back.
    pub(crate) fn after_power_cut(&self, loss: Loss, to: &Path) {
        let mut dice = Dice::new(match loss {
            Loss::Random(seed) => seed ^ 0x55,
            Loss::All | Loss::Nothing | Loss::Names => 0,
        });
        let durable = self.durable.lock().unwrap();
        let present = self.present();
        for id in present.union(&durable.names) {
            let above = directory(*id);
            let certain = durable.names.contains(id)
                && [above.as_str(), &above[..2], ""].iter().all(|path| durable.directories.contains(*path));
            let there = match loss {
                _ if certain && present.contains(id) => true,
                Loss::Nothing => present.contains(id),
                Loss::All | Loss::Names => certain,
                Loss::Random(_) => dice.below(2) == 0,
            };
            if !there {
                continue;
            }
            let old = durable.bytes.get(id).cloned().unwrap_or_default();
            let new = std::fs::read(self.dir.join(Contents::relative(*id))).unwrap_or_else(|_| old.clone());
            let bytes = match loss {
                Loss::All => old,
                Loss::Nothing | Loss::Names => new,
                Loss::Random(_) => torn(&old, &new, &mut dice),
            };
            std::fs::create_dir_all(to.join(&above)).unwrap();
            std::fs::write(to.join(Contents::relative(*id)), bytes).unwrap();
            self.keep_time(*id, to);
        }
    }

    /// What a process finds that starts after this one was killed.
    pub(crate) fn after_kill(&self, to: &Path) {
        for id in self.present() {
            std::fs::create_dir_all(to.join(directory(id))).unwrap();
            std::fs::copy(self.dir.join(Contents::relative(id)), to.join(Contents::relative(id))).unwrap();
            self.keep_time(id, to);
        }
    }

    fn keep_time(&self, id: ContentId, to: &Path) {
        if let Ok(stat) = std::fs::metadata(self.dir.join(Contents::relative(id))) {
            let copy = std::fs::File::options().write(true).open(to.join(Contents::relative(id))).unwrap();
            copy.set_modified(stat.modified().unwrap()).unwrap();
        }
    }
}

/// Each sector is the old or the new one, and so is the length.
fn torn(old: &[u8], new: &[u8], dice: &mut Dice) -> Vec<u8> {
    let len = if dice.below(2) == 0 { old.len() } else { new.len() };
    let mut bytes = vec![0; len];
    for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        let from = if dice.below(2) == 0 { old } else { new };
        for (to, from) in sector.iter_mut().zip(from.iter().skip(at * SECTOR)) {
            *to = *from;
        }
    }
    bytes
}

impl Host for FaultyHost {
    fn creates(&self, id: ContentId) -> io::Result<()> {
        self.disk.step(Op::Create, &format!("contents/{id}"))
    }
    fn removes(&self, id: ContentId) -> io::Result<()> {
        self.disk.step(Op::Unlink, &format!("contents/{id}"))
    }
    fn sync_file(&self, id: ContentId, fd: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        self.disk.step(Op::Sync, &format!("contents/{id}"))?;
        self.durable.lock().unwrap().bytes.insert(id, all(fd));
        Ok(())
    }
    fn sync_directory(&self, path: &str, _: BorrowedFd<'_>) -> io::Result<()> {
        self.disk.step(Op::SyncDir, &format!("contents/{path}"))?;
        let present = self.present();
        let mut durable = self.durable.lock().unwrap();
        durable.directories.insert(path.to_owned());
        durable.names.retain(|id| directory(*id) != path || present.contains(id));
        durable.names.extend(present.iter().filter(|id| directory(**id) == path));
        Ok(())
    }
    fn sync_all(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        self.disk.step(Op::Sync, "contents")?;
        let present = self.present();
        let mut durable = self.durable.lock().unwrap();
        for id in &present {
            durable.bytes.insert(*id, std::fs::read(self.dir.join(Contents::relative(*id))).unwrap());
            let above = directory(*id);
            durable.directories.extend([String::new(), above[..2].to_owned(), above]);
        }
        durable.names = present;
        Ok(())
    }
}
