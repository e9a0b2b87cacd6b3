//! The checkpoint: the whole map in one file, so that the log before it can go.
//!
//! It is written while batches go on, a few entries under the map's read lock at a time, so it shows
//! different keys at different moments. That is mended by the log: all frames since the start of the
//! writing are replayed on top, and since they carry whole values the result is exact once the log is
//! replayed to the frame that was last when the writing ended. The file names that frame, is published
//! only after the log is durable up to it, and is of no use without it.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::StoreError;
use super::disk::{Disk, DiskFile};
use super::format::{
    BLOCK_HEADER_LEN, BlockHeader, BlockKind, CHECKPOINT_MAGIC, FileHeader, HEADER_LEN, HeaderError, VERSION,
    decode_end, entries, fresh_salt, push_entry, seal_block,
};
use super::key::Key;
use super::map::{Bytes, Map, Tree};

/// Content of a block; one more entry may go over it.
const BLOCK_LEN: usize = 256 << 10;
/// Entries handed out under one lock.
const CHUNK_ENTRIES: usize = 256;
/// Written bytes after which they are pushed to the disk, so that no sync of the log has to wait for
/// all of them at once.
const SYNC_EVERY: u64 = 8 << 20;
const TEMPORARY: &str = "meta/checkpoint.tmp";

/// Name of the checkpoint on top of which frames from this one on are replayed.
pub(super) fn name(replay_from: u64) -> String {
    format!("meta/checkpoint-{replay_from:016x}")
}

/// A checkpoint, as read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) tree: Tree,
    /// The first frame to replay on top.
    pub(super) replay_from: u64,
    /// The last frame that the log must have.
    pub(super) log_until: u64,
    /// Length of the file in bytes.
    pub(super) len: u64,
}

impl Default for Loaded {
    /// An empty map, before the first frame.
    fn default() -> Self {
        Self { tree: Tree::new(), replay_from: 1, log_until: 0, len: 0 }
    }
}

/// Writes blocks.
struct Writer {
    file: std::sync::Arc<dyn DiskFile>,
    salt: u64,
    index: u64,
    at: u64,
    synced: u64,
    block: Vec<u8>,
}

impl Writer {
    fn flush(&mut self, kind: BlockKind) -> std::io::Result<()> {
        seal_block(&mut self.block, self.salt, self.index, kind);
        self.file.pwrite(&self.block, self.at)?;
        self.at += self.block.len() as u64;
        self.index += 1;
        self.block.truncate(BLOCK_HEADER_LEN);
        if self.at - self.synced >= SYNC_EVERY {
            self.file.fdatasync()?;
            self.synced = self.at;
        }
        Ok(())
    }
}

/// Writes a checkpoint and gives its length. `log_durable` is called once all entries are written: it
/// makes the log durable and gives the last frame then. On an error the old files still count.
pub(super) fn write(
    disk: &dyn Disk,
    map: &Map,
    replay_from: u64,
    log_durable: impl FnOnce() -> Result<u64, StoreError>,
) -> Result<u64, StoreError> {
    let result = write_files(disk, map, replay_from, log_durable);
    if result.is_err()
        && let Err(e) = disk.unlink(TEMPORARY)
        && e.kind() != ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {TEMPORARY}: {e}");
    }
    result
}

fn write_files(
    disk: &dyn Disk,
    map: &Map,
    replay_from: u64,
    log_durable: impl FnOnce() -> Result<u64, StoreError>,
) -> Result<u64, StoreError> {
    let failed = |e| StoreError::io("cannot write the checkpoint", e);
    let file = disk.create(TEMPORARY).map_err(failed)?;
    let salt = fresh_salt();
    let header = FileHeader { salt, number: replay_from };
    file.pwrite(&header.encode(CHECKPOINT_MAGIC), 0).map_err(failed)?;
    let block = Vec::with_capacity(BLOCK_LEN + (64 << 10));
    let mut writer = Writer { file, salt, index: 0, at: HEADER_LEN, synced: 0, block };
    writer.block.resize(BLOCK_HEADER_LEN, 0);

    let (mut after, mut count) = (None::<Key>, 0_u64);
    loop {
        let block = &mut writer.block;
        let last = map.chunk(after.as_ref().map(Key::bytes), CHUNK_ENTRIES, |key, value| {
            push_entry(block, key, value);
            count += 1;
            block.len() < BLOCK_LEN
        });
        let ended = last.is_none();
        if writer.block.len() >= BLOCK_LEN || (ended && writer.block.len() > BLOCK_HEADER_LEN) {
            writer.flush(BlockKind::Entries).map_err(failed)?;
        }
        if ended {
            break;
        }
        after = last;
    }
    let log_until = log_durable()?;
    writer.block.extend_from_slice(&count.to_le_bytes());
    writer.block.extend_from_slice(&log_until.to_le_bytes());
    writer.flush(BlockKind::End).map_err(failed)?;
    writer.file.fdatasync().map_err(failed)?;
    disk.rename(TEMPORARY, &name(replay_from)).map_err(failed)?;
    disk.fsync_dir("meta").map_err(failed)?;
    Ok(writer.at)
}

/// Reads a checkpoint. The inner error says what is wrong with its bytes.
pub(super) fn read(disk: &dyn Disk, replay_from: u64) -> Result<Result<Loaded, String>, StoreError> {
    let name = name(replay_from);
    let failed = |e| StoreError::io(format!("cannot read {name}"), e);
    let file = disk.open(&name).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    let mut header = [0; HEADER_LEN as usize];
    file.pread(&mut header, 0).map_err(failed)?;
    let header = match FileHeader::decode(CHECKPOINT_MAGIC, &header) {
        Ok(header) if header.number == replay_from => header,
        Err(HeaderError::Newer(found)) => return Err(StoreError::NewerFormat { found, supported: VERSION }),
        Ok(_) | Err(HeaderError::Invalid) => return Ok(Err(format!("{name} has no valid header"))),
    };
    let mut pairs: Vec<(Key, Bytes)> = Vec::new();
    let (mut at, mut index, mut content) = (HEADER_LEN, 0, Vec::new());
    loop {
        let bad = || Ok(Err(format!("{name} is damaged at offset {at}")));
        let mut block = [0; BLOCK_HEADER_LEN];
        file.pread(&mut block, at).map_err(failed)?;
        // The length is believed only as far as the file goes.
        let Some(block) = BlockHeader::decode(&block, index)
            .filter(|block| u64::from(block.len) <= len.saturating_sub(at + BLOCK_HEADER_LEN as u64))
        else {
            return bad();
        };
        content.resize(block.len as usize, 0);
        let got = file.pread(&mut content, at + BLOCK_HEADER_LEN as u64).map_err(failed)?;
        if got != content.len() || !block.matches(header.salt, index, &content) {
            return bad();
        }
        match block.kind {
            BlockKind::Entries => {
                let mut ascending = true;
                let parsed = entries(&content, |key, value| {
                    ascending &= pairs.last().is_none_or(|(last, _)| last.bytes() < key);
                    pairs.push((Key::new(key), value.into()));
                });
                if parsed.is_none() || !ascending {
                    return bad();
                }
            }
            BlockKind::End => {
                let Some((_, log_until)) = decode_end(&content).filter(|(count, _)| *count == pairs.len() as u64)
                else {
                    return bad();
                };
                let tree = BTreeMap::from_iter(pairs);
                return Ok(Ok(Loaded { tree, replay_from, log_until, len }));
            }
        }
        at += (BLOCK_HEADER_LEN + content.len()) as u64;
        index += 1;
    }
}
