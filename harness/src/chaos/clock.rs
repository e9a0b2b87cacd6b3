//! The clock that every process of a run shares.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the system's monotonic clock.
pub(super) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec().cast_unsigned() * 1_000_000_000 + t.tv_nsec().cast_unsigned())
}
