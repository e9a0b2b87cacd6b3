//! Atomic words behind one trait, so that the ring, the doorbell and the slots are the same code over
//! the mapped region (std atomics) and under the model checker (loom atomics).

use std::sync::atomic::Ordering;

/// An atomic integer.
pub(crate) trait Word<T> {
    /// Reads.
    fn load(&self, order: Ordering) -> T;
    /// Writes.
    fn store(&self, value: T, order: Ordering);
    /// Writes and returns what was there.
    fn swap(&self, value: T, order: Ordering) -> T;
    /// Writes `new` if `current` is there; the error is what was found.
    fn compare_exchange(&self, current: T, new: T, success: Ordering, failure: Ordering) -> Result<T, T>;
    /// The fence that belongs to this kind of atomic.
    fn fence(order: Ordering);
}

macro_rules! word {
    ($atomic:ty, $int:ty, $fence:path) => {
        impl Word<$int> for $atomic {
            fn load(&self, order: Ordering) -> $int {
                <$atomic>::load(self, order)
            }
            fn store(&self, value: $int, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            fn swap(&self, value: $int, order: Ordering) -> $int {
                <$atomic>::swap(self, value, order)
            }
            fn compare_exchange(&self, current: $int, new: $int, ok: Ordering, err: Ordering) -> Result<$int, $int> {
                <$atomic>::compare_exchange(self, current, new, ok, err)
            }
            fn fence(order: Ordering) {
                $fence(order);
            }
        }
    };
}

word!(std::sync::atomic::AtomicU32, u32, std::sync::atomic::fence);
word!(std::sync::atomic::AtomicU64, u64, std::sync::atomic::fence);
#[cfg(all(test, loom))]
word!(loom::sync::atomic::AtomicU32, u32, loom::sync::atomic::fence);
#[cfg(all(test, loom))]
word!(loom::sync::atomic::AtomicU64, u64, loom::sync::atomic::fence);
