//! Finds out what keeps a shard from its ring for too long. For tests and for looking into slowness.
//!
//! glommio's detector goes by the clock on the wall, so on a busy machine it also tells of shards that did nothing wrong:
//! another process, or another machine, had the core. So this one goes by the time that the shard's thread had on a core,
//! and says nothing unless the shard worked for so long. Once that has happened glommio's is switched on as well, for its
//! backtraces; not before, because to make one takes longer than a stall.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, StallDetectionHandler, TaskQueueHandle};
use rustix::time::{ClockId, clock_gettime};

/// What keeps a shard from its ring for longer than this in one go is a stall.
const STALL: Duration = Duration::from_millis(10);
/// A task queue is asked to give way after this long. glommio counts a stall from there on.
const PREEMPT: Duration = Duration::from_millis(5);

/// Has the shard warn of stalls: lines with `[stall-detector`, from the second on with a backtrace.
pub fn detect(builder: LocalExecutorBuilder) -> LocalExecutorBuilder {
    detect_and(builder, |worked| tracing::warn!("[stall-detector] a shard worked for {worked:?} in one go"))
}

fn detect_and(
    builder: LocalExecutorBuilder,
    report: impl Fn(Duration) + Send + Sync + 'static,
) -> LocalExecutorBuilder {
    let (begin_ns, stalled) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
    let stalls = Stalls { begin_ns, stalled, report: Box::new(report) };
    builder.preempt_timer(PREEMPT).detect_stalls(Some(Box::new(stalls)))
}

struct Stalls {
    /// The thread's time on a core when it last turned to its tasks. Only that thread comes here.
    begin_ns: AtomicU64,
    /// Whether it ever worked for too long.
    stalled: AtomicBool,
    report: Box<dyn Fn(Duration) + Send + Sync>,
}

impl fmt::Debug for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stalls")
    }
}

impl StallDetectionHandler for Stalls {
    /// Called whenever the shard turns to its tasks. From one such moment to the next it has worked these off, looked at its
    /// ring, and waited there, which takes no time on a core.
    fn threshold(&self, _queue: TaskQueueHandle, expected: Duration) -> Option<Duration> {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let begin_ns = self.begin_ns.swap(now_ns, Ordering::Relaxed);
        let worked = Duration::from_nanos(now_ns.saturating_sub(begin_ns));
        if worked >= STALL {
            self.stalled.store(true, Ordering::Relaxed);
            (self.report)(worked);
        }
        self.stalled.load(Ordering::Relaxed).then(|| STALL.saturating_sub(expected))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use glommio::Placement;

    use super::*;

    const ENOUGH: Duration = Duration::from_millis(50);

    /// What is reported of a shard that does `work` in one go.
    fn stalls_of(work: fn()) -> Vec<Duration> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(4096).ring_depth(8);
        let shard = detect_and(builder, move |worked| sink.lock().unwrap().push(worked)).make().unwrap();
        shard.run(async move {
            work();
            glommio::timer::sleep(Duration::from_millis(1)).await;
        });
        seen.lock().unwrap().clone()
    }

    #[test]
    fn a_shard_that_works_for_too_long_is_found_out() {
        let stalls = stalls_of(|| {
            let cpu = || clock_gettime(ClockId::ThreadCPUTime);
            let begin = cpu();
            while Duration::try_from(cpu() - begin).unwrap() < ENOUGH {}
        });
        assert!(stalls.iter().any(|worked| *worked >= ENOUGH), "{stalls:?}");
    }

    #[test]
    fn a_shard_without_a_core_has_not_stalled() {
        // Asleep or with its core taken: the time passes, and the thread has none of it.
        let begin = Instant::now();
        let stalls = stalls_of(|| std::thread::sleep(ENOUGH));
        assert!(begin.elapsed() >= ENOUGH && stalls.is_empty(), "{stalls:?}");
    }
}
