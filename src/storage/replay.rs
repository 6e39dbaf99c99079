//! Where a log's transactions go when it is read back: to the tree, and to the history that is kept for other servers.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::txn::LoggedTxn;
use crate::tree::DataTree;
use crate::types::Zxid;
use crate::zab::history::History;

/// A state that a log is being applied to.
pub struct Replay {
    /// What came before, and then what was applied.
    pub data_tree: DataTree,
    /// The newest transactions, if they are to be kept.
    pub history: Option<History>,
    /// The last transaction that is wanted, if not all are.
    pub until: Option<Zxid>,
    /// Transactions that were applied.
    applied: u64,
    pace: Pace,
}

/// Keeps work that takes long from saying too often how far it is.
pub(super) struct Pace {
    last: Instant,
}

/// How often something that takes long says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// So many transactions are applied before somebody looks at the clock.
const TXNS_PER_LOOK: u64 = 1024;

impl Pace {
    /// The work begins.
    pub(super) fn new() -> Pace {
        Pace { last: Instant::now() }
    }

    /// Whether it is time to say something.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.last.elapsed() >= PROGRESS_INTERVAL;
        if is_due {
            self.last = Instant::now();
        }
        is_due
    }
}

impl Replay {
    /// A replay of all that follows `data_tree`, for the tree alone.
    pub fn on(data_tree: DataTree) -> Replay {
        Replay::new(data_tree, None, None)
    }

    /// A replay of what follows `data_tree`, up to `until`; `history` is kept if there is one.
    pub fn new(data_tree: DataTree, history: Option<History>, until: Option<Zxid>) -> Replay {
        Replay { data_tree, history, until, applied: 0, pace: Pace::new() }
    }

    /// The last transaction applied.
    pub fn last(&self) -> Zxid {
        self.data_tree.tree().zxid()
    }

    /// Whether this transaction is to be left out.
    pub fn leaves_out(&self, zxid: Zxid) -> bool {
        self.until.is_some_and(|until| zxid > until)
    }

    /// Applies the next transaction; `payload` is what `logged` was read from.
    pub fn apply(&mut self, logged: &LoggedTxn, payload: &Bytes) {
        self.data_tree.apply(&logged.header, &logged.txn);
        if let Some(history) = &mut self.history {
            history.push(logged.header.zxid, payload.clone());
        }
        self.applied += 1;
        if self.applied.is_multiple_of(TXNS_PER_LOOK) && self.pace.is_due() {
            tracing::info!("Replaying the log: {} transactions so far, up to {}", self.applied, logged.header.zxid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_says_so_now_and_then() {
        let mut pace = Pace::new();
        assert!(!pace.is_due());
        pace.last -= PROGRESS_INTERVAL;
        assert!(pace.is_due() && !pace.is_due());
    }
}
