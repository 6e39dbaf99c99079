//! Segment files: where they are, how they are made ready, how they are read at start-up.
//!
//! Everything here blocks: it runs before the shards start, or on a helper thread.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use bytes::Bytes;

use super::ahead;
use super::direct::{self, Aligned};
use super::error::StorageError;
use super::files;
use super::format::{self, BLOCK_BYTES, End, Link, SegmentHeader, Walk};
use super::log::{Filled, Spare};
use super::mmap::MappedFile;
use super::replay::Replay;
use crate::proto::txn::LoggedTxn;
use crate::types::Zxid;

const PREFIX: &str = "ringlog.";
/// Zeros that are written at once.
const ZEROS_BYTES: usize = 256 << 10;
/// Transactions that are decoded and handed on at a time at a start.
const BATCH_TXNS: usize = 256;
/// What is asked for of the log while the snapshot is still being read.
const AHEAD_BYTES_MAX: u64 = 256 << 20;
/// How many such batches wait to be applied, at the most.
const BATCHES_AHEAD: usize = 8;

/// What [`recover`] found.
#[derive(Debug)]
pub struct Recovered {
    /// The segments with transactions, in order.
    pub filled: Vec<Filled>,
    /// Segments that were ready and never used, in order; they come right behind the last filled one.
    pub spares: Vec<Spare>,
    /// Where the log ends.
    pub end: Link,
    /// Transactions that were applied.
    pub applied: u64,
    /// What was cut off the end: the file, the byte, and the transaction that was being written.
    pub torn: Option<(PathBuf, u64, Zxid)>,
}

/// The file of a segment: `ringlog.` and its number as 16 hex digits. Apache ignores such names.
pub fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{sequence:016x}"))
}

/// The segments in a directory and their numbers, sorted.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StorageError> {
    let io = |source| StorageError::Io { operation: "list", path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.filter(|digits| digits.len() == 16)
            && let Ok(sequence) = u64::from_str_radix(number, 16)
        {
            found.push((sequence, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes a segment ready: all of it written, with zeros or what an old segment held, its header durable, its name durable.
///
/// `recycled` is an old segment's file to be used again; its blocks are on the device already, which is what makes
/// flushes cheap, and nothing in it can be mistaken for a record of the new segment. On an error it is where it was, or gone.
pub fn prepare(
    dir: &Path,
    sequence: u64,
    bytes: u64,
    salt: u64,
    recycled: Option<&Path>,
) -> Result<Spare, StorageError> {
    let ready = path(dir, sequence);
    let unready = ready.with_extension(format!("{sequence:016x}.tmp"));
    let at = |operation: &'static str| {
        let path = ready.clone();
        move |source: io::Error| StorageError::Io { operation, path, source }
    };
    // Opened before it loses its name: what fails up to there leaves it as it was.
    let file = match recycled {
        Some(old) => {
            let file = files::open(old, OpenOptions::new().write(true)).map_err(at("recycle"))?;
            files::rename(old, &unready).map_err(at("recycle"))?;
            file
        }
        None => {
            let options = OpenOptions::new().write(true).create(true).truncate(false).to_owned();
            files::open(&unready, &options).map_err(at("create"))?
        }
    };
    let header = SegmentHeader::new(sequence, salt).to_block();
    let filled = match recycled {
        Some(_) => Ok(()),
        None => write_zeros(&unready, &file, bytes),
    };
    let made = filled.and_then(|()| file.write_all_at(&header, 0)).and_then(|()| files::sync(&file, &unready));
    if let Err(source) = made {
        drop(files::remove(&unready));
        return Err(at("prepare")(source));
    }
    // What was written must not stay in the page cache: the flushes go past it.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    drop(file);
    files::rename(&unready, &ready).map_err(at("rename"))?;
    sync_dir(dir)?;
    Ok(Spare { sequence, salt, bytes })
}

/// Removes segments that are needed no more.
pub fn remove(dir: &Path, sequences: &[u64]) -> Result<(), StorageError> {
    for sequence in sequences {
        let path = path(dir, *sequence);
        files::remove(&path).map_err(StorageError::io("remove", &path))?;
    }
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    files::sync_dir(dir).map_err(StorageError::io("fsync", dir))
}

/// Past the page cache, a piece at a time: a flush of the log then waits for a piece at the most. Given to the device all at
/// once, as an fsync of cached pages does it, a segment is in the way of flushes for tens of milliseconds.
fn write_zeros(path: &Path, file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    let direct = direct::open(path, OpenOptions::new().write(true));
    let file = direct.as_ref().unwrap_or(file);
    let zeros = Aligned::new(ZEROS_BYTES);
    let mut at = 0;
    while at < bytes {
        let now = (bytes - at).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros.bytes()[..now as usize], at)?;
        at += now;
    }
    Ok(())
}

/// Applies all transactions in the log that are newer than what `replay` begins with.
///
/// Refuses a log with damage below a durable position, with a segment missing, or that begins after the tree ends. Of
/// segments that hold nothing newer than the tree, no more than the head is read, and nothing wrong with them matters. Of those
/// that are ready for what comes, no more than the first part is read.
pub fn recover(dir: &Path, replay: &mut Replay) -> Result<Recovered, StorageError> {
    let start = replay.last();
    let segments = list(dir)?;
    let covered = covered(&segments, start)?;
    let needed = segments.into_iter().skip(covered.len());
    let mut recovered = Recovered {
        filled: covered,
        spares: Vec::new(),
        end: Link { zxid: start, ..Link::default() },
        applied: 0,
        torn: None,
    };
    let mut before: Option<(u64, PathBuf, Link)> = None;
    for (sequence, path) in needed {
        let (link, bytes) = read_head(sequence, &path)?;
        let map = MappedFile::open(&path, bytes_to_read(link, bytes)).map_err(|source| StorageError::Io {
            operation: "map",
            path: path.clone(),
            source,
        })?;
        let header = SegmentHeader::read(&map).map_err(|what| damaged(&path, 0, what.to_owned()))?;
        if header.sequence() != sequence {
            return Err(damaged(&path, 0, format!("its header is that of segment {}", header.sequence())));
        }
        let (walk, applied) = replay_segment(&path, &map, &header, replay)?;
        recovered.applied += applied;
        let end = match walk.end {
            End::Clean(end) => end,
            End::Damaged { link, witness, witness_zxid } => {
                let what = format!(
                    "the record after {} is damaged, and it had been durable: {witness_zxid} at byte {witness} says so",
                    link.zxid
                );
                return Err(damaged(&path, link.end, what));
            }
        };
        let Some(previous) = walk.previous else {
            recovered.spares.push(Spare { sequence, salt: header.salt(), bytes });
            continue;
        };
        match &before {
            Some((number, path, link)) if *link != previous => {
                let what = format!(
                    "segment {number:x} ends at byte {} with {}, but segment {sequence:x} goes on from byte {} with {}",
                    link.end, link.zxid, previous.end, previous.zxid
                );
                return Err(damaged(path, link.end, what));
            }
            None if previous.zxid > start => {
                let what = format!("the log begins after {}, but the snapshot ends at {start}", previous.zxid);
                return Err(damaged(&path, 0, what));
            }
            _ => {}
        }
        // Segments that were ready and passed over, because they were too small for a record: nothing was in them, or
        // the links would not fit together.
        let passed_over = recovered.spares.drain(..).map(|spare| Filled {
            sequence: spare.sequence,
            before: previous.zxid,
            last: previous.zxid,
            bytes: spare.bytes,
        });
        recovered.filled.extend(passed_over);
        recovered.filled.push(Filled { sequence, before: previous.zxid, last: end.zxid, bytes });
        recovered.end = end;
        recovered.torn = walk.torn.map(|zxid| (path.clone(), end.end, zxid));
        before = Some((sequence, path, end));
    }
    Ok(recovered)
}

/// Applies what a segment has that is newer than the tree: one thread checks and decodes, the calling one applies. Returns
/// how many transactions were applied, too.
fn replay_segment(
    path: &Path,
    segment: &[u8],
    header: &SegmentHeader,
    replay: &mut Replay,
) -> Result<(Walk, u64), StorageError> {
    let start = replay.last();
    let mut applied = 0;
    thread::scope(|scope| {
        let (give, take) = mpsc::sync_channel(BATCHES_AHEAD);
        let reader = scope.spawn(move || decode(path, segment, header, start, &give));
        // Dropped on an error, so that the other thread ends too.
        for decoded in take.into_iter().flatten() {
            if !replay.leaves_out(decoded.logged.header.zxid) {
                apply(path, &decoded, replay)?;
                applied += 1;
            }
        }
        let walked = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        walked.map(|walk| (walk, applied))
    })
}

/// A transaction that is to be applied.
struct Decoded {
    position: u64,
    logged: LoggedTxn,
    /// What it was read from.
    payload: Bytes,
}

/// Walks over a segment and gives its transactions after `start`, with their positions, for as long as somebody takes them.
fn decode(
    path: &Path,
    segment: &[u8],
    header: &SegmentHeader,
    start: Zxid,
    give: &SyncSender<Vec<Decoded>>,
) -> Result<Walk, StorageError> {
    let mut batch = Vec::with_capacity(BATCH_TXNS);
    let walk = format::walk(segment, header, |record| {
        if record.zxid <= start {
            return Ok(());
        }
        let payload = Bytes::copy_from_slice(record.payload);
        let logged = LoggedTxn::decode(&payload)
            .map_err(|error| damaged(path, record.position, format!("{} cannot be read: {error}", record.zxid)))?;
        batch.push(Decoded { position: record.position, logged, payload });
        if batch.len() == BATCH_TXNS {
            // Nobody takes them where applying has failed, and then the error is told there.
            let _ = give.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_TXNS)));
        }
        Ok(())
    })?;
    let _ = give.send(batch);
    Ok(walk)
}

fn apply(path: &Path, decoded: &Decoded, replay: &mut Replay) -> Result<(), StorageError> {
    let Decoded { position, logged, payload } = decoded;
    let (zxid, last) = (logged.header.zxid, replay.last());
    if !zxid.follows(last) {
        let what = format!("{zxid} comes after {last}: what lies between is in no file");
        return Err(damaged(path, *position, what));
    }
    replay.apply(logged, payload);
    let digest = replay.data_tree.tree().digest();
    match logged.digest.filter(|expected| *expected != digest) {
        None => Ok(()),
        Some(expected) => {
            let what = format!("{zxid} leads to digest {digest:x}, but {expected:x} was logged");
            Err(damaged(path, *position, what))
        }
    }
}

/// The first segments of a log, those that hold nothing later than `start`: a start from a snapshot of that does not read them.
pub fn covered_by(dir: &Path, start: Zxid) -> Result<Vec<Filled>, StorageError> {
    covered(&list(dir)?, start)
}

/// The first of these segments, those that hold nothing later than `start`.
///
/// A segment's link says after which transaction it goes on, so the first that is needed is the last one that goes on after
/// `start` or an earlier transaction, and all before it are not. Where a link cannot be read, the segment is taken for one
/// that says nothing: at worst more is read than is needed.
fn covered(segments: &[(u64, PathBuf)], start: Zxid) -> Result<Vec<Filled>, StorageError> {
    let heads = segments.iter().map(|(sequence, path)| read_head(*sequence, path));
    let heads: Vec<(Option<Link>, u64)> = heads.collect::<Result<_, _>>()?;
    let link = |at: usize| heads[at].0;
    let Some(needed) = (0..heads.len()).rfind(|at| link(*at).is_some_and(|link| link.zxid <= start)) else {
        return Ok(Vec::new());
    };
    let mut last = link(needed).map_or(start, |link| link.zxid);
    let mut covered = Vec::with_capacity(needed);
    for at in (0..needed).rev() {
        let before = link(at).map_or(last, |link| link.zxid.min(last));
        covered.push(Filled { sequence: segments[at].0, before, last, bytes: heads[at].1 });
        last = before;
    }
    covered.reverse();
    Ok(covered)
}

/// How much [`recover`] reads of a segment with that link, of so many bytes.
fn bytes_to_read(link: Option<Link>, bytes: u64) -> u64 {
    if link.is_some() { bytes } else { bytes.min(format::UNLINKED_BYTES) }
}

/// Asks for what [`recover`] is going to read of the log, if that comes after `start`; `AHEAD_BYTES_MAX` at the most.
/// What is wrong with the log shows there.
pub fn ask_for(dir: &Path, start: Zxid) -> Result<(), StorageError> {
    let segments = list(dir)?;
    let needed = covered(&segments, start)?.len();
    let mut left = AHEAD_BYTES_MAX;
    for (sequence, path) in segments.iter().skip(needed) {
        let file = File::open(path).map_err(StorageError::io("open", path))?;
        let (link, bytes) = read_head(*sequence, path)?;
        let wanted = bytes_to_read(link, bytes).min(left);
        ahead::ask(&file, 0, wanted);
        left -= wanted;
    }
    Ok(())
}

/// A segment's link to the one before, if it has one that can be read.
pub fn link_of(sequence: u64, path: &Path) -> Result<Option<Link>, StorageError> {
    read_head(sequence, path).map(|(link, _)| link)
}

/// A segment's link, if it has one that can be read, and the size of its file.
fn read_head(sequence: u64, path: &Path) -> Result<(Option<Link>, u64), StorageError> {
    let file = File::open(path).map_err(StorageError::io("open", path))?;
    let bytes = file.metadata().map_err(StorageError::io("look at", path))?.len();
    let mut head = [0; format::HEAD_BYTES];
    // What cannot be read here is told where it is needed.
    let link = file.read_exact_at(&mut head, 0).ok().and_then(|()| format::link_of(&head, sequence));
    Ok((link, bytes))
}

fn damaged(path: &Path, offset: u64, what: String) -> StorageError {
    StorageError::Damaged {
        path: path.to_owned(),
        offset,
        what,
        remedy: format!(
            "restore the data directory from a copy; or see what would be lost with `ringkeeper-log repair --dry-run \
                 {dir}`, and without --dry-run go back to the state before the damage, which loses every later transaction",
            dir = path.parent().unwrap_or(path).display()
        ),
    }
}

/// Size of a segment's file for a configured size: whole blocks, and room for something.
pub fn file_bytes(configured: u64) -> u64 {
    configured.max(16 * BLOCK_BYTES as u64).next_multiple_of(BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::txn::{Txn, TxnHeader};
    use crate::storage::format::FIRST_RECORD;
    use crate::storage::log::Log;
    use crate::storage::testing::TempDir;
    use crate::tree::DataTree;
    use crate::types::{SessionId, WallMs};

    const SEGMENT_BYTES: u64 = 2 * BLOCK_BYTES as u64;

    fn open_session(zxid: i64) -> (TxnHeader, Txn) {
        let header = TxnHeader { session: SessionId(zxid), cxid: 0, zxid: Zxid(zxid), time: WallMs(1) };
        (header, Txn::CreateSession { timeout_ms: 1000 })
    }

    /// The state after transactions 1 to `last`, each of which opens a session.
    fn state(last: i64) -> DataTree {
        let mut data_tree = DataTree::new();
        for (header, txn) in (1..=last).map(open_session) {
            data_tree.apply(&header, &txn);
        }
        data_tree
    }

    /// Writes these transactions to segments of that directory.
    fn write_log(dir: &Path, last: i64) {
        let mut log = Log::new(Link::default(), 1);
        let mut sequence = 0;
        let mut digests = DataTree::new();
        for (header, txn) in (1..=last).map(open_session) {
            digests.apply(&header, &txn);
            let mut payload = Vec::new();
            LoggedTxn::encode_parts(&mut payload, &header, &txn, Some(digests.tree().digest()));
            if !log.fits(payload.len()) {
                sequence += 1;
                log.add_spare(prepare(dir, sequence, SEGMENT_BYTES, sequence, None).unwrap());
            }
            log.append(header.zxid, &payload);
            let batch = log.start_flush().unwrap();
            let file = OpenOptions::new().write(true).open(path(dir, batch.segment)).unwrap();
            file.write_all_at(&batch.bytes, batch.position).unwrap();
            log.flushed(batch);
        }
    }

    /// Recovers from the state after `snapshot`; the zxid it comes to, or the file and byte of the damage.
    fn recovered(dir: &Path, snapshot: i64) -> Result<Recovered, (String, u64)> {
        let mut replay = Replay::on(state(snapshot));
        match recover(dir, &mut replay) {
            Ok(recovered) => {
                assert_eq!(recovered.applied as i64, replay.last().0 - snapshot);
                assert_eq!(replay.data_tree.sessions().len() as i64, replay.last().0);
                Ok(recovered)
            }
            Err(StorageError::Damaged { path, offset, .. }) => {
                Err((path.file_name().unwrap().to_str().unwrap().to_owned(), offset))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A log of 300 transactions, and what is in its segments: (before, last), but for the last one's.
    fn log_of_300(test: &str) -> (TempDir, Vec<(i64, i64)>) {
        let dir = TempDir::new(&format!("segments-{test}"));
        write_log(dir.path(), 300);
        let filled = recovered(dir.path(), 0).unwrap().filled;
        let held: Vec<(i64, i64)> = filled.iter().map(|filled| (filled.before.0, filled.last.0)).collect();
        assert!(held.len() > 3 && held.last().unwrap().1 == 300, "{held:?}");
        (dir, held)
    }

    #[test]
    fn of_a_segment_without_a_link_is_read_what_can_matter() {
        let (dir, _) = log_of_300("unlinked");
        let (sequence, last) = list(dir.path()).unwrap().pop().unwrap();
        let bytes = format::UNLINKED_BYTES + SEGMENT_BYTES;
        prepare(dir.path(), sequence + 1, SEGMENT_BYTES, 7, None).unwrap();
        let lengthen = |path: &Path| OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
        lengthen(&path(dir.path(), sequence + 1));
        let spares = recovered(dir.path(), 0).unwrap().spares;
        assert_eq!(
            spares.iter().map(|spare| (spare.sequence, spare.bytes)).collect::<Vec<_>>(),
            [(sequence + 1, bytes)]
        );
        ask_for(dir.path(), Zxid(300)).unwrap();

        // One that has lost its link is not taken for it.
        lengthen(&last);
        OpenOptions::new().write(true).open(&last).unwrap().write_all_at(&[0xff; 8], FIRST_RECORD).unwrap();
        let name = last.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(recovered(dir.path(), 0).err(), Some((name, FIRST_RECORD)));
    }

    #[test]
    fn segments_that_the_snapshot_covers_are_told_by_the_links() {
        let (dir, held) = log_of_300("covered");
        for snapshot in 0..=300 {
            let recovered = recovered(dir.path(), snapshot).unwrap();
            let found: Vec<(i64, i64)> =
                recovered.filled.iter().map(|filled| (filled.before.0, filled.last.0)).collect();
            assert_eq!(found, held, "from a snapshot at {snapshot}");
            assert_eq!(recovered.end.zxid, Zxid(300));
        }
    }

    #[test]
    fn damage_that_a_snapshot_covers_does_not_keep_the_server_from_starting() {
        let (dir, held) = log_of_300("damage");
        let last_of_first = held[0].1;
        let first = path(dir.path(), 1);
        let whole = fs::read(&first).unwrap();
        // In the header, in the link, in the first transaction.
        for byte in [9, FIRST_RECORD + 40, FIRST_RECORD + 100] {
            let mut bytes = whole.clone();
            bytes[byte as usize] ^= 1;
            fs::write(&first, bytes).unwrap();
            let (file, offset) = recovered(dir.path(), 0).expect_err("nothing covers it");
            assert!(file == "ringlog.0000000000000001" && offset <= byte, "{file} {offset}");
            recovered(dir.path(), last_of_first - 1).expect_err("its last transaction is not covered");
            let filled = recovered(dir.path(), last_of_first).unwrap().filled;
            assert_eq!((filled[0].sequence, filled[0].last.0), (1, last_of_first), "it can be recycled all the same");
        }
        fs::write(&first, whole).unwrap();
        recovered(dir.path(), 0).unwrap();
    }
}
