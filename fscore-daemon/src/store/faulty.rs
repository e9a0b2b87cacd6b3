//! A disk in memory that does what real ones do on their worst day: it keeps, drops, tears and reorders
//! what was not synced when the power goes, and fails chosen operations.
//!
//! Names behave as on a journaling filesystem: renames, creations and removals that were not synced
//! survive a power cut up to some point in their order, and not beyond it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::disk::{Disk, DiskFile};

/// A kind of operation that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `pwrite`.
    Write,
    /// `fdatasync`.
    Sync,
    /// `allocate`.
    Allocate,
    /// `truncate`.
    Truncate,
    /// `create`.
    Create,
    /// `rename`.
    Rename,
    /// `unlink`.
    Unlink,
    /// `fsync_dir`.
    SyncDir,
}

/// Makes operations fail.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which kind.
    pub op: Op,
    /// Only on files whose name contains this.
    pub name_part: String,
    /// How many matching operations succeed first.
    pub after: u64,
    /// How many then fail.
    pub times: u64,
    /// With which error.
    pub errno: Errno,
}

/// What happens to unsynced writes at a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of them are gone.
    All,
    /// All of them are there.
    Nothing,
    /// The bytes are there, but names are as they were last synced.
    Names,
    /// Each sector of each write is there, gone, or there in part, by this seed.
    Random(u64),
}

type FileId = usize;
type Names = BTreeMap<String, FileId>;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Debug, Clone, Default)]
struct FileState {
    durable: Vec<u8>,
    cached: Vec<u8>,
    pending: Vec<Change>,
    allocated: u64,
    links: usize,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<FileState>,
    names: Names,
    durable_names: Names,
    /// The names after each change since they were last synced.
    name_history: Vec<Names>,
    ops: u64,
    cut_at: Option<u64>,
    fail_at: Option<(u64, u64, Errno)>,
    off: bool,
    faults: Vec<Fault>,
    capacity: Option<u64>,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    id: FileId,
    name: String,
}

const SECTOR: usize = 512;

/// A small generator of numbers: equal seeds give equal histories.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which counts as at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, piece: &[u8]) {
    if bytes.len() < offset + piece.len() {
        bytes.resize(offset + piece.len(), 0);
    }
    for (to, from) in bytes.iter_mut().skip(offset).zip(piece) {
        *to = *from;
    }
}

impl FileState {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Write(offset, bytes) => put(&mut self.cached, *offset as usize, bytes),
            Change::Resize(len) => self.cached.resize(*len as usize, 0),
        }
        self.allocated = self.allocated.max(self.cached.len() as u64);
        self.pending.push(change);
    }

    fn lose(&mut self, loss: Loss, dice: &mut Dice) {
        let keep_all = match loss {
            Loss::All => false,
            Loss::Nothing | Loss::Names => true,
            Loss::Random(_) => match dice.below(4) {
                0 => false,
                1 => true,
                _ => {
                    self.lose_by_sector(dice);
                    return;
                }
            },
        };
        if keep_all {
            self.durable = self.cached.clone();
        }
    }

    fn lose_by_sector(&mut self, dice: &mut Dice) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Resize(len) if dice.below(2) == 0 => self.durable.resize(len as usize, 0),
                Change::Resize(_) => {}
                Change::Write(offset, bytes) => {
                    let mut at = offset as usize;
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() {
                        let (piece, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                        let kept = match dice.below(8) {
                            0..3 => 0,
                            3 => dice.below(piece.len() as u64) as usize,
                            _ => piece.len(),
                        };
                        put(&mut self.durable, at, piece.get(..kept).unwrap_or_default());
                        at += piece.len();
                        rest = after;
                    }
                }
            }
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.iter().filter(|f| f.links > 0).map(|f| f.allocated).sum()
    }

    fn file(&mut self, id: FileId) -> io::Result<&mut FileState> {
        self.files.get_mut(id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn renamed(&mut self) {
        for file in &mut self.files {
            file.links = 0;
        }
        for id in self.names.values() {
            if let Some(file) = self.files.get_mut(*id) {
                file.links = 1;
            }
        }
        self.name_history.push(self.names.clone());
    }
}

impl FaultyDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changing operations were started.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Lets the power go during the operation with this number, counted from 0: of a write, some part
    /// may get through; everything afterwards fails.
    pub fn cut_power_at(&self, op: u64) {
        self.state().cut_at = Some(op);
    }

    /// Makes operations fail.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Limits the space, in bytes; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// The disk that is there when the power is back.
    #[must_use]
    pub fn after_power_cut(&self, loss: Loss) -> Self {
        let state = self.state();
        let mut dice = Dice::new(match loss {
            Loss::Random(seed) => seed,
            Loss::All | Loss::Nothing | Loss::Names => 0,
        });
        let kept = match loss {
            Loss::All | Loss::Names => 0,
            Loss::Nothing => state.name_history.len(),
            Loss::Random(_) => dice.below(state.name_history.len() as u64 + 1) as usize,
        };
        let names = kept.checked_sub(1).and_then(|last| state.name_history.get(last)).unwrap_or(&state.durable_names);
        let mut files = state.files.clone();
        for file in &mut files {
            file.lose(loss, &mut dice);
            file.cached = file.durable.clone();
            file.pending.clear();
            file.allocated = file.cached.len() as u64;
        }
        let mut after = State { files, names: names.clone(), durable_names: names.clone(), ..State::default() };
        after.renamed();
        after.name_history.clear();
        Self(Arc::new(Mutex::new(after)))
    }

    /// What another process sees after this one was killed: everything, synced or not.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let old = self.state();
        let after = State {
            files: old.files.clone(),
            names: old.names.clone(),
            durable_names: old.durable_names.clone(),
            name_history: old.name_history.clone(),
            capacity: old.capacity,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(after)))
    }

    /// Flips bits of a file on the medium.
    pub fn corrupt(&self, name: &str, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.state();
        let id = *state.names.get(name).ok_or(ErrorKind::NotFound)?;
        let file = state.file(id)?;
        for bytes in [&mut file.durable, &mut file.cached] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= mask;
            }
        }
        Ok(())
    }

    /// Counts an operation; `Err` if it fails. With `partly`, the power goes while it runs.
    fn begin(&self, op: Op, name: &str) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.state();
        if state.off {
            return Err(Errno::EIO.into());
        }
        let partly = state.cut_at == Some(state.ops);
        state.ops += 1;
        state.off = partly;
        if let Some((from, times, errno)) = state.fail_at
            && (from..from + times).contains(&(state.ops - 1))
        {
            return Err(errno.into());
        }
        for fault in &mut state.faults {
            if fault.op != op || !name.contains(&fault.name_part) || fault.times == 0 {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times -= 1;
            return Err(fault.errno.into());
        }
        Ok((state, partly))
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Counts an operation of something that shares the fate of this disk; `Err` if it fails.
    pub fn step(&self, op: Op, name: &str) -> io::Result<()> {
        self.begin(op, name).and_then(|(state, partly)| {
            drop(state);
            if partly { Err(Errno::EIO.into()) } else { Ok(()) }
        })
    }

    /// Makes the operation with this number, counted from 0, and `times` from it on fail.
    pub fn fail_at(&self, op: u64, times: u64, errno: Errno) {
        self.state().fail_at = Some((op, times, errno));
    }

    fn name_change(&self, op: Op, name: &str, change: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let (mut state, partly) = self.begin(op, name)?;
        change(&mut state)?;
        state.renamed();
        if partly { Err(Errno::EIO.into()) } else { Ok(()) }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        if state.off {
            return Err(Errno::EIO.into());
        }
        let id = *state.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), id, name: name.into() }))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut made = 0;
        self.name_change(Op::Create, name, |state| {
            made = state.files.len();
            state.files.push(FileState::default());
            state.names.insert(name.into(), made);
            Ok(())
        })?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), id: made, name: name.into() }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.name_change(Op::Rename, to, |state| {
            let id = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
            state.names.insert(to.into(), id);
            Ok(())
        })
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.name_change(Op::Unlink, name, |state| {
            state.names.remove(name).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
        })
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.off {
            return Err(Errno::EIO.into());
        }
        let inside = |name: &String| name.strip_prefix(dir)?.strip_prefix('/').map(str::to_owned);
        Ok(state.names.keys().filter_map(inside).collect())
    }
    fn mkdir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }
    fn fsync_dir(&self, dir: &str) -> io::Result<()> {
        let (mut state, partly) = self.begin(Op::SyncDir, dir)?;
        if partly {
            return Err(Errno::EIO.into());
        }
        state.durable_names = state.names.clone();
        state.name_history.clear();
        Ok(())
    }
}

impl FaultyFile {
    fn change(&self, op: Op, change: Change) -> io::Result<()> {
        let (mut state, partly) = self.disk.begin(op, &self.name)?;
        let end = match &change {
            Change::Write(offset, bytes) => offset + bytes.len() as u64,
            Change::Resize(len) => *len,
        };
        let (used, capacity) = (state.used(), state.capacity);
        let file = state.file(self.id)?;
        if capacity.is_some_and(|capacity| used + end.saturating_sub(file.allocated) > capacity) {
            return Err(Errno::ENOSPC.into());
        }
        file.change(change);
        if op == Op::Truncate {
            file.allocated = end;
        }
        if partly { Err(Errno::EIO.into()) } else { Ok(()) }
    }
}

impl DiskFile for FaultyFile {
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Op::Write, Change::Write(offset, bytes.to_vec()))
    }
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if state.off {
            return Err(Errno::EIO.into());
        }
        let bytes = state.file(self.id)?.cached.get(offset as usize..).unwrap_or_default();
        let len = buffer.len().min(bytes.len());
        for (to, from) in buffer.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(len)
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.id)?.cached.len() as u64)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = len.max(self.len()?);
        self.change(Op::Allocate, Change::Resize(len))
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Op::Truncate, Change::Resize(len))
    }
    fn fdatasync(&self) -> io::Result<()> {
        let (mut state, partly) = self.disk.begin(Op::Sync, &self.name)?;
        let file = state.file(self.id)?;
        if partly {
            return Err(Errno::EIO.into());
        }
        file.durable = file.cached.clone();
        file.pending.clear();
        Ok(())
    }
    fn forget_cached(&self) {}
}
