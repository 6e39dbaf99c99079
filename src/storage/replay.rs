//! Where a log's transactions go when it is read back: to the tree, and to the history that is kept for other servers.

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
}

impl Replay {
    /// A replay of all that follows `data_tree`, for the tree alone.
    pub fn on(data_tree: DataTree) -> Replay {
        Replay { data_tree, history: None, until: None }
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
    }
}
