//! How often the kernel has looked up each node, in a growable memfd that outlives the frontend.
//!
//! The file is an array of cells of 16 bytes, `nodeid u64 · count u64`, little endian; nodeid 0 marks a
//! free cell. It is read and written by `pread` and `pwrite` alone, so that it can grow and a peer that
//! shrinks it faults nobody. Counts may only err high: they are raised before the kernel sees the reply.

use crate::wire::NodeId;
use memfd::MemfdOptions;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

const CELL_LEN: u64 = 16;
/// Cells read at once.
const CHUNK: usize = 4096;
/// Most cells of a table: more is not a table of ours (1 GiB).
const CELLS_MAX: u64 = 1 << 26;

/// The table and its index in private memory.
#[derive(Debug)]
pub struct LookupTable {
    file: File,
    index: HashMap<NodeId, Cell>,
    free: Vec<u64>,
    /// Cells in the file.
    cells: u64,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    at: u64,
    count: u64,
}

fn word(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

impl LookupTable {
    /// An empty one.
    pub fn create() -> io::Result<Self> {
        let memfd = MemfdOptions::new().create("agentfs-table").map_err(|e| match e {
            memfd::Error::Create(e) | memfd::Error::AddSeals(e) | memfd::Error::GetSeals(e) => e,
        })?;
        Ok(Self { file: memfd.into_file(), index: HashMap::new(), free: Vec::new(), cells: 0 })
    }

    /// One that another process left; rebuilds the index. `InvalidData` for one that is too long.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let cells = file.metadata()?.len() / CELL_LEN;
        if cells > CELLS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the table of lookup counts is too long"));
        }
        let mut table = Self { file, index: HashMap::new(), free: Vec::new(), cells };
        let mut bytes = vec![0; CHUNK * CELL_LEN as usize];
        let mut at = 0;
        while at < cells {
            let want = (cells - at).min(CHUNK as u64) * CELL_LEN;
            let got = table.file.read_at(bytes.get_mut(..want as usize).unwrap_or_default(), at * CELL_LEN)?;
            let whole = got as u64 / CELL_LEN;
            if whole == 0 {
                break;
            }
            for (n, cell) in (at..at + whole).zip(bytes.chunks_exact(CELL_LEN as usize)) {
                table.found(n, cell)?;
            }
            at += whole;
        }
        Ok(table)
    }

    /// Takes up one cell that stands in the file.
    fn found(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (Some(node), Some(count)) = (bytes.get(..8).and_then(word), bytes.get(8..).and_then(word)) else {
            return Ok(());
        };
        if node == 0 || count == 0 {
            self.free.push(at);
            return Ok(());
        }
        match self.index.entry(NodeId(node)) {
            Entry::Vacant(vacant) => {
                vacant.insert(Cell { at, count });
            }
            // Two cells for one node cannot come from us; the sum errs high, which is the safe side.
            Entry::Occupied(mut first) => {
                let sum = first.get().count.saturating_add(count);
                first.get_mut().count = sum;
                let first_at = first.get().at;
                self.write(first_at, node, sum)?;
                self.write(at, 0, 0)?;
                self.free.push(at);
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, node: u64, count: u64) -> io::Result<()> {
        let mut bytes = [0; CELL_LEN as usize];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&node.to_le_bytes());
        second.copy_from_slice(&count.to_le_bytes());
        self.file.write_all_at(&bytes, at * CELL_LEN)
    }

    /// The kernel is about to learn of `node` `n` more times. Call it before the reply is written.
    pub fn raise(&mut self, node: NodeId, n: u64) -> io::Result<()> {
        if node == NodeId::NONE || n == 0 {
            return Ok(());
        }
        if let Some(cell) = self.index.get(&node).copied() {
            let count = cell.count.saturating_add(n);
            self.write(cell.at, node.0, count)?;
            self.index.insert(node, Cell { at: cell.at, count });
            return Ok(());
        }
        let at = self.free.last().copied().unwrap_or(self.cells);
        if at >= CELLS_MAX {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "the table of lookup counts is full"));
        }
        self.write(at, node.0, n)?;
        if self.free.pop().is_none() {
            self.cells += 1;
        }
        self.index.insert(node, Cell { at, count: n });
        Ok(())
    }

    /// The kernel forgot `node` `n` times. `true` when it does not know it any more.
    pub fn lower(&mut self, node: NodeId, n: u64) -> io::Result<bool> {
        let Some(cell) = self.index.get(&node).copied() else { return Ok(false) };
        let count = cell.count.saturating_sub(n);
        if count > 0 {
            self.write(cell.at, node.0, count)?;
            self.index.insert(node, Cell { at: cell.at, count });
            return Ok(false);
        }
        self.write(cell.at, 0, 0)?;
        self.index.remove(&node);
        self.free.push(cell.at);
        Ok(true)
    }

    /// How often the kernel knows `node`.
    pub fn count(&self, node: NodeId) -> u64 {
        self.index.get(&node).map_or(0, |cell| cell.count)
    }

    /// Nodes that the kernel knows.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.index.keys().copied()
    }

    /// Number of nodes that the kernel knows.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether the kernel knows none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The descriptor, to pass on.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

impl AsFd for LookupTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests;
