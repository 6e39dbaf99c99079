//! The transaction log of an Apache server, read when its directory is taken over.
//!
//! ```text
//! file    "ZKLG"  int 2  long 0                             log.<zxid of the first record>
//! record  long adler32 of the payload  int length  payload  0x42
//! ```
//!
//! A payload is what [`LoggedTxn::decode`] reads. Apache grows a file by zeros ahead of the records and leaves them
//! there, so the records end where only zeros follow.
//!
//! Apache takes any record that is cut short for the end of its file, and goes on with the next file; so it starts
//! without a word when transactions are missing from the middle. [`History`] does not: what it yields is without a
//! gap, or it says where the gap is. What is not a whole record is a *break*, and is forgiven in two cases. One is
//! that the very next transaction is found behind it: an Apache server that crashed in the middle of a record began
//! a new file with another transaction in its place. The other is that no record is found behind it at all, and it
//! looks like the beginning of one: it was being written when the machine stopped, and nobody was told of it.
//!
//! Source: `FileTxnLog.java`, `FilePadding.java`.

use std::collections::VecDeque;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tracing::{info, warn};

use super::error::StorageError;
use super::replay::Replay;
use crate::proto::txn::LoggedTxn;
use crate::types::Zxid;

const PREFIX: &str = "log.";
/// What a log begins with.
pub const MAGIC: &[u8] = b"ZKLG";
/// Magic, version and database id.
pub const FILE_HEADER_BYTES: usize = 16;
/// Checksum and length.
pub const RECORD_HEADER_BYTES: usize = 12;
/// What stands behind each payload.
pub const RECORD_END: u8 = b'B';
/// A transaction is at least its header.
pub const PAYLOAD_BYTES_MIN: usize = 32;

const REMEDY: &str = "Put back a copy of the directory, or, where the rest of the ensemble is healthy, move it away \
                      and let this server copy the data from the leader";

/// A log file, by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFile {
    /// What the file is named for: its first transaction.
    pub zxid: Zxid,
    /// The file.
    pub path: PathBuf,
}

/// The log files of a directory, oldest first.
pub fn list(dir: &Path) -> Result<Vec<LogFile>, StorageError> {
    let failed = || StorageError::io("list the directory", dir);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let parse = |name: &str| i64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok();
        if let Some(zxid) = entry.file_name().to_str().and_then(parse) {
            found.push(LogFile { zxid: Zxid(zxid), path: entry.path() });
        }
    }
    found.sort_by_key(|file| file.zxid);
    Ok(found)
}

/// A transaction as it was logged.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// What was logged.
    pub logged: LoggedTxn,
    /// The same, byte for byte: to be logged again, or sent.
    pub payload: Bytes,
}

/// The start of a record at the end of the log, which was being written when the server stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The file.
    pub path: PathBuf,
    /// Where the record begins, in bytes from the start of the file.
    pub offset: u64,
}

/// The transactions of a log directory after a given one, oldest first and without a gap.
///
/// An iterator that holds one file in memory at a time, and is of no more use after an error. The first transaction
/// must be the one that follows `after`, or the first of a later epoch. That nothing is missing at the end of an
/// epoch cannot be told from the log, only from the digests.
///
/// Errors with `Io`, and with `Damaged` for what [the module](self) says.
pub struct History {
    files: VecDeque<LogFile>,
    current: Option<(PathBuf, LogBytes)>,
    last: Zxid,
    skipped: u64,
    broken: Option<Break>,
    torn_tail: Option<TornTail>,
}

/// Bytes in a log that are not a whole record.
struct Break {
    path: PathBuf,
    offset: u64,
    kind: BreakKind,
}

impl History {
    /// All of `dir` that is later than `after`.
    pub fn open(dir: &Path, after: Zxid) -> Result<History, StorageError> {
        let mut files = list(dir)?;
        // The last file that begins before or with `after` may hold what follows it.
        let first = files.partition_point(|file| file.zxid <= after).saturating_sub(1);
        let files = files.split_off(first).into();
        Ok(History { files, current: None, last: after, skipped: 0, broken: None, torn_tail: None })
    }

    /// What was cut off at the end. Known once all transactions were read.
    pub fn torn_tail(&self) -> Option<&TornTail> {
        self.torn_tail.as_ref()
    }

    fn read_next(&mut self) -> Result<Option<Record>, StorageError> {
        loop {
            let Some((path, log)) = &mut self.current else {
                match self.files.pop_front() {
                    Some(file) => {
                        info!("Reading transaction log {}", file.path.display());
                        let bytes = fs::read(&file.path).map_err(StorageError::io("read", &file.path))?;
                        self.current = Some((file.path, LogBytes::new(bytes.into())));
                        continue;
                    }
                    None => return self.end().map(|()| None),
                }
            };
            match log.next() {
                Found::Record { offset, payload } => {
                    let payload = log.bytes.slice(payload);
                    if let Some(record) = self.check(offset, payload)? {
                        return Ok(Some(record));
                    }
                }
                Found::Break { offset, kind } => {
                    self.broken.get_or_insert(Break { path: path.clone(), offset, kind });
                }
                Found::End => self.current = None,
            }
        }
    }

    /// Whether a record is in its place; `None` passes it over.
    fn check(&mut self, offset: u64, payload: Bytes) -> Result<Option<Record>, StorageError> {
        let path = || self.current.as_ref().expect("the record is from there").0.clone();
        let logged = LoggedTxn::decode(&payload)
            .map_err(|error| damaged(path(), offset, format!("the record is no transaction: {error}")))?;
        let (last, zxid) = (self.last, logged.header.zxid);
        if zxid <= last {
            // What was lost before this one, if anything, was older still.
            self.broken = None;
            self.skipped += 1;
            return Ok(None);
        }
        let is_next = last.epoch() == zxid.epoch() && last.0 + 1 == zxid.0;
        if let (false, Some(broken)) = (is_next, self.broken.take()) {
            let what = format!("{}; the log ends here with {last} and goes on with {zxid}", broken.kind.words());
            return Err(damaged(broken.path, broken.offset, what));
        }
        let begins_epoch = zxid.epoch() > last.epoch() && zxid.counter() == 1;
        if !is_next && !begins_epoch {
            let what = format!("{zxid} stands here and {last} before it, so transactions between them are missing");
            return Err(damaged(path(), offset, what));
        }
        self.broken = None;
        self.last = zxid;
        Ok(Some(Record { logged, payload }))
    }

    fn end(&mut self) -> Result<(), StorageError> {
        match self.broken.take() {
            None => Ok(()),
            Some(Break { path, offset, kind: BreakKind::Torn }) => {
                // The first four words are Apache's.
                warn!("Last transaction was partial. It is left out, at byte {offset} of {}", path.display());
                self.torn_tail = Some(TornTail { path, offset });
                Ok(())
            }
            Some(Break { path, offset, kind }) => {
                let what = format!("{}; the last transaction before it is {}", kind.words(), self.last);
                Err(damaged(path, offset, what))
            }
        }
    }
}

impl Iterator for History {
    type Item = Result<Record, StorageError>;

    fn next(&mut self) -> Option<Result<Record, StorageError>> {
        self.read_next().transpose()
    }
}

fn damaged(path: PathBuf, offset: u64, what: String) -> StorageError {
    StorageError::Damaged { path, offset, what, remedy: REMEDY.to_owned() }
}

/// The records of one file.
struct LogBytes {
    bytes: Bytes,
    at: usize,
    /// Only zeros follow.
    data_end: usize,
    /// What is at `at` was reported as a break.
    is_broken: bool,
}

enum Found {
    Record {
        offset: u64,
        /// Within the bytes.
        payload: Range<usize>,
    },
    Break {
        offset: u64,
        kind: BreakKind,
    },
    End,
}

/// Why bytes are not a whole record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakKind {
    /// They are the beginning of one, and only zeros follow.
    Torn,
    /// The file does not begin as a log does.
    NotALog,
    /// No record is that long.
    Length(i32),
    /// It is not that of the bytes.
    Checksum,
    /// It is not where the length says.
    EndByte,
}

impl BreakKind {
    /// What is there, for people.
    pub fn words(self) -> String {
        match self {
            BreakKind::Torn => "a record begins here and does not end".to_owned(),
            BreakKind::NotALog => "a transaction log begins with \"ZKLG\", and this file does not".to_owned(),
            BreakKind::Length(length) => format!("the length of a record cannot be {length}"),
            // Apache's words first.
            BreakKind::Checksum => "CRC check failed, the bytes of a record have changed".to_owned(),
            BreakKind::EndByte => "a record does not end with the byte that marks its end".to_owned(),
        }
    }
}

impl LogBytes {
    fn new(bytes: Bytes) -> LogBytes {
        let data_end = data_end(&bytes);
        LogBytes { bytes, at: 0, data_end, is_broken: false }
    }

    /// The next record or break. After a break comes the next whole record, wherever it is.
    fn next(&mut self) -> Found {
        if self.is_broken {
            self.is_broken = false;
            self.at = (self.at + 1..self.data_end).find(|at| self.is_whole_record(*at)).unwrap_or(self.data_end);
        }
        if self.at == 0 {
            // A file that was only just made is empty, or all zeros, or cut inside its header.
            if self.data_end >= MAGIC.len() && !self.bytes.starts_with(MAGIC) {
                return self.broken(BreakKind::NotALog);
            }
            self.at = FILE_HEADER_BYTES;
        }
        if self.at >= self.data_end {
            return Found::End;
        }
        let offset = self.at as u64;
        match self.record(self.at) {
            Ok(payload) => {
                self.at = payload.end + 1;
                Found::Record { offset, payload }
            }
            Err(kind) => self.broken(kind),
        }
    }

    fn broken(&mut self, kind: BreakKind) -> Found {
        self.is_broken = true;
        Found::Break { offset: self.at as u64, kind }
    }

    fn record(&self, at: usize) -> Result<Range<usize>, BreakKind> {
        let data = &self.bytes[..self.data_end];
        let start = at + RECORD_HEADER_BYTES;
        let Some(header) = data.get(at..start) else { return Err(BreakKind::Torn) };
        let (checksum, length) = header.split_at(8);
        let checksum = i64::from_be_bytes(checksum.try_into().expect("8 bytes"));
        let length = i32::from_be_bytes(length.try_into().expect("4 bytes"));
        let is_right = |payload: &[u8]| i64::from(simd_adler32::adler32(&payload)) == checksum;
        let end = match usize::try_from(length) {
            Ok(length @ PAYLOAD_BYTES_MIN..) => start + length,
            _ => return Err(BreakKind::Length(length)),
        };
        match data.get(end) {
            Some(&RECORD_END) if is_right(&data[start..end]) => Ok(start..end),
            Some(&RECORD_END) => Err(BreakKind::Checksum),
            Some(_) => Err(BreakKind::EndByte),
            // If it is whole up to where the data ends, it is the length that has changed.
            None => match data[start..].split_last() {
                Some((&RECORD_END, payload)) if is_right(payload) => Err(BreakKind::Length(length)),
                _ => Err(BreakKind::Torn),
            },
        }
    }

    /// Whether there is a whole record at `at`, which can be anywhere: quick where there is none.
    fn is_whole_record(&self, at: usize) -> bool {
        let data = &self.bytes[..self.data_end];
        // The checksum's upper half is 0.
        let Some([0, 0, 0, 0, _, _, _, _, length @ ..]) = data[at..].first_chunk::<RECORD_HEADER_BYTES>() else {
            return false;
        };
        let end = at + RECORD_HEADER_BYTES + u32::from_be_bytes(*length) as usize;
        data.get(end) == Some(&RECORD_END)
            && self.record(at).is_ok_and(|payload| LoggedTxn::decode(&self.bytes.slice(payload)).is_ok())
    }
}

/// Where the zeros at the end begin.
fn data_end(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let zero_pages = bytes.rchunks(ZEROS.len()).take_while(|page| **page == ZEROS[..page.len()]).count();
    let rest = &bytes[..bytes.len() - (zero_pages * ZEROS.len()).min(bytes.len())];
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

/// Log files whose transactions are all up to `zxid`: those named for an earlier one, but for the last of them, which goes
/// on until the next file begins.
pub fn older_than(dir: &Path, zxid: Zxid) -> Result<Vec<PathBuf>, StorageError> {
    let mut older: Vec<PathBuf> =
        list(dir)?.into_iter().take_while(|file| file.zxid <= zxid).map(|file| file.path).collect();
    older.pop();
    Ok(older)
}

/// What [`replay`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayReport {
    /// Transactions applied.
    pub applied: u64,
    /// Records passed over because they are not later than the start or than one before them.
    pub skipped: u64,
    /// The last transaction, or where the replay was to begin if there is none.
    pub last: Zxid,
    /// What was cut off at the end.
    pub torn_tail: Option<TornTail>,
    /// Transactions whose record has a digest of the tree.
    pub digests: u64,
    /// From this transaction to the last, no digest is that of the tree: the state is not the one that the Apache
    /// server had. A mismatch before a match is normal, where the snapshot was taken while transactions went on.
    pub diverged_at: Option<Zxid>,
}

/// Applies the transactions in `dir` that are later than what `replay` begins with, the zxid of a snapshot.
///
/// On an error the tree holds what came before the damage.
pub fn replay(dir: &Path, replay: &mut Replay) -> Result<ReplayReport, StorageError> {
    let after = replay.last();
    let mut history = History::open(dir, after)?;
    let (mut applied, mut digests, mut last, mut diverged_at) = (0, 0, after, None);
    for record in &mut history {
        let Record { logged, payload } = record?;
        let LoggedTxn { header, digest, .. } = &logged;
        if replay.leaves_out(header.zxid) {
            break;
        }
        replay.apply(&logged, &payload);
        applied += 1;
        last = header.zxid;
        if let Some(digest) = *digest {
            digests += 1;
            diverged_at = match digest == replay.data_tree.tree().digest() {
                true => None,
                false => diverged_at.or(Some(header.zxid)),
            };
        }
    }
    if let Some(zxid) = diverged_at {
        // Apache's words.
        warn!("Digests are not matching. Value is Zxid. Value:{}", zxid.0);
    }
    let History { skipped, torn_tail, .. } = history;
    Ok(ReplayReport { applied, skipped, last, torn_tail, digests, diverged_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::txn::{Txn, TxnHeader};
    use crate::storage::testing::TempDir;
    use crate::types::{SessionId, WallMs};

    const EPOCH_2: i64 = 2 << 32;

    fn record(zxid: i64) -> Vec<u8> {
        let header = TxnHeader { session: SessionId(1), cxid: 2, zxid: Zxid(zxid), time: WallMs(3) };
        let mut payload = Vec::new();
        LoggedTxn::encode_parts(&mut payload, &header, &Txn::CreateSession { timeout_ms: 4 }, None);
        let mut record = i64::from(simd_adler32::adler32(&&payload[..])).to_be_bytes().to_vec();
        record.extend((payload.len() as i32).to_be_bytes());
        record.extend(payload);
        record.push(RECORD_END);
        record
    }

    /// A log file, by what is put into it.
    #[derive(Clone)]
    struct Log(Vec<u8>);

    fn log(zxids: impl IntoIterator<Item = i64>) -> Log {
        let mut bytes = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
        zxids.into_iter().for_each(|zxid| bytes.extend(record(zxid)));
        Log(bytes)
    }

    impl Log {
        fn without_the_last(mut self, bytes: usize) -> Log {
            self.0.truncate(self.0.len() - bytes);
            self
        }

        fn padded(mut self) -> Log {
            self.0.resize(self.0.len() + 20_000, 0);
            self
        }

        fn then(mut self, bytes: &[u8]) -> Log {
            self.0.extend(bytes);
            self
        }
    }

    /// What is read after `after` from a directory with these files: all zxids in hex, and a `+` for a torn tail; or
    /// where the damage is and what it is.
    fn read(test: &str, after: i64, files: &[(i64, Log)]) -> String {
        let dir = TempDir::new(&format!("apache-log-{test}"));
        for (zxid, log) in files {
            fs::write(dir.path().join(format!("log.{zxid:x}")), &log.0).unwrap();
        }
        let mut history = History::open(dir.path(), Zxid(after)).unwrap();
        let mut zxids = Vec::new();
        for record in &mut history {
            match record {
                Ok(record) => zxids.push(format!("{:x}", record.logged.header.zxid.0)),
                Err(StorageError::Damaged { path, offset, what, .. }) => {
                    return format!("{} at {offset}: {what}", path.file_name().unwrap().display());
                }
                Err(error) => panic!("{error}"),
            }
        }
        if history.torn_tail().is_some() {
            zxids.push("+".to_owned());
        }
        zxids.join(" ")
    }

    #[test]
    fn transactions_after_the_snapshot_are_read_from_where_they_begin() {
        let files = [(1, log(1..=3)), (4, log(4..=6).padded()), (7, log(7..=8).padded())];
        let read = |after| read("after", after, &files);
        assert_eq!(read(0), "1 2 3 4 5 6 7 8");
        assert_eq!(read(3), "4 5 6 7 8");
        assert_eq!(read(5), "6 7 8");
        assert_eq!(read(8), "");
        assert_eq!(read(9), "");
    }

    #[test]
    fn a_directory_without_logs_has_no_history() {
        assert_eq!(read("none", 7, &[]), "");
    }

    #[test]
    fn transactions_that_are_missing_are_missed() {
        let gap = read("gap-file", 0, &[(1, log(1..=3)), (7, log(7..=8))]);
        assert_eq!(gap, "log.7 at 16: 0x7 stands here and 0x3 before it, so transactions between them are missing");
        let gap = read("gap-inside", 0, &[(1, log([1, 2, 4]))]);
        assert!(gap.starts_with("log.1 at 114: 0x4 stands here and 0x2 before it"), "{gap}");
        let gap = read("gap-snapshot", 5, &[(0x20, log([0x20]))]);
        assert!(gap.starts_with("log.20 at 16: 0x20 stands here and 0x5 before it"), "{gap}");
        let gap = read("gap-epoch", 5, &[(EPOCH_2 + 3, log([EPOCH_2 + 3]))]);
        assert!(gap.starts_with("log.200000003 at 16: 0x200000003 stands here and 0x5"), "{gap}");
    }

    #[test]
    fn an_epoch_begins_with_its_first_transaction() {
        let later = log([EPOCH_2 + 1, EPOCH_2 + 2]);
        assert_eq!(read("epoch", 0, &[(1, log(1..=2)), (EPOCH_2 + 1, later)]), "1 2 200000001 200000002");
    }

    #[test]
    fn what_was_not_acknowledged_is_cut_off_the_newest_file() {
        // Of a record's first 4 bytes, zeros, nothing can be seen.
        for cut in 1..record(3).len() - 4 {
            let torn = log(1..=3).without_the_last(cut);
            assert_eq!(read("torn", 0, &[(1, torn.clone())]), "1 2 +", "{cut} bytes cut");
            assert_eq!(read("torn", 0, &[(1, torn.padded())]), "1 2 +", "{cut} bytes zero");
        }
        assert_eq!(read("torn-new", 0, &[(1, log(1..=2)), (3, log([3]).without_the_last(9))]), "1 2 +");
        assert_eq!(read("torn-empty", 0, &[(1, log(1..=2)), (3, Log(Vec::new()))]), "1 2");
        assert_eq!(read("torn-header", 0, &[(1, log(1..=2)), (3, log([]).without_the_last(5))]), "1 2");
        assert_eq!(read("torn-zeros", 0, &[(1, log(1..=2)), (3, Log(Vec::new()).padded())]), "1 2");
    }

    #[test]
    fn a_record_cut_short_is_forgiven_where_its_transaction_follows() {
        let torn = log(1..=3).without_the_last(20).padded();
        // The Apache server crashed, started again, and gave zxid 3 to another transaction.
        assert_eq!(read("again", 0, &[(1, torn.clone()), (3, log(3..=4))]), "1 2 3 4");
        // What is lost is older than the snapshot.
        assert_eq!(read("again-old", 5, &[(1, torn.clone()), (5, log(5..=6))]), "6");
        // It may have been the last of its epoch, or not.
        let lost = read("again-lost", 0, &[(1, torn.clone()), (EPOCH_2 + 1, log([EPOCH_2 + 1]))]);
        assert_eq!(
            lost,
            "log.1 at 114: a record begins here and does not end; the log ends here with 0x2 and goes on with 0x200000001"
        );
        let lost = read("again-lost", 0, &[(1, torn), (4, log(4..=5))]);
        assert!(lost.starts_with("log.1 at 114: a record begins here and does not end;"), "{lost}");
    }

    #[test]
    fn damage_in_the_middle_of_a_file_is_told_from_its_end() {
        let damaged = |change: fn(&mut [u8])| {
            let mut files = [(1, log(1..=4).padded())];
            // The third record.
            change(&mut files[0].1.0[114..]);
            read("middle", 0, &files)
        };
        let at = |what: &str| format!("log.1 at 114: {what}; the log ends here with 0x2 and goes on with 0x4");
        assert_eq!(damaged(|record| record[20] ^= 1), at("CRC check failed, the bytes of a record have changed"));
        assert_eq!(damaged(|record| record[3] = 1), at("CRC check failed, the bytes of a record have changed"));
        assert_eq!(damaged(|record| record[9] = 1), at("a record begins here and does not end"));
        assert_eq!(damaged(|record| record[8] = 0x80), at("the length of a record cannot be -2147483612"));
        assert_eq!(damaged(|record| record[..49].fill(0)), at("the length of a record cannot be 0"));
        assert_eq!(damaged(|record| record[48] = 0), at("a record does not end with the byte that marks its end"));
    }

    #[test]
    fn damage_to_the_last_record_is_told_from_a_torn_one() {
        let damaged = |at: usize, value: u8| {
            let mut files = [(1, log(1..=3).padded())];
            files[0].1.0[114 + at] = value;
            read("last", 0, &files)
        };
        for (at, value) in [(20, 1), (3, 1), (9, 1), (11, 35), (11, 37), (8, 0x80), (48, b'C')] {
            let what = damaged(at, value);
            assert!(what.starts_with("log.1 at 114: ") && what.ends_with("before it is 0x2"), "{at}: {what}");
        }
    }

    #[test]
    fn records_that_overlap_are_read_once() {
        assert_eq!(read("overlap", 0, &[(1, log(1..=4)), (3, log(3..=6)), (5, log(5..=7))]), "1 2 3 4 5 6 7");
        let torn = log(1..=4).without_the_last(1);
        assert_eq!(read("overlap-torn", 0, &[(1, torn), (3, log(3..=6))]), "1 2 3 4 5 6");
    }

    #[test]
    fn what_is_not_a_log_is_damage_only_if_something_is_missing() {
        let foreign = Log(b"something else altogether".to_vec());
        let what = read("foreign", 0, &[(1, log(1..=2)), (3, foreign.clone())]);
        assert!(what.starts_with("log.3 at 0: a transaction log begins with \"ZKLG\""), "{what}");
        assert_eq!(read("foreign-old", 5, &[(1, foreign), (6, log([6]))]), "6");
        let strange = log([1]).then(&{
            let mut record = record(2);
            record[12..16].fill(0xff);
            record
        });
        assert!(read("strange", 0, &[(1, strange)]).starts_with("log.1 at 65: CRC check failed"));
    }
}
