//! The newest committed transactions, kept in memory so that a learner that lacks only them gets only them.
//!
//! ```text
//! base │ base+1 … newest
//!      └ entries ───────┘       base is the transaction before the first entry, whether it is in memory or not
//! ```
//!
//! Invariant: each entry follows the one before it without a gap, so that what is sent to a learner has none
//! (ZOOKEEPER-4925). Source: `ZKDatabase.committedLog`, `LearnerHandler.syncFollower`.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

use crate::planted::{self, Bug};
use crate::types::Zxid;

/// Transactions kept at least, whatever their size, unless `commitLogCount` asks for more.
pub const COMMITTED_LOG_COUNT_MIN: usize = 500;
/// Beyond that count, the oldest are forgotten when all take more than this, unless `ringkeeper.committedLogBytes` says
/// otherwise.
pub const COMMITTED_LOG_BYTES_MAX: usize = 64 << 20;

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// So many transactions at least, whatever their size.
    pub count_min: usize,
    /// Beyond that, as many as take no more than this.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { count_min: COMMITTED_LOG_COUNT_MIN, bytes_max: COMMITTED_LOG_BYTES_MAX }
    }
}

/// What an entry costs beyond its payload.
const ENTRY_BYTES: usize = 64;

/// See the module.
#[derive(Clone, Debug)]
pub struct History {
    limits: Limits,
    base: Zxid,
    entries: VecDeque<(Zxid, Bytes)>,
    bytes: usize,
}

/// How a learner comes to the leader's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// It keeps all it has and gets the entries from this index on.
    Diff {
        /// Index of the first entry it lacks.
        from: usize,
    },
    /// It cuts its log after this transaction and gets the entries from this index on.
    Trunc {
        /// The last transaction it keeps.
        to: Zxid,
        /// Index of the first entry it lacks.
        from: usize,
    },
    /// It gets everything.
    Snap,
}

impl fmt::Display for Plan {
    /// As an operator reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plan::Diff { .. } => write!(f, "DIFF"),
            Plan::Trunc { to, .. } => write!(f, "TRUNC to {to}"),
            Plan::Snap => write!(f, "SNAP"),
        }
    }
}

impl History {
    /// Nothing is known but that everything up to `base` is committed.
    pub fn new(base: Zxid, limits: Limits) -> History {
        History { limits, base, entries: VecDeque::new(), bytes: 0 }
    }

    /// The last transaction.
    pub fn newest(&self) -> Zxid {
        self.entries.back().map_or(self.base, |(zxid, _)| *zxid)
    }

    /// Adds the next transaction, and forgets what is beyond the limits then.
    pub fn push(&mut self, zxid: Zxid, payload: Bytes) {
        self.add(zxid, payload);
        self.trim();
    }

    /// Adds the next transaction and forgets nothing before [`History::trim`], so that observers can be told of all that was
    /// added. One that does not follow the newest makes what is older useless: it is forgotten.
    pub fn add(&mut self, zxid: Zxid, payload: Bytes) {
        if !zxid.follows(self.newest()) && !planted::is(Bug::HoleInHistory) {
            *self = History::new(Zxid(zxid.0 - 1), self.limits);
        }
        self.bytes += payload.len() + ENTRY_BYTES;
        self.entries.push_back((zxid, payload));
    }

    /// Forgets what is beyond the limits.
    pub fn trim(&mut self) {
        while self.bytes > self.limits.bytes_max && self.entries.len() > self.limits.count_min {
            let (zxid, payload) = self.entries.pop_front().expect("there are more than the least");
            self.base = zxid;
            self.bytes -= payload.len() + ENTRY_BYTES;
        }
    }

    /// Forgets what came after `zxid`: it was never committed.
    pub fn truncate(&mut self, zxid: Zxid) {
        let kept = self.entries.partition_point(|(entry, _)| *entry <= zxid);
        self.bytes -= self.entries.drain(kept..).map(|(_, payload)| payload.len() + ENTRY_BYTES).sum::<usize>();
        if self.newest() != zxid {
            *self = History::new(zxid, self.limits);
        }
    }

    /// The entries from an index on.
    pub fn from(&self, index: usize) -> impl Iterator<Item = &(Zxid, Bytes)> {
        self.entries.range(index.min(self.entries.len())..)
    }

    /// The entries behind the transaction `zxid`, or `None` if some of them are forgotten.
    pub fn after(&self, zxid: Zxid) -> Option<impl Iterator<Item = &(Zxid, Bytes)>> {
        (zxid >= self.base).then(|| self.entries.range(self.entries.partition_point(|(entry, _)| *entry <= zxid)..))
    }

    /// What to do with a learner whose last logged transaction is `last`.
    ///
    /// A zxid with counter 0 is that of a NEWLEADER and no transaction: such a learner has all of the epochs before.
    pub fn plan(&self, last: Zxid) -> Plan {
        let newest = self.newest();
        let all = self.entries.len();
        if last == newest {
            return Plan::Diff { from: all };
        }
        let is_no_transaction = last.counter() == 0;
        if last > newest {
            return if is_no_transaction { Plan::Diff { from: all } } else { Plan::Trunc { to: newest, from: all } };
        }
        if last < self.base {
            return Plan::Snap;
        }
        let from = self.entries.partition_point(|(zxid, _)| *zxid <= last);
        let previous = from.checked_sub(1).map_or(self.base, |index| self.entries[index].0);
        if previous == last || is_no_transaction {
            Plan::Diff { from }
        } else if from > 0 && self.entries[from].0.epoch() == last.epoch() {
            Plan::Trunc { to: previous, from }
        } else {
            Plan::Snap
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn z(epoch: i64, counter: i64) -> Zxid {
        Zxid(epoch << 32 | counter)
    }

    fn history(zxids: &[Zxid]) -> History {
        let mut history = History::new(Zxid(zxids[0].0 - 1), Limits::default());
        for zxid in zxids {
            history.push(*zxid, Bytes::from_static(b"txn"));
        }
        history
    }

    /// The cases of `LearnerHandler.syncFollower`, with zxids from captured conversations where there are any.
    #[test]
    fn each_learner_gets_what_it_lacks_and_no_more() {
        let h = history(&[z(1, 0x10), z(1, 0x11), z(1, 0x12)]);
        assert_eq!(h.plan(z(1, 0xf)), Plan::Diff { from: 0 }, "it has all but what is in memory");
        assert_eq!(h.plan(z(1, 0x11)), Plan::Diff { from: 2 });
        assert_eq!(h.plan(z(1, 0x12)), Plan::Diff { from: 3 }, "it lacks nothing");
        assert_eq!(h.plan(z(1, 0x13)), Plan::Trunc { to: z(1, 0x12), from: 3 }, "a lost leader's own transaction");
        assert_eq!(h.plan(z(1, 0xe)), Plan::Snap, "older than what is in memory");
        assert_eq!(h.plan(z(2, 0)), Plan::Diff { from: 3 }, "the zxid of a NEWLEADER");

        let h = history(&[z(1, 1), z(1, 2), z(2, 1), z(2, 2)]);
        assert_eq!(h.plan(z(1, 3)), Plan::Snap, "a tail of epoch 1, and epoch 2 has begun");
        assert_eq!(h.plan(z(2, 0)), Plan::Diff { from: 2 }, "all of epoch 1");
        assert_eq!(h.plan(z(2, 1)), Plan::Diff { from: 3 });
        assert_eq!(
            History::new(Zxid::ZERO, Limits::default()).plan(Zxid::ZERO),
            Plan::Diff { from: 0 },
            "the very first election"
        );
        assert_eq!(History::new(z(3, 7), Limits::default()).plan(Zxid::ZERO), Plan::Snap, "a fresh learner");
    }

    #[test]
    fn what_comes_after_a_transaction_is_told_if_all_of_it_is_known() {
        let h = history(&[z(1, 3), z(1, 4), z(2, 1)]);
        let after = |zxid| h.after(zxid).map(|entries| entries.map(|(zxid, _)| *zxid).collect::<Vec<_>>());
        assert_eq!(after(z(1, 2)), Some(vec![z(1, 3), z(1, 4), z(2, 1)]));
        assert_eq!(after(z(1, 4)), Some(vec![z(2, 1)]));
        assert_eq!(after(z(2, 1)), Some(vec![]));
        assert_eq!(after(z(1, 1)), None, "the one behind it is forgotten");
    }

    #[test]
    fn a_gap_makes_what_is_older_useless() {
        let mut h = history(&[z(1, 1), z(1, 2)]);
        h.push(z(1, 4), Bytes::new());
        assert_eq!(h.plan(z(1, 2)), Plan::Snap);
        assert_eq!(h.plan(z(1, 3)), Plan::Diff { from: 0 });
    }

    #[test]
    fn what_was_cut_is_forgotten() {
        let mut h = history(&[z(1, 1), z(1, 2), z(1, 3)]);
        h.truncate(z(1, 2));
        assert_eq!(h.newest(), z(1, 2));
        assert_eq!(h.from(0).count(), 2);
        h.truncate(Zxid::ZERO);
        assert_eq!((h.newest(), h.bytes), (Zxid::ZERO, 0));
        h.truncate(z(4, 4));
        assert_eq!(h.newest(), z(4, 4), "a snapshot was taken over");
    }

    #[test]
    fn the_oldest_are_forgotten_beyond_the_limit_but_never_the_last_500_or_more() {
        for count_min in [COMMITTED_LOG_COUNT_MIN, 550] {
            let mut h = History::new(Zxid::ZERO, Limits { count_min, ..Limits::default() });
            let large = Bytes::from(vec![0; 1 << 20]);
            for counter in 1..=600 {
                h.push(z(0, counter), large.clone());
            }
            let mut untrimmed = h.clone();
            (601..=610).for_each(|counter| untrimmed.add(z(0, counter), large.clone()));
            assert_eq!(untrimmed.from(0).count(), count_min + 10);
            untrimmed.trim();
            assert_eq!(untrimmed.from(0).count(), count_min);
            assert_eq!(h.from(0).count(), count_min);
            let base = 600 - count_min as i64;
            assert_eq!(h.plan(z(0, base)), Plan::Diff { from: 0 });
            assert_eq!(h.plan(z(0, base - 1)), Plan::Snap);
        }
    }
}
