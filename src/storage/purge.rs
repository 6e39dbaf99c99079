//! What may go from a data directory: everything that no start needs which begins with one of the newest snapshots.
//!
//! Source: `PurgeTxnLog.java`.

use std::path::{Path, PathBuf};

use super::apache_log;
use super::error::StorageError;
use super::files;
use super::inspect::{Piece, SnapshotReader};
use super::segments;
use super::snapshot;
use crate::types::Zxid;

/// Files that may go, in the order in which they may: a crash between two leaves nothing with a gap.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Superfluous {
    /// The files.
    pub files: Vec<PathBuf>,
    /// The oldest snapshot that stays and is whole; nothing may go where there is none.
    pub oldest_kept: Option<Zxid>,
    /// Snapshots that stay and are damaged, with what is wrong: they do not count.
    pub damaged: Vec<String>,
}

/// Who purges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Somebody at a command line: snapshots count that are whole, which is found out by reading them.
    Command {
        /// The native log is left to it.
        server_runs: bool,
    },
    /// The server, now and then: snapshots count that look whole, for it has written them, and clients need the disk. Its log
    /// segments it uses again by itself.
    Server,
}

/// What may go if the newest `keep` snapshots stay that count, at least one, with all logs that go on from them.
///
/// Errors with `Io`.
pub fn superfluous(snapshot_dir: &Path, log_dir: &Path, keep: usize, by: By) -> Result<Superfluous, StorageError> {
    let mut found = Superfluous::default();
    let mut whole = 0;
    let mut candidates = snapshot::list(snapshot_dir)?.into_iter();
    while whole < keep.max(1) {
        let Some(file) = candidates.next() else { break };
        let read = if by == By::Server { Ok(()) } else { read_all(&file.path) };
        match read {
            Ok(()) => {
                whole += 1;
                found.oldest_kept = Some(file.zxid);
            }
            Err(error) if error.is_damage() => found.damaged.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let Some(oldest) = found.oldest_kept else { return Ok(found) };
    found.files = apache_log::older_than(log_dir, oldest)?;
    if by == (By::Command { server_runs: false }) {
        let covered = segments::covered_by(log_dir, oldest)?;
        found.files.extend(covered.into_iter().map(|segment| segments::path(log_dir, segment.sequence)));
    }
    let older = snapshot::list_by_name(snapshot_dir)?.into_iter().filter(|file| file.zxid < oldest);
    found.files.extend(older.map(|file| file.path));
    Ok(found)
}

fn read_all(path: &Path) -> Result<(), StorageError> {
    let mut reader = SnapshotReader::open(path)?;
    while reader.read()? != Piece::End {}
    Ok(())
}

/// Removes files and makes that durable. One that is gone already is no error: a server purges too.
pub fn remove(files: &[PathBuf]) -> Result<(), StorageError> {
    for path in files {
        match files::remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StorageError::io("remove", path)(error));
            }
            _ => {}
        }
    }
    let mut dirs: Vec<&Path> = files.iter().filter_map(|path| path.parent()).collect();
    dirs.sort_unstable();
    dirs.dedup();
    dirs.into_iter().try_for_each(segments::sync_dir)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::storage::recovery::{Options, recover};
    use crate::storage::testing::{TempDir, directory_of};

    /// 300 transactions, each of which creates a znode, in some ten segments, with snapshots after some of them.
    fn directory(name: &str, snapshots: &[i64]) -> TempDir {
        directory_of(name, 1..=300, snapshots)
    }

    const OFFLINE: By = By::Command { server_runs: false };

    /// The names of what may go.
    fn names(found: &Superfluous) -> Vec<String> {
        found.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn recovery_comes_to_the_same_from_each_snapshot_that_stays() {
        let dir = directory("purge-same", &[50, 100, 150, 200, 250]);
        let znodes = recover(dir.path(), dir.path(), &Options::default()).unwrap().data_tree.tree().node_count();
        let segments_before = segments::list(dir.path()).unwrap().len();
        let found = superfluous(dir.path(), dir.path(), 3, OFFLINE).unwrap();
        assert_eq!(found.oldest_kept, Some(Zxid(150)));
        let gone = names(&found);
        assert!(gone.ends_with(&["snapshot.64".to_owned(), "snapshot.32".to_owned()]), "{gone:?}");
        remove(&found.files).unwrap();
        remove(&found.files).expect("what is gone is no error");
        let left = segments::list(dir.path()).unwrap().len();
        assert_eq!(left + gone.len() - 2, segments_before);
        assert!((2..segments_before - 2).contains(&left), "{left} of {segments_before} are left");
        // The newest, and then those that take over when it is damaged.
        for newest in [250, 200, 150] {
            let recovery = recover(dir.path(), dir.path(), &Options::default()).unwrap();
            assert_eq!((recovery.snapshot.0, recovery.data_tree.tree().zxid().0), (newest, 300));
            assert_eq!(recovery.data_tree.tree().node_count(), znodes);
            fs::remove_file(dir.path().join(format!("snapshot.{newest:x}"))).unwrap();
        }
    }

    #[test]
    fn a_damaged_snapshot_does_not_count_and_a_running_server_keeps_its_log() {
        let dir = directory("purge-damaged", &[50, 100, 150, 200, 250]);
        let damaged = dir.path().join("snapshot.c8");
        let mut bytes = fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let found = superfluous(dir.path(), dir.path(), 3, By::Command { server_runs: true }).unwrap();
        assert_eq!((found.oldest_kept, found.damaged.len()), (Some(Zxid(100)), 1));
        assert_eq!(names(&found), ["snapshot.32"]);
    }

    #[test]
    fn nothing_goes_where_there_is_no_snapshot_or_too_few() {
        let dir = directory("purge-few", &[100, 200]);
        assert_eq!(
            names(&superfluous(dir.path(), dir.path(), 3, By::Command { server_runs: true }).unwrap()),
            Vec::<String>::new()
        );
        let dir = directory("purge-none", &[]);
        assert_eq!(superfluous(dir.path(), dir.path(), 3, OFFLINE).unwrap(), Superfluous::default());
    }

    /// What does not look whole goes only when it is older than all that stays: a start may still look at it.
    #[test]
    fn a_server_believes_what_looks_whole_and_keeps_its_log() {
        let dir = directory("purge-server", &[0x10, 0x11, 0x12, 0x13, 0x14]);
        for name in ["snapshot.1", "snapshot.15", "log.1", "log.12", "log.13"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let found = superfluous(dir.path(), dir.path(), 3, By::Server).unwrap();
        assert_eq!((found.oldest_kept, found.damaged.len()), (Some(Zxid(0x12)), 0));
        assert_eq!(names(&found), ["log.1", "snapshot.11", "snapshot.10", "snapshot.1"]);
        assert_eq!(superfluous(dir.path(), dir.path(), 99, By::Server).unwrap().oldest_kept, Some(Zxid(0x10)));
    }
}
