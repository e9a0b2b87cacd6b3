//! Points at which a test may let a commit fail or end abruptly. In release builds there is nothing.

#[cfg(not(test))]
use std::io;

/// A point between two effects. Tests count them; nothing else happens here.
#[cfg(not(any(test, debug_assertions)))]
#[expect(clippy::unnecessary_wraps, reason = "test builds fail here")]
#[expect(clippy::inline_always, reason = "nothing is left of it")]
#[inline(always)]
pub(super) fn point() -> io::Result<()> {
    Ok(())
}

/// In debug builds, tests of the whole program let the process abort at the point of this number.
#[cfg(all(debug_assertions, not(test)))]
#[expect(clippy::unnecessary_wraps, reason = "unit tests fail here")]
pub(super) fn point() -> io::Result<()> {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static ABORT_AT: OnceLock<Option<u64>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let at = ABORT_AT.get_or_init(|| std::env::var("AGENTFS_TEST_COMMIT_ABORT_AT").ok()?.parse().ok());
    if at.is_some_and(|at| PASSED.fetch_add(1, Ordering::Relaxed) + 1 == at) {
        std::process::abort();
    }
    Ok(())
}

#[cfg(test)]
pub(super) use in_tests::point;

#[cfg(test)]
pub(super) mod in_tests {
    use std::cell::Cell;
    use std::io;

    /// What happens at points, by their number from 1.
    #[derive(Debug, Clone, Copy, Default)]
    pub(in crate::commit) struct Faults {
        /// The process ends here (a panic that the test catches; nothing cleans up after it).
        pub(in crate::commit) crash_at: Option<u64>,
        /// The system call fails here.
        pub(in crate::commit) fail_at: Option<u64>,
    }

    thread_local! {
        static FAULTS: Cell<Faults> = const { Cell::new(Faults { crash_at: None, fail_at: None }) };
        static PASSED: Cell<u64> = const { Cell::new(0) };
    }

    /// Arms faults for this thread and counts from 0 again.
    pub(in crate::commit) fn arm(faults: Faults) {
        FAULTS.set(faults);
        PASSED.set(0);
    }

    /// How many points were passed since.
    pub(in crate::commit) fn passed() -> u64 {
        PASSED.get()
    }

    /// A point between two effects.
    pub(in crate::commit) fn point() -> io::Result<()> {
        let passed = PASSED.get() + 1;
        PASSED.set(passed);
        let faults = FAULTS.get();
        if faults.crash_at == Some(passed) {
            std::panic::resume_unwind(Box::new("crash"));
        }
        if faults.fail_at == Some(passed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }
}
