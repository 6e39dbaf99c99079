//! Replaces all that is on disk by one state: after TRUNC and SNAP, when what the log says is not what the ensemble says.
//!
//! ```text
//! snapshot.<z> is written ──> replaced-by.<z> is there ──> everything else goes ──> replaced-by.<z> goes
//! ```
//!
//! A crash before the second step leaves the old state whole, and the snapshot is one more of it or is passed over; from
//! the second step on a start finds the marker and finishes the work before anything is read. So no discarded transaction can
//! come back from a log or a snapshot that was left behind (ZOOKEEPER-1549, and H10 of the hazards in docs).
//!
//! A server that has found its own history damaged sets it aside instead, and marks the directory with `in-doubt` until it
//! has a whole state from the leader: until then it does not vote.

use std::fs;
use std::path::{Path, PathBuf};

use super::apache_log;
use super::compression::Compression;
use super::error::StorageError;
use super::files;
use super::segments::{self, sync_dir};
use super::snapshot;
use super::snapshot_format::SnapshotSource;
use crate::planted::{self, Bug};
use crate::types::Zxid;

const MARKER: &str = "replaced-by.";
const IN_DOUBT: &str = "in-doubt";
const SET_ASIDE: &str = "set-aside";

/// Makes `source` durable as the only state. No segment may be open for writing.
pub fn replace(
    snapshot_dir: &Path,
    log_dir: &Path,
    source: &SnapshotSource,
    compression: Compression,
) -> Result<(), StorageError> {
    if planted::is(Bug::ReplaceNotDurable) {
        return Ok(());
    }
    let zxid = source.tree.zxid();
    snapshot::write_as(snapshot_dir, source, compression, |_| {})?;
    let marker = snapshot_dir.join(format!("{MARKER}{:x}", zxid.0));
    files::create_empty(&marker).map_err(StorageError::io("create", &marker))?;
    sync_dir(snapshot_dir)?;
    finish(snapshot_dir, log_dir)
}

/// Finishes what a [`replace`] that was interrupted has begun. Nothing happens where there was none.
pub fn finish(snapshot_dir: &Path, log_dir: &Path) -> Result<(), StorageError> {
    let Some((marker, zxid)) = find_marker(snapshot_dir)? else { return Ok(()) };
    if planted::is(Bug::MarkerRemovedFirst) {
        remove(&marker)?;
    }
    for file in snapshot::list_by_name(snapshot_dir)?.into_iter().filter(|file| file.zxid != zxid) {
        remove(&file.path)?;
    }
    // From the newest to the oldest: what a crash leaves has no gap.
    for (_, path) in segments::list(log_dir)?.into_iter().rev().filter(|_| !planted::is(Bug::StaleLogKept)) {
        remove(&path)?;
    }
    for file in apache_log::list(log_dir)?.into_iter().rev() {
        remove(&file.path)?;
    }
    let doubt = snapshot_dir.join(IN_DOUBT);
    if doubt.exists() {
        remove(&doubt)?;
    }
    sync_dir(log_dir)?;
    sync_dir(snapshot_dir)?;
    if !planted::is(Bug::MarkerRemovedFirst) {
        remove(&marker)?;
    }
    sync_dir(snapshot_dir)
}

/// Whether the history in this directory is in doubt, so that the server must not vote.
pub fn is_in_doubt(snapshot_dir: &Path) -> bool {
    snapshot_dir.join(IN_DOUBT).exists()
}

/// Takes all snapshots and logs out of the way, because they are damaged, and marks the directory. What was set aside before
/// goes. Returns where the files are now.
pub fn set_aside(snapshot_dir: &Path, log_dir: &Path) -> Result<PathBuf, StorageError> {
    let doubt = snapshot_dir.join(IN_DOUBT);
    files::create_empty(&doubt).map_err(StorageError::io("create", &doubt))?;
    sync_dir(snapshot_dir)?;
    let aside = snapshot_dir.join(SET_ASIDE);
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(StorageError::io("remove", &aside))?;
    }
    fs::create_dir(&aside).map_err(StorageError::io("create", &aside))?;
    let snapshots = snapshot::list_by_name(snapshot_dir)?.into_iter().map(|file| file.path);
    let segments = segments::list(log_dir)?.into_iter().map(|(_, path)| path);
    let logs = apache_log::list(log_dir)?.into_iter().map(|file| file.path);
    for path in snapshots.chain(segments).chain(logs) {
        let name = path.file_name().expect("a file of a directory has a name");
        // On another device they cannot be kept.
        if files::rename(&path, &aside.join(name)).is_err() {
            remove(&path)?;
        }
    }
    sync_dir(log_dir)?;
    sync_dir(snapshot_dir)?;
    Ok(aside)
}

fn find_marker(dir: &Path) -> Result<Option<(PathBuf, Zxid)>, StorageError> {
    let failed = || StorageError::io("list the directory", dir);
    for entry in fs::read_dir(dir).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let zxid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(MARKER));
        if let Some(zxid) = zxid.and_then(|hex| i64::from_str_radix(hex, 16).ok()) {
            return Ok(Some((path, Zxid(zxid))));
        }
    }
    Ok(None)
}

fn remove(path: &Path) -> Result<(), StorageError> {
    files::remove(path).map_err(StorageError::io("remove", path))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::storage::recovery;
    use crate::storage::testing::TempDir;
    use crate::tree::DataTree;

    /// A directory as two servers left it, one after the other: Apache's log, older and newer snapshots, segments.
    fn directory(name: &str) -> (TempDir, SnapshotSource) {
        let dir = TempDir::new(name);
        for name in ["log.1", "snapshot.2", "snapshot.9.gz", "currentEpoch"] {
            fs::write(dir.path().join(name), b"not looked at").unwrap();
        }
        for sequence in 1..=3 {
            segments::prepare(dir.path(), sequence, segments::file_bytes(0), 7, None).unwrap();
        }
        (dir, SnapshotSource::of(&DataTree::new(), true))
    }

    #[test]
    fn one_state_is_left() {
        let (dir, source) = directory("replace-one");
        File::create(dir.path().join(IN_DOUBT)).unwrap();
        replace(dir.path(), dir.path(), &source, Compression::None).unwrap();
        assert_eq!(dir.names(), ["currentEpoch", "snapshot.0"]);
        assert!(!is_in_doubt(dir.path()));
    }

    #[test]
    fn a_start_finishes_what_a_crash_interrupted() {
        let (dir, source) = directory("replace-crash");
        snapshot::write(dir.path(), &source, |_| {}).unwrap();
        File::create(dir.path().join("replaced-by.0")).unwrap();
        fs::remove_file(dir.path().join("snapshot.2")).unwrap();
        recovery::recover(dir.path(), dir.path(), &recovery::Options::default()).unwrap();
        assert_eq!(dir.names(), ["currentEpoch", "snapshot.0"]);
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_the_doubt_stays_until_there_is_a_state() {
        let (dir, source) = directory("replace-aside");
        let aside = set_aside(dir.path(), dir.path()).unwrap();
        assert_eq!(fs::read_dir(&aside).unwrap().count(), 6);
        assert_eq!(dir.names(), ["currentEpoch", IN_DOUBT, SET_ASIDE]);
        assert_eq!(fs::read_dir(set_aside(dir.path(), dir.path()).unwrap()).unwrap().count(), 0);
        assert!(is_in_doubt(dir.path()));
        replace(dir.path(), dir.path(), &source, Compression::None).unwrap();
        assert!(!is_in_doubt(dir.path()));
    }
}
