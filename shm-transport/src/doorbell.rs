//! Waking a peer that sleeps, and only then.
//!
//! Each ring has a flag `armed` that its consumer raises before it sleeps. The consumer's order is:
//! disarm, drain, **arm, look again**, sleep; the producer's: **publish, look at the flag**, ring. The
//! fences (pair P3) stand between the two steps in bold on each side. Without them both loads could
//! run before both stores became visible: the consumer finds the ring empty and sleeps, the producer
//! finds the flag down and does not ring, and the entry waits for ever. With both fences, whichever
//! comes first in the single order of sequentially consistent fences, the other side's load sees what
//! stood before it: either the consumer sees the entry, or the producer sees the flag.

use crate::mem::atomics::Word;
use crate::mem::fds;
use crate::ring::{Consumer, RingCells};
use crate::transport::TransportError;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

/// An eventfd that one side writes and the other polls. One per queue and direction, never shared
/// between sessions.
///
/// It is made by the package `eventfd`. Writing and reading go through `nix`, because that package has
/// no way to take over a descriptor that came by inheritance or beside a message, which most have.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A new one.
    pub fn create() -> io::Result<Self> {
        fds::eventfd().map(Self)
    }

    /// One that somebody else made. `InvalidData` when it is not an eventfd.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let link = nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str())?;
        if link != "anon_inode:[eventfd]" {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a doorbell is not an eventfd"));
        }
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(fd))
    }

    /// Another descriptor of the same doorbell.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Makes it readable. A doorbell that is full is readable already.
    pub fn ring(&self) -> io::Result<()> {
        match nix::unistd::write(&self.0, &1u64.to_le_bytes()) {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes the count: not readable any more until it rings again. Never waits.
    pub fn take(&self) -> io::Result<()> {
        match fds::take_now(self.as_fd()) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
            _ => Ok(()),
        }
    }

    /// Takes the count however often it comes back, at most `tries` times; `false` when it comes back for ever, as that of a
    /// semaphore does.
    pub(crate) fn take_all(&self, tries: u32) -> io::Result<bool> {
        for _ in 0..tries {
            if !fds::take_now(self.as_fd())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// So full that to ring it waits for somebody to take its count, unless the flag that whoever shares the
    /// doorbell can clear at any moment says otherwise. Ringing alone never gets there.
    fn is_full(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? == 0)
    }

    /// Lets go whoever waits in [`Self::ring`]; `true` when somebody would have had to.
    pub(crate) fn unblock(&self) -> io::Result<bool> {
        let full = self.is_full()?;
        if full {
            self.take()?;
        }
        Ok(full)
    }

    /// The owned descriptor, to pass on.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For the producer, after it published: whether the consumer must be rung. Takes the flag down, so
/// that one sleep costs one ring.
pub(crate) fn must_ring<C: RingCells>(cells: &C) -> bool {
    // P3: after the tail was published, before the flag is looked at; see the module's explanation.
    C::Cell::fence(Ordering::SeqCst);
    cells.armed().load(Ordering::Relaxed) != 0 && cells.armed().swap(0, Ordering::Relaxed) != 0
}

/// For the consumer, before it sleeps: asks to be rung. `false` when something waits already (or the
/// ring is broken, which the next `pop` tells): it must not sleep.
pub(crate) fn arm<C: RingCells>(consumer: &Consumer<C>) -> bool {
    // A swap like every write to the flag: their order is then one that the model checker knows. It
    // costs nothing that counts, the consumer is about to sleep.
    consumer.cells().armed().swap(1, Ordering::Relaxed);
    // P3: after the flag was raised, before the ring is looked at; see the module's explanation.
    C::Cell::fence(Ordering::SeqCst);
    if consumer.is_empty() {
        return true;
    }
    disarm(consumer.cells());
    false
}

/// For the consumer, when it is awake: no ringing is needed.
pub(crate) fn disarm<C: RingCells>(cells: &C) {
    cells.armed().swap(0, Ordering::Relaxed);
}

/// Rings `bell` if the consumer of `cells` sleeps.
pub(crate) fn wake<C: RingCells>(cells: &C, bell: &Doorbell) -> Result<(), TransportError> {
    if must_ring(cells) {
        bell.ring().map_err(|source| TransportError::Io { what: "cannot ring a doorbell", source })?;
    }
    Ok(())
}
