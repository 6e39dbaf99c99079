//! Two histories in one directory: what an Apache server has logged there, and what this one has, from one point on.
//!
//! ringkeeper reads Apache's files and goes on where they end. Apache reads no native log: started on a directory that
//! ringkeeper did not leave in good order, it goes on from the newest snapshot, and logs other transactions under the zxids
//! that the native log has too. Whoever starts next on both must take one of them and nothing of the other.
//!
//! ```text
//! snapshot.f ── f+1 … n    native log, written before a crash
//!          └─── f+1 … a    Apache's log, written after it
//! ```
//!
//! The newer one is that of the later epoch and, within one epoch, that which was written to last. The files of the other are
//! moved to a directory of their own, where no start looks, before anything is replayed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::apache_log;
use super::error::StorageError;
use super::files;
use super::inspect::{ApacheReader, FileKind, Item, LogFile, LogReader, kind_of};
use super::segments::{self, sync_dir};
use super::snapshot;
use crate::proto::txn::LoggedTxn;
use crate::types::{WallMs, Zxid};

/// What the directory of the older history is named for.
const DIRECTORY: &str = "older-history";
/// Times that two histories may have parted in one directory. Beyond it the start fails, and nothing is lost.
const DIRECTORIES_MAX: u32 = 1000;

/// Whose log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// `log.*`
    Apache,
    /// `ringlog.*`
    Native,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Apache => "Apache's log",
            Side::Native => "ringkeeper's log",
        })
    }
}

/// The last transaction of a log.
#[derive(Clone, Copy, Debug)]
struct Tip {
    zxid: Zxid,
    time: WallMs,
}

/// Two histories that part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fork {
    /// The first transaction that is another in each of them.
    pub first: Zxid,
    /// The last of Apache's.
    pub apache: Zxid,
    /// The last of the native log.
    pub native: Zxid,
    /// Which one is taken.
    pub newer: Side,
}

/// Looks for two histories, which must both have records of the same zxid. Reads one file of each log, and all only where
/// there is a fork. What cannot be read is left to recovery, which says what is wrong with it.
pub fn find(log_dir: &Path) -> Result<Option<Fork>, StorageError> {
    let logs = Logs::list(log_dir)?;
    let (Some(apache), Some(native)) = (Logs::tip(&logs.apache)?, Logs::tip(&logs.native)?) else { return Ok(None) };
    // Of the log that goes further, the last record that the other may have too.
    let (shorter, longer) =
        if apache.zxid <= native.zxid { (&logs.apache, &logs.native) } else { (&logs.native, &logs.apache) };
    let Some((common, payload)) = Logs::last_until(longer, apache.zxid.min(native.zxid))? else { return Ok(None) };
    // Records that are the same to the byte, time and all, have the same past.
    match Logs::last_until(shorter, common)? {
        Some((zxid, found)) if zxid == common && found != payload => {}
        _ => return Ok(None),
    }
    let first = logs.first_difference()?.unwrap_or(common);
    let age = |tip: &Tip| (tip.zxid.epoch(), tip.time.0, tip.zxid);
    let newer = if age(&apache) >= age(&native) { Side::Apache } else { Side::Native };
    Ok(Some(Fork { first, apache: apache.zxid, native: native.zxid, newer }))
}

/// Moves the files of the older history away. Returns where they are. Interrupted by a crash, the next start finds a fork
/// still, or nothing of the older history that a start would look at.
pub fn resolve(fork: &Fork, snapshot_dir: &Path, log_dir: &Path) -> Result<PathBuf, StorageError> {
    let aside = make_directory(log_dir)?;
    match fork.newer {
        Side::Apache => {
            // Snapshots are Apache's from there on: it would have begun with a later one of ringkeeper's.
            for (_, path) in segments::list(log_dir)?.into_iter().rev() {
                move_to(&aside, &path)?;
            }
        }
        Side::Native => {
            // Whose a later snapshot is cannot be seen. Native ones are made again from the log.
            for file in snapshot::list_by_name(snapshot_dir)?.into_iter().filter(|file| file.zxid >= fork.first) {
                move_to(&aside, &file.path)?;
            }
            sync_dir(snapshot_dir)?;
            for file in apache_log::list(log_dir)?.into_iter().rev() {
                move_to(&aside, &file.path)?;
            }
        }
    }
    sync_dir(&aside)?;
    sync_dir(log_dir)?;
    Ok(aside)
}

fn make_directory(log_dir: &Path) -> Result<PathBuf, StorageError> {
    for number in 1..=DIRECTORIES_MAX {
        let path = log_dir.join(format!("{DIRECTORY}.{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return sync_dir(log_dir).map(|()| path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StorageError::io("create", &path)(error)),
        }
    }
    let path = log_dir.join(DIRECTORY);
    let what = format!("there are {DIRECTORIES_MAX} directories {DIRECTORY}.* already");
    Err(StorageError::Unsupported { path, what, remedy: "Move them away".to_owned() })
}

fn move_to(aside: &Path, path: &Path) -> Result<(), StorageError> {
    let target = aside.join(path.file_name().expect("a file of a directory has a name"));
    match files::rename(path, &target) {
        // Snapshots may be on another device than logs.
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            let copied = fs::copy(path, &target).and_then(|_| fs::File::open(&target)?.sync_all());
            copied.map_err(StorageError::io("copy", path))?;
            files::remove(path).map_err(StorageError::io("remove", path))
        }
        moved => moved.map_err(StorageError::io("move away", path)),
    }
}

/// Both logs' files, oldest first.
struct Logs {
    apache: Vec<LogFile>,
    native: Vec<LogFile>,
}

impl Logs {
    fn list(dir: &Path) -> Result<Logs, StorageError> {
        let mut apache = Vec::new();
        for file in apache_log::list(dir)? {
            let kind = kind_of(&file.path)?;
            apache.push(LogFile { path: file.path, kind, after: Zxid(file.zxid.0.saturating_sub(1)), sequence: None });
        }
        let mut native = Vec::new();
        // Where there is none of the other, nothing has to be read.
        for (sequence, path) in if apache.is_empty() { Vec::new() } else { segments::list(dir)? } {
            let kind = kind_of(&path)?;
            // Of one that was never used, or cannot be read, nothing is known.
            let Some(link) = segments::link_of(sequence, &path)? else { continue };
            native.push(LogFile { path, kind, after: link.zxid, sequence: Some(sequence) });
        }
        Ok(Logs { apache, native })
    }

    fn tip(files: &[LogFile]) -> Result<Option<Tip>, StorageError> {
        for file in files.iter().rev() {
            let mut last = None;
            each(file, |zxid, payload| {
                last = Some((zxid, payload));
                true
            })?;
            if let Some((zxid, payload)) = last
                && let Ok(logged) = LoggedTxn::decode(&payload)
            {
                return Ok(Some(Tip { zxid, time: logged.header.time }));
            }
        }
        Ok(None)
    }

    /// The last record up to that one.
    fn last_until(files: &[LogFile], zxid: Zxid) -> Result<Option<(Zxid, Bytes)>, StorageError> {
        for file in files.iter().rev().filter(|file| file.after < zxid) {
            let mut last = None;
            each(file, |at, payload| {
                if at <= zxid {
                    last = Some((at, payload));
                }
                at < zxid
            })?;
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// The first zxid of which both have a record, and not the same.
    fn first_difference(&self) -> Result<Option<Zxid>, StorageError> {
        let mut native = BTreeMap::new();
        for file in &self.native {
            each(file, |zxid, payload| native.insert(zxid, hash(&payload)).is_none())?;
        }
        let mut first = None;
        for file in &self.apache {
            each(file, |zxid, payload| {
                if native.get(&zxid).is_some_and(|found| *found != hash(&payload)) {
                    first = first.or(Some(zxid));
                }
                first.is_none()
            })?;
        }
        Ok(first)
    }
}

/// Hands the records of a file to `take` while it wants them, up to the first thing that is none.
fn each(file: &LogFile, mut take: impl FnMut(Zxid, Bytes) -> bool) -> Result<(), StorageError> {
    let mut reader = match file.kind {
        FileKind::ApacheLog => LogReader::Apache(ApacheReader::open(&file.path)?),
        FileKind::NativeLog => match LogReader::open(file) {
            Ok(Some(reader)) => reader,
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    while let Item::Txn(entry) = reader.read()? {
        if !take(entry.zxid, entry.payload) {
            break;
        }
    }
    Ok(())
}

fn hash(payload: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(payload);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::txn::{Txn, TxnHeader};
    use crate::storage::convert::{ApacheLogWriter, NativeLogWriter};
    use crate::storage::recovery::{self, Options};
    use crate::storage::snapshot_format::SnapshotSource;
    use crate::storage::testing::TempDir;
    use crate::tree::DataTree;
    use crate::types::SessionId;

    /// A transaction that opens the session of its own zxid and of `time`.
    fn txn(zxid: i64, time: i64) -> (TxnHeader, Txn) {
        let session = SessionId(time * 1000 + zxid % 1000);
        let header = TxnHeader { session, cxid: 0, zxid: Zxid(zxid), time: WallMs(time) };
        (header, Txn::CreateSession { timeout_ms: 1000 })
    }

    fn payload(zxid: i64, time: i64) -> Vec<u8> {
        let (header, txn) = txn(zxid, time);
        let mut payload = Vec::new();
        // Without digests, which would tell a mixture.
        LoggedTxn::encode_parts(&mut payload, &header, &txn, None);
        payload
    }

    /// A directory: snapshots of the common history, and both logs with the time of each transaction.
    struct Directory(TempDir);

    impl Directory {
        fn new(name: &str) -> Directory {
            Directory(TempDir::new(name))
        }

        /// The state after 1 to `last`, all of time 1, as a snapshot.
        fn snapshot(self, last: i64) -> Directory {
            let mut data_tree = DataTree::new();
            for (header, txn) in (1..=last).map(|zxid| txn(zxid, 1)) {
                data_tree.apply(&header, &txn);
            }
            snapshot::write(self.0.path(), &SnapshotSource::of(&data_tree, false), |_| {}).unwrap();
            self
        }

        fn native(self, txns: impl IntoIterator<Item = (i64, i64)>) -> Directory {
            let mut writer = NativeLogWriter::new(self.0.path(), 1, 0, || 7);
            txns.into_iter().for_each(|(zxid, time)| writer.append(Zxid(zxid), &payload(zxid, time)).unwrap());
            writer.finish().unwrap();
            self
        }

        fn apache(self, txns: impl IntoIterator<Item = (i64, i64)>) -> Directory {
            let mut txns = txns.into_iter().peekable();
            let mut writer = ApacheLogWriter::create(self.0.path(), Zxid(txns.peek().unwrap().0)).unwrap();
            txns.for_each(|(zxid, time)| writer.append(Zxid(zxid), &payload(zxid, time)).unwrap());
            writer.finish().unwrap();
            self
        }

        /// Recovers, twice, and demands the same each time. The last zxid, and the transactions by time.
        fn recovered(&self) -> (i64, Vec<(i64, usize)>) {
            let once = || {
                let recovery = recovery::recover(self.0.path(), self.0.path(), &Options::default()).unwrap();
                let mut times = BTreeMap::new();
                let sessions = recovery.data_tree.sessions().keys();
                sessions.for_each(|session| *times.entry(session.0 / 1000).or_default() += 1);
                (recovery.data_tree.tree().zxid().0, times.into_iter().collect())
            };
            let first = once();
            assert_eq!(find(self.0.path()).unwrap(), None, "a fork is found once");
            assert_eq!(once(), first);
            first
        }

        /// How many files are in the directory of the older history.
        fn aside(&self) -> usize {
            fs::read_dir(self.0.path().join("older-history.1")).map_or(0, Iterator::count)
        }
    }

    fn at(zxids: std::ops::RangeInclusive<i64>, time: i64) -> impl Iterator<Item = (i64, i64)> {
        zxids.map(move |zxid| (zxid, time))
    }

    #[test]
    fn apache_went_on_from_a_snapshot_after_a_crash_and_is_taken() {
        // It has logged less, as much, or more than the native log has.
        for last in [51, 59, 60, 61, 90] {
            let dir = Directory::new("fork-apache").snapshot(50).native(at(1..=50, 1).chain(at(51..=60, 2)));
            let dir = dir.apache(at(51..=last, 3));
            let found = find(dir.0.path()).unwrap().expect("they part");
            assert_eq!(found, Fork { first: Zxid(51), apache: Zxid(last), native: Zxid(60), newer: Side::Apache });
            assert_eq!(dir.recovered(), (last, vec![(1, 50), (3, last as usize - 50)]));
            assert_eq!(dir.aside(), 1);
        }
    }

    #[test]
    fn the_native_log_is_taken_where_it_was_written_last() {
        let dir = Directory::new("fork-native").snapshot(40).native(at(1..=50, 1).chain(at(51..=60, 9)));
        // With a snapshot of Apache's own: it must not be what the native log is applied to.
        let dir = dir.apache(at(41..=50, 1).chain(at(51..=70, 3))).snapshot(55);
        let found = find(dir.0.path()).unwrap().expect("they part");
        assert_eq!(found, Fork { first: Zxid(51), apache: Zxid(70), native: Zxid(60), newer: Side::Native });
        assert_eq!(dir.recovered(), (60, vec![(1, 50), (9, 10)]));
        assert_eq!(dir.aside(), 2);
    }

    #[test]
    fn a_later_epoch_is_newer_whatever_the_clocks_say() {
        let epoch = 1 << 32;
        let dir = Directory::new("fork-epoch").snapshot(50).native(at(51..=60, 9));
        let dir = dir.apache(at(51..=55, 3).chain(at(epoch + 1..=epoch + 2, 3)));
        assert_eq!(find(dir.0.path()).unwrap().expect("they part").newer, Side::Apache);
        assert_eq!(dir.recovered(), (epoch + 2, vec![(1, 50), (3, 7)]));
    }

    #[test]
    fn one_history_in_two_logs_is_no_fork() {
        // Taken over from Apache; converted in place; swapped and swapped back.
        for (name, native, apache) in
            [("after", 51..=80, 1..=50), ("same", 20..=80, 1..=70), ("before", 1..=50, 51..=80)]
        {
            let dir = Directory::new(&format!("fork-none-{name}")).snapshot(50);
            let dir = dir.native(at(native, 1)).apache(at(apache, 1));
            assert_eq!(find(dir.0.path()).unwrap(), None, "{name}");
            assert_eq!(dir.recovered(), (80, vec![(1, 80)]), "{name}");
            assert_eq!(dir.aside(), 0);
        }
    }

    #[test]
    fn a_start_that_was_interrupted_is_finished_by_the_next() {
        for kept in 0..2 {
            let dir = Directory::new("fork-interrupted").snapshot(40).native(at(41..=50, 1).chain(at(51..=60, 9)));
            let dir = dir.apache(at(41..=50, 1).chain(at(51..=70, 3))).snapshot(55);
            // As if the machine had stopped after so many of the moves.
            let aside = make_directory(dir.0.path()).unwrap();
            for name in ["snapshot.37"].iter().take(kept) {
                move_to(&aside, &dir.0.path().join(name)).unwrap();
            }
            assert_eq!(dir.recovered(), (60, vec![(1, 50), (9, 10)]), "after {kept}");
        }
    }
}
