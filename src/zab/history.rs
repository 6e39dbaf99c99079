//! The newest committed transactions, kept in memory so that a learner that lacks only them gets only them.
//!
//! ```text
//! origin … base │ base+1 … newest
//!          known└ entries ───────┘   base is the transaction before the first entry, whether it is in memory or not
//! ```
//!
//! Invariant: each entry follows the one before it without a gap, so that what is sent to a learner has none
//! (ZOOKEEPER-4925). Of what was forgotten is known which transactions there were, since `origin`, and how many bytes about:
//! a leader whose log has them on disk gives a learner those too. Source: `ZKDatabase.committedLog`,
//! `ZKDatabase.getProposalsFromTxnLog`, `LearnerHandler.syncFollower`.

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

/// Of what was forgotten, how far it had come is noted whenever so many bytes more were.
const MARK_BYTES: u64 = 1 << 20;
/// Notes that are kept: 64 GiB of transactions. What is older is not known any more.
const MARKS_MAX: usize = 1 << 16;
/// Epochs of which the last transaction is kept. Of older ones it is not known which transactions there were.
const EPOCHS_MAX: usize = 1 << 10;

/// See the module.
#[derive(Clone, Debug)]
pub struct History {
    limits: Limits,
    base: Zxid,
    entries: VecDeque<(Zxid, Bytes)>,
    bytes: usize,
    /// How many bytes were forgotten up to a transaction, `MARK_BYTES` or more apart. The first is the origin: since then there
    /// was no gap. Never empty.
    marks: VecDeque<(Zxid, u64)>,
    /// The last transaction of each epoch that has ended since the origin, in order.
    epoch_ends: VecDeque<Zxid>,
    /// Bytes of what was forgotten since the origin.
    forgotten: u64,
}

/// What a leader's log on disk can give to learners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredLog {
    /// It has every transaction after this one.
    pub after: Zxid,
    /// It is durable up to here.
    pub durable: Zxid,
    /// A learner that lacks more than this gets a snapshot; `None` is no limit.
    pub bytes_max: Option<u64>,
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
    /// It keeps all it has, and gets what it lacks from the log on disk, up to the transaction before the entries, and then
    /// all entries.
    Stored {
        /// The last transaction from disk.
        through: Zxid,
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
            Plan::Stored { through } => write!(f, "DIFF, up to {through} from the log on disk"),
            Plan::Snap => write!(f, "SNAP"),
        }
    }
}

impl History {
    /// Nothing is known but that everything up to `base` is committed.
    pub fn new(base: Zxid, limits: Limits) -> History {
        let marks = VecDeque::from([(base, 0)]);
        History { limits, base, entries: VecDeque::new(), bytes: 0, marks, epoch_ends: VecDeque::new(), forgotten: 0 }
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
        let before = self.newest();
        if before.epoch() < zxid.epoch() {
            self.epoch_ends.push_back(before);
            if self.epoch_ends.len() > EPOCHS_MAX {
                self.epoch_ends.pop_front();
            }
        }
        self.bytes += payload.len() + ENTRY_BYTES;
        self.entries.push_back((zxid, payload));
    }

    /// Forgets what is beyond the limits.
    pub fn trim(&mut self) {
        while self.bytes > self.limits.bytes_max && self.entries.len() > self.limits.count_min {
            let (zxid, payload) = self.entries.pop_front().expect("there are more than the least");
            let bytes = payload.len() + ENTRY_BYTES;
            self.base = zxid;
            self.bytes -= bytes;
            self.forgotten += bytes as u64;
            if self.forgotten >= self.marks.back().expect("it is never empty").1 + MARK_BYTES {
                self.marks.push_back((zxid, self.forgotten));
                if self.marks.len() > MARKS_MAX {
                    self.marks.pop_front();
                }
            }
        }
    }

    /// Forgets what came after `zxid`: it was never committed.
    pub fn truncate(&mut self, zxid: Zxid) {
        let kept = self.entries.partition_point(|(entry, _)| *entry <= zxid);
        self.bytes -= self.entries.drain(kept..).map(|(_, payload)| payload.len() + ENTRY_BYTES).sum::<usize>();
        if self.newest() != zxid {
            *self = History::new(zxid, self.limits);
        }
        self.epoch_ends.retain(|end| end.epoch() < zxid.epoch());
    }

    /// The entries from an index on.
    pub fn from(&self, index: usize) -> impl Iterator<Item = &(Zxid, Bytes)> {
        self.entries.range(index.min(self.entries.len())..)
    }

    /// The entries behind the transaction `zxid`, or `None` if some of them are forgotten.
    pub fn after(&self, zxid: Zxid) -> Option<impl Iterator<Item = &(Zxid, Bytes)>> {
        (zxid >= self.base).then(|| self.entries.range(self.entries.partition_point(|(entry, _)| *entry <= zxid)..))
    }

    /// [`History::plan`] of a leader whose log on disk can help: a learner that has fallen behind what is in memory gets no
    /// snapshot if its last transaction is one of this history's, and what it lacks is on disk and not too much.
    pub fn plan_with(&self, log: Option<StoredLog>, last: Zxid) -> Plan {
        let plan = self.plan(last);
        match log {
            Some(log) if plan == Plan::Snap && last < self.base && self.is_stored(log, last) => {
                Plan::Stored { through: self.base }
            }
            _ => plan,
        }
    }

    /// Whether `last` is a transaction of this history, and `log` has what follows it in no more than so many bytes.
    fn is_stored(&self, log: StoredLog, last: Zxid) -> bool {
        let is_there = last >= log.after && self.base <= log.durable;
        let known = self.knows(last) || planted::is(Bug::StoredDiffUnchecked);
        is_there && known && log.bytes_max.is_none_or(|bytes_max| self.bytes_after(last) <= bytes_max)
    }

    /// Whether there is such a transaction. Those of an epoch begin at 1 and have no gap: it is one if its epoch came so far.
    fn knows(&self, zxid: Zxid) -> bool {
        let (origin, _) = self.marks[0];
        let ends = self.epoch_ends.iter().copied().chain([self.newest()]);
        let end = ends.into_iter().find(|end| end.epoch() == zxid.epoch());
        zxid >= origin && zxid.counter() > 0 && end.is_some_and(|end| zxid <= end)
    }

    /// What all transactions after this one take, about: `MARK_BYTES` and a transaction more than it is, at the most.
    fn bytes_after(&self, zxid: Zxid) -> u64 {
        let behind = self.marks.partition_point(|(mark, _)| *mark <= zxid);
        let before = behind.checked_sub(1).map_or(0, |at| self.marks[at].1);
        self.forgotten - before + self.bytes as u64
    }

    /// What to do with a learner whose last logged transaction is `last`, from memory alone.
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

    /// As `LearnerHandler.syncFollower` has it; but no TRUNC comes of it, for there are no gaps within an epoch.
    #[test]
    fn what_memory_has_forgotten_comes_from_the_log_on_disk() {
        let limits = Limits { count_min: 2, bytes_max: 0 };
        let mut h = History::new(z(1, 3), limits);
        for zxid in [z(1, 4), z(1, 5), z(2, 1), z(2, 2), z(2, 3), z(4, 1), z(4, 2), z(4, 3)] {
            h.push(zxid, Bytes::from_static(b"txn"));
        }
        let log = StoredLog { after: z(1, 3), durable: z(4, 2), bytes_max: None };
        let plan = |last| h.plan_with(Some(log), last);
        let stored = Plan::Stored { through: z(4, 1) };
        for last in [z(1, 3), z(1, 4), z(1, 5), z(2, 1), z(2, 3)] {
            assert_eq!((plan(last), h.plan(last)), (stored, Plan::Snap), "{last}");
            assert_eq!(h.plan_with(None, last), Plan::Snap, "{last}");
        }
        assert_eq!(plan(z(4, 1)), Plan::Diff { from: 0 }, "memory has all that it lacks");
        assert_eq!(plan(z(4, 4)), Plan::Trunc { to: z(4, 3), from: 2 });
        for last in [z(1, 2), z(1, 6), z(2, 4), z(3, 1), z(2, 0), z(1, 0), Zxid::ZERO] {
            assert_eq!(plan(last), Plan::Snap, "{last} is no transaction of this history");
        }
        let released = StoredLog { after: z(2, 1), ..log };
        assert_eq!(h.plan_with(Some(released), z(1, 5)), Plan::Snap, "what follows is in no file any more");
        assert_eq!(h.plan_with(Some(released), z(2, 1)), stored);
        let behind = StoredLog { durable: z(2, 3), ..log };
        assert_eq!(h.plan_with(Some(behind), z(2, 1)), Plan::Snap, "this disk has not got all of it yet");
        let each = (3 + ENTRY_BYTES) as u64;
        for (bytes_max, expected) in [(8 * each, stored), (8 * each - 1, Plan::Snap)] {
            assert_eq!(h.plan_with(Some(StoredLog { bytes_max: Some(bytes_max), ..log }), z(1, 5)), expected);
        }
        h.truncate(z(4, 2));
        h.push(z(5, 1), Bytes::new());
        assert_eq!(h.plan_with(Some(log), z(2, 3)), stored);
        h.push(z(5, 3), Bytes::new());
        assert_eq!(h.plan_with(Some(log), z(2, 3)), Plan::Snap, "behind a gap nothing is known of what was before");
    }

    /// What a learner lacks is told to a MiB, and what is known of what was forgotten has limits.
    #[test]
    fn what_a_learner_lacks_is_measured() {
        let mut h = History::new(Zxid::ZERO, Limits { count_min: 1, bytes_max: 0 });
        let bytes = Bytes::from(vec![0; (256 << 10) - ENTRY_BYTES]);
        (1..=101).for_each(|counter| h.push(z(0, counter), bytes.clone()));
        assert_eq!((h.forgotten, h.marks.len()), (25 << 20, 26));
        for last in 1..=100 {
            let (told, lacks) = (h.bytes_after(z(0, last)), (101 - last as u64) << 18);
            assert!((lacks..lacks + MARK_BYTES).contains(&told), "{told} for {lacks}");
        }
        (1..=2 * EPOCHS_MAX as i64).for_each(|epoch| h.push(z(epoch, 1), Bytes::new()));
        assert_eq!(h.epoch_ends.len(), EPOCHS_MAX);
        assert!(!h.knows(z(0, 101)) && !h.knows(z(1, 1)) && h.knows(z(EPOCHS_MAX as i64 + 1, 1)));
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
