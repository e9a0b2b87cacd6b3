//! The bytes of segments, frames and checkpoints (`specs/on-disk-format.md` §3-§5). Pure functions.
//!
//! Numbers are little endian. Every checksum covers the file's salt, a random number from its header,
//! so that bytes of another file, an earlier use of the same blocks, or a user's data inside a frame
//! never pass for a frame.

/// Version of everything in this file.
pub(super) const VERSION: u32 = 1;
/// Start of a log segment.
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"AFSLOG\r\n";
/// Start of a checkpoint.
pub(super) const CHECKPOINT_MAGIC: [u8; 8] = *b"AFSCKP\r\n";
/// Length of the header of segments and checkpoints.
pub(super) const HEADER_LEN: u64 = 32;
/// Length of a frame's header.
pub(super) const FRAME_HEADER_LEN: usize = 32;
/// Frames start at multiples of this.
pub(super) const FRAME_ALIGN: usize = 8;
/// Longest key.
pub(super) const KEY_MAX: usize = u16::MAX as usize;
/// Longest payload of a frame: a batch must fit.
pub(super) const PAYLOAD_MAX: usize = 256 << 20;
/// Length of a checkpoint block's header.
pub(super) const BLOCK_HEADER_LEN: usize = 24;

const KIND_BATCH: u8 = 1;
const KIND_OPENED: u8 = 2;
const KIND_CLOSED: u8 = 3;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;

/// Takes fields off a byte string; `None` at its end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}

/// A number that nobody outside can guess and no two files share.
pub(super) fn fresh_salt() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys each of these from the system's random source.
    std::hash::RandomState::new().build_hasher().finish()
}

/// Header of a segment or checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    /// Goes into every checksum of the file.
    pub(super) salt: u64,
    /// Checkpoint: first sequence number that must be replayed on top. Segment: 0.
    pub(super) number: u64,
}

/// Why a header was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Not a header of the kind asked for, or altered.
    Invalid,
    /// Of a newer format.
    Newer(u32),
}

impl FileHeader {
    /// Bytes: magic 8, version u32, checksum of the rest u32, salt u64, number u64.
    pub(super) fn encode(self, magic: [u8; 8]) -> [u8; HEADER_LEN as usize] {
        let (version, salt, number) = (VERSION.to_le_bytes(), self.salt.to_le_bytes(), self.number.to_le_bytes());
        let crc = checksum(&[&magic, &version, &salt, &number]).to_le_bytes();
        let mut out = [0; HEADER_LEN as usize];
        for (to, from) in out.iter_mut().zip([&magic[..], &version, &crc, &salt, &number].concat()) {
            *to = from;
        }
        out
    }

    pub(super) fn decode(magic: [u8; 8], bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut f = Fields(bytes);
        let parsed = (|| Some((f.array::<8>()?, f.u32()?, f.u32()?, f.u64()?, f.u64()?)))();
        let (found, version, crc, salt, number) = parsed.ok_or(HeaderError::Invalid)?;
        let expected = checksum(&[&found, &version.to_le_bytes(), &salt.to_le_bytes(), &number.to_le_bytes()]);
        if found != magic || crc != expected || version == 0 {
            return Err(HeaderError::Invalid);
        }
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        Ok(Self { salt, number })
    }
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// A batch.
    Batch,
    /// The store was opened.
    Opened,
    /// The store was closed in order.
    Closed,
}

/// The header of a frame: payload length u32, payload checksum u32, sequence u64, durable u64, checksum
/// of these and the salt u32, zero u32. Then the payload, then zeros to a multiple of 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) payload_len: u32,
    payload_crc: u32,
    /// Number of this frame: one more than the one before.
    pub(super) sequence: u64,
    /// Every frame up to this one was durable when this frame was written. A frame that cannot be
    /// read is damage if a later one vouches for it, and a torn tail otherwise.
    pub(super) durable: u64,
}

impl FrameHeader {
    fn crc(&self, salt: u64) -> u32 {
        checksum(&[
            &salt.to_le_bytes(),
            &self.payload_len.to_le_bytes(),
            &self.payload_crc.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &self.durable.to_le_bytes(),
        ])
    }

    /// The header at the start of `bytes`, if it is one of this file.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let mut f = Fields(bytes.get(..FRAME_HEADER_LEN)?);
        let header = Self { payload_len: f.u32()?, payload_crc: f.u32()?, sequence: f.u64()?, durable: f.u64()? };
        let sound = header.payload_len > 0 && f.u32()? == header.crc(salt) && f.u32()? == 0;
        sound.then_some(header)
    }

    /// Bytes from this frame's start to the next one's.
    pub(super) fn stride(&self) -> usize {
        FRAME_HEADER_LEN + (self.payload_len as usize).next_multiple_of(FRAME_ALIGN)
    }
}

/// A whole frame in front of `bytes`: its header and payload.
pub(super) fn decode_frame(bytes: &[u8], salt: u64) -> Option<(FrameHeader, &[u8])> {
    let header = FrameHeader::decode(bytes, salt)?;
    let payload = bytes.get(FRAME_HEADER_LEN..)?.get(..header.payload_len as usize)?;
    (checksum(&[payload]) == header.payload_crc).then_some((header, payload))
}

/// A frame that only lacks what is known when it gets its place in the log.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    payload_len: u32,
    payload_crc: u32,
}

/// A batch that cannot be written whatever the disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unencodable {
    #[error("a key of {0} bytes is too long: at most {KEY_MAX}")]
    Key(usize),
    #[error("a batch of {0} bytes is too large: at most {PAYLOAD_MAX}")]
    Batch(usize),
}

impl Frame {
    /// Batch payload: 1, then for each change: 1 put or 2 delete, key length u16, key, and for put: value
    /// length u32, value.
    pub(super) fn batch(changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<Self, Unencodable> {
        let len = |(k, v): &(Vec<u8>, Option<Vec<u8>>)| 3 + k.len() + v.as_ref().map_or(0, |v| 4 + v.len());
        let payload_len = 1 + changes.iter().map(len).fold(0, usize::saturating_add);
        if payload_len > PAYLOAD_MAX {
            return Err(Unencodable::Batch(payload_len));
        }
        let mut bytes = Vec::with_capacity(FRAME_HEADER_LEN + payload_len.next_multiple_of(FRAME_ALIGN));
        bytes.resize(FRAME_HEADER_LEN, 0);
        bytes.push(KIND_BATCH);
        for (key, value) in changes {
            let key_len = u16::try_from(key.len()).map_err(|_| Unencodable::Key(key.len()))?;
            bytes.push(if value.is_some() { OP_PUT } else { OP_DELETE });
            bytes.extend_from_slice(&key_len.to_le_bytes());
            bytes.extend_from_slice(key);
            if let Some(value) = value {
                bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
                bytes.extend_from_slice(value);
            }
        }
        Ok(Self::finish(bytes))
    }

    /// The frame that opens a run of the daemon.
    pub(super) fn opened() -> Self {
        Self::marker(KIND_OPENED)
    }

    /// The frame that ends a run in order.
    pub(super) fn closed() -> Self {
        Self::marker(KIND_CLOSED)
    }

    fn marker(kind: u8) -> Self {
        let mut bytes = vec![0; FRAME_HEADER_LEN];
        bytes.push(kind);
        Self::finish(bytes)
    }

    fn finish(mut bytes: Vec<u8>) -> Self {
        let payload = bytes.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let (payload_len, payload_crc) = (payload.len() as u32, checksum(&[payload]));
        bytes.resize(bytes.len().next_multiple_of(FRAME_ALIGN), 0);
        Self { bytes, payload_len, payload_crc }
    }

    /// Length in the log.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Fills the header in and gives the bytes to write.
    pub(super) fn seal(&mut self, salt: u64, sequence: u64, durable: u64) -> &[u8] {
        let (payload_len, payload_crc) = (self.payload_len, self.payload_crc);
        let header = FrameHeader { payload_len, payload_crc, sequence, durable };
        let parts = [
            &payload_len.to_le_bytes()[..],
            &payload_crc.to_le_bytes(),
            &sequence.to_le_bytes(),
            &durable.to_le_bytes(),
            &header.crc(salt).to_le_bytes(),
        ];
        for (to, from) in self.bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        &self.bytes
    }
}

/// One change of a batch; `None` deletes.
pub(super) type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// What a payload says, with its changes if it is a batch. `None` if it is not one of ours.
pub(super) fn decode_payload(payload: &[u8]) -> Option<(FrameKind, Vec<Change<'_>>)> {
    let mut f = Fields(payload);
    let kind = match f.u8()? {
        KIND_BATCH => FrameKind::Batch,
        KIND_OPENED if f.0.is_empty() => FrameKind::Opened,
        KIND_CLOSED if f.0.is_empty() => FrameKind::Closed,
        _ => return None,
    };
    let mut changes = Vec::new();
    while !f.0.is_empty() {
        let op = f.u8()?;
        let key_len = f.u16()?;
        let key = f.bytes(key_len as usize)?;
        let value = match op {
            OP_PUT => {
                let len = f.u32()?;
                Some(f.bytes(len as usize)?)
            }
            OP_DELETE => None,
            _ => return None,
        };
        changes.push((key, value));
    }
    Some((kind, changes))
}

/// What a block of a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// Entries: key length u16, value length u32, key, value.
    Entries,
    /// The end: entry count u64, last sequence number the log must have u64.
    End,
}

/// Header of a checkpoint block: length u32, kind u32, index u64, checksum of these, the salt and the
/// content u32, zero u32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) len: u32,
    pub(super) kind: BlockKind,
    crc: u32,
}

fn block_crc(salt: u64, len: u32, kind: u32, index: u64, content: &[u8]) -> u32 {
    let (len, kind, index) = (len.to_le_bytes(), kind.to_le_bytes(), index.to_le_bytes());
    checksum(&[&salt.to_le_bytes(), &len, &kind, &index, content])
}

impl BlockKind {
    fn number(self) -> u32 {
        match self {
            Self::Entries => 1,
            Self::End => 2,
        }
    }
}

impl BlockHeader {
    /// The header of block number `index`; whether it is intact shows with its content.
    pub(super) fn decode(bytes: &[u8], index: u64) -> Option<Self> {
        let mut f = Fields(bytes);
        let len = f.u32()?;
        let kind = match f.u32()? {
            1 => BlockKind::Entries,
            2 => BlockKind::End,
            _ => return None,
        };
        let (found, crc, zero) = (f.u64()?, f.u32()?, f.u32()?);
        (found == index && zero == 0).then_some(Self { len, kind, crc })
    }

    pub(super) fn matches(&self, salt: u64, index: u64, content: &[u8]) -> bool {
        block_crc(salt, self.len, self.kind.number(), index, content) == self.crc
    }
}

/// Fills in the header of a block whose first [`BLOCK_HEADER_LEN`] bytes are room for it.
pub(super) fn seal_block(block: &mut [u8], salt: u64, index: u64, kind: BlockKind) {
    let content = block.get(BLOCK_HEADER_LEN..).unwrap_or_default();
    let len = content.len() as u32;
    let crc = block_crc(salt, len, kind.number(), index, content).to_le_bytes();
    let parts = [&len.to_le_bytes()[..], &kind.number().to_le_bytes(), &index.to_le_bytes(), &crc];
    for (to, from) in block.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
}

/// Appends an entry to a block's content.
pub(super) fn push_entry(block: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    block.extend_from_slice(&(key.len() as u16).to_le_bytes());
    block.extend_from_slice(&(value.len() as u32).to_le_bytes());
    block.extend_from_slice(key);
    block.extend_from_slice(value);
}

/// Hands out the entries of a block's content; `None` if it is malformed.
pub(super) fn entries<'a>(content: &'a [u8], mut visit: impl FnMut(&'a [u8], &'a [u8])) -> Option<()> {
    let mut f = Fields(content);
    while !f.0.is_empty() {
        let (key_len, value_len) = (f.u16()?, f.u32()?);
        visit(f.bytes(key_len as usize)?, f.bytes(value_len as usize)?);
    }
    Some(())
}

/// The content of the end block.
pub(super) fn decode_end(content: &[u8]) -> Option<(u64, u64)> {
    let mut f = Fields(content);
    let both = (f.u64()?, f.u64()?);
    f.0.is_empty().then_some(both)
}
