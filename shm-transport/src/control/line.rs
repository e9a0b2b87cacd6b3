//! Bounded JSON lines over a Unix socket, with file descriptors beside a line where it has some.

use super::LINE_MAX;
use crate::mem::fds;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes asked for at once.
const CHUNK: usize = 16 << 10;

/// Why a line could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The system refused something.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The line has more than [`LINE_MAX`] bytes.
    #[error("a line exceeds {LINE_MAX} bytes")]
    TooLong,
    /// The connection ended in the middle of a line.
    #[error("the connection ended in the middle of a line")]
    Cut,
    /// The line is not what it should be.
    #[error("a line is not understood: {0}")]
    Json(serde_json::Error),
}

/// One line as it came.
#[derive(Debug)]
pub struct Line {
    /// Its bytes, without the newline.
    pub bytes: Vec<u8>,
    /// What came beside it (beside any byte of it), at most [`fds::FDS_MAX`].
    pub fds: Vec<OwnedFd>,
}

impl Line {
    /// The line as JSON.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, LineError> {
        serde_json::from_slice(&self.bytes).map_err(LineError::Json)
    }
}

/// A Unix socket that carries lines.
#[derive(Debug)]
pub struct LineStream {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were searched for a newline.
    searched: usize,
    fds: Vec<OwnedFd>,
}

impl LineStream {
    /// Over a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), searched: 0, fds: Vec::new() }
    }

    /// The next line, waiting for it; `None` at the end of the connection. After an error the
    /// connection is of no more use.
    pub fn read(&mut self) -> Result<Option<Line>, LineError> {
        self.read_within(None)
    }

    /// As [`Self::read`]; a line that has begun must be whole after `limit`, else the error is `TimedOut`.
    /// However long it takes a line to begin, that is waited for.
    pub fn read_within(&mut self, limit: Option<Duration>) -> Result<Option<Line>, LineError> {
        let mut deadline = None;
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|b| *b == b'\n') {
                return Ok(Some(self.take(self.searched + at)));
            }
            self.searched = self.buffer.len();
            if self.searched >= LINE_MAX {
                return Err(LineError::TooLong);
            }
            if let Some(limit) = limit
                && !(self.buffer.is_empty() && self.fds.is_empty())
            {
                let now = Instant::now();
                self.await_more(deadline.get_or_insert(now + limit).saturating_duration_since(now))?;
            }
            if !self.fill()? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(LineError::Cut) };
            }
        }
    }

    /// The line that ends before `end`.
    fn take(&mut self, end: usize) -> Line {
        let rest = self.buffer.split_off((end + 1).min(self.buffer.len()));
        let mut bytes = std::mem::replace(&mut self.buffer, rest);
        bytes.truncate(end);
        self.searched = 0;
        Line { bytes, fds: std::mem::take(&mut self.fds) }
    }

    /// Waits until there is more, the end included.
    fn await_more(&self, limit: Duration) -> io::Result<()> {
        // Rounded up: a rest of less than a millisecond must not become a loop.
        let ms = i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        if limit.is_zero() || !crate::frontend::wait(self.stream.as_fd(), ms)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a line was begun and not ended"));
        }
        Ok(())
    }

    /// Receives more; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let room = CHUNK.min(LINE_MAX + 1 - self.buffer.len().min(LINE_MAX));
        let (count, fds) = loop {
            match fds::recv(self.stream.as_fd(), chunk.get_mut(..room).unwrap_or_default()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if self.fds.len() + fds.len() > fds::FDS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many file descriptors beside a line"));
        }
        self.fds.extend(fds);
        self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// Writes `value` as a line.
    pub fn write<T: Serialize>(&mut self, value: &T) -> Result<(), LineError> {
        self.write_with(value, &[])
    }

    /// Writes `value` as a line with `fds` beside it.
    pub fn write_with<T: Serialize>(&mut self, value: &T, fds: &[BorrowedFd<'_>]) -> Result<(), LineError> {
        let mut line = serde_json::to_vec(value).map_err(LineError::Json)?;
        if line.len() >= LINE_MAX {
            return Err(LineError::TooLong);
        }
        line.push(b'\n');
        let mut beside = fds;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match fds::send(self.stream.as_fd(), rest, beside) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            }
            // They go with the first byte; sent again they would be doubled.
            beside = &[];
        }
        Ok(())
    }

    /// Longest wait in one read or write; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)?;
        self.stream.set_write_timeout(timeout)
    }

    /// Who is on the other side.
    pub fn peer(&self) -> io::Result<Peer> {
        Peer::of(&self.stream)
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The socket; what was received and not read yet is lost.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

impl AsFd for LineStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Who a peer was when it connected (`SO_PEERCRED`), as this process's user namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; 0 when it is not visible from here.
    pub pid: i32,
}

impl Peer {
    /// The peer of a connected socket.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }

    /// Whether it is this process's own user, or root.
    pub fn is_own_or_root(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

#[cfg(test)]
mod tests;
