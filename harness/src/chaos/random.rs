//! Numbers that a seed determines.

/// A generator.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// From a seed; neighbouring seeds give unlike numbers.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub(super) fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `limit`; 0 when that is 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next_u64() >> 11) as usize % limit.max(1)
    }
}
