//! When to say that a quota is exceeded: a writer may exceed one with every request, and must not fill the log.
//!
//! Each quota has its line at once, and again when `INTERVAL_MS` have passed, with how often it was exceeded meanwhile.
//!
//! Source: `RateLogger.java`, which knows one message only, and takes one with another count for another.

use std::collections::BTreeMap;

use crate::tree::quota::{Exceeded, Measure};
use crate::types::Instant;

/// Between two lines of the same quota, as Apache has it.
const INTERVAL_MS: u64 = 15 * 60 * 1000;
/// Quotas that are remembered; others are not told of until one of these is forgotten, `INTERVAL_MS` after its line.
pub const QUOTAS_MAX: usize = 1000;

/// See the module.
#[derive(Default)]
pub struct QuotaLog {
    /// When each was told of, and how often it was not since.
    told: BTreeMap<(String, Measure), (Instant, u64)>,
}

impl QuotaLog {
    /// A quota is exceeded: the line to be written, if there is to be one.
    pub fn line(&mut self, now: Instant, exceeded: &Exceeded) -> Option<String> {
        let key = (exceeded.quota_path.clone(), exceeded.measure);
        let is_over = |at: Instant| now.since_ms(at) >= INTERVAL_MS;
        if let Some((at, silent)) = self.told.get_mut(&key) {
            if !is_over(*at) {
                *silent += 1;
                return None;
            }
            *at = now;
            return Some(match std::mem::take(silent) {
                0 => format!("Message:{exceeded}"),
                silent => format!("[{} times] Message: {exceeded}", silent + 1),
            });
        }
        if self.told.len() >= QUOTAS_MAX {
            self.told.retain(|_, (at, _)| !is_over(*at));
            if self.told.len() >= QUOTAS_MAX {
                return None;
            }
        }
        self.told.insert(key, (now, 0));
        Some(format!("Message:{exceeded}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceeded(quota_path: &str, measure: Measure, current: i64) -> Exceeded {
        Exceeded { quota_path: quota_path.to_owned(), measure, hard: false, current, limit: 2 }
    }

    #[test]
    fn a_quota_is_told_of_at_once_and_then_now_and_then() {
        let mut log = QuotaLog::default();
        let now = Instant(5);
        let told = "Message:Quota exceeded: /a [current count=3, softCountLimit=2]";
        assert_eq!(log.line(now, &exceeded("/a", Measure::Count, 3)).as_deref(), Some(told));
        for current in 4..10 {
            assert_eq!(log.line(now.after_ms(INTERVAL_MS - 1), &exceeded("/a", Measure::Count, current)), None);
        }
        assert!(log.line(now, &exceeded("/a", Measure::Bytes, 4)).is_some(), "another limit");
        assert!(log.line(now, &exceeded("/b", Measure::Count, 4)).is_some(), "another path");
        let later = now.after_ms(INTERVAL_MS);
        let told = "[7 times] Message: Quota exceeded: /a [current count=10, softCountLimit=2]";
        assert_eq!(log.line(later, &exceeded("/a", Measure::Count, 10)).as_deref(), Some(told));
        assert_eq!(log.line(later, &exceeded("/a", Measure::Count, 11)), None);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut log = QuotaLog::default();
        let told = |log: &mut QuotaLog, now, path: &str| log.line(now, &exceeded(path, Measure::Count, 3)).is_some();
        for number in 0..QUOTAS_MAX {
            assert!(told(&mut log, Instant(0), &format!("/{number}")));
        }
        assert!(!told(&mut log, Instant(1), "/more"));
        assert!(told(&mut log, Instant(INTERVAL_MS), "/more"), "the others are forgotten");
        assert_eq!(log.told.len(), 1);
    }
}
