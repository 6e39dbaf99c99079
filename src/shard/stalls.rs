//! Finds out what keeps a shard from its ring for too long. For tests and for looking into slowness.

use std::time::Duration;

use glommio::{LocalExecutorBuilder, StallDetectionHandler, TaskQueueHandle};

/// What runs longer than this in one go is a stall.
const STALL: Duration = Duration::from_millis(10);
/// A task queue is asked to give way after this long. glommio counts a stall from there on.
const PREEMPT: Duration = Duration::from_millis(5);

/// Has the shard warn of stalls: a line with `[stall-detector` and a backtrace.
pub fn detect(builder: LocalExecutorBuilder) -> LocalExecutorBuilder {
    builder.preempt_timer(PREEMPT).detect_stalls(Some(Box::new(Stalls)))
}

#[derive(Debug)]
struct Stalls;

impl StallDetectionHandler for Stalls {
    fn threshold(&self, _queue: TaskQueueHandle, expected: Duration) -> Option<Duration> {
        Some(STALL.saturating_sub(expected))
    }
}
