//! A clean stop: what was accepted becomes durable, and a snapshot of it is left for whoever starts next.
//!
//! The native log alone would do for ringkeeper. The snapshot is for Apache, which reads no native log, and makes the next
//! start shorter.
//!
//! A server of an ensemble leaves it first, so that nobody waits for the snapshot: a leader hands over
//! (`docs/decisions/0005-hand-over.md`), and a learner sees what it has acknowledged committed.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::broadcast::Broadcast;
use super::upkeep::Upkeep;
use crate::types::Zxid;

/// How often somebody looks whether a stop was asked for, or is done.
pub const POLL: Duration = Duration::from_millis(10);
/// What was accepted is given up on, and no snapshot is taken, if it is not committed after this time: the disk is full, or
/// there is no quorum.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// What the main thread and the ordering shard have to say to each other about the end.
#[derive(Default)]
pub struct Closing {
    asked: AtomicBool,
    done: AtomicBool,
}

impl Closing {
    /// Asks for a clean stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Whether the process may end.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

/// Waits to be asked, and then makes the directory complete.
pub async fn close_when_asked(closing: &Closing, broadcast: Rc<Broadcast>, upkeep: Rc<Upkeep>) {
    while !closing.asked.load(Ordering::Acquire) {
        glommio::timer::sleep(POLL).await;
    }
    broadcast.stop_ordering();
    let since = Instant::now();
    // In an ensemble the log may go on after what is committed here; Apache would need that part too.
    let head = |tree: Zxid, safe: Zxid, logged: Zxid| (tree == safe && tree >= logged).then_some(tree);
    let is_complete = || {
        let logged = broadcast.log().borrow().last_zxid();
        broadcast.with_state(|data_tree, safe| head(data_tree.tree().zxid(), safe, logged)).flatten()
    };
    let complete = loop {
        let left = broadcast.has_left();
        match is_complete().filter(|_| left) {
            // A server that has left its ensemble hears of no further commit.
            None if left && broadcast.is_of_ensemble() => break None,
            None if since.elapsed() < COMMIT_PATIENCE => glommio::timer::sleep(POLL).await,
            complete => break complete,
        }
    };
    match complete {
        Some(zxid) => {
            if let Err(error) = upkeep.snapshot_at_stop().await {
                tracing::error!(
                    "The snapshot at {zxid} failed: {error}. The log has everything, but Apache cannot read it"
                );
            }
        }
        None => tracing::warn!(
            "Not everything that was accepted is committed, or the tree is not the leader's, so no snapshot is taken. ringkeeper \
             goes on from its log; for Apache, convert the log first"
        ),
    }
    closing.done.store(true, Ordering::Release);
}
