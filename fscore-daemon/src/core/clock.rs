//! Where times come from.

use nix::time::{ClockId, clock_gettime};
use shm_transport::wire::Timestamp;

/// A source of the present time, so that tests can choose it.
pub trait Clock: Send + Sync {
    /// Now, UTC.
    fn now(&self) -> Timestamp;
}

/// The host's clock at the granularity that its file systems use: times that we set and times that
/// the host sets on content files must not run against each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        clock_gettime(ClockId::CLOCK_REALTIME_COARSE)
            .map_or(Timestamp::default(), |t| Timestamp { sec: t.tv_sec(), nsec: t.tv_nsec() as u32 })
    }
}
