//! Latencies over time, in memory that is bounded however long a run lasts.

use hdrhistogram::Histogram;

use crate::clock::{MS_NS, SECOND_NS};

/// Length of an interval to begin with, short enough for a stall of some tens of milliseconds to show.
pub const INTERVAL_NS_MIN: u64 = 20 * MS_NS;
/// Intervals kept, about one for each point across a picture. When a run outgrows them, each two become one, twice
/// as long. At 13 KiB an interval that is 20 MiB at most.
pub const INTERVALS_MAX: usize = 1500;
/// Latencies above this are recorded as this.
const LATENCY_HIGH_NS: u64 = 600 * SECOND_NS;

/// One histogram for each interval from the start on, also for an interval without any completion.
#[derive(Clone, Debug)]
pub struct Timeline {
    interval_ns: u64,
    intervals: Vec<Histogram<u32>>,
}

impl Timeline {
    /// Nothing yet.
    pub fn new() -> Timeline {
        Timeline { interval_ns: INTERVAL_NS_MIN, intervals: Vec::new() }
    }

    /// Length of each interval.
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// The latencies of each interval in nanoseconds.
    pub fn intervals(&self) -> &[Histogram<u32>] {
        &self.intervals
    }

    /// Takes note of a latency, `offset_ns` after the start.
    pub fn record(&mut self, offset_ns: u64, latency_ns: u64) {
        let mut index = offset_ns / self.interval_ns;
        while index >= INTERVALS_MAX as u64 {
            self.coarsen();
            index = offset_ns / self.interval_ns;
        }
        while self.intervals.len() as u64 <= index {
            // Two digits: a tenth of the memory, and good enough for a picture.
            let histogram = Histogram::new_with_bounds(1_000, LATENCY_HIGH_NS, 2);
            self.intervals.push(histogram.expect("the bounds are valid"));
        }
        self.intervals[index as usize].saturating_record(latency_ns);
    }

    /// Adds the timeline of another thread with the same start.
    pub fn add(&mut self, mut other: Timeline) {
        while self.interval_ns < other.interval_ns {
            self.coarsen();
        }
        while other.interval_ns < self.interval_ns {
            other.coarsen();
        }
        for (index, histogram) in other.intervals.into_iter().enumerate() {
            match self.intervals.get_mut(index) {
                Some(sum) => *sum += histogram,
                None => self.intervals.push(histogram),
            }
        }
    }

    fn coarsen(&mut self) {
        self.interval_ns *= 2;
        let mut pairs = std::mem::take(&mut self.intervals).into_iter();
        while let Some(mut first) = pairs.next() {
            if let Some(second) = pairs.next() {
                first += second;
            }
            self.intervals.push(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(timeline: &Timeline) -> Vec<u64> {
        timeline.intervals().iter().map(Histogram::len).collect()
    }

    #[test]
    fn an_interval_without_a_completion_has_an_entry() {
        let mut timeline = Timeline::new();
        timeline.record(10, 1_000);
        timeline.record(2 * INTERVAL_NS_MIN, 1_000);
        assert_eq!(counts(&timeline), [1, 0, 1]);
    }

    #[test]
    fn a_long_run_has_longer_intervals_and_loses_nothing() {
        let mut timeline = Timeline::new();
        let intervals = 2 * INTERVALS_MAX as u64 + 1;
        for i in 0..intervals {
            timeline.record(i * INTERVAL_NS_MIN, 1_000 * (i + 1));
        }
        assert_eq!(timeline.interval_ns(), 4 * INTERVAL_NS_MIN);
        assert_eq!(timeline.intervals().len(), INTERVALS_MAX / 2 + 1);
        assert_eq!(counts(&timeline).iter().sum::<u64>(), intervals);
        assert_eq!(counts(&timeline)[..2], [4, 4]);
        let longest = timeline.intervals().last().expect("there are some").max();
        assert!(longest >= 1_000 * intervals, "{longest} ns");
    }

    #[test]
    fn threads_with_different_intervals_are_added_in_the_longer_one() {
        let mut short = Timeline::new();
        short.record(0, 1_000);
        short.record(3 * INTERVAL_NS_MIN, 1_000);
        let mut long = Timeline::new();
        long.record(0, 1_000);
        long.coarsen();
        short.add(long);
        assert_eq!((short.interval_ns(), counts(&short)), (2 * INTERVAL_NS_MIN, vec![2, 1]));
    }
}
