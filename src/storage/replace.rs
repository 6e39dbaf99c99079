//! Replaces all that is on disk by one state: after TRUNC and SNAP, when what the log says is not what the ensemble says.
//!
//! ```text
//! replaced-by.<z> is written ──> everything else goes ──> it is renamed to snapshot.<z>
//! ```
//!
//! `replaced-by.<z>` is a snapshot, whole from the moment it has that name. A crash before that leaves the old state, and
//! nothing of the new one: a snapshot beside it would be taken for its newest, with a gap between it and the end of the log.
//! From then on a start finishes the work before anything is read. So no discarded transaction can come back from a log or a
//! snapshot that was left behind (ZOOKEEPER-1549, and H10 of the hazards in docs).
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
    let name = format!("{MARKER}{:x}{}", zxid.0, compression.suffix());
    snapshot::write_named(snapshot_dir, &name, source, compression, |_| {})?;
    finish(snapshot_dir, log_dir)
}

/// Finishes what a [`replace`] that was interrupted has begun. Nothing happens where there was none.
pub fn finish(snapshot_dir: &Path, log_dir: &Path) -> Result<(), StorageError> {
    let Some((replacement, snapshot)) = find_replacement(snapshot_dir)? else { return Ok(()) };
    let rename = || files::rename(&replacement, &snapshot).map_err(StorageError::io("rename", &replacement));
    if planted::is(Bug::MarkerRemovedFirst) {
        rename()?;
    }
    for file in snapshot::list_by_name(snapshot_dir)?.into_iter().filter(|file| file.path != snapshot) {
        remove(&file.path)?;
    }
    // From the newest to the oldest: what a crash leaves has no gap.
    for (_, path) in segments::list(log_dir)?.into_iter().rev().filter(|_| !planted::is(Bug::StaleLogKept)) {
        remove(&path)?;
    }
    for file in apache_log::list(log_dir)?.into_iter().rev().filter(|_| !planted::is(Bug::ConvertedLogKept)) {
        remove(&file.path)?;
    }
    let doubt = snapshot_dir.join(IN_DOUBT);
    if doubt.exists() {
        remove(&doubt)?;
    }
    sync_dir(log_dir)?;
    sync_dir(snapshot_dir)?;
    if !planted::is(Bug::MarkerRemovedFirst) {
        rename()?;
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

/// A snapshot that is to be all there is, and what it is named in the end.
fn find_replacement(dir: &Path) -> Result<Option<(PathBuf, PathBuf)>, StorageError> {
    let failed = || StorageError::io("list the directory", dir);
    for entry in fs::read_dir(dir).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let rest = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(MARKER));
        let snapshot = rest.map(|rest| dir.join(format!("{}{rest}", snapshot::PREFIX)));
        if let Some(snapshot) = snapshot.filter(|snapshot| snapshot::of_name(snapshot).is_some()) {
            return Ok(Some((path, snapshot)));
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
        snapshot::write_named(dir.path(), "replaced-by.0", &source, Compression::None, |_| {}).unwrap();
        fs::remove_file(dir.path().join("snapshot.2")).unwrap();
        recovery::recover(dir.path(), dir.path(), &recovery::Options::default()).unwrap();
        assert_eq!(dir.names(), ["currentEpoch", "snapshot.0"]);
    }

    /// A snapshot of the new state beside what there was before would be read as the newest, with a log that ends before it.
    #[test]
    fn a_crash_leaves_the_old_state_or_the_new_one_and_never_some_of_both() {
        for steps in 0.. {
            let (dir, source) = directory(&format!("replace-steps-{steps}"));
            let before = dir.names();
            let mut left = steps;
            let crash = move |_: files::Step<'_>| {
                left = usize::checked_sub(left, 1).ok_or(std::io::ErrorKind::Interrupted)?;
                Ok(())
            };
            let work = || replace(dir.path(), dir.path(), &source, Compression::Gzip);
            let done = files::observe(Box::new(crash), work).is_ok();
            let has = |name: &str| dir.path().join(name).exists();
            let begun = has("replaced-by.0.gz") || has("snapshot.0.gz");
            finish(dir.path(), dir.path()).unwrap();
            // As every start does.
            snapshot::remove_temps(dir.path()).unwrap();
            let after = if begun { vec!["currentEpoch".to_owned(), "snapshot.0.gz".to_owned()] } else { before };
            assert_eq!(dir.names(), after, "after {steps} steps");
            if done {
                assert!(steps > 8, "{steps} steps");
                return;
            }
        }
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
