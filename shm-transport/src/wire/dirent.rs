//! Directory listings in a payload: the layout of `struct fuse_dirent` and `struct fuse_direntplus`
//! of `linux/fuse.h` (protocol 7.9 and later), so that the frontend forwards the bytes as they are.
//!
//! One entry is `[entry_out: 128 bytes, only in "plus" listings] ino u64 · off u64 · namelen u32 ·
//! type u32 · name · zeros to a multiple of 8`, native endian (little on every machine we support).
//! `off` is the cookie that continues *after* this entry.

use super::{Attr, Entry, NodeId, Timestamp};

/// Bytes before the name of a plain entry.
pub const HEADER: usize = 24;
/// Bytes of `struct fuse_entry_out` before a plain entry in a "plus" listing.
pub const ENTRY_OUT: usize = 128;

/// Packs entries into a listing of at most `room` bytes.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    room: usize,
    plus: bool,
}

impl Writer {
    /// An empty listing for a caller's buffer of `room` bytes.
    pub fn new(room: usize, plus: bool) -> Self {
        Self { bytes: Vec::with_capacity(room.min(1 << 16)), room, plus }
    }

    /// Adds an entry; `false` (and nothing added) when it does not fit. `entry` is what a lookup of
    /// the name would answer; in "plus" listings `None` says "not looked up" (nodeid 0), as for `.`
    /// and `..`.
    pub fn push(&mut self, name: &[u8], ino: u64, dtype: u8, off: u64, entry: Option<&Entry>) -> bool {
        let head = if self.plus { ENTRY_OUT } else { 0 };
        let len = head + (HEADER + name.len()).next_multiple_of(8);
        if self.bytes.len() + len > self.room {
            return false;
        }
        let end = self.bytes.len() + len;
        if self.plus {
            match entry {
                Some(e) => put_entry(&mut self.bytes, e),
                None => self.bytes.resize(self.bytes.len() + ENTRY_OUT, 0),
            }
        }
        self.bytes.extend_from_slice(&ino.to_le_bytes());
        self.bytes.extend_from_slice(&off.to_le_bytes());
        self.bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&u32::from(dtype).to_le_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The listing.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn put_time(out: &mut Vec<u8>, t: Timestamp) {
    out.extend_from_slice(&t.sec.to_le_bytes());
}

/// Appends `struct fuse_attr` (88 bytes).
pub fn put_attr(out: &mut Vec<u8>, a: &Attr) {
    for word in [a.ino, a.size, a.blocks] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for t in [a.atime, a.mtime, a.ctime] {
        put_time(out, t);
    }
    for word in [
        a.atime.nsec,
        a.mtime.nsec,
        a.ctime.nsec,
        a.mode,
        a.nlink,
        a.uid,
        a.gid,
        a.rdev,
        a.blksize,
        0, // flags: FUSE_ATTR_SUBMOUNT, FUSE_ATTR_DAX; neither is used
    ] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Appends `struct fuse_entry_out` (128 bytes).
pub fn put_entry(out: &mut Vec<u8>, e: &Entry) {
    const NS: u64 = 1_000_000_000;
    for word in [e.node.0, e.generation, e.entry_valid_ns / NS, e.attr_valid_ns / NS] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in [e.entry_valid_ns % NS, e.attr_valid_ns % NS] {
        out.extend_from_slice(&(word as u32).to_le_bytes());
    }
    put_attr(out, &e.attr);
}

/// One entry of a listing, as `Reader` finds it.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Node that a "plus" entry looked up; `NodeId::NONE` otherwise.
    pub node: NodeId,
    /// `d_ino`.
    pub ino: u64,
    /// Cookie after this entry.
    pub off: u64,
    /// `DT_*`.
    pub dtype: u8,
    /// The name.
    pub name: &'a [u8],
}

/// Walks a listing from a private copy; stops at the first malformed entry.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    plus: bool,
    malformed: bool,
}

impl<'a> Reader<'a> {
    /// Over the bytes of a listing.
    pub fn new(bytes: &'a [u8], plus: bool) -> Self {
        Self { rest: bytes, plus, malformed: false }
    }

    /// Whether the walk ended before the bytes did.
    pub fn malformed(&self) -> bool {
        self.malformed
    }

    fn parse(&mut self) -> Option<Found<'a>> {
        let (node, body) = if self.plus {
            let (head, body) = self.rest.split_at_checked(ENTRY_OUT)?;
            (NodeId(word(head, 0)?), body)
        } else {
            (NodeId::NONE, self.rest)
        };
        let header = body.get(..HEADER)?;
        let namelen = half(header, 16)? as usize;
        let name = body.get(HEADER..HEADER.checked_add(namelen)?)?;
        let found = Found { node, ino: word(header, 0)?, off: word(header, 8)?, dtype: half(header, 20)? as u8, name };
        self.rest = body.get((HEADER + namelen).next_multiple_of(8)..)?;
        Some(found)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl<'a> Iterator for Reader<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let found = self.parse();
        if found.is_none() {
            self.malformed = true;
            self.rest = &[];
        }
        found
    }
}
