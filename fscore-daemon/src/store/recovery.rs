//! From the files of a store to its map. Reads only; what is found is acted on by `log_store`.
//!
//! A frame that cannot be read ends the log: it was never finished, or a power loss took it before it
//! was synced, possibly out of order, so that later frames are there. But every frame tells up to where
//! the log was durable when it was written, and a checkpoint up to where it needs the log. Where one of
//! them vouches for the frame that cannot be read, synced bytes were lost: that is damage, and nothing
//! is dropped.

use std::io::ErrorKind;
use std::sync::Arc;

use super::StoreError;
use super::checkpoint::{self, Loaded};
use super::disk::{Disk, DiskFile};
use super::format::{
    FRAME_ALIGN, FRAME_HEADER_LEN, FileHeader, FrameHeader, FrameKind, HEADER_LEN, HeaderError, SEGMENT_MAGIC, VERSION,
    decode_frame, decode_payload,
};
use super::log::segment_name;
use super::map::{Tree, change};
use super::spare::is_spare;

/// The file that says that a directory is a store, and of which format.
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "agentfs store format ";

/// A segment of the log, as found.
#[derive(Debug)]
pub(super) struct Found {
    /// Sequence number of its first frame.
    pub(super) first: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) salt: u64,
    /// Where its last frame ends.
    pub(super) end: u64,
    /// Sequence number of its last frame; `first - 1` if it has none.
    pub(super) last: u64,
}

/// A store, as found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) tree: Tree,
    /// The checkpoint used: its name and length in bytes.
    pub(super) checkpoint: Option<(String, u64)>,
    /// The segments that the log consists of, ascending; never empty.
    pub(super) segments: Vec<Found>,
    /// Sequence number of the next frame.
    pub(super) next: u64,
    /// Frames up to this one are known to be durable.
    pub(super) durable: u64,
    /// Frames replayed on top of the checkpoint.
    pub(super) replayed: u64,
    /// Bytes of those frames.
    pub(super) replayed_bytes: u64,
    /// The last run did not end in order.
    pub(super) unclean: bool,
    /// Frames after the end of the log were found and are not part of it.
    pub(super) torn: bool,
    /// Files that are not needed: of the unsynced tail, before the checkpoint, or unfinished.
    pub(super) obsolete: Vec<String>,
    /// Names of spares in `meta`.
    pub(super) spares: Vec<String>,
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged(what.into())
}

/// Names in `meta` by what they are.
#[derive(Debug, Default)]
struct Listing {
    segments: Vec<u64>,
    checkpoints: Vec<u64>,
    spares: Vec<String>,
    temporary: Vec<String>,
}

fn list(disk: &dyn Disk) -> Result<Listing, StoreError> {
    let names = match disk.list("meta") {
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        other => other.map_err(|e| StoreError::io("cannot list meta", e))?,
    };
    let number = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    let mut found = Listing::default();
    for name in names {
        if let Some(first) = name.strip_prefix("log-").and_then(number) {
            found.segments.push(first);
        } else if let Some(from) = name.strip_prefix("checkpoint-").and_then(number) {
            found.checkpoints.push(from);
        } else if is_spare(&name) {
            found.spares.push(name);
        } else if name.strip_suffix(".tmp").is_some() {
            found.temporary.push(format!("meta/{name}"));
        }
    }
    found.segments.sort_unstable();
    found.checkpoints.sort_unstable();
    found.spares.sort_unstable();
    Ok(found)
}

/// Whether there is a store; an error if there is one that cannot be used.
pub(super) fn exists(disk: &dyn Disk) -> Result<bool, StoreError> {
    let file = match disk.open(FORMAT_FILE) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return unmarked(disk).map(|()| false),
        Err(e) => return Err(StoreError::io("cannot open the file FORMAT", e)),
    };
    let mut text = [0; 64];
    let len = file.pread(&mut text, 0).map_err(|e| StoreError::io("cannot read the file FORMAT", e))?;
    let text = text.get(..len).and_then(|t| std::str::from_utf8(t).ok()).unwrap_or_default();
    let version = text.strip_prefix(FORMAT_PREFIX).and_then(|v| v.strip_suffix('\n')?.parse::<u32>().ok());
    match version {
        Some(found) if found > VERSION => Err(StoreError::NewerFormat { found, supported: VERSION }),
        Some(VERSION) => Ok(true),
        _ => Err(damaged("the file FORMAT does not name a format")),
    }
}

/// Without the file FORMAT, written last when a store is made, there must be no data either.
fn unmarked(disk: &dyn Disk) -> Result<(), StoreError> {
    let listing = list(disk)?;
    let mut empty = listing.checkpoints.is_empty() && listing.segments.iter().all(|first| *first == 1);
    if empty && !listing.segments.is_empty() {
        let (_, header, bytes) = read_segment(disk, 1)?;
        empty = header.is_err() || header.is_ok_and(|h| decode_frame(after_header(&bytes), h.salt).is_none());
    }
    if empty { Ok(()) } else { Err(damaged("the file FORMAT is missing, but meta has data")) }
}

/// Makes an empty store: the log first, the file FORMAT last.
pub(super) fn initialise(disk: &dyn Disk) -> Result<(), StoreError> {
    let made = (|| {
        disk.mkdir("meta")?;
        let file = disk.create(&segment_name(1))?;
        let header = FileHeader { salt: super::format::fresh_salt(), number: 0 };
        file.pwrite(&header.encode(SEGMENT_MAGIC), 0)?;
        file.fdatasync()?;
        disk.fsync_dir("meta")?;
        let format = disk.create("FORMAT.tmp")?;
        format.pwrite(format!("{FORMAT_PREFIX}{VERSION}\n").as_bytes(), 0)?;
        format.fdatasync()?;
        disk.rename("FORMAT.tmp", FORMAT_FILE)?;
        disk.fsync_dir("")
    })();
    made.map_err(|e| StoreError::io("cannot make a new store", e))
}

/// A segment's file, header and bytes, whatever they are.
type SegmentBytes = (Arc<dyn DiskFile>, Result<FileHeader, HeaderError>, Vec<u8>);

fn after_header(bytes: &[u8]) -> &[u8] {
    bytes.get(HEADER_LEN as usize..).unwrap_or_default()
}

/// What follows the zeros in front, which no frame begins with: most of a segment's end was never written.
fn after_zeros(mut bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 512] = [0; 512];
    while let Some(rest) = bytes.strip_prefix(&ZEROS) {
        bytes = rest;
    }
    bytes
}

fn read_segment(disk: &dyn Disk, first: u64) -> Result<SegmentBytes, StoreError> {
    let name = segment_name(first);
    let read = (|| {
        let file = disk.open(&name)?;
        let len = usize::try_from(file.len()?).map_err(|_| std::io::Error::from(ErrorKind::FileTooLarge))?;
        let mut bytes = vec![0; len];
        let got = file.pread(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok((file, bytes))
    })();
    let (file, bytes) = read.map_err(|e| StoreError::io(format!("cannot read {name}"), e))?;
    let header = FileHeader::decode(SEGMENT_MAGIC, &bytes);
    Ok((file, header, bytes))
}

/// A segment's file, salt and bytes.
type OpenSegment = (Arc<dyn DiskFile>, u64, Vec<u8>);

fn open_segment(disk: &dyn Disk, first: u64) -> Result<OpenSegment, StoreError> {
    let (file, header, bytes) = read_segment(disk, first)?;
    match header {
        Ok(header) => Ok((file, header.salt, bytes)),
        Err(HeaderError::Newer(found)) => Err(StoreError::NewerFormat { found, supported: VERSION }),
        // The header is durable before a segment joins the log.
        Err(HeaderError::Invalid) => Err(damaged(format!("{} has no valid header", segment_name(first)))),
    }
}

/// Reads a store.
pub(super) fn load(disk: &dyn Disk) -> Result<Recovered, StoreError> {
    let listing = list(disk)?;
    let mut reasons = Vec::new();
    let mut start = None;
    for from in listing.checkpoints.iter().rev() {
        match checkpoint::read(disk, *from)? {
            Ok(loaded) => {
                start = Some(loaded);
                break;
            }
            Err(reason) => reasons.push(reason),
        }
    }
    let checkpoint = start.as_ref().map(|loaded| (checkpoint::name(loaded.replay_from), loaded.len));
    let from = start.as_ref().map_or(1, |loaded| loaded.replay_from);
    // An older checkpoint will do only while the log from it on is whole: then nothing is lost.
    let Some(before) = listing.segments.partition_point(|first| *first <= from).checked_sub(1) else {
        reasons.push(format!("no log segment contains frame {from}"));
        return Err(damaged(reasons.join("; ")));
    };
    let (obsolete, chain) = listing.segments.split_at(before);
    let mut replay = Replay::new(start.unwrap_or_default());
    // One that cannot be read tells by its name alone what was durable when it was published.
    let published = listing.checkpoints.last().map_or(0, |from| from.saturating_sub(1));
    replay.needed = replay.needed.max(published);
    replay.run(disk, chain)?;
    if replay.needed >= replay.next {
        reasons
            .push(format!("the log ends before frame {}, but frames up to {} were synced", replay.next, replay.needed));
        return Err(damaged(reasons.join("; ")));
    }
    let mut obsolete: Vec<String> = obsolete.iter().chain(&replay.dropped).map(|first| segment_name(*first)).collect();
    let unused = listing.checkpoints.iter().filter(|other| replay.from != **other || checkpoint.is_none());
    obsolete.extend(unused.map(|other| checkpoint::name(*other)));
    obsolete.extend(listing.temporary);
    Ok(Recovered {
        tree: replay.tree,
        checkpoint,
        next: replay.next,
        durable: replay.durable,
        replayed: replay.next.saturating_sub(from),
        replayed_bytes: replay.bytes,
        unclean: replay.last != Some(FrameKind::Closed),
        torn: replay.torn,
        segments: replay.segments,
        obsolete,
        spares: listing.spares,
    })
}

/// Runs over the segments in order.
#[derive(Debug)]
struct Replay {
    tree: Tree,
    /// First frame that is applied.
    from: u64,
    /// The frame expected next.
    next: u64,
    durable: u64,
    /// The log must reach this frame.
    needed: u64,
    last: Option<FrameKind>,
    bytes: u64,
    torn: bool,
    segments: Vec<Found>,
    dropped: Vec<u64>,
}

impl Replay {
    fn new(start: Loaded) -> Self {
        let (from, needed) = (start.replay_from, start.log_until);
        Self {
            tree: start.tree,
            from,
            next: from,
            durable: needed,
            needed,
            last: None,
            bytes: 0,
            torn: false,
            segments: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn run(&mut self, disk: &dyn Disk, chain: &[u64]) -> Result<(), StoreError> {
        self.next = chain.first().copied().unwrap_or(1);
        for (at, first) in chain.iter().enumerate() {
            // Frames from there on were cut off by an earlier start, and may still lie in this file.
            let limit = chain.get(at + 1).copied();
            let (file, salt, bytes) = open_segment(disk, *first)?;
            let end = self.segment(&bytes, salt, limit)?;
            self.segments.push(Found { first: *first, file, salt, end: end as u64, last: self.next - 1 });
            if limit == Some(self.next) {
                continue;
            }
            let rest = bytes.get(end..).unwrap_or_default();
            self.look_beyond(rest, salt);
            for later in chain.get(at + 1..).unwrap_or_default() {
                let (_, salt, bytes) = open_segment(disk, *later)?;
                self.look_beyond(after_header(&bytes), salt);
                self.torn = true;
                self.dropped.push(*later);
            }
            self.torn |= rest.iter().take(FRAME_HEADER_LEN).any(|b| *b != 0);
            break;
        }
        Ok(())
    }

    /// Applies the frames of a segment; gives where they end.
    fn segment(&mut self, bytes: &[u8], salt: u64, limit: Option<u64>) -> Result<usize, StoreError> {
        let mut at = HEADER_LEN as usize;
        while limit != Some(self.next) {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some((header, payload)) = decode_frame(rest, salt).filter(|(h, _)| h.sequence == self.next) else {
                break;
            };
            let (kind, changes) = decode_payload(payload)
                .ok_or_else(|| damaged(format!("frame {} is intact but not understood", header.sequence)))?;
            if header.sequence >= self.from {
                for (key, value) in changes {
                    change(&mut self.tree, key, value);
                }
                self.bytes += header.stride() as u64;
            }
            self.durable = self.durable.max(header.durable);
            self.last = Some(kind);
            self.next += 1;
            at += header.stride();
        }
        Ok(at)
    }

    /// Looks for frames behind the end of the log: they tell what had been synced.
    fn look_beyond(&mut self, bytes: &[u8], salt: u64) {
        let mut rest = bytes;
        loop {
            rest = after_zeros(rest);
            if let Some(header) = FrameHeader::decode(rest, salt) {
                self.needed = self.needed.max(header.durable);
                self.torn = true;
            }
            match rest.get(FRAME_ALIGN..) {
                Some(next) if !next.is_empty() => rest = next,
                _ => return,
            }
        }
    }
}
