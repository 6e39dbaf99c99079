//! What a shard counts of its connections and requests, for operators.

use hdrhistogram::Histogram;

use crate::types::WallMs;

/// How often something happened, and how large it was.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    /// How often.
    pub count: u64,
    /// All together.
    pub sum: u64,
    /// The smallest; 0 where there is none.
    pub min: u64,
    /// The largest.
    pub max: u64,
}

impl Summary {
    /// Takes in one more.
    pub fn add(&mut self, value: u64) {
        self.merge(&Summary { count: 1, sum: value, min: value, max: value });
    }

    /// Takes in others.
    pub fn merge(&mut self, other: &Summary) {
        if other.count > 0 {
            self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        }
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// 0 where there is none.
    pub fn average(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }
}

/// Times in ms, with quantiles.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Without the quantiles.
    pub summary: Summary,
    histogram: Histogram<u64>,
}

/// Longer times are counted as this long, ten minutes, in the quantiles.
const LATENCY_MAX_MS: u64 = 600_000;

impl Default for Latency {
    fn default() -> Latency {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_MS, 2).expect("constant bounds");
        Latency { summary: Summary::default(), histogram }
    }
}

impl Latency {
    /// Those of a histogram of us, which each count as whole ms in the quantiles.
    pub fn of_us(us: &Histogram<u64>) -> Latency {
        let mut latency = Latency::default();
        for step in us.iter_recorded() {
            latency.histogram.saturating_record_n(step.value_iterated_to() / 1000, step.count_at_value());
        }
        if !us.is_empty() {
            let sum = us.mean() * us.len() as f64 / 1000.0;
            latency.summary = Summary { count: us.len(), sum: sum as u64, min: us.min() / 1000, max: us.max() / 1000 };
        }
        latency
    }

    /// Takes in one more.
    pub fn add(&mut self, ms: u64) {
        self.add_many(ms, 1);
    }

    fn add_many(&mut self, ms: u64, count: u64) {
        self.summary.merge(&Summary { count, sum: ms * count, min: ms, max: ms });
        self.histogram.saturating_record_n(ms, count);
    }

    /// Takes in the times that have passed since, by clocks of two servers; those are not counted by which the clocks differ
    /// more. Most transactions of a batch are of the same ms, and are taken in together.
    pub fn add_since(&mut self, since: impl IntoIterator<Item = WallMs>, now: WallMs) {
        let mut since = since.into_iter().peekable();
        while let Some(time) = since.next() {
            let others = std::iter::from_fn(|| since.next_if_eq(&time)).count();
            if let Ok(ms) = u64::try_from(now.0 - time.0) {
                self.add_many(ms, 1 + others as u64);
            }
        }
    }

    /// Takes in another shard's.
    pub fn merge(&mut self, other: &Latency) {
        self.summary.merge(&other.summary);
        self.histogram.add(&other.histogram).expect("the same bounds");
    }

    /// The time that this part of all stays below; 0 where there is none.
    pub fn quantile(&self, part: f64) -> u64 {
        if self.summary.count == 0 { 0 } else { self.histogram.value_at_quantile(part) }
    }
}

/// Counters of a shard, since its start or `srst`.
#[derive(Clone, Default, Debug)]
pub struct Counters {
    /// Frames and four-letter words received.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Replies, events and texts sent.
    pub sent: u64,
    /// Sizes of replies and events.
    pub reply_bytes: Summary,
    /// Size of the last of them.
    pub last_reply_bytes: Option<u64>,
    /// Of events alone.
    pub event_bytes: u64,
    /// Times from request to reply in ms.
    pub latency: Summary,
    /// Those of reads.
    pub reads: Latency,
    /// Those of writes.
    pub writes: Latency,
    /// Watches that one creation of a znode set off, wherever there were some; and so on.
    pub created_watches: Summary,
    /// See above.
    pub deleted_watches: Summary,
    /// See above.
    pub changed_watches: Summary,
    /// See above.
    pub children_watches: Summary,
    /// Connect requests that were let through.
    pub connects: u64,
    /// Those among them that wanted an old session.
    pub renewals: u64,
    /// Connections that never sent a connect request in time.
    pub sessionless_expired: u64,
    /// Auth packets that were refused.
    pub auth_failed: u64,
    /// How often the throttle has stopped a connection.
    pub throttle_waits: u64,
    /// Requests that it has refused.
    pub throttled: u64,
    /// Large requests that were not let in.
    pub large_rejected: u64,
    /// Connections that were closed because the server serves nobody.
    pub closed_unserved: u64,
    /// Connections that were closed because a request waited for longer than their session timeout.
    pub stale_dropped: u64,
    /// Connections that the client or the network ended.
    pub dropped: u64,
}

impl Counters {
    pub(super) fn answered(&mut self, ms: u64, is_write: bool) {
        self.latency.add(ms);
        if is_write { self.writes.add(ms) } else { self.reads.add(ms) }
    }

    /// A frame goes out. As with Apache, its length of 4 bytes does not count.
    pub(super) fn replied(&mut self, frame_bytes: usize) {
        let bytes = frame_bytes as u64 - 4;
        self.sent += 1;
        self.reply_bytes.add(bytes);
        self.last_reply_bytes = Some(bytes);
    }

    /// An event goes out.
    pub(super) fn told(&mut self, frame_bytes: usize) {
        self.replied(frame_bytes);
        self.event_bytes += frame_bytes as u64 - 4;
    }

    /// Takes in another shard's.
    pub fn merge(&mut self, other: &Counters) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.sent += other.sent;
        self.last_reply_bytes = other.last_reply_bytes.or(self.last_reply_bytes);
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        for (mine, theirs) in [
            (&mut self.reply_bytes, &other.reply_bytes),
            (&mut self.latency, &other.latency),
            (&mut self.created_watches, &other.created_watches),
            (&mut self.deleted_watches, &other.deleted_watches),
            (&mut self.changed_watches, &other.changed_watches),
            (&mut self.children_watches, &other.children_watches),
        ] {
            mine.merge(theirs);
        }
        self.connects += other.connects;
        self.renewals += other.renewals;
        self.sessionless_expired += other.sessionless_expired;
        self.auth_failed += other.auth_failed;
        self.throttle_waits += other.throttle_waits;
        self.throttled += other.throttled;
        self.large_rejected += other.large_rejected;
        self.closed_unserved += other.closed_unserved;
        self.stale_dropped += other.stale_dropped;
        self.dropped += other.dropped;
        self.event_bytes += other.event_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_shards_together_are_as_one() {
        let (mut one, mut other, mut both) = (Latency::default(), Latency::default(), Latency::default());
        for ms in [3, 1, 2, 100, 0, 7, 7] {
            if ms % 2 == 0 {
                one.add(ms)
            } else {
                other.add(ms)
            }
            both.add(ms);
        }
        one.merge(&other);
        assert_eq!(one.summary, both.summary);
        assert_eq!(one.summary, Summary { count: 7, sum: 120, min: 0, max: 100 });
        assert_eq!([0.5, 0.99].map(|part| one.quantile(part)), [0.5, 0.99].map(|part| both.quantile(part)));
        assert_eq!((one.quantile(0.5), Latency::default().quantile(0.5)), (3, 0));
        let mut none = Summary::default();
        none.merge(&Summary { count: 1, sum: 5, min: 5, max: 5 });
        none.merge(&Summary::default());
        assert_eq!((none.min, none.average()), (5, 5.0));
    }

    #[test]
    fn times_since_are_counted_each_though_taken_in_together() {
        let mut latency = Latency::default();
        // The last is ahead of this server's clock.
        latency.add_since([5, 5, 5, 7, 5, 11].map(WallMs), WallMs(10));
        assert_eq!(latency.summary, Summary { count: 5, sum: 23, min: 3, max: 5 });
        assert_eq!((latency.quantile(0.2), latency.quantile(0.5)), (3, 5));
    }

    #[test]
    fn a_histogram_of_us_is_read_in_ms() {
        let mut us = Histogram::new_with_bounds(1, 1_000_000, 3).expect("constant bounds");
        assert_eq!(Latency::of_us(&us).summary, Summary::default());
        [400, 1_600, 20_000].into_iter().for_each(|time| us.saturating_record(time));
        let latency = Latency::of_us(&us);
        assert_eq!(latency.summary, Summary { count: 3, sum: 22, min: 0, max: 20 });
        assert_eq!((latency.quantile(0.3), latency.quantile(0.6), latency.quantile(1.0)), (0, 1, 20));
    }
}
