//! Sleeping until the kernel, the daemon, or the clock has something to do.

use super::{Daemon, Life, Session};
use crate::channel::Channel;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use shm_transport::FsTransport;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

const KERNEL: u64 = 0;
const DOORBELL: u64 = 1;
const CONNECTION: u64 = 2;
const END: u64 = 3;

/// The epoll instance and what it watches.
#[derive(Debug)]
pub(super) struct Waiter {
    epoll: Epoll,
    /// Whether readable requests wake us.
    watches_requests: bool,
}

impl Waiter {
    pub(super) fn new(kernel: &Channel, doorbell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(kernel.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, KERNEL))?;
        epoll.add(doorbell, EpollEvent::new(EpollFlags::EPOLLIN, DOORBELL))?;
        Ok(Self { epoll, watches_requests: true })
    }

    /// Who asks us to end wakes us.
    pub(super) fn watch_for_the_end(&self, asked: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.add(asked, EpollEvent::new(EpollFlags::EPOLLIN, END))?)
    }

    /// While no slot is free, requests stay with the kernel and must not keep us awake.
    fn watch_requests(&mut self, kernel: &Channel, wanted: bool) -> io::Result<()> {
        if wanted != self.watches_requests {
            let flags = if wanted { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
            self.epoll.modify(kernel.as_fd(), &mut EpollEvent::new(flags, KERNEL))?;
            self.watches_requests = wanted;
        }
        Ok(())
    }
}

fn timeout(after: Option<Duration>) -> EpollTimeout {
    let Some(after) = after else { return EpollTimeout::NONE };
    // Rounded up, lest the last fraction of a millisecond be spent spinning.
    let ms = after.as_micros().div_ceil(1000);
    EpollTimeout::try_from(u32::try_from(ms).unwrap_or(u32::MAX).min(i32::MAX as u32)).unwrap_or(EpollTimeout::ZERO)
}

impl<D: Daemon> Session<D> {
    /// Sleeps until there is something to do.
    pub(super) fn wait(&mut self) -> io::Result<Life> {
        if self.more_replies || self.must_ask_again() || (self.readable && self.may_take()) {
            return Ok(Life::Goes);
        }
        // Most replies are there before this thread would be asleep. Those of requests that were waited for before
        // take longer, and meanwhile the kernel may have another.
        let awaits = std::mem::take(&mut self.submitted) && self.daemon.transport_ref().in_flight() > 0;
        if awaits && self.daemon.connected() && self.daemon.transport().linger() {
            return Ok(Life::Goes);
        }
        // Without a daemon no reply comes, and a ring that it broke would never let us sleep.
        if self.daemon.connected() && !self.daemon.transport().arm() {
            return Ok(Life::Goes);
        }
        let room = self.has_room();
        self.waiter.watch_requests(&self.kernel, room && !self.leaving.is_begun())?;
        let now = Instant::now();
        let forgets =
            if self.daemon.connected() && room && self.may_submit() { self.forgetting.due_in(now) } else { None };
        // Once given up, only its return counts.
        let limit = self.daemon.gives_up_in().filter(|left| !left.is_zero());
        let after = [self.daemon.retry_in(), forgets, limit, self.leave_in(now)].into_iter().flatten().min();
        self.daemon.show_waiting();
        let mut events = [EpollEvent::empty(); 4];
        let count = match self.waiter.epoll.wait(&mut events, timeout(after)) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        for event in events.iter().take(count) {
            match event.data() {
                KERNEL if event.events().contains(EpollFlags::EPOLLERR) => return Ok(Life::Ended),
                KERNEL => self.readable = true,
                DOORBELL => self.daemon.transport().disarm(),
                END => self.begin_to_leave(),
                _ => self.hung_up(),
            }
        }
        self.look_for_the_daemon()?;
        Ok(Life::Goes)
    }

    /// Attaches to the daemon if it is time to try; its connection is watched from then on. A lost
    /// connection is closed, which also ends the watching.
    pub(super) fn look_for_the_daemon(&mut self) -> io::Result<()> {
        if self.daemon.retry_in() == Some(Duration::ZERO)
            && self.daemon.retry()
            && let Some(connection) = self.daemon.connection()
        {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, CONNECTION);
            self.waiter.epoll.add(connection, event)?;
        }
        Ok(())
    }

    fn hung_up(&mut self) {
        self.daemon.lose("its connection ended");
    }
}
