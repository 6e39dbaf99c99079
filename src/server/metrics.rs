//! What is counted of the log, for operators. Written by one shard, read by whoever is asked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cnxn::Summary;

/// Counters of flushes.
pub struct LogMetrics {
    flushes: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    commits: AtomicU64,
    slow: AtomicU64,
    latency_us: Mutex<Histogram<u64>>,
}

/// A reading of [`LogMetrics`].
#[derive(Clone, Copy, Debug)]
pub struct LogReading {
    /// Flushes since the start.
    pub flushes: u64,
    /// Transactions that they made durable.
    pub records: u64,
    /// Bytes that they wrote, whole blocks.
    pub bytes: u64,
    /// Writes that became visible.
    pub commits: u64,
    /// Flush latency in ms.
    pub fsync_ms: Summary,
    /// Flush latency.
    pub p50_us: u64,
    /// Flush latency.
    pub p99_us: u64,
    /// Flush latency.
    pub max_us: u64,
}

/// Longer flushes are counted as this long.
const LATENCY_MAX_US: u64 = 60_000_000;

impl Default for LogMetrics {
    fn default() -> LogMetrics {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).expect("constant bounds");
        LogMetrics {
            flushes: AtomicU64::default(),
            records: AtomicU64::default(),
            bytes: AtomicU64::default(),
            commits: AtomicU64::default(),
            slow: AtomicU64::default(),
            latency_us: Mutex::new(latency_us),
        }
    }
}

impl LogMetrics {
    /// A flush has ended well.
    pub fn flushed(&self, records: u32, bytes: u64, took: Duration) {
        self.flushes.fetch_add(1, Relaxed);
        self.records.fetch_add(records.into(), Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        // The lock is free but while somebody reads the counters, and then held for a copy.
        if let Ok(mut histogram) = self.latency_us.lock() {
            histogram.saturating_record((took.as_micros() as u64).clamp(1, LATENCY_MAX_US));
        }
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

    /// So many writes became visible.
    pub fn committed(&self, count: u64) {
        self.commits.fetch_add(count, Relaxed);
    }

    /// All of them, now.
    pub fn read(&self) -> LogReading {
        let histogram = self.latency_us.lock().map(|histogram| histogram.clone()).ok();
        let quantile = |q| histogram.as_ref().map_or(0, |histogram| histogram.value_at_quantile(q));
        LogReading {
            flushes: self.flushes.load(Relaxed),
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            commits: self.commits.load(Relaxed),
            fsync_ms: histogram.as_ref().filter(|histogram| !histogram.is_empty()).map_or(Summary::default(), in_ms),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            max_us: quantile(1.0),
        }
    }
}

fn in_ms(us: &Histogram<u64>) -> Summary {
    let sum = us.mean() * us.len() as f64 / 1000.0;
    Summary { count: us.len(), sum: sum as u64, min: us.min() / 1000, max: us.max() / 1000 }
}
