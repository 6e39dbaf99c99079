//! Start-up: the newest snapshot, what Apache's log adds to it, what the native log adds to that.
//!
//! A directory that an Apache server has left is taken over as it is: its snapshot and log are read, and the native log
//! goes on where they end. Its files stay until they are purged.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::apache_log;
use super::error::StorageError;
use super::fork::{self, Fork};
use super::replace;
use super::replay::Replay;
use super::segments::{self, Recovered};
use super::snapshot;
use crate::tree::DataTree;
use crate::types::Zxid;
use crate::zab::history::{History, Limits};

/// The state to start from.
pub struct Recovery {
    /// With everything that is on disk.
    pub data_tree: DataTree,
    /// The native log.
    pub log: Recovered,
    /// The last transaction in the snapshot that it began with.
    pub snapshot: Zxid,
    /// The newest transactions, if they were asked for.
    pub history: Option<History>,
    /// How long it took.
    pub took: Took,
}

/// How long it took to read the state back.
#[derive(Clone, Copy, Default, Debug)]
pub struct Took {
    /// Everything.
    pub all: Duration,
    /// The snapshot.
    pub snapshot: Duration,
    /// The logs.
    pub logs: Duration,
    /// Transactions that came from the logs.
    pub txns: u64,
}

/// What is read back.
#[derive(Clone, Copy, Default, Debug)]
pub struct Options {
    /// `snapshot.trust.empty`: a log without any snapshot passes.
    pub trust_empty: bool,
    /// Leave out every later transaction, and every snapshot that may show one.
    pub until: Option<Zxid>,
    /// Keep the newest transactions, so many, for other servers of the ensemble.
    pub keep_history: Option<Limits>,
}

/// Reads the state back, after finishing what a crash may have interrupted.
pub fn recover(snapshot_dir: &Path, log_dir: &Path, options: &Options) -> Result<Recovery, StorageError> {
    let begin = Instant::now();
    let Options { trust_empty, until, keep_history } = *options;
    replace::finish(snapshot_dir, log_dir)?;
    choose_history(snapshot_dir, log_dir)?;
    let snapshot_begin = Instant::now();
    let loaded = thread::scope(|scope| {
        // The device gives the log back while the cores are at work on the snapshot.
        scope.spawn(|| ask_for_log(snapshot_dir, log_dir));
        snapshot::load_newest(snapshot_dir, until)
    })?;
    let snapshot_took = snapshot_begin.elapsed();
    let apache_logs = apache_log::list(log_dir)?;
    if loaded.is_none()
        && !trust_empty
        && let Some(first) = apache_logs.first()
    {
        return Err(StorageError::Damaged {
            path: first.path.clone(),
            offset: 0,
            what: "No snapshot found, but there are log entries. Something is broken!".to_owned(),
            remedy: "Put the snapshot back, or set snapshot.trust.empty=true if there never was one".to_owned(),
        });
    }
    let fuzzy = loaded.as_ref().and_then(|loaded| Some((loaded.last_recorded?, loaded.path.clone())));
    let data_tree = loaded.map_or_else(DataTree::new, |loaded| loaded.data_tree);
    let from = data_tree.tree().zxid();
    let mut replay = Replay::new(data_tree, keep_history.map(|limits| History::new(from, limits)), until);
    let (mut applied, logs_begin) = (0, Instant::now());
    if !apache_logs.is_empty() {
        let report = apache_log::replay(log_dir, &mut replay)?;
        applied += report.applied;
        if let Some(tail) = report.torn_tail {
            tracing::warn!("The end of Apache's log was being written when the server stopped, and is cut: {tail:?}");
        }
    }
    let log = segments::recover(log_dir, &mut replay)?;
    let Replay { mut data_tree, history, .. } = replay;
    data_tree.forget_digests();
    applied += log.applied;
    let logs = logs_begin.elapsed();
    if let Some((path, byte, zxid)) = &log.torn {
        tracing::warn!(
            "{} ends in the middle of {zxid} at byte {byte}: it was being written when the server stopped, was not \
             acknowledged, and is cut",
            path.display()
        );
    }
    let zxid = data_tree.tree().zxid();
    if let Some((last, path)) = fuzzy.filter(|(last, _)| *last > zxid) {
        return Err(StorageError::Damaged {
            path,
            offset: 0,
            what: format!("the snapshot holds changes up to {last}, but the log ends at {zxid}"),
            remedy: "Put the missing log files back, or move this snapshot away to start from the one before"
                .to_owned(),
        });
    }
    let took = Took { all: begin.elapsed(), snapshot: snapshot_took, logs, txns: applied };
    tracing::info!(
        "Snapshot loaded in {} ms, highest zxid is {zxid}, digest is {}; {applied} transactions after {from} came from the log",
        took.all.as_millis(),
        data_tree.tree().digest(),
    );
    Ok(Recovery { data_tree, log, snapshot: from, history, took })
}

/// Asks for the log behind the newest snapshot. Advice only: what cannot be read is told where it is needed.
fn ask_for_log(snapshot_dir: &Path, log_dir: &Path) {
    let Ok(snapshots) = snapshot::list_by_name(snapshot_dir) else { return };
    let newest = snapshots.first().map_or(Zxid::ZERO, |snapshot| snapshot.zxid);
    let _ = segments::ask_for(log_dir, newest);
}

/// Where an Apache server and this one have logged different things, the newer history is taken and nothing of the other.
fn choose_history(snapshot_dir: &Path, log_dir: &Path) -> Result<(), StorageError> {
    let Some(fork) = fork::find(log_dir)? else { return Ok(()) };
    let aside = fork::resolve(&fork, snapshot_dir, log_dir)?;
    let Fork { first, apache, native, newer } = fork;
    tracing::warn!(
        "There are two histories in {}, which part at {first}: Apache's log goes on to {apache}, ringkeeper's to {native}. \
         {newer} is the newer one and is taken, and nothing of the other, whose files are kept in {}",
        log_dir.display(),
        aside.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::compression::Compression;
    use crate::storage::snapshot_format::SnapshotSource;
    use crate::storage::testing::directory_of;

    fn up_to(until: Option<i64>) -> Options {
        Options { until: until.map(Zxid), ..Options::default() }
    }

    /// A log is cut where the leader says, and the server has taken a snapshot behind that.
    #[test]
    fn h10_h10b_what_is_cut_comes_back_neither_from_a_snapshot_nor_from_the_log() {
        let dir = directory_of("recovery-cut", 1..=120, &[50, 100, 110]);
        for (until, snapshot) in [(None, 110), (Some(105), 100), (Some(100), 100), (Some(99), 50)] {
            let recovery = recover(dir.path(), dir.path(), &up_to(until)).unwrap();
            let (last, tree) = (until.unwrap_or(120), recovery.data_tree.tree());
            assert_eq!((tree.zxid().0, recovery.snapshot.0), (last, snapshot));
            assert!(tree.get(&format!("/n{last}")).is_some() && tree.get(&format!("/n{}", last + 1)).is_none());
        }
        assert!(recover(dir.path(), dir.path(), &up_to(Some(7))).is_err(), "there is no snapshot to go back to");
        let cut = recover(dir.path(), dir.path(), &up_to(Some(105))).unwrap().data_tree;
        replace::replace(dir.path(), dir.path(), &SnapshotSource::of(&cut, true), Compression::None).unwrap();
        assert_eq!(dir.names(), ["snapshot.69"], "the state after 105, and no other file");
        assert_eq!(recover(dir.path(), dir.path(), &up_to(None)).unwrap().data_tree.tree().zxid(), Zxid(105));
    }

    /// The leader says to go back to a transaction that is not here: what is found is not it, and so is not believed.
    #[test]
    fn h9_a_cut_at_a_transaction_that_is_not_there_ends_before_it() {
        let second = 2 << 32;
        let dir = directory_of("recovery-inexact", (1..=5).chain(second + 1..=second + 3), &[]);
        for (until, found) in [(9, 5), (second, 5), (second + 2, second + 2), (second + 9, second + 3)] {
            let recovery = recover(dir.path(), dir.path(), &up_to(Some(until))).unwrap();
            assert_eq!(recovery.data_tree.tree().zxid(), Zxid(found), "cut at {:x}", until);
        }
    }
}
