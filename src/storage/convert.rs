//! Logs written offline, in either format, from transactions that come one after another.
//!
//! A file has its final name only when it is whole and durable; until then `.tmp` is behind it. What is there already is
//! never replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::apache_log::{MAGIC, RECORD_END};
use super::error::StorageError;
use super::files;
use super::format::{self, BLOCK_BYTES, Kind, Link, Place, SegmentHeader};
use super::inspect::{Entry, Item, LogFile, LogReader};
use super::segments;
use super::snapshot;
use super::snapshot_format::SnapshotSource;
use crate::tree::DataTree;
use crate::types::Zxid;

const BUFFER_BYTES: usize = 256 << 10;

/// A file that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its first transaction.
    pub first: Zxid,
    /// Its last transaction.
    pub last: Zxid,
    /// How many.
    pub transactions: u64,
}

/// What [`each`] comes to.
pub enum Step<'a> {
    /// A transaction.
    Txn(&'a Entry),
    /// A file is over; it has so many bytes.
    FileEnds(u64),
}

/// Goes through these logs, oldest first and of either kind, as one history: hands on each transaction once, whichever of
/// them have it. What was being written at a crash is left out.
///
/// Errors with `Damaged` where a transaction is missing, or bytes are no record that had been durable, and with what `take`
/// errors. Between Apache's log and the first segment some may be missing: the segments before it may have been used again.
pub fn each(
    logs: &[LogFile],
    mut take: impl FnMut(&LogFile, Step<'_>) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let (mut last, mut is_native) = (None, false);
    for file in logs {
        let Some(mut reader) = LogReader::open(file)? else { continue };
        loop {
            let item = reader.read()?;
            if let Some(link) = reader.previous().filter(|_| !is_native) {
                (last, is_native) = (last.max(Some(link.zxid)), true);
            }
            match item {
                Item::Txn(entry) if last.is_some_and(|last| entry.zxid <= last) => {}
                Item::Txn(entry) => {
                    if let Some(last) = last.filter(|last| !entry.zxid.follows(*last)) {
                        let what = format!("{} stands here and {last} before it", entry.zxid);
                        return Err(damaged(file, entry.position, what));
                    }
                    last = Some(entry.zxid);
                    take(file, Step::Txn(&entry))?;
                }
                Item::Break(broken) => {
                    check_torn(file, broken.position, broken.what, &mut reader)?;
                    break;
                }
                Item::End => break,
            }
        }
        take(file, Step::FileEnds(reader.bytes()))?;
    }
    Ok(())
}

/// A break with nothing behind it that would have been durable after it is the end of what a crash left.
fn check_torn(file: &LogFile, position: u64, what: String, reader: &mut LogReader) -> Result<(), StorageError> {
    loop {
        match reader.read()? {
            Item::Txn(entry) if entry.durable.is_none_or(|durable| durable > position) => {
                return Err(damaged(file, position, what));
            }
            Item::Txn(_) | Item::Break(_) => {}
            Item::End => return Ok(()),
        }
    }
}

fn damaged(file: &LogFile, offset: u64, what: String) -> StorageError {
    let remedy = "Look at it with verify, and repair a copy".to_owned();
    StorageError::Damaged { path: file.path.clone(), offset, what, remedy }
}

/// The snapshot that a log goes on from which begins with the first transaction there was: the empty `snapshot.0`, which
/// Apache's first start leaves too. Without a snapshot it starts on no log. Returns its path, unless the log begins later,
/// or a snapshot is in `dir` already.
pub fn leave_first_snapshot(logs: &[LogFile], dir: &Path) -> Result<Option<PathBuf>, StorageError> {
    let begins_later = logs.first().is_none_or(|first| first.after != Zxid::ZERO);
    if begins_later || !snapshot::list_by_name(dir)?.is_empty() {
        return Ok(None);
    }
    let written = snapshot::write(dir, &SnapshotSource::of(&DataTree::new(), true), |_| {})?;
    Ok(Some(written.path))
}

/// Writes a log of Apache's.
pub struct ApacheLogsWriter {
    dir: PathBuf,
    current: Option<ApacheLogWriter>,
    written: Vec<Written>,
}

impl ApacheLogsWriter {
    /// A log in `dir`.
    pub fn new(dir: &Path) -> ApacheLogsWriter {
        ApacheLogsWriter { dir: dir.to_owned(), current: None, written: Vec::new() }
    }

    /// Adds a transaction, in Apache's bytes. Errors with `Io` if a file begins with it that is there already.
    pub fn append(&mut self, zxid: Zxid, payload: &[u8]) -> Result<(), StorageError> {
        let current = match &mut self.current {
            Some(current) => current,
            current => current.insert(ApacheLogWriter::create(&self.dir, zxid)?),
        };
        current.append(zxid, payload)
    }

    /// The next transaction begins another file.
    pub fn file_ends(&mut self) -> Result<(), StorageError> {
        if let Some(writer) = self.current.take() {
            self.written.push(writer.finish()?);
        }
        Ok(())
    }

    /// Makes the last file durable. Returns all that were written.
    pub fn finish(mut self) -> Result<Vec<Written>, StorageError> {
        self.file_ends()?;
        Ok(self.written)
    }
}

/// Writes one log file of Apache's, `log.<zxid of the first transaction>`. It ends behind its last record, without the
/// zeros that Apache writes ahead.
pub struct ApacheLogWriter {
    unfinished: Unfinished,
    written: Written,
}

impl ApacheLogWriter {
    /// Begins a file for the transactions from `first` on. Errors with `Io` if it is there already.
    pub fn create(dir: &Path, first: Zxid) -> Result<ApacheLogWriter, StorageError> {
        Self::create_at(&dir.join(format!("log.{:x}", first.0)), first)
    }

    /// The same, under another name.
    pub fn create_at(path: &Path, first: Zxid) -> Result<ApacheLogWriter, StorageError> {
        let mut unfinished = Unfinished::create(path)?;
        unfinished.write(MAGIC)?;
        unfinished.write(&2i32.to_be_bytes())?;
        unfinished.write(&0i64.to_be_bytes())?;
        let written = Written { path: path.to_owned(), first, last: Zxid::ZERO, transactions: 0 };
        Ok(ApacheLogWriter { unfinished, written })
    }

    /// Adds a transaction, in Apache's bytes.
    pub fn append(&mut self, zxid: Zxid, payload: &[u8]) -> Result<(), StorageError> {
        self.unfinished.write(&i64::from(simd_adler32::adler32(&payload)).to_be_bytes())?;
        self.unfinished.write(&(payload.len() as i32).to_be_bytes())?;
        self.unfinished.write(payload)?;
        self.unfinished.write(&[RECORD_END])?;
        self.written.last = zxid;
        self.written.transactions += 1;
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    pub fn finish(self) -> Result<Written, StorageError> {
        self.unfinished.finish()?;
        Ok(self.written)
    }
}

/// Writes a native log: as many segments as it takes.
pub struct NativeLogWriter {
    dir: PathBuf,
    segment_bytes: u64,
    salt: fn() -> u64,
    next_sequence: u64,
    end: Link,
    current: Option<Segment>,
    written: Vec<Written>,
}

struct Segment {
    unfinished: Unfinished,
    salt: u64,
    bytes: u64,
    end: Link,
    written: Written,
}

impl NativeLogWriter {
    /// A log in `dir`, whose first segment has the number `sequence`, and whose segments are of `segment_bytes`. `salt`
    /// draws a number for each segment.
    pub fn new(dir: &Path, sequence: u64, segment_bytes: u64, salt: fn() -> u64) -> NativeLogWriter {
        NativeLogWriter {
            dir: dir.to_owned(),
            segment_bytes: segments::file_bytes(segment_bytes),
            salt,
            next_sequence: sequence,
            end: Link::default(),
            current: None,
            written: Vec::new(),
        }
    }

    /// Adds a transaction, in Apache's bytes. It must be later than the one before.
    pub fn append(&mut self, zxid: Zxid, payload: &[u8]) -> Result<(), StorageError> {
        if self.written.is_empty() && self.current.is_none() && zxid.counter() > 1 {
            // So much is known of what came before. The epoch before the first of an epoch is not.
            self.end.zxid = Zxid(zxid.0 - 1);
        }
        let fits = |segment: &Segment| segment.end.end + format::record_bytes(payload.len()) as u64 <= segment.bytes;
        if !self.current.as_ref().is_some_and(fits) {
            self.finish_segment()?;
            self.current = Some(self.begin_segment(zxid, payload.len())?);
        }
        let segment = self.current.as_mut().expect("there is one now");
        let Link { end: position, crc: previous_crc, .. } = segment.end;
        // All of the file will be durable before it has its name.
        let place = Place { salt: segment.salt, position, previous_crc, durable: position };
        let mut record = Vec::with_capacity(format::record_bytes(payload.len()));
        let crc = format::encode_record(&mut record, place, Kind::Txn, zxid, payload);
        segment.unfinished.write(&record)?;
        segment.end = Link { end: position + record.len() as u64, crc, zxid };
        segment.written.last = zxid;
        segment.written.transactions += 1;
        Ok(())
    }

    /// Makes the last segment durable. Returns all that were written.
    pub fn finish(mut self) -> Result<Vec<Written>, StorageError> {
        self.finish_segment()?;
        Ok(self.written)
    }

    fn begin_segment(&mut self, first: Zxid, payload_bytes: usize) -> Result<Segment, StorageError> {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let path = segments::path(&self.dir, sequence);
        let mut unfinished = Unfinished::create(&path)?;
        let salt = (self.salt)();
        let mut head = SegmentHeader::new(sequence, salt).to_block().to_vec();
        let crc = format::encode_link(&mut head, salt, self.end);
        unfinished.write(&head)?;
        let bytes = self.segment_bytes.max(format::segment_bytes_for(payload_bytes));
        let end = Link { end: head.len() as u64, crc, zxid: self.end.zxid };
        let written = Written { path, first, last: first, transactions: 0 };
        Ok(Segment { unfinished, salt, bytes, end, written })
    }

    fn finish_segment(&mut self) -> Result<(), StorageError> {
        if let Some(mut segment) = self.current.take() {
            segment.unfinished.fill(segment.bytes)?;
            segment.unfinished.finish()?;
            self.end = segment.end;
            self.written.push(segment.written);
        }
        Ok(())
    }
}

/// A file under a temporary name; it goes if it is not finished.
struct Unfinished {
    path: PathBuf,
    temp: PathBuf,
    file: BufWriter<File>,
    is_finished: bool,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Unfinished, StorageError> {
        check_absent(path)?;
        let mut temp = path.as_os_str().to_owned();
        temp.push(".tmp");
        let temp = PathBuf::from(temp);
        // One that is there was left by a crash.
        let options = OpenOptions::new().write(true).create(true).truncate(true).to_owned();
        let file = files::open(&temp, &options).map_err(StorageError::io("create", &temp))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Unfinished { path: path.to_owned(), temp, file, is_finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_all(bytes).map_err(StorageError::io("write", &self.temp))
    }

    /// Zeros up to a size.
    fn fill(&mut self, bytes: u64) -> Result<(), StorageError> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        let mut at = self.file.seek(SeekFrom::End(0)).map_err(StorageError::io("write", &self.temp))?;
        while at < bytes {
            let now = (bytes - at).min(ZEROS.len() as u64);
            self.write(&ZEROS[..now as usize])?;
            at += now;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), StorageError> {
        self.file.flush().map_err(StorageError::io("write", &self.temp))?;
        files::sync(self.file.get_ref(), &self.temp).map_err(StorageError::io("fsync", &self.temp))?;
        check_absent(&self.path)?;
        files::rename(&self.temp, &self.path).map_err(StorageError::io("create", &self.path))?;
        self.is_finished = true;
        segments::sync_dir(self.path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new(".")))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed has a name that no server takes for a log.
            let _ = files::remove(&self.temp);
        }
    }
}

fn check_absent(path: &Path) -> Result<(), StorageError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(StorageError::io("create", path)(io::ErrorKind::AlreadyExists.into())),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::txn::{LoggedTxn, Txn, TxnHeader};
    use crate::storage::inspect::{Entry, Item, LogReader, Survey, find_logs};
    use crate::storage::replay::Replay;
    use crate::storage::testing::TempDir;
    use crate::tree::DataTree;
    use crate::types::{SessionId, WallMs};

    fn payload(zxid: i64) -> Vec<u8> {
        let header = TxnHeader { session: SessionId(1), cxid: 2, zxid: Zxid(zxid), time: WallMs(3) };
        let mut payload = Vec::new();
        LoggedTxn::encode_parts(&mut payload, &header, &Txn::CreateSession { timeout_ms: zxid as i32 }, None);
        payload
    }

    fn read(dir: &Path) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut survey = Survey::new();
        for file in find_logs(dir).unwrap() {
            let mut reader = LogReader::open(&file).unwrap().unwrap();
            while let Item::Txn(entry) = reader.read().unwrap() {
                found.push(entry);
            }
            survey.file(&file, |_| {}).unwrap();
        }
        let end = survey.finish();
        assert_eq!(end.findings, []);
        found
    }

    #[test]
    fn what_is_written_in_either_format_is_read() {
        let (native, apache) = (TempDir::new("convert-native"), TempDir::new("convert-apache"));
        // Two epochs, and more than one segment of 64 KiB holds.
        let zxids: Vec<i64> = (1..=1000).chain((1 << 32) + 1..=(1 << 32) + 500).collect();
        let mut to_native = NativeLogWriter::new(native.path(), 5, 0, || 42);
        let mut to_apache = ApacheLogWriter::create(apache.path(), Zxid(1)).unwrap();
        for zxid in &zxids {
            to_native.append(Zxid(*zxid), &payload(*zxid)).unwrap();
            to_apache.append(Zxid(*zxid), &payload(*zxid)).unwrap();
        }
        let written = to_native.finish().unwrap();
        assert!(written.len() > 1, "{written:?}");
        assert_eq!(to_apache.finish().unwrap().transactions, 1500);
        for dir in [&native, &apache] {
            let entries = read(dir.path());
            assert_eq!(entries.iter().map(|entry| entry.zxid.0).collect::<Vec<_>>(), zxids);
            assert!(entries.iter().all(|entry| entry.payload == payload(entry.zxid.0)));
        }
        assert!(ApacheLogWriter::create(apache.path(), Zxid(1)).is_err());
        assert_eq!(apache.names(), ["log.1"]);
        drop(ApacheLogWriter::create(apache.path(), Zxid(2)).unwrap());
        assert_eq!(apache.names(), ["log.1"]);

        // And the server's own reader takes it.
        let mut replay = Replay::on(DataTree::new());
        let recovered = segments::recover(native.path(), &mut replay).unwrap();
        assert_eq!((recovered.applied, recovered.end.zxid.0), (1500, (1 << 32) + 500));
    }
}
