//! The list of a sealed base: a directory that was copied into the store. The command that makes the branch writes it, with
//! the caller's rights; the daemon reads it. `specs/on-disk-format.md` §7.1 has the bytes.
//!
//! ```
//! use shm_transport::control::seal::{Entry, Seal};
//! let mut seal = Seal::default();
//! seal.entries.push(Entry { ino: 7, mode: 0o040_755, nlink: 2, ..Entry::default() });
//! assert_eq!(Seal::decode(&seal.encode()).unwrap().entries, seal.entries);
//! ```

use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"AFSSEAL1";
/// Bytes of the checksum at the end.
const SUM: usize = 8;

/// Inode numbers that a copy can keep: those that are object numbers on a branch as they are.
pub const PLAIN: std::ops::Range<u64> = 2..1 << 51;

/// A time: seconds and nanoseconds.
pub type Time = (i64, u32);

/// One name, with the object that it leads to. A file with several names has the same for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Inode number of the directory that it is in; 0 for the root.
    pub parent: u64,
    /// Name there; empty for the root.
    pub name: Vec<u8>,
    /// Inode number in the original.
    pub ino: u64,
    /// Kind and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links, those outside the base included.
    pub nlink: u32,
    /// Device number, the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated, in 512 bytes.
    pub blocks: u64,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// Birth time; 0 where the original's file system keeps none.
    pub btime: Time,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A whole list, by directory and name; so the root comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seal {
    /// Whether every file shares its blocks with the original.
    pub cloned: bool,
    /// The names.
    pub entries: Vec<Entry>,
}

/// What is told of a sealed base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealInfo {
    /// Whether every file shares its blocks with the original, or did when it was made.
    pub cloned: bool,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The directory of copies in a store.
pub fn home(store: &Path) -> PathBuf {
    store.join("copies")
}

/// The list in the directory of a sealed base.
pub fn list(dir: &Path) -> PathBuf {
    dir.join("list")
}

/// Where the bytes of a file are, by its inode number, below the directory of a sealed base.
pub fn data(ino: u64) -> PathBuf {
    PathBuf::from(format!("data/{:02x}/{ino:x}", ino & 0xff))
}

/// Whether this may be the name of the directory of a sealed base.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// FNV-1a: tells a list that was cut or mixed up.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Entry {
    fn is(&self, kind: u32) -> bool {
        self.mode & 0o170_000 == kind
    }
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.is(0o040_000)
    }
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.is(0o100_000)
    }
}

impl Seal {
    /// Puts the names in order.
    pub fn sort(&mut self) {
        self.entries.sort_unstable_by(|a, b| (a.parent, &a.name).cmp(&(b.parent, &b.name)));
    }

    /// What is told of it.
    pub fn info(&self) -> SealInfo {
        let mut files: Vec<_> = self.entries.iter().filter(|e| e.is_file()).map(|e| (e.ino, e.size)).collect();
        files.sort_unstable();
        files.dedup_by_key(|(ino, _)| *ino);
        SealInfo { cloned: self.cloned, files: files.len() as u64, bytes: files.iter().map(|(_, size)| size).sum() }
    }

    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(u8::from(self.cloned));
        out.extend((self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            entry.encode(&mut out);
        }
        let sum = sum(&out);
        out.extend(sum.to_le_bytes());
        out
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are not a whole list.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let end = bytes.len().checked_sub(SUM).ok_or_else(|| malformed("too short"))?;
        let (body, checksum) = bytes.split_at(end);
        if sum(body).to_le_bytes() != checksum {
            return Err(malformed("the checksum is another one"));
        }
        let mut reader = Reader(body);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(malformed("not a list of a sealed base"));
        }
        let cloned = reader.take(1)? == [1];
        let count = reader.u64()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(reader.entry()?);
        }
        if reader.0.is_empty() { Ok(Self { cloned, entries }) } else { Err(malformed("more than it says")) }
    }
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        let text = |bytes: &[u8], out: &mut Vec<u8>| {
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        for number in [self.parent, self.ino, self.size, self.blocks] {
            out.extend(number.to_le_bytes());
        }
        for number in [self.mode, self.uid, self.gid, self.nlink, self.rdev] {
            out.extend(number.to_le_bytes());
        }
        for (sec, nsec) in [self.atime, self.mtime, self.ctime, self.btime] {
            out.extend(sec.to_le_bytes());
            out.extend(nsec.to_le_bytes());
        }
        text(&self.name, out);
        text(&self.target, out);
        out.extend((self.xattrs.len() as u32).to_le_bytes());
        for (name, value) in &self.xattrs {
            text(name, out);
            text(value, out);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| malformed("cut"))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn time(&mut self) -> io::Result<Time> {
        Ok((i64::from_le_bytes(self.array()?), self.u32()?))
    }

    fn text(&mut self) -> io::Result<Vec<u8>> {
        let length = self.u32()? as usize;
        Ok(self.take(length)?.to_vec())
    }

    fn entry(&mut self) -> io::Result<Entry> {
        let (parent, ino, size, blocks) = (self.u64()?, self.u64()?, self.u64()?, self.u64()?);
        let (mode, uid, gid, nlink, rdev) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let (atime, mtime, ctime, btime) = (self.time()?, self.time()?, self.time()?, self.time()?);
        let (name, target) = (self.text()?, self.text()?);
        let mut xattrs = Vec::new();
        for _ in 0..self.u32()? {
            xattrs.push((self.text()?, self.text()?));
        }
        Ok(Entry {
            parent,
            name,
            ino,
            mode,
            uid,
            gid,
            nlink,
            rdev,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            btime,
            target,
            xattrs,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop where they fail")]
    use super::*;

    #[test]
    fn a_list_that_was_cut_or_changed_is_refused() {
        let root = Entry { ino: 2, mode: 0o040_755, nlink: 2, ..Entry::default() };
        let file = Entry {
            parent: 2,
            name: b"f\xff".to_vec(),
            ino: 3,
            size: 5,
            mtime: (-1, 7),
            xattrs: vec![(b"user.a".to_vec(), vec![0, 1])],
            ..Entry::default()
        };
        let seal = Seal { cloned: true, entries: vec![root, file] };
        let bytes = seal.encode();
        assert_eq!(Seal::decode(&bytes).unwrap(), seal);
        for length in 0..bytes.len() {
            assert!(Seal::decode(bytes.get(..length).unwrap()).is_err(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            *other.get_mut(at).unwrap() ^= 1;
            assert!(Seal::decode(&other).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_name_is_no_path() {
        assert!(is_name("17-a9"));
        for bad in ["", ".", "..", "a/b", "a.b", "a b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
