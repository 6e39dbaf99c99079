//! What the threads of a load share while it lasts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that all load threads add to, once for each wake-up. They order nothing else, hence `Relaxed`.
#[derive(Default, Debug)]
pub struct Live {
    completed: AtomicU64,
    /// The longest latency since it was last looked at.
    slowest_ns: AtomicU64,
    last_completion_ns: AtomicU64,
}

impl Live {
    /// Adds completions, the slowest of which took `slowest_ns`.
    pub fn completed(&self, completions: u64, slowest_ns: u64) {
        self.completed.fetch_add(completions, Ordering::Relaxed);
        self.slowest_ns.fetch_max(slowest_ns, Ordering::Relaxed);
    }

    /// Takes note of a completion in any thread at `at_ns`, and says when the one before was; 0 if there was none.
    pub fn completion_before(&self, at_ns: u64) -> u64 {
        self.last_completion_ns.fetch_max(at_ns, Ordering::Relaxed)
    }

    /// Completions so far, and the longest latency since the last call.
    pub fn look(&self) -> (u64, u64) {
        (self.completed.load(Ordering::Relaxed), self.slowest_ns.swap(0, Ordering::Relaxed))
    }
}
