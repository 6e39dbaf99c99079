//! Start-up: the newest snapshot, what Apache's log adds to it, what the native log adds to that.
//!
//! A directory that an Apache server has left is taken over as it is: its snapshot and log are read, and the native log
//! goes on where they end. Its files stay until they are purged.

use std::path::Path;
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
    let loaded = snapshot::load_newest(snapshot_dir, until)?;
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
    let Replay { data_tree, history, .. } = replay;
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
