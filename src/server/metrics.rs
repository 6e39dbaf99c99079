//! What is counted of the log and of the order of writes, for operators. Written by one shard, read by whoever is asked.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cnxn::{Latency, Summary};
use crate::request::pipeline::CommitBatch;
use crate::storage::recovery::Took;
use crate::types::WallMs;

/// Counters of flushes.
pub struct LogMetrics {
    flushes: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    commits: AtomicU64,
    slow: AtomicU64,
    snapshot_errors: AtomicU64,
    snapshot_ms: Mutex<Summary>,
    txns_per_flush: Mutex<Summary>,
    latency_us: Mutex<Histogram<u64>>,
    wait_us: Mutex<Histogram<u64>>,
    propagation_ms: Mutex<Latency>,
    expired_sessions: AtomicU64,
    loading: OnceLock<Took>,
    /// The thread of the ordering shard; 0 before it runs.
    thread: AtomicI32,
}

/// A reading of [`LogMetrics`].
#[derive(Clone, Debug)]
pub struct LogReading {
    /// Flushes since the start.
    pub flushes: u64,
    /// Transactions that they made durable.
    pub records: u64,
    /// Bytes that they wrote, whole blocks.
    pub bytes: u64,
    /// Writes that became visible.
    pub commits: u64,
    /// Transactions that a flush made durable.
    pub txns_per_flush: Summary,
    /// How long writing a snapshot took, in ms.
    pub snapshot_ms: Summary,
    /// Snapshots that could not be written.
    pub snapshot_errors: u64,
    /// Flush latency.
    pub flush: Spread,
    /// Flushes that took no longer than each of [`BUCKETS_US`].
    pub flushes_within: [u64; BUCKETS_US.len()],
    /// How long the first transaction of each flush had waited for it to begin.
    pub wait: Spread,
    /// Flush latency, in ms.
    pub flush_ms: Latency,
    /// The same as `wait`, in ms.
    pub wait_ms: Latency,
    /// How old transactions were when clients could see them here, by the clock of the server that ordered them.
    pub propagation: Latency,
    /// Sessions that a standalone server ended because nobody heard of them.
    pub expired_sessions: u64,
    /// How long it took at the start to read what is on disk; `None` before that is done.
    pub loading: Option<Took>,
    /// Page faults of the ordering shard that waited for a disk.
    pub major_faults: u64,
}

/// Quantiles in us; 0 where nothing was counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spread {
    /// The median.
    pub p50: u64,
    /// 99 of 100 were no longer.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// Upper ends of the buckets in which flushes are counted, in us.
pub const BUCKETS_US: [u64; 11] = [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 200_000, 1_000_000];
/// What took longer is counted as this long.
const LATENCY_MAX_US: u64 = 60_000_000;

impl Default for LogMetrics {
    fn default() -> LogMetrics {
        let histogram = || Mutex::new(Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).expect("constant bounds"));
        LogMetrics {
            flushes: AtomicU64::default(),
            records: AtomicU64::default(),
            bytes: AtomicU64::default(),
            commits: AtomicU64::default(),
            slow: AtomicU64::default(),
            snapshot_errors: AtomicU64::default(),
            snapshot_ms: Mutex::default(),
            txns_per_flush: Mutex::default(),
            latency_us: histogram(),
            wait_us: histogram(),
            propagation_ms: Mutex::default(),
            expired_sessions: AtomicU64::default(),
            loading: OnceLock::default(),
            thread: AtomicI32::default(),
        }
    }
}

impl LogMetrics {
    /// The calling thread is that of the ordering shard.
    pub fn ordering_runs_here(&self) {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Relaxed);
    }

    /// A flush begins; its first transaction has waited so long for it.
    pub fn waited(&self, time: Duration) {
        record(&self.wait_us, time);
    }

    /// A flush has ended well.
    pub fn flushed(&self, records: u32, bytes: u64, took: Duration) {
        self.flushes.fetch_add(1, Relaxed);
        self.records.fetch_add(records.into(), Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        record(&self.latency_us, took);
        add(&self.txns_per_flush, records.into());
    }

    /// A snapshot was written.
    pub fn snapshot_written(&self, took: Duration) {
        add(&self.snapshot_ms, took.as_millis() as u64);
    }

    /// A snapshot could not be written.
    pub fn snapshot_failed(&self) {
        self.snapshot_errors.fetch_add(1, Relaxed);
    }

    /// Flushes since the start.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// A flush took longer than `fsync.warningthresholdms`.
    pub fn slow_flush(&self) {
        self.slow.fetch_add(1, Relaxed);
    }

    /// Such flushes since the start.
    pub fn slow_flushes(&self) -> u64 {
        self.slow.load(Relaxed)
    }

    /// Writes become visible, at that time.
    pub fn committed(&self, batch: &CommitBatch, wall: WallMs) {
        self.commits.fetch_add(batch.commits.len() as u64, Relaxed);
        if let Ok(mut propagation) = self.propagation_ms.lock() {
            propagation.add_since(batch.times(), wall);
        }
    }

    /// A session ends, because nobody heard of it.
    pub fn session_expired(&self) {
        self.expired_sessions.fetch_add(1, Relaxed);
    }

    /// What is on disk has been read back.
    pub fn loaded(&self, took: Took) {
        self.loading.get_or_init(|| took);
    }

    /// All of them, now.
    pub fn read(&self) -> LogReading {
        let latency = self.latency_us.lock().map(|histogram| histogram.clone()).ok();
        let wait = self.wait_us.lock().map(|histogram| histogram.clone()).ok();
        let within = |us| latency.as_ref().map_or(0, |histogram| histogram.count_between(0, us));
        LogReading {
            flushes: self.flushes.load(Relaxed),
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            commits: self.commits.load(Relaxed),
            txns_per_flush: read(&self.txns_per_flush),
            snapshot_ms: read(&self.snapshot_ms),
            snapshot_errors: self.snapshot_errors.load(Relaxed),
            flush: latency.as_ref().map_or(Spread::default(), Spread::of),
            flushes_within: BUCKETS_US.map(within),
            wait: wait.as_ref().map_or(Spread::default(), Spread::of),
            flush_ms: latency.as_ref().map_or(Latency::default(), Latency::of_us),
            wait_ms: wait.as_ref().map_or(Latency::default(), Latency::of_us),
            propagation: self.propagation_ms.lock().map_or(Latency::default(), |latency| latency.clone()),
            expired_sessions: self.expired_sessions.load(Relaxed),
            loading: self.loading.get().copied(),
            major_faults: major_faults(self.thread.load(Relaxed)).unwrap_or(0),
        }
    }
}

impl Spread {
    fn of(us: &Histogram<u64>) -> Spread {
        let quantile = |q| us.value_at_quantile(q);
        Spread { p50: quantile(0.5), p99: quantile(0.99), max: us.max() }
    }
}

/// The lock is free but while somebody reads the counters, and then held for a copy.
fn record(histogram: &Mutex<Histogram<u64>>, time: Duration) {
    if let Ok(mut histogram) = histogram.lock() {
        histogram.saturating_record((time.as_micros() as u64).clamp(1, LATENCY_MAX_US));
    }
}

fn add(summary: &Mutex<Summary>, value: u64) {
    if let Ok(mut summary) = summary.lock() {
        summary.add(value);
    }
}

fn read(summary: &Mutex<Summary>) -> Summary {
    summary.lock().map_or(Summary::default(), |summary| *summary)
}

/// Page faults of a thread of this process for which something had to be read from a disk.
fn major_faults(thread: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    // The name of the thread stands in parentheses, and may hold anything. The state follows, the third field.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(12 - 3)?.parse().ok()
}
