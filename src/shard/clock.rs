//! The only reader of time.

use std::time::{self, SystemTime};

use crate::types::{Instant, WallMs};

/// Reads the two clocks. All shards have the same one, so that their instants compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { start: time::Instant::now() }
    }

    /// Monotonic. One is added so that nothing ever happened at 0.
    pub fn now(&self) -> Instant {
        Instant(self.start.elapsed().as_millis() as u64 + 1)
    }

    /// Milliseconds since 1970.
    pub fn wall(&self) -> WallMs {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        WallMs(since.map_or(0, |since| since.as_millis() as i64))
    }
}
