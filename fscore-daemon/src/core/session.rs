//! One mount's view of the core: who asks, on which branch, what it has been told.
