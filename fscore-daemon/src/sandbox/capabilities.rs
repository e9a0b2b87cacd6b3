//! Capabilities: root gives up all but what reading other users' files takes.

use shm_transport::mem::sys;
use std::io;

/// `CAP_DAC_OVERRIDE`: write what belongs to another user.
const DAC_OVERRIDE: u64 = 1 << 1;
/// `CAP_DAC_READ_SEARCH`: read it.
const DAC_READ_SEARCH: u64 = 1 << 2;
/// `CAP_SETPCAP`: take capabilities out of the bounding set.
const SETPCAP: u64 = 1 << 8;
/// `CAP_SYS_ADMIN`: make mounts, among much else.
pub(super) const SYS_ADMIN: u64 = 1 << 21;

/// What this process has, or may take.
pub(super) fn permitted() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "there is no line CapPrm"))
}

/// Gives up what is not needed, in all sets. `others`: the store or the socket's directory is another user's.
pub(super) fn cut(permitted: u64, others: bool) -> io::Result<()> {
    if permitted & SETPCAP != 0 {
        sys::clear_bounding_set()?;
    }
    let needed = if others { DAC_READ_SEARCH | DAC_OVERRIDE } else { DAC_READ_SEARCH };
    let kept = permitted & needed;
    sys::set_capabilities(kept, kept)
}
